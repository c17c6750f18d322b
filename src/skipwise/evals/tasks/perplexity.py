"""Measure perplexity by length: one result row for each length, over documents given as token arrays.

Two variants (`evaluation.protocol`). In both, `length` counts everything the model reads, so a BOS token takes one of
its places and the model never sees a position beyond `length - 1`.

- `prefix`: the perplexity of the first n tokens, for every n from one forward pass a document: a causal model's loss at
  a token does not depend on what follows. (Where the frequencies depend on the length of the input, as in dynamic NTK
  or LongRoPE, that is not so, and every length takes a separate pass.)
- `sliding`: windows of n tokens moved by `stride` (Press et al., arXiv 2108.12409; Position Interpolation, arXiv
  2306.15595): the first window scores all its tokens, a later one its last `stride`, each document to its end or to
  `span` tokens.

Beside `prefix` comes, at no cost, the perplexity of the tokens between one length and the next, in rows of the task
`perplexity_by_position`: the average over a prefix hides where a model breaks.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals import intervals
from skipwise.evals.division import Piece
from skipwise.evals.document_losses import Document, DocumentLosses, PerplexityVariant, read_document, windows
from skipwise.evals.rows import Row
from skipwise.evals.session import Session
from skipwise.evals.task import CustomTask, Inputs
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text, value_text

VERSION = 2


def bos_id(tokenizer: Any, wanted: bool) -> int | None:
    """The tokenizer's BOS token; None when it has none or none is wanted."""
    return tokenizer.bos_token_id if wanted else None


def select(
    documents: Sequence[Document], lengths: Sequence[int], variant: PerplexityVariant, limit: int
) -> list[Document]:
    """Choose the documents of the evaluation: the first `limit` that reach the longest length.

    All lengths (and all models) are so compared on the same documents; a shorter document is left out even of the
    lengths that it reaches, and fewer than `limit` may remain: the rows' `n` says how many.

    Args:
        documents: (name, tokens without BOS), the best ones first.
        lengths: Lengths to measure, tokens.
        variant: How perplexity is measured.
        limit: Most documents.

    Raises:
        SkipwiseError: No document reaches the longest length (nothing is cut shorter), or the variant cannot score a
            length.
    """
    if not documents:
        raise SkipwiseError("perplexity needs documents and has none: name some in evaluation.data")
    need, extra, shortest = max(lengths), variant.bos_id is not None, min(lengths)
    if shortest < 2:
        raise SkipwiseError(
            f"perplexity at length {length_text(shortest)}: nothing to score, lengths start at 2 tokens"
        )
    if variant.name == "sliding" and variant.stride > shortest - extra:
        raise SkipwiseError(
            f"evaluation.stride = {length_text(variant.stride)} would leave out text between windows of "
            f"{length_text(shortest)} tokens; expected at most {length_text(shortest - extra)}"
        )
    chosen = [document for document in documents if len(document[1]) + extra >= need]
    if not chosen:
        name, tokens = max(documents, key=lambda document: len(document[1]))
        reach = len(tokens) + extra
        raise SkipwiseError(
            f"perplexity at {length_text(need)} tokens: no document is that long, the longest is {name!r} with "
            f"{length_text(reach)} tokens; give longer documents (evaluation.data) or lengths up to "
            f"{length_text(reach)} (evaluation.lengths)"
        )
    return chosen[:limit]


def parts(lengths: Sequence[int], model: PreTrainedModel, variant: PerplexityVariant) -> list[tuple[int, int]]:
    """List (start, length) of every row, in tokens: the lengths from 0 and, under `prefix`, the stretches between them.

    There are no stretches if the frequencies depend on the length of the input: their tokens were read in several ways.

    Args:
        lengths: Lengths to measure, tokens.
        model: Whose RoPE is looked at.
        variant: How perplexity is measured.
    """
    ordered = sorted(lengths)
    one_pass = variant.name == "prefix" and not hf_config.changes_with_length(model.config)
    return [(0, length) for length in ordered] + (list(itertools.pairwise(ordered)) if one_pass else [])


