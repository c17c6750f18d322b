"""The losses of one document's tokens, in one pass or in sliding windows: what perplexity is made of."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from skipwise.errors import SkipwiseError
from skipwise.evals import intervals
from skipwise.models.chunked_reader import Reader

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


class DocumentLosses(NamedTuple):
    """Losses (nats) of the scored tokens of one document, and what reading it took."""

    losses: intervals.Losses
    seconds: float


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


def read_document(
    reader: Reader, document: Document, length: int, variant: PerplexityVariant, advance: Callable[[int], None]
) -> DocumentLosses:
    """Measure one document, again with half as much at once whenever memory runs out.

    Args:
        reader: Reads with the model.
        document: (name, tokens without BOS).
        length: Of the text under `prefix` and of a window under `sliding`, tokens, the BOS included.
        variant: How perplexity is measured.
        advance: Called with the number of tokens that were read.

    Raises:
        SkipwiseError: A loss is not finite.
    """
    name, tokens = document
    started = time.monotonic()
    while True:
        try:
            losses = _document_losses(reader, tokens, length, variant, advance)
            break
        except (MemoryError, RuntimeError) as error:
            reader.shrink(error)
    require_finite(losses, name)
    return DocumentLosses(losses, time.monotonic() - started)


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
    """Raise SkipwiseError for a loss that is not finite, naming the document."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise SkipwiseError(
            f"the model's loss on {name!r} is {losses[bad[0]]} at scored token {bad[0]}: its numbers overflow; "
            "try --set model.precision=float32, and check that the checkpoint is whole"
        )
