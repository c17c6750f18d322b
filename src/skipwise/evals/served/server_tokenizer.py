"""A tokenizer for a served model of which no tokenizer is at hand: the server itself counts.

vLLM and llama.cpp show the tokens of a text under `/tokenize`: prompts are then those of a model in this process. Other
servers tell only how many tokens a prompt has (`usage.prompt_tokens` of a completion of one token). A text is then cut
into that many pieces of equal size, which stand for its tokens: lengths are right, and the digest of the prompts is
one of its own.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from skipwise.errors import SkipwiseError
from skipwise.evals.served.client import Client, Request
from skipwise.utils import progress
from skipwise.utils.text import length_text

PROBE = "The grass is green. The sky is blue. The sun is yellow."
BEFORE, AFTER = "\x02user\x03", "\x02assistant\x03"
"""What stands around the user's words where the server's own chat template is used and not known."""
SHORT = 64
"""Characters of a text whose tokens are estimated: answers and single words, which no length depends on."""
_BITS = 28
_PIECES = 1 << 62
"""Ids from here on are pieces of text; tokens of real vocabularies are far below."""
_REFUSED = (400, 413, 422)

_Show = Callable[[str, bool], list[int]]


class ServerTokenizer:
    """What prompts need of a tokenizer, asked of the server.

    Args:
        client: The connection; its model is named.
        window: Tokens that the server admits: what it refuses has more.
        chat: Whether prompts are chats: counted with the server's own template.

    Raises:
        SkipwiseError: The server does not count the tokens of prompts.
    """

    chat_template = "the server's"
    model_max_length = 10**30
    bos_token_id = eos_token_id = None

    def __init__(self, client: Client, window: int, *, chat: bool = False) -> None:
        self._client, self._window, self._chat = client, window, chat
        self._texts: dict[int, tuple[str, int]] = {}
        self._counts: dict[bytes, int] = {}
        self._longest: dict[str, tuple[int, int]] = {}
        self._each = 0.25
        """Tokens of a character, as last counted in a text of some length."""
        self._show = None if chat else _shown(client)
        if self._show is None:
            self._count(f"{BEFORE}{PROBE}{AFTER}" if chat else PROBE)
        how = "tokens of /tokenize" if self._show else "counts, which takes a request for each try"
        progress.say(f"{client.config.address}: no --tokenizer is given; lengths are fitted by the server's {how}")

    @property
    def exact(self) -> bool:
        """Whether the ids of prompts are tokens. Otherwise they stand for pieces of text."""
        return self._show is not None

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = False) -> dict[str, list[int]]:
        """The ids of a text, in the form of transformers' tokenizers. A text that the server refuses is estimated."""
        if self._show:
            ids = self._show(text, add_special_tokens)
            if ids or not text:
                self._learn(text, len(ids))
                return {"input_ids": ids}
            return {"input_ids": self.pieces(text, self._beyond(text))}
        if len(text) < SHORT and BEFORE not in text:
            return {"input_ids": self.pieces(text, round(len(text) * self._each + 0.5))}
        return {"input_ids": self.pieces(text, self._count(text))}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of ids, most of which are pieces."""
        parts = []
        for first, group in itertools.groupby(ids, lambda token: token >> _BITS << _BITS if token >= _PIECES else 0):
            tokens = list(group)
            if first:
                text, most = self._texts[first]
                start, stop = tokens[0] - first, tokens[-1] - first + 1
                parts.append(text[len(text) * start // most : len(text) * stop // most])
            else:
                answer = self._client.post("/detokenize", {"model": self._client.model, "tokens": tokens})
                parts.append(str(answer.get("prompt", answer.get("content", ""))))
        return "".join(parts)

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        """The turns between marks, from which `messages_of` makes messages again; the user has the first and last."""
        marks = itertools.cycle((BEFORE, AFTER))
        return "".join(f"{next(marks)}{message['content']}" for message in messages) + AFTER

    def pieces(self, text: str, most: int) -> list[int]:
        """Ids of exactly `most` pieces of a text, which `decode` puts together again.

        An id holds a digest of the text in its high bits and the number of the piece in its low ones.
        """
        digest = int.from_bytes(hashlib.blake2b(f"{most} {text}".encode(), digest_size=4).digest(), "little")
        first = _PIECES + (digest << _BITS)
        self._texts[first] = text, most
        return list(range(first, first + most))

    def _count(self, text: str) -> int:
        """Tokens of a prompt, special ones among them, as the server counts them."""
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key not in self._counts:
            self._counts[key] = self._ask(text)
        return self._counts[key]

    def _ask(self, text: str) -> int:
        messages = messages_of(text) or ([{"role": "user", "content": text}] if self._chat else None)
        try:
            count = self._client.complete(Request([], text, 1, messages=messages)).prompt_tokens
        except SkipwiseError as error:
            if not self._longest or getattr(error.__cause__, "status_code", 0) not in _REFUSED:
                raise
            return self._beyond(text)
        if count is None:
            raise SkipwiseError(
                f"{self._client.config.address} neither counts the tokens of prompts nor shows them under /tokenize; "
                "give --tokenizer the folder or hub id of the served model"
            )
        self._refuse_cut(text, count)
        self._learn(text, count)
        return count

    def _refuse_cut(self, text: str, count: int) -> None:
        """A text that begins like a shorter one, and has far fewer tokens than its characters promise, was cut."""
        characters, before = self._longest.get(text[:SHORT], (0, 0))
        promised = before * len(text) / characters if characters else 0
        if characters >= SHORT and len(text) > 1.25 * characters and count < before + (promised - before) / 3:
            raise SkipwiseError(
                f"{self._client.config.address} counts {length_text(count)} tokens in a text of {len(text)} characters "
                f"and {length_text(before)} in one of {characters}: it cuts prompts without an error; serve the model "
                "with a longer window, or give shorter --lengths"
            )
        if len(text) > characters:
            self._longest[text[:SHORT]] = len(text), count

    def _learn(self, text: str, count: int) -> None:
        if len(text) >= SHORT:
            self._each = count / len(text)

    def _beyond(self, text: str) -> int:
        """Tokens of a text that the server refuses as too long, estimated; for a short one it has another reason."""
        estimate = round(len(text) * self._each)
        if estimate < self._window // 4:
            raise SkipwiseError(
                f"{self._client.config.address} does not count the tokens of a text of {len(text)} characters; look at "
                "the server's log, or give --tokenizer"
            )
        return max(estimate, self._window + 1)


def messages_of(
    text: str, before: str = BEFORE, after: str = AFTER, between: tuple[str, str] | None = (AFTER, BEFORE)
) -> list[dict[str, str]] | None:
    """The messages of a chat: its turns and, where there is one, the beginning of the reply.

    Args:
        text: The chat as a template renders it.
        before: What the template puts before the user's words.
        after: What it puts behind them.
        between: What it puts between the words of user and assistant, and of assistant and user; None where that is
            not known, and all words are one turn of the user.

    Returns:
        The messages; None where the text is no such chat.
    """
    if not text.startswith(before) or after not in text:
        return None
    body, _, lead = text[len(before) :].rpartition(after)
    words = [*(_turns(body, between) if between else [body]), *([lead] if lead else [])]
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(words)]


def _turns(body: str, between: tuple[str, str]) -> list[str]:
    """The words of each turn, the user's first and last; of what is no such conversation all words as one turn."""
    words, rest = [], body
    for separator in itertools.cycle(between):
        content, there, rest = rest.partition(separator)
        words.append(content)
        if not there:
            return words if len(words) % 2 else [body]
    raise AssertionError("itertools.cycle does not end")


def _shown(client: Client) -> _Show | None:
    """How the server shows the tokens of a text; None where it does not."""

    def vllm(text: str, special: bool) -> list[int]:
        body = {"model": client.model, "prompt": text, "add_special_tokens": special}
        return _tokens(client.post("/tokenize", body))

    def llama_cpp(text: str, special: bool) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": True}
        return _tokens(client.post("/tokenize", body))

    return next((show for show in (vllm, llama_cpp) if show(PROBE, False)), None)


def _tokens(answer: dict[str, Any]) -> list[int]:
    tokens = answer.get("tokens")
    return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else []
