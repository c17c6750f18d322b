"""Training examples with skipped positions, made from tokenised documents and a sampler of positions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipwise.config import as_length
from skipwise.data.labels import IGNORED
from skipwise.data.recall_documents import Recall
from skipwise.data.token_store import TokenDocuments
from skipwise.errors import SkipwiseError
from skipwise.positions.layouts import continuous
from skipwise.positions.sampler import Sampler, SamplerName, TextChoice, example_order


class SkippedPositions(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Examples of `train_length` tokens whose position ids reach to `target_length`, for any training loop.

    Item i is a pure function of (seed, epoch, i), so order, workers, ranks and resuming change nothing. It holds
    `input_ids`, `position_ids`, `labels` and `attention_mask`, each (train_length,) int64. The labels stand at their
    token, as transformers expects. The mask is all ones: it tells transformers that an example is one sequence (without
    it a jump in the positions is read as the border between two packed ones, and the second chunk does not see the
    first).

    Args:
        documents: Tokenised documents: anything with `len` whose items are token ids (n,), or mappings with
            `input_ids`, such as a tokenised `datasets.Dataset` or a `TokenStore`. Those too short for an example are
            left out.
        sampler: A `Sampler`, or the name of one, which takes the next five arguments.
        target_length: Positions stay below it, tokens; `"32k"` is 32,768.
        train_length: Tokens in one example, likewise.
        chunks: See `Sampler`.
        text: See `Sampler`.
        seed: See `Sampler`.
        bos: Token id put first, where the tokenizer begins texts with one.
        mask_seams: Give the token after a text seam the label -100: unrelated text would have to predict it.
        examples: Length of the dataset; one pass over the text if absent. A longer one passes over it again, in another
            order and with other positions.
        recall: Makes synthetic recall documents.
        recall_share: Share of the examples that are recall documents. Only the answers in them have labels.
        plain_share: Share of the examples that are contiguous text at the positions 0 to train_length - 1, as the
            model was pre-trained.
        mark_taught: Add `taught`, (train_length,) int64, to each item: 1 for tokens whose context is the text that
            stands before them in the document, so that the original model can teach them (`training.distill`). Tokens
            after a text seam and recall documents are 0.

    Raises:
        SkipwiseError: The documents are not tokenised, none is long enough, or as `Sampler`.
    """

    def __init__(
        self,
        documents: Sequence[Any],
        *,
        sampler: Sampler | SamplerName = "pose",
        target_length: int | str | None = None,
        train_length: int | str | None = None,
        chunks: int | None = None,
        text: TextChoice | None = None,
        seed: int | None = None,
        bos: int | None = None,
        mask_seams: bool = True,
        examples: int | None = None,
        recall: Recall | None = None,
        recall_share: float = 0.0,
        plain_share: float = 0.0,
        mark_taught: bool = False,
    ) -> None:
        layout = {
            "target_length": target_length,
            "train_length": train_length,
            "chunks": chunks,
            "text": text,
            "seed": seed,
        }
        self.documents = documents
        self.sampler = _sampler(sampler, {name: value for name, value in layout.items() if value is not None})
        self.bos, self.mask_seams = bos, mask_seams
        self.recall = recall
        self.recall_share = recall_share if recall is not None else 0.0
        self.plain_share, self.mark_taught = plain_share, mark_taught
        if plain_share and self.sampler.method.whole_target:
            raise SkipwiseError(
                f"plain examples have train_length tokens and those of sampler {self.sampler.name!r} target_length; "
                "choose another sampler, or no plain ones"
            )
        self.epoch = 0
        size = self.sampler.example_length
        if isinstance(documents, TokenDocuments):
            lengths = documents.lengths
        else:
            lengths = np.array([len(self._tokens(i)) for i in range(len(documents))], dtype=np.int64)
        # A document is met once for every example that its text fills.
        pieces = np.where(lengths >= self.sampler.document_length, lengths // size, 0)
        self._ends = np.cumsum(pieces)
        self.per_epoch = int(self._ends[-1]) if len(pieces) else 0
        if not self.per_epoch:
            longest = int(lengths.max()) if len(lengths) else 0
            raise SkipwiseError(
                f"no document has the {self.sampler.document_length:,} tokens that an example needs: the longest of "
                f"{len(lengths):,} has {longest:,}; give longer texts or a smaller train_length"
            )
        self._length = self.per_epoch if examples is None else examples
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def example_length(self) -> int:
        """Tokens of every example."""
        return self.sampler.example_length

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Draw other positions and another order. accelerate's and transformers' loops call this for each epoch."""
        self.epoch = epoch

    def _tokens(self, document: int) -> NDArray[Any]:
        """Token ids (n,) of a document. Raises SkipwiseError for anything else."""
        item = self.documents[document]
        first = "tokenise the documents first, e.g. dataset.map(lambda row: tokenizer(row['text']))"
        if isinstance(item, Mapping):
            if "input_ids" not in item:
                fields = ", ".join(map(repr, item)) or "none"
                raise SkipwiseError(f"document {document} has no 'input_ids'; its fields: {fields}; {first}")
            item = item["input_ids"]
        if isinstance(item, str):
            raise SkipwiseError(f"document {document} is text, not token ids; {first}")
        try:
            tokens = np.asarray(item)
        except (TypeError, ValueError):  # lists of several lengths
            tokens = np.empty((0, 0))
        if tokens.ndim != 1 or (len(tokens) and tokens.dtype.kind not in "iu"):
            content = (
                f"values of {tokens.dtype}" if tokens.ndim == 1 else f"a {type(item).__name__} of shape {tokens.shape}"
            )
            raise SkipwiseError(f"document {document} holds {content}; expected token ids of shape (n,); {first}")
        return tokens

    def _locate(self, item: int) -> tuple[int, int]:
        """Document of an example, and which of its pieces."""
        rounds, index = divmod(item, self.per_epoch)
        return self._place(self.epoch + rounds, index)

    def _place(self, epoch: int, index: int) -> tuple[int, int]:
        """Document of an example, and which of its pieces."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, example_order(self.sampler.seed, epoch, self.per_epoch)
        slot = int(self._order[1][index])
        document = int(np.searchsorted(self._ends, slot, side="right"))
        return document, slot - (int(self._ends[document - 1]) if document else 0)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        if not 0 <= item < self._length:
            raise IndexError(item)
        document, piece = self._locate(item)
        tokens = self._tokens(document)
        size = self.sampler.example_length
        generator = np.random.default_rng((self.sampler.seed, self.epoch, item))
        kind = generator.random()
        plain = self.recall_share <= kind < self.recall_share + self.plain_share
        # Where the text does not skip, a long document begins anew at each of its pieces.
        needed = size if plain else self.sampler.document_length
        start = min(piece * size, len(tokens) - needed) if plain or not self.sampler.text_skips else 0
        layout = (
            continuous(np.arange(size)[None]) if plain else self.sampler.draw(self.epoch, [item], len(tokens) - start)
        )
        if self.recall is not None and kind < self.recall_share:
            at = int(generator.integers(0, len(tokens) - size + 1))
            ids, labels = self.recall.document(generator, tokens[at : at + size].astype(np.int64), size)
            taught = np.zeros(size, dtype=np.int64)
        else:
            ids = tokens[start + layout.text_offsets[0]].astype(np.int64)
            labels = np.where(layout.seams[0] & self.mask_seams, IGNORED, ids)
            taught = (np.cumsum(layout.seams[0]) == 0).astype(np.int64)
        if self.bos is not None:
            ids[0] = self.bos
        arrays = {"input_ids": ids, "position_ids": layout.position_ids[0], "labels": labels}
        arrays |= {"taught": taught} if self.mark_taught else {}
        example = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        return {**example, "attention_mask": torch.ones(size, dtype=torch.int64)}


def _sampler(sampler: Sampler | SamplerName, layout: dict[str, Any]) -> Sampler:
    """Return `sampler` if it is one; else make one of its name and `layout`."""
    if isinstance(sampler, Sampler):
        if layout:
            raise SkipwiseError(
                f"{', '.join(layout)}: the Sampler holds these already; give them to it, or give its name"
            )
        return sampler
    lengths = ("target_length", "train_length")
    if missing := [name for name in lengths if name not in layout]:
        raise SkipwiseError(f"{' and '.join(missing)} missing: expected tokens, e.g. {missing[0]}=2048, or a Sampler")
    return Sampler(sampler, **layout | {name: _length(layout[name], name) for name in lengths})


def _length(value: Any, name: str) -> int:
    return as_length(int(value) if isinstance(value, np.integer) else value, name)
