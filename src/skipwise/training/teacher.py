"""The original model as a teacher: it reads the text of an example at plain positions, with the RoPE that it came with.

Where a token's context is the same text, the extended model should predict what the original predicts from it, at
whatever positions it reads the text. The teacher needs no labels and no optimiser, and does not change. Related:
RoPE-perturbed self-distillation (arXiv 2604.14339) and LongReD (arXiv 2502.07365).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models import sliced_loss
from skipwise.models.checks import rotary_modules
from skipwise.models.forward import hidden_states
from skipwise.models.teaching import Teaching
from skipwise.rope import hf_config


class Teacher:
    """Reads what is taught and keeps what it says for the loss.

    Args:
        model: The original model, frozen; or the trained one, where its base with adapters off is the original.
        weight: Weight of the KL divergence to the teacher; the rest of 1 is that of the ordinary loss.
        plain: Configuration without our scaling, where `model` is the trained one.

    Raises:
        SkipwiseError: The scaling changes more than RoPE, so that the trained model cannot read as the original.
    """

    def __init__(self, model: PreTrainedModel, weight: float, plain: PreTrainedConfig | None = None) -> None:
        self.model, self.weight = model, weight
        self.in_step = False
        """Whether all processes read at the same time, taught tokens or not. A model whose weights are divided among
        them needs it: each layer is gathered from all."""
        self._rotary: dict[str, nn.Module] = {}
        self._head = model.get_output_embeddings()
        if plain is None:
            model.requires_grad_(False)
            return
        if any(hf_config.parameters(each).get("mscale_all_dim") for each in (model.config, plain)):
            raise SkipwiseError(
                "training.distill with adapters: this model's scaling changes its attention too, so its base cannot "
                "teach; use adapter.method=none or training.distill=0"
            )
        text = plain.get_text_config()
        self._rotary = {
            name: type(module)(config=text).to(model.device).eval()
            for name, module in rotary_modules(model.get_decoder()).items()
        }
        self._head = getattr(self._head, "original_module", self._head)  # where the trained head is a copy (PEFT)

    @contextlib.contextmanager
    def _original(self) -> Iterator[None]:
        """Turn the trained model into the original for a block: adapters off, RoPE without scaling, no dropout."""
        if not self._rotary:
            yield
            return
        decoder, training = self.model.get_decoder(), self.model.training
        scaled = rotary_modules(decoder)
        # PEFT's own switch changes `requires_grad` as well, which wrappers of several processes have looked at.
        adapted = [module for module in self.model.modules() if hasattr(module, "_disable_adapters")]
        for name, module in self._rotary.items():
            decoder.set_submodule(name, module)
        for module in adapted:
            module._disable_adapters = True
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)
            for module in adapted:
                module._disable_adapters = False
            for name, module in scaled.items():
                decoder.set_submodule(name, module)

    @torch.no_grad()
    def teach(self, input_ids: Tensor, taught: Tensor) -> Teaching | None:
        """Read the rows that hold taught tokens.

        Args:
            input_ids: Token ids [B, T].
            taught: 1 where a token's context is the text that stands before it, [B, T].

        Returns:
            What is said about the prediction at every place, [B·T]; None where nothing is taught.
        """
        following = nn.functional.pad(taught[:, 1:], (0, 1)) > 0  # place t predicts token t + 1
        rows = following.any(dim=1)
        taught_here = bool(rows.any())
        if not taught_here:
            if not self.in_step:
                return None
            rows[0] = True
        with self._original():
            hidden = hidden_states(self.model, input_ids[rows]).flatten(0, 1)
        if not taught_here:
            return None
        places = torch.full(following.shape, -1, device=input_ids.device)
        places[rows] = torch.arange(len(hidden), device=input_ids.device).view(-1, input_ids.shape[1])
        places[~following] = -1
        return Teaching(hidden, places.flatten(), self._logits, self.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits (R, V) of the original's hidden states (R, H)."""
        stored = next(self._head.parameters()).dtype  # autocast leaves what comes from a LayerNorm in fp32
        return sliced_loss.logits(self.model, hidden.to(stored), self._head)
