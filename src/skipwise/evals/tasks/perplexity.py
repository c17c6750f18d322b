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

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals import intervals
from skipwise.evals.rows import Row
from skipwise.evals.session import Session
from skipwise.evals.task import CustomTask, Inputs
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text, value_text

VERSION = 2

Tokens = npt.NDArray[Any]
Document = tuple[str, Tokens]


class PerplexityVariant(NamedTuple):
    """How perplexity is measured; everything here is written into the rows.

    `span` (sliding only) is how much of each document is scored, in tokens and with its BOS; the same for all windows,
    so that they are compared on the same text.
    """

    name: Literal["prefix", "sliding"] = "prefix"
    stride: int = 256
    span: int = 0
    bos_id: int | None = None
    seed: int = 0


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
    return len(documents) * sum(max(group) for group in _passes(model, lengths))


def measure(
    loaded: LoadedModel,
    reader: Reader,
    documents: Sequence[Document],
    wanted: Sequence[tuple[int, int]],
    variant: PerplexityVariant,
    advance: Callable[[int], None] = lambda tokens: None,
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

    Yields:
        Rows as they are finished, without the model's columns.

    Raises:
        SkipwiseError: A loss is not finite.
    """
    lengths = sorted({length for _, length in wanted})
    groups = _passes(loaded.model, lengths) if variant.name == "prefix" else [[length] for length in lengths]
    for group in groups:
        started = time.monotonic()
        losses = []
        for name, tokens in documents:
            losses.append(_losses_in_memory(reader, tokens, max(group), variant, advance))
            require_finite(losses[-1], name)
        seconds = time.monotonic() - started
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
    return head.replace(
        value=intervals.perplexity(scored),
        low=interval.low,
        high=interval.high,
        interval=interval.name,
        tokens=sum(len(part) for part in scored),
        seconds=round(seconds, 3),
        sums=[round(value, 4) for value in units.sums.tolist()],
        counts=units.counts.tolist(),
    )


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Lay sliding windows over a text.

    The first window scores all it holds, the others `stride` tokens; the last one ends with the text and scores the
    rest, which may be fewer.

    Args:
        tokens: Tokens of the text.
        window: Tokens of a window.
        stride: Tokens by which it moves.

    Yields:
        (start, stop, scored): the last `scored` tokens of the window are new.
    """
    previous = 0
    for start in range(0, tokens, stride):
        stop = min(start + window, tokens)
        yield start, stop, stop - previous
        if stop == tokens:
            return
        previous = stop


def _losses_in_memory(
    reader: Reader, tokens: Tokens, length: int, variant: PerplexityVariant, advance: Callable[[int], None]
) -> intervals.Losses:
    """Call `_document_losses`, again with half as much at once whenever memory runs out."""
    while True:
        try:
            return _document_losses(reader, tokens, length, variant, advance)
        except (MemoryError, RuntimeError) as error:
            reader.shrink(error)


def _document_losses(
    reader: Reader, tokens: Tokens, length: int, variant: PerplexityVariant, advance: Callable[[int], None]
) -> intervals.Losses:
    """Losses of the scored tokens of one document, in their order, fp32."""
    bos = [] if variant.bos_id is None else [variant.bos_id]
    if variant.name == "prefix":
        ids = torch.tensor([[*bos, *tokens[: length - len(bos)].tolist()]], device=reader.model.device)
        parts = []
        for losses in reader.token_nll(ids):
            parts.append(losses[0].cpu().numpy())
            advance(losses.shape[1])
        advance(1)  # the last token is read and has no successor
        return np.concatenate(parts)
    text = tokens[: variant.span - len(bos)].tolist()
    # Each window starts with a BOS, which takes one of its places.
    todo = list(windows(len(text), length - len(bos), variant.stride))
    rows = max(reader.chunk // length, 1)
    scores = []
    while todo:
        batch = [part for part in todo[:rows] if part[1] - part[0] == todo[0][1] - todo[0][0]]
        todo = todo[len(batch) :]
        ids = torch.tensor([[*bos, *text[start:stop]] for start, stop, _ in batch], device=reader.model.device)
        scored = [min(part[2], ids.shape[1] - 1) for part in batch]
        rows_of = torch.cat(list(reader.token_nll(ids, scored=scored)), dim=1).cpu().numpy()  # (B, T - 1)
        scores += [row[len(row) - count :] for row, count in zip(rows_of, scored, strict=True)]
        advance(ids.numel())
    return np.concatenate(scores)


def require_finite(losses: intervals.Losses, name: str) -> None:
    """Errors: SkipwiseError for a loss that is not finite, naming the document."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise SkipwiseError(
            f"the model's loss on {name!r} is {losses[bad[0]]} at scored token {bad[0]}: its numbers overflow; "
            "try --set model.precision=float32, and check that the checkpoint is whole"
        )


def _passes(model: PreTrainedModel, lengths: Sequence[int]) -> list[list[int]]:
    """The lengths that one forward pass may share: all of them, unless RoPE depends on the length of the input."""
    return [[length] for length in lengths] if hf_config.changes_with_length(model.config) else [list(lengths)]


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

    def rows(self) -> list[Row]:
        session, variant = self._session, self._variant
        heads = {part: session.of_model(header(self._documents, *part, variant)) for part in self._parts}
        rows = {part: row for part, head in heads.items() if (row := session.finished(head))}
        missing = [part for part in self._parts if part not in rows]
        if missing:
            ends = sorted({length for _, length in missing})
            total = total_tokens(self._documents, ends, session.loaded.model, variant)
            with progress.bar(f"{session.label}: perplexity", total=total, unit="tok") as bar:
                results = measure(session.loaded, session.reader, self._documents, missing, variant, bar.advance)
                for result in results:
                    row = session.append(session.of_model(result))
                    rows[row.start or 0, row.length or 0] = row
                    bar.note(f"{value_text(row.metric, row.value)} at {length_text(row.length)}")
        return [rows[part] for part in self._parts]


TASK = CustomTask(name="perplexity", plan=_PerplexityPlan, check=lambda settings: text_sources.sources(settings.data))
