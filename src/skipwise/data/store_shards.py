"""A token store from shards: each source is tokenised by any process on any machine, and the shards become one store.

    corpus = Corpus(DataConfig(paths=[...]), tokenizer)
    write_shards(corpus, folder, rank, size)     # by each of `size` processes
    merge_shards(corpus, folder)                 # by one process, when all have ended

The result is the store that one process makes of the corpus, byte for byte, in the cache where a run looks for it.
`recipes/tokenise_datatrove.py` does this with datatrove's executors, on one machine or through Slurm.
"""

from pathlib import Path

from skipwise.data.store_building import Corpus
from skipwise.data.store_cache import cache_of
from skipwise.data.store_writer import StoreWriter
from skipwise.data.token_store import TokenStore, is_whole
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import atomic_folder


def shard(corpus: Corpus, folder: Path, source: int) -> Path:
    """The folder of the shard of one source. Its name changes with everything that its content depends on."""
    return folder / corpus.fingerprint / f"{source:06}"


def check_corpus(corpus: Corpus) -> None:
    """Refuse a corpus that cannot be tokenised in shards.

    Raises:
        SkipwiseError: Near-duplicates are to be left out.
    """
    if corpus.data.duplicates == "near":
        raise SkipwiseError(
            "data.duplicates=near compares every document with all others, which shards cannot; use exact or keep"
        )


def write_shards(corpus: Corpus, folder: Path, rank: int, size: int) -> list[int]:
    """Tokenise the part of a corpus that falls to one process: source i falls to process i mod `size`.

    Args:
        corpus: The same in all processes.
        folder: Where the shards are written; all processes and the one that merges see it.
        rank: Number of this process, from 0.
        size: Number of processes.

    Returns:
        The sources that were tokenised. Those whose shard is there are not tokenised again.

    Raises:
        SkipwiseError: A text cannot be read, or as `check_corpus`.
    """
    check_corpus(corpus)
    done = list[int]()
    for source in range(rank, len(corpus.texts), size):
        target = shard(corpus, folder, source)
        if is_whole(target):
            continue
        with atomic_folder(target) as partial:
            writer = StoreWriter(partial, corpus.dtype, duplicates="keep")
            for batch in corpus.batches_of(source):
                corpus.write(writer, batch)
            writer.finish({"source": corpus.texts[source].name})
        done.append(source)
    return done


def merge_shards(corpus: Corpus, folder: Path) -> TokenStore:
    """Make one store of the shards of a corpus, in the order of its sources, without exact duplicates if so set.

    Args:
        corpus: As `write_shards` had it.
        folder: Likewise.

    Returns:
        The store, in the cache.

    Raises:
        SkipwiseError: A shard is missing, or none has a token.
    """
    check_corpus(corpus)
    shards = [shard(corpus, folder, source) for source in range(len(corpus.texts))]
    missing = [source for source, part in enumerate(shards) if not is_whole(part)]
    if missing:
        raise SkipwiseError(
            f"{len(missing):,} of {len(shards):,} shards are missing in {folder}, e.g. that of "
            f"{corpus.texts[missing[0]].name}; tokenise the same corpus with the same tokenizer first"
        )
    target = cache_of(corpus.data) / corpus.fingerprint
    if not is_whole(target):
        with atomic_folder(target) as partial:
            writer = StoreWriter(partial, corpus.dtype, duplicates=corpus.data.duplicates)
            for part in map(TokenStore, shards):
                for index, name in enumerate(part.names):
                    passages = part.passages[part.passage_offsets[index] : part.passage_offsets[index + 1]]
                    writer.copy(part[index], name, int(part.hashes[index]), passages)
            writer.finish(corpus.identity)
            if not writer.progress.tokens:
                raise SkipwiseError("no documents: the tokenizer makes no token of any of the texts")
    return TokenStore(target)