def header(documents: Sequence[Document], start: int, length: int, variant: PerplexityVariant) -> Row:
    """Make a row without figures. Rows with equal headers and models have equal values.

    Its `data` is a digest of the text that the row scores, so that other documents never pass for these.

    Args:
        documents: As `select` returns them.
        start: First token that is scored; above 0 for a stretch between two lengths.
        length: Where the text ends, tokens.
        variant: How perplexity is measured.
    """
    sliding = variant.name == "sliding"
    return Row(
        task="perplexity_by_position" if start else "perplexity",
        task_version=VERSION,
        variant=variant.name,
        length=length,
        metric="perplexity",
        n=len(documents),
        seed=variant.seed,
        bos=variant.bos_id is not None,
        documents=[name for name, _ in documents],
        data=_digest(documents, variant.span if sliding else length, variant.bos_id),
        stride=variant.stride if sliding else None,
        span=variant.span if sliding else None,
        start=None if sliding else start,
    )


def total_tokens(
    documents: Sequence[Document], lengths: Sequence[int], model: PreTrainedModel, variant: PerplexityVariant
) -> int:
    """Count the tokens that `measure` will put through the model, for its progress.

    Args:
        documents: As `select` returns them.
        lengths: Lengths to measure, tokens.
        model: Whose RoPE is looked at.
        variant: How perplexity is measured.
    """
    if variant.name == "sliding":
        ends = [
            (n, min(variant.span, len(tokens) + (variant.bos_id is not None)))
            for _, tokens in documents
            for n in lengths
        ]
        return sum(sum(stop - start for start, stop, _ in windows(end, n, variant.stride)) for n, end in ends)
    return len(documents) * sum(max(group) for group in _passes(model, lengths, variant))


def measure(
    loaded: LoadedModel,
    reader: Reader,
    documents: Sequence[Document],
    wanted: Sequence[tuple[int, int]],
    variant: PerplexityVariant,
    advance: Callable[[int], None] = lambda tokens: None,
    known: Callable[[int, int], DocumentLosses | None] = lambda length, document: None,
) -> Iterator[Row]:
    """Measure perplexity.

    In a row, `tokens` is how many tokens were scored, all documents together; `sums` and `counts` are losses (nats) and
    tokens of the units that the interval resamples. `seconds` is the time of the forward passes that gave the row;
    under `prefix` rows share their passes, so their seconds do not add up. A length beyond the configured window is run
    and flagged. Only the losses are held in memory.

    Args:
        loaded: The model.
        reader: Reads with it.
        documents: As `select` returns them.
        wanted: (start, length) of each row, in tokens, as `parts` returns them.
        variant: How perplexity is measured.
        advance: Called with the number of tokens that were read.
        known: Called with a length and a document's place; gives what was read before, or None.

    Yields:
        Rows as they are finished, without the model's columns.

    Raises:
        SkipwiseError: A loss is not finite.
    """
    lengths = sorted({length for _, length in wanted})
    for group in _passes(loaded.model, lengths, variant):
        read = [
            known(max(group), i) or read_document(reader, document, max(group), variant, advance)
            for i, document in enumerate(documents)
        ]
        losses, seconds = [part.losses for part in read], sum(part.seconds for part in read)
        for start, length in [part for part in wanted if part[1] in group]:
            row = row_of_losses(header(documents, start, length, variant), losses, seconds)
            yield row.replace(beyond_window=length > loaded.window)


def row_of_losses(head: Row, losses: Sequence[intervals.Losses], seconds: float) -> Row:
    """The row of a header with its figures.

    Args:
        head: The header.
        losses: Loss (nats) of each token of each document, from its second on; under `sliding`, of the scored tokens.
        seconds: What reading took.
    """
    assert head.length is not None
    first = max((head.start or 0) - 1, 0)
    scored = [part[first : head.length - 1] for part in losses] if head.variant == "prefix" else losses
    units = intervals.units(scored)
    interval = intervals.perplexity_interval(units)
    blocks = [intervals.document_blocks(part) for part in scored] if len(scored) > 1 else []
    return head.replace(
        value=intervals.perplexity(scored),
        low=interval.low,
        high=interval.high,
        interval=interval.name,
        tokens=sum(len(part) for part in scored),
        seconds=round(seconds, 3),
        sums=[round(value, 4) for value in units.sums.tolist()],
        counts=units.counts.tolist(),
        block_sums=[[round(value, 4) for value in part.sums.tolist()] for part in blocks],
        block_counts=[part.counts.tolist() for part in blocks],
    )


