"""Messages in a tokenizer's chat template, with one line for a template that fails."""

from collections.abc import Sequence
from typing import Any

from skipwise.errors import SkipwiseError


def rendered(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """The text of messages in a chat template, up to where the reply begins.

    Args:
        tokenizer: Has the template.
        messages: `role` and `content` of each turn.

    Raises:
        SkipwiseError: The template refuses the messages, or is broken.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except SkipwiseError:
        raise
    except Exception as error:  # a template raises what its author wrote, and what Jinja raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        turns = "one turn" if len(messages) == 1 else f"{len(messages)} turns"
        raise SkipwiseError(
            f"the chat template refuses {turns} ({reason}); mend the template, or leave evaluation.chat off"
        ) from error
