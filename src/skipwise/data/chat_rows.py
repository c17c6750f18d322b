"""Rows that hold conversations: OpenAI's `messages`, ShareGPT's `conversations`, and pairs of prompt and completion.

`form` recognises such a row by its fields. `conversation` turns a row into a list of turns with a role and a content,
the form that chat templates take, and refuses a row that cannot be learned from.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skipwise.errors import SkipwiseError

TURN_FIELDS = ("messages", "conversations", "conversation")
"""Fields that hold a list of turns."""
PAIR = "prompt+completion"
"""Two fields: what is asked, and the answer."""
ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


class Conversation(NamedTuple):
    """Turns in order; each has a `role` of `ROLES` and a `content`. The last one is an answer."""

    turns: list[dict[str, Any]]
    is_pair: bool = False
    """Two texts, prompt and completion, which need no chat template."""
    tools: list[Any] | None = None
    """What a template says about tools."""


def form(row: Mapping[str, Any], field: str) -> str | None:
    """Name the field of a row that holds a conversation, where the row is one.

    Args:
        row: The first row of a source.
        field: Field that the user named for the text.

    Returns:
        `field` if it holds a list of turns, or names two fields as `A+B`; one of `TURN_FIELDS`, or `PAIR`, where the
        row lacks that field. None for a row of text.
    """
    if field in row:
        return field if _is_turns(row[field]) else None
    if is_pair(field):
        return field if all(part in row for part in field.split("+")) else None
    for name in TURN_FIELDS:
        if _is_turns(row.get(name)):
            return name
    return PAIR if all(part in row for part in PAIR.split("+")) else None


def _is_turns(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(turn, Mapping) for turn in value[:1])


def is_pair(form: str) -> bool:
    """Tell whether a form names two fields."""
    first, mark, second = form.partition("+")
    return bool(mark and first and second)


def conversation(row: Mapping[str, Any], form: str, place: str) -> Conversation:
    """Read the conversation of a row.

    Turns after the last answer are left out: nothing is learned from them.

    Args:
        row: A row of a source.
        form: What `form` returned for the first row.
        place: Names the row in errors, such as `chat.jsonl:17`.

    Raises:
        SkipwiseError: The row has no such field, a turn without role or content, or no answer after a question.
    """
    names = form.split("+") if is_pair(form) and form not in row else [form]
    for name in names:
        if name not in row:
            raise SkipwiseError(f"{place} has no field {name!r}, which the first row has; mend or remove the row")
    tools = row.get("tools") if isinstance(row.get("tools"), list) else None
    if len(names) == 2:
        return _pair(row, names, place, tools)
    turns = [_turn(turn, i, place) for i, turn in enumerate(_turns(row[form], f"{place}: field {form!r}"), start=1)]
    if isinstance(row.get("system"), str) and row["system"] and turns[0]["role"] != "system":  # of ShareGPT's kin
        turns.insert(0, {"role": "system", "content": row["system"]})
    return Conversation(_checked(turns, place), tools=tools)


def _pair(row: Mapping[str, Any], names: list[str], place: str, tools: list[Any] | None) -> Conversation:
    """A prompt and its completion; both may be lists of turns."""
    prompt, completion = (row[name] for name in names)
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise SkipwiseError(f"{place}: field {names[1]!r} is empty; expected the answer; remove the row")
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return Conversation(turns, is_pair=True, tools=tools)
    turns = []
    for name, value, role in ((names[0], prompt, "user"), (names[1], completion, "assistant")):
        if isinstance(value, str):
            value = [{"role": role, "content": value}]
        given = _turns(value, f"{place}: field {name!r}")
        turns += [_turn(turn, len(turns) + i, place) for i, turn in enumerate(given, start=1)]
    return Conversation(_checked(turns, place), tools=tools)


def _turns(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        held = f"holds {type(value).__name__}" if not isinstance(value, list | tuple) else "is empty"
        raise SkipwiseError(f"{what} {held}; expected a list of turns such as {{'role': 'user', 'content': '…'}}")
    return list(value)


def _turn(turn: Any, number: int, place: str) -> dict[str, Any]:
    """A turn of OpenAI's or ShareGPT's form as one of OpenAI's, with a text as content."""
    what = f"{place}: turn {number}"
    if not isinstance(turn, Mapping):
        raise SkipwiseError(f"{what} is {type(turn).__name__}; expected an object with role and content")
    sharegpt = "from" in turn and turn.get("role") is None
    role, content = (turn.get("from"), turn.get("value")) if sharegpt else (turn.get("role"), turn.get("content"))
    known = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if known not in ROLES:
        raise SkipwiseError(
            f"{what} has the role {role!r}; expected {', '.join(ROLES)}, or ShareGPT's human and gpt; mend the row"
        )
    more = {name: turn[name] for name in ("tool_calls", "tool_call_id", "name", "reasoning_content") if turn.get(name)}
    if isinstance(content, list | tuple):
        content = _text_of_parts(content, what)
    if content is None and "tool_calls" in more:
        content = ""
    if not isinstance(content, str):
        raise SkipwiseError(f"{what} ({known}) has no text as its content; mend or remove the row")
    if known == "assistant" and not content.strip() and "tool_calls" not in more:
        raise SkipwiseError(f"{what} ({known}) is empty; expected the answer; mend or remove the row")
    if not content.isascii():  # JSON can escape half a surrogate pair, which no tokenizer takes
        content = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return {"role": known, "content": content, **more}


def _text_of_parts(parts: Any, what: str) -> str:
    """The text of a content that is a list of parts. Raises SkipwiseError for images and the like."""
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise SkipwiseError(f"{what} holds a part of type {kind!r}; only text can be trained on; remove the row")
        texts.append(part["text"])
    return "".join(texts)


def _checked(turns: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    """The turns up to the last answer. Raises SkipwiseError where no question comes before an answer."""
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles:
        raise SkipwiseError(
            f"{place} has no assistant turn, so there is no answer to learn from; add one or remove the row"
        )
    first = roles.index("assistant")
    if "user" not in roles[:first]:
        raise SkipwiseError(
            f"{place} starts with an assistant turn; expected a user turn before the answer; mend or remove the row"
        )
    if "system" in roles[1:]:
        number = roles.index("system", 1) + 1
        raise SkipwiseError(f"{place}: turn {number} has the role 'system'; expected it first; mend or remove the row")
    return turns[: len(roles) - roles[::-1].index("assistant")]