def _passes(model: PreTrainedModel, lengths: Sequence[int], variant: PerplexityVariant) -> list[list[int]]:
    """The lengths of each pass: under `prefix` all in one, unless RoPE depends on the length of the input."""
    shared = variant.name == "prefix" and not hf_config.changes_with_length(model.config)
    return [list(lengths)] if shared and lengths else [[length] for length in lengths]


def _digest(documents: Sequence[Document], tokens: int, bos: int | None) -> str:
    """Digest of the first `tokens` tokens (BOS included) of every document."""
    state = hashlib.sha256()
    for _, text in documents:
        part = np.asarray(text[: tokens - (bos is not None)], dtype="<i8")
        state.update(len(part).to_bytes(8, "little") + part.tobytes())
    return state.hexdigest()[:16]


def choose(
    inputs: Inputs, documents: Sequence[Document], lengths: Sequence[int]
) -> tuple[list[Document], PerplexityVariant]:
    """Choose the documents and the variant that the settings ask for.

    Raises:
        SkipwiseError: As `select`, or `evaluation.span` is too short.
    """
    settings = inputs.settings
    bos = bos_id(inputs.tokenizer, settings.bos)
    variant = PerplexityVariant(settings.protocol, settings.stride, 0, bos, settings.seed)
    chosen = select(documents, lengths, variant, settings.documents)
    span = settings.span or max(len(tokens) for _, tokens in chosen) + (bos is not None)
    if settings.protocol == "sliding" and span < max(lengths):
        raise SkipwiseError(
            f"evaluation.span = {length_text(span)} is shorter than the longest window, "
            f"{length_text(max(lengths))} tokens"
        )
    return chosen, variant._replace(span=span)


class _PerplexityPlan:
    """The rows of one model: the lengths and, where one pass gives them too, the stretches between them."""

    def __init__(self, session: Session, lengths: list[int]) -> None:
        self._session = session
        self._documents, self._variant = choose(session.inputs, session.documents, lengths)
        self._parts = parts(lengths, session.loaded.model, self._variant)
        self.longest = max(lengths)

    def _finished(self) -> dict[tuple[int, int], Row]:
        session, variant = self._session, self._variant
        heads = {part: session.of_model(header(self._documents, *part, variant)) for part in self._parts}
        return {part: row for part, head in heads.items() if (row := session.finished(head))}

    def pieces(self, processes: int) -> list[Piece]:
        """One for each document and pass: a pass gives all lengths, so lengths are not divided."""
        rows, model = self._finished(), self._session.loaded.model
        ends = sorted({length for start, length in self._parts if (start, length) not in rows})
        places = [(max(group), i) for group in _passes(model, ends, self._variant) for i in range(len(self._documents))]
        return [Piece(length, functools.partial(self._leave, length, i)) for length, i in places]

    def _file(self, length: int, document: int) -> Path | None:
        """Where a process leaves the losses of a document; None where one process measures all."""
        folder = self._session.shared
        return folder / f"losses-{length}-{document}.npz" if folder else None

    def _leave(self, length: int, document: int) -> None:
        """Read a document, and leave its losses where the first process finds them."""
        with progress.bar(f"{self._session.label}: perplexity", total=length, unit="tok") as bar:
            read = read_document(self._session.reader, self._documents[document], length, self._variant, bar.advance)
        path = self._file(length, document)
        assert path is not None
        np.savez(path, **read._asdict())

    def _known(self, length: int, document: int) -> DocumentLosses | None:
        path = self._file(length, document)
        if path is None or not path.exists():
            return None
        with np.load(path) as arrays:
            return DocumentLosses(arrays["losses"], float(arrays["seconds"]))

    def rows(self) -> list[Row]:
        session, variant = self._session, self._variant
        rows = self._finished()
        missing = [part for part in self._parts if part not in rows]
        if missing:
            ends = sorted({length for _, length in missing})
            total = total_tokens(self._documents, ends, session.loaded.model, variant)
            with progress.bar(f"{session.label}: perplexity", total=total, unit="tok") as bar:
                done = (session.loaded, session.reader, self._documents, missing, variant, bar.advance, self._known)
                for result in measure(*done):
                    row = session.append(session.of_model(result))
                    rows[row.start or 0, row.length or 0] = row
                    bar.note(f"{value_text(row.metric, row.value)} at {length_text(row.length)}")
        return [rows[part] for part in self._parts]


TASK = CustomTask(name="perplexity", plan=_PerplexityPlan, check=lambda settings: text_sources.sources(settings.data))
