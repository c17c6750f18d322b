"""Chats with a served model: messages are sent, and the server puts its own chat template around them.

The words that begin an answer are sent as a last message of the assistant, which vLLM, SGLang and llama.cpp continue
under `continue_final_message`. A server that does not (`transformers serve`) gets them at the end of the user's turn.
"""

from typing import Any, NamedTuple

from skipwise.errors import SkipwiseError
from skipwise.evals.chat_template import rendered
from skipwise.evals.served.client import Client, Request
from skipwise.evals.served.server_tokenizer import AFTER, BEFORE, PROBE, ServerTokenizer, messages_of
from skipwise.utils import progress

_LEAD = "The answer is"
_MARK = "\x02"


class Chat(NamedTuple):
    """How a prompt becomes messages."""

    tokenizer: Any
    before: str
    """What the template puts before the user's words."""
    after: str
    """What it puts behind them."""
    continues: bool
    """Whether the server continues a message of the assistant."""
    surplus: int
    """Tokens by which the server's template is longer than the tokenizer's; 0 where that is not known."""
    between: tuple[str, str] | None
    """What it puts between user and assistant, and between assistant and user; None where turns cannot be told."""

    def messages(self, ids: list[int]) -> list[dict[str, str]]:
        """The messages of a prompt.

        Raises:
            SkipwiseError: The tokenizer does not give back the text of the prompt.
        """
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        sent = messages_of(text, self.before, self.after, self.between)
        if sent is None:
            raise SkipwiseError(
                "this tokenizer does not give back the text of a chat, so no messages can be made of it; leave "
                "evaluation.chat off"
            )
        return sent


def explore_chat(client: Client, tokenizer: Any) -> Chat:
    """Try how a server takes chats, and compare its template with the tokenizer's by the tokens of two of them.

    Raises:
        SkipwiseError: There is no template, or the server offers no chats.
    """
    where = client.config.address
    before, after = _around(tokenizer)
    known = not isinstance(tokenizer, ServerTokenizer)
    plain = _count(client, [_user(PROBE)])
    try:
        longer = _count(client, [_user(PROBE), {"role": "assistant", "content": _LEAD}])
    except SkipwiseError as error:
        if getattr(error.__cause__, "status_code", 0) not in (400, 422, 500, 501):
            raise
        longer = None
    ours = [_tokens(tokenizer, before + PROBE + after + lead) for lead in ("", _LEAD)] if known else []
    # A server that does not continue a message ends it and begins another: more tokens than its words have.
    most = ours[1] - ours[0] if ours else (_count(client, [_user(f"{PROBE} {_LEAD}")]) or 0) - (plain or 0)
    continues = plain is not None and longer is not None and 0 < longer - plain <= most
    if not continues:
        progress.say(f"{where} does not begin a reply: the words that lead an answer stand at the end of the question")
    surplus = plain - ours[0] if plain is not None and ours else 0
    if surplus:
        progress.say(
            f"{where} makes {plain} tokens of a turn that has {ours[0]} with the checkpoint's chat template: its "
            "template is another, and prompts are not those of a model in process"
        )
    return Chat(tokenizer, before, after, continues, surplus, _between(tokenizer))


def _around(tokenizer: Any) -> tuple[str, str]:
    """What the template puts before and behind the user's words."""
    if isinstance(tokenizer, ServerTokenizer):
        return BEFORE, AFTER
    if not getattr(tokenizer, "chat_template", None):
        raise SkipwiseError(
            "evaluation.chat is on and the tokenizer has no chat template; leave it off, or leave out --tokenizer for "
            "prompts that are fitted by the server's own template"
        )
    parts = rendered(tokenizer, [_user(_MARK)]).split(_MARK)
    if len(parts) != 2:
        raise SkipwiseError("the chat template does not show the user's words once; leave evaluation.chat off")
    return parts[0], parts[1]


def _between(tokenizer: Any) -> tuple[str, str] | None:
    """What the template puts between the turns of a conversation; None for a template that shows too little there."""
    if isinstance(tokenizer, ServerTokenizer):
        return AFTER, BEFORE
    talk = [_user(_MARK), {"role": "assistant", "content": _MARK}, _user(_MARK)]
    try:
        parts = rendered(tokenizer, talk).split(_MARK)
    except SkipwiseError:  # a template may refuse an answer before the last turn
        return None
    return (parts[1], parts[2]) if len(parts) == 4 and parts[1].strip() and parts[2].strip() else None


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _count(client: Client, messages: list[dict[str, str]]) -> int | None:
    return client.complete(Request([], None, 1, messages=messages), retries=1).prompt_tokens


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
