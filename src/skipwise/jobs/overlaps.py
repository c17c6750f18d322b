"""What evaluation reads and training reads too: looked up before the training begins, and printed."""

import contextlib
import io
import itertools
from collections.abc import Iterator

import numpy as np

from skipwise.config import RunConfig
from skipwise.config.task_names import READS_DOCUMENTS
from skipwise.data.documents import documents as read_documents
from skipwise.data.fingerprints import Hashes, passages
from skipwise.data.overlap import contained, passages_of
from skipwise.data.text_sources import sources
from skipwise.data.token_store import Spans
from skipwise.evals.runner import Document
from skipwise.jobs.run_inputs import RunTexts
from skipwise.utils.progress import say
from skipwise.utils.text import count_text

TEXTS = {
    **{"document_qa": "data", "summarize": "data", "needle": "haystack", "ruler": "essays"},
    **dict.fromkeys(("babilong", "non_literal", "placed"), "filler"),
}
"""Tasks that read texts of their own, and the setting of their section that names them."""


def said_overlaps(config: RunConfig, texts: RunTexts, documents: list[Document]) -> dict[str, float]:
    """Look up the texts of all tasks in the training text, and print a line for each task.

    Args:
        config: The resolved configuration.
        texts: Of the run. Of a stream, what is tokenised by now is searched.
        documents: Of perplexity and other tasks that read whole documents, as (name, tokens).

    Returns:
        By task, the share of passages that the training text holds. Tasks whose texts are made up are not in it.
    """
    shares = dict[str, float]()
    free = list[str]()
    learned = [corpus if isinstance(corpus, Spans) else corpus.spans for corpus in texts.learned]
    for task in dict.fromkeys(config.evaluation.tasks):
        read = _texts_of(task, config, texts, {name for name, _ in documents})
        named = [(name, hashes) for name, hashes in read if len(hashes)]
        if not named:
            continue
        wanted = np.concatenate([hashes for _, hashes in named])
        hit = contained(wanted, itertools.chain.from_iterable(map(passages_of, learned)))
        shares[task] = float(hit.mean())
        if not hit.any():
            free.append(task)
            continue
        borders = np.cumsum([len(hashes) for _, hashes in named])[:-1]
        shared = [name for (name, _), part in zip(named, np.split(hit, borders), strict=True) if part.any()]
        say(
            f"overlap: the training text holds {int(hit.sum()):,} of {count_text(len(hit), 'passage')} "
            f"({100 * shares[task]:.2g}%) that {task} reads, of {len(shared):,} of "
            f"{count_text(len(named), 'document')}, e.g. {shared[0]}; "
            "leave such files out with data.exclude, or evaluate on other texts"
        )
    if free:
        say(f"overlap: the training text holds no passage of the texts of {', '.join(free)}")
    return shares


def _texts_of(task: str, config: RunConfig, texts: RunTexts, chosen: set[str]) -> Iterator[tuple[str, Hashes]]:
    """Name and passages of every text that a task reads; none for a task whose texts are made up."""
    settings = config.evaluation
    if task in READS_DOCUMENTS:
        paths = settings.data
    else:
        paths = getattr(getattr(settings, task), TEXTS[task]) if task in TEXTS else []
    if task in READS_DOCUMENTS and not paths:
        for spans in texts.held_out:
            yield "the held-out text", np.concatenate([np.empty(0, np.uint64), *passages_of(spans)])
        return
    if not paths:
        return
    options, most = {}, None
    if task == "summarize":
        options = {"field": settings.summarize.document_field, "split": settings.summarize.split}
        most = settings.summarize.documents
    with contextlib.redirect_stderr(io.StringIO()):  # notes about files that are left out are printed elsewhere
        files = sources(paths, **options)
    for document in itertools.islice(read_documents(files), most):
        if task not in READS_DOCUMENTS or document.name in chosen:
            yield document.name, np.array(passages(document.text), dtype=np.uint64)
