"""Conversations as token ids, with the answers and the borders of the turns marked.

A conversation is rendered by the tokenizer's chat template. Only the assistant's answers have labels. Where the
template marks them itself (`{% generation %}`), its marks are taken. Elsewhere an answer is what follows the rendering
of the turns before it with the generation prompt: `render(turns[:k], generation prompt)` to `render(turns[:k + 1])`.
Both must be a prefix of the whole conversation, token by token; a conversation for which that does not hold is refused.
A pair of prompt and completion needs no template: without one it is BOS (where the tokenizer puts one), prompt,
completion and EOS, with labels on the last two.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipwise.data.chat_rows import Conversation
from skipwise.data.tokenising import encode, leading_bos
from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER, TURN = 1, 2
"""Bits of a token's mark: it has a label; a turn begins with it."""
GENERATION = re.compile(r"\{%-?\s*generation\b")


class ChatTokens(NamedTuple):
    """A conversation as tokens."""

    ids: NDArray[np.int64]
    """(n,)."""
    marks: NDArray[np.uint8]
    """(n,): the sum of `ANSWER` and `TURN`."""


class _Cut(NamedTuple):
    """Renderings that end at the borders of one answer."""

    before: str
    """The turns before the answer."""
    asked: str
    """The same with the generation prompt."""
    after: str
    """The turns up to and with the answer."""


class ChatTokeniser:
    """Makes tokens of conversations for one tokenizer.

    Args:
        tokenizer: Holds the chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer: Any = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        self.template = template.get("default") if isinstance(template, dict) else template
        self.marks_answers = bool(self.template and GENERATION.search(self.template))

    @property
    def fingerprint(self) -> str:
        """Identifies what decides the tokens beside the tokenizer's vocabulary: template, BOS and EOS."""
        parts = [self.template, leading_bos(self.tokenizer), self.tokenizer.eos_token_id]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __call__(self, conversations: Sequence[tuple[str, Conversation]]) -> list[ChatTokens]:
        """Tokenise a batch.

        Args:
            conversations: (place, conversation); the place names the row in errors.

        Raises:
            SkipwiseError: The tokenizer has no template, the template refuses a conversation, or an answer cannot be
                marked exactly.
        """
        if not self.template:
            return [self._plain(place, each) for place, each in conversations]
        if self.marks_answers:
            return [self._marked(place, each) for place, each in conversations]
        cuts = [self._cuts(place, each) for place, each in conversations]
        ids = iter(encode(self.tokenizer, [text for row in cuts for cut in row for text in cut], np.int64))
        return [
            self._by_prefix(place, [(next(ids), next(ids), next(ids)) for _ in row])
            for (place, _), row in zip(conversations, cuts, strict=True)
        ]

    def _render(self, turns: list[dict[str, Any]], one: Conversation, place: str, **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(turns, tools=one.tools, **options)
        except Exception as error:  # a template raises what its author wrote, and what Jinja raises
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise SkipwiseError(
                f"{place}: the chat template refuses the conversation ({reason}); mend its turns or remove the row"
            ) from error

    def _cuts(self, place: str, one: Conversation) -> list[_Cut]:
        """The renderings of a conversation, for each of its answers."""
        cuts = []
        for k, turn in enumerate(one.turns):
            if turn["role"] == "assistant":
                before = self._render(one.turns[:k], one, place, tokenize=False)
                asked = self._render(one.turns[:k], one, place, tokenize=False, add_generation_prompt=True)
                after = self._render(one.turns[: k + 1], one, place, tokenize=False)
                cuts.append(_Cut(before, asked, after))
        return cuts

    def _by_prefix(self, place: str, cuts: list[tuple[Any, Any, Any]]) -> ChatTokens:
        """Mark answers by the lengths of the renderings, each of which must be a prefix of the last one."""
        whole: NDArray[np.int64] = cuts[-1][2]
        marks = np.zeros(len(whole), dtype=np.uint8)
        for number, (before, asked, after) in enumerate(cuts, start=1):
            if not all(_is_prefix(part, whole) for part in (before, asked, after)) or len(asked) >= len(after):
                raise SkipwiseError(
                    f"{place}: answer {number} cannot be told from its question exactly, because the chat template or "
                    "the tokenizer renders them otherwise once they stand together; take white space from the start "
                    "of the answer, give each answer a row of its own, or remove the row"
                )
            marks[len(asked) : self._end(after, len(asked))] |= ANSWER
            for border in (len(before), len(after)):
                if 0 < border < len(whole):
                    marks[border] |= TURN
        return ChatTokens(whole, marks)

    def _end(self, ids: NDArray[np.int64], start: int) -> int:
        """Where an answer ends: after its last special token, if only white space follows; the end of `ids` if not."""
        special = np.flatnonzero(np.isin(ids[start:], self.tokenizer.all_special_ids))
        end = start + int(special[-1]) + 1 if len(special) else len(ids)
        rest = ids[end:]
        return end if not len(rest) or self.tokenizer.decode(rest.tolist()).isspace() else len(ids)

    def _marked(self, place: str, one: Conversation) -> ChatTokens:
        """Take the template's own marks. A turn begins where an answer does, and behind it."""
        options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
        made = self._render(one.turns, one, place, **options)
        ids = np.asarray(made["input_ids"], dtype=np.int64)
        answers = np.asarray(made["assistant_masks"], dtype=np.uint8)
        if not answers.any():
            raise SkipwiseError(
                f"{place}: the chat template marks no token as the assistant's; mend its {{% generation %}} block, or "
                "remove the row"
            )
        marks = answers * np.uint8(ANSWER)
        marks[1:][answers[1:] != answers[:-1]] |= TURN
        return ChatTokens(ids, marks)

    def _plain(self, place: str, one: Conversation) -> ChatTokens:
        """BOS, prompt, completion and EOS of a model without a template."""
        if not one.is_pair:
            raise SkipwiseError(
                f"{place} holds turns, and the tokenizer has no chat template to render them; use an instruct model, "
                "or rows with a prompt and a completion"
            )
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise SkipwiseError(
                f"{place}: the tokenizer has no EOS token to end a completion with; use a model that has one"
            )
        bos = leading_bos(self.tokenizer)
        prompt, completion = encode(self.tokenizer, [turn["content"] for turn in one.turns], np.int64)
        ids = np.concatenate([[] if bos is None else [bos], prompt, completion, [eos]]).astype(np.int64)
        marks = np.zeros(len(ids), dtype=np.uint8)
        start = len(ids) - len(completion) - 1
        marks[start:] = ANSWER
        if start:
            marks[start] |= TURN
        return ChatTokens(ids, marks)


def _is_prefix(part: NDArray[np.int64], whole: NDArray[np.int64]) -> bool:
    return len(part) <= len(whole) and bool(np.array_equal(part, whole[: len(part)]))
