"""Training examples: tokenised documents and a sampler flow in, batches with skipped positions flow out.

`SkippedPositions` is a map-style dataset for anyone's training loop: item i is a pure function of (seed, epoch, i), so
order, workers, ranks and resuming change nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipwise.data.recall_documents import IGNORED, Recall
from skipwise.data.token_store import TokenStore
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler, SamplerName, TextChoice, example_order


class SkippedPositions(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Examples of `train_length` tokens whose position ids reach to `target_length`.

    documents: anything with `len` and items that are token ids (n,) or mappings with `input_ids`, such as a tokenised
        `datasets.Dataset` or a `TokenStore`'s documents. Those too short for an example are left out.
    An item holds `input_ids`, `position_ids`, `labels` and `attention_mask`, each (train_length,) int64. The labels
    stand at their token, as transformers expects; the one after a text seam is -100 unless `mask_seams` is off. The
    mask is all ones: it tells transformers that an example is one sequence (without it a jump in the positions is read
    as the border between two packed ones, and the second chunk does not see the first).
    bos: token id put first, where the tokenizer begins texts with one.
    examples: length of the dataset; one pass over the text when absent. A longer one passes over it again, in
        another order and with other positions.
    recall, recall_share: what makes synthetic recall documents, and the share of the examples that they are; of those
        that ask for facts only the answers have labels.
    Errors: SkipwiseError where no document is long enough, and as `Sampler`.
    """

    def __init__(
        self,
        documents: Sequence[Any],
        *,
        target_length: int,
        train_length: int,
        sampler: SamplerName = "pose",
        chunks: int = 2,
        text: TextChoice = "skip",
        seed: int = 0,
        bos: int | None = None,
        mask_seams: bool = True,
        examples: int | None = None,
        recall: Recall | None = None,
        recall_share: float = 0.0,
    ) -> None:
        self.documents = documents
        self.sampler = Sampler(sampler, train_length, target_length, chunks, text, seed)
        self.bos, self.mask_seams = bos, mask_seams
        self.recall, self.recall_share = recall, recall_share
        self.epoch = 0
        size = self.sampler.example_length
        if isinstance(documents, Spans):
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

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's and transformers' loops: every epoch draws other positions and another order."""
        self.epoch = epoch

    def _tokens(self, document: int) -> Any:
        item = self.documents[document]
        return item["input_ids"] if isinstance(item, dict) else item

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
        rounds, index = divmod(item, self.per_epoch)
        document, piece = self._place(self.epoch + rounds, index)
        tokens = np.asarray(self._tokens(document))
        size = self.sampler.example_length
        # Where the text does not skip, a long document begins anew at each of its pieces.
        skips = self.sampler.name == "pose" and self.sampler.text == "skip"
        start = 0 if skips else min(piece * size, len(tokens) - self.sampler.document_length)
        layout = self.sampler.draw(self.epoch, [item], len(tokens) - start)
        generator = np.random.default_rng((self.sampler.seed, self.epoch, item))
        if self.recall is not None and generator.random() < self.recall_share:
            at = int(generator.integers(0, len(tokens) - size + 1))
            ids, labels = self.recall.document(generator, tokens[at : at + size].astype(np.int64), size)
        else:
            ids = tokens[start + layout.text_offsets[0]].astype(np.int64)
            labels = np.where(layout.seams[0] & self.mask_seams, IGNORED, ids)
        if self.bos is not None:
            ids[0] = self.bos
        arrays = {"input_ids": ids, "position_ids": layout.position_ids[0], "labels": labels}
        example = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        return {**example, "attention_mask": torch.ones(size, dtype=torch.int64)}


class Spans(Sequence[Any]):
    """Parts of a store's documents, (n, 3) document, first token, one past the last; read when their turn comes."""

    def __init__(self, store: TokenStore, spans: NDArray[np.int64]) -> None:
        self.store, self.spans = store, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: Any) -> Any:
        document, start, stop = self.spans[index]
        return self.store.document(int(document))[start:stop]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each part, (n,)."""
        return np.asarray(self.spans[:, 2] - self.spans[:, 1])

    def name(self, index: int) -> str:
        return self.store.names[int(self.spans[index, 0])]


def leading_bos(tokenizer: Any) -> int | None:
    """The id that `tokenizer` puts before a text by itself, or None."""
    ids = tokenizer("a", verbose=False)["input_ids"]
    return int(ids[0]) if len(ids) and ids[0] == tokenizer.bos_token_id else None
