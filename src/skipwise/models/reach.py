"""Which layers of a model a longer window reaches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipwise.models import families

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Reach:
    """How far a longer window reaches into a model's layers."""

    notes: tuple[str, ...]
    """What the user should know, a sentence each."""
    refusal: str | None
    """Why an extension would change nothing, and what to do; None where it reaches a layer."""


def reach(config: "PreTrainedConfig", original: int, target: int) -> Reach:
    """Which layers an extension reaches.

    Args:
        config: The model's configuration.
        original: Window that the model was trained on, tokens.
        target: Window that it shall have, tokens.

    Raises:
        SkipwiseError: The model's window cannot be extended at all, as `families.architecture`.
    """
    facts = families.architecture(config)
    local = set(facts.sliding_layers) if facts.sliding_window and facts.sliding_window < target else set()
    rotated = [i for i in range(facts.layers) if i not in (*facts.linear_layers, *facts.nope_layers)]
    farthest = target if any(i not in local for i in rotated) else facts.sliding_window or 0
    if farthest >= target:
        return Reach(facts.notes, None)
    if farthest > original:
        short = (
            f"every layer attends within {farthest:,} tokens: a window of {target:,} reaches no farther back than that"
        )
        return Reach((short, *facts.notes), None)
    return Reach(
        facts.notes,
        f"every layer of this model attends within {farthest:,} tokens, so a token sees no farther back whatever the "
        f"RoPE, and an extension to {target:,} tokens changes nothing; to let all layers see everything, write "
        f'"sliding_window": null into config.json and add --set model.original_length={farthest}, the longest distance '
        "that the model was trained on",
    )
