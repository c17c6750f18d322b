"""Rows of conversations: the forms that are recognised, and what is refused with the number of the row."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from skipwise.data.chat_rows import conversation, form
from skipwise.data.conversation_sources import conversation_sources
from skipwise.errors import SkipwiseError
from support.chat import assistant, user

TURNS = [user("Hi"), assistant("Hello.")]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": TURNS}, "messages"),
        ({"conversations": SHAREGPT, "id": 3}, "conversations"),
        ({"prompt": "Hi", "completion": "Hello."}, "prompt+completion"),
        ({"prompt": "Hi", "messages": TURNS}, "messages"),
        ({"prompt": "Hi"}, None),
        ({"text": "a book", "messages": TURNS}, None),
        ({"text": TURNS}, "text"),
        ({"text": ["a", "b"]}, None),
        ({"messages": "not turns"}, None),
    ],
)
def test_a_row_without_text_is_recognised_by_its_fields(row: dict[str, Any], expected: str | None) -> None:
    assert form(row, "text") == expected


def test_all_forms_become_the_same_turns() -> None:
    pair = {"prompt": "Hi", "completion": "Hello."}
    listed = {"prompt": [user("Hi")], "completion": [assistant("Hello.")]}
    parts = {"messages": [user("Hi"), {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}]}
    for row in ({"messages": TURNS}, {"conversations": SHAREGPT}, pair, listed, parts):
        name = form(row, "text")
        assert name is not None
        assert conversation(row, name, "x:1").turns == TURNS
    assert conversation(pair, "prompt+completion", "x:1").is_pair
    assert not conversation(listed, "prompt+completion", "x:1").is_pair
    asked = {"question": "Hi", "answer": "Hello."}
    assert form(asked, "question+answer") == "question+answer"
    assert conversation(asked, "question+answer", "x:1").turns == TURNS


def test_turns_after_the_last_answer_are_left_out_and_a_system_field_comes_first() -> None:
    assert conversation({"messages": [*TURNS, user("Bye")]}, "messages", "x:1").turns == TURNS
    turns = conversation({"conversations": SHAREGPT, "system": "Be kind."}, "conversations", "x:1").turns
    assert turns == [{"role": "system", "content": "Be kind."}, *TURNS]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([user("Hi")], "chat.jsonl:7 has no assistant turn, so there is no answer to learn from"),
        ([], "chat.jsonl:7: field 'messages' is empty; expected a list of turns"),
        (None, "chat.jsonl:7: field 'messages' holds NoneType; expected a list of turns"),
        (["Hi"], "chat.jsonl:7: turn 1 is str; expected an object with role and content"),
        ([user("Hi"), {"role": "bot", "content": "x"}], "turn 2 has the role 'bot'; expected system, developer, user"),
        ([user("Hi"), {"content": "x"}], "turn 2 has the role None"),
        ([user("Hi"), {"role": ["user"], "content": "x"}], "turn 2 has the role"),
        ([assistant("Hi"), user("Hi")], "chat.jsonl:7 starts with an assistant turn; expected a user turn"),
        ([user("Hi"), assistant(" \n")], r"turn 2 \(assistant\) is empty"),
        ([user("Hi"), {"role": "assistant", "content": None}], "has no text as its content"),
        ([user("Hi"), {"role": "assistant", "content": [{"type": "image"}]}], "a part of type 'image'; only text"),
        ([*TURNS, {"role": "system", "content": "x"}, *TURNS], "turn 3 has the role 'system'; expected it first"),
    ],
)
def test_a_broken_row_is_named(turns: Any, message: str) -> None:
    with pytest.raises(SkipwiseError, match=message) as error:
        conversation({"messages": turns}, "messages", "chat.jsonl:7")
    assert "\n" not in str(error.value)


def test_a_row_without_the_field_of_the_first_is_named() -> None:
    with pytest.raises(SkipwiseError, match="x:2 has no field 'completion', which the first row has"):
        conversation({"prompt": "Hi"}, "prompt+completion", "x:2")
    with pytest.raises(SkipwiseError, match="x:2: field 'completion' is empty"):
        conversation({"prompt": "Hi", "completion": " "}, "prompt+completion", "x:2")


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def test_sources_are_told_apart(tmp_path: Path) -> None:
    chat = rows(tmp_path / "chat.jsonl", {"messages": TURNS})
    text = rows(tmp_path / "text.jsonl", {"text": "a book", "messages": TURNS})
    both = rows(tmp_path / "both.jsonl", {"text": "a book", "talk": SHAREGPT, "question": "Hi", "answer": "Ho"})
    (tmp_path / "book.txt").write_text("a book")
    table = tmp_path / "table.csv"
    table.write_text("prompt,completion\nHi,Hello\n")
    listed = tmp_path / "share.json"
    listed.write_text(json.dumps([{"conversations": SHAREGPT}]))
    forms = {
        str(chat): ["messages"],
        f"{chat}::messages": ["messages"],
        str(text): [],
        f"{text}::messages": ["messages"],
        f"{both}::talk": ["talk"],
        f"{both}::question+answer": ["question+answer"],
        str(both): [],
        str(tmp_path / "book.txt"): [],
        str(table): ["prompt+completion"],
        str(listed): ["conversations"],
        "stdlib": [],
    }
    for path, expected in forms.items():
        assert [source.chat for source in conversation_sources(path)] == expected, path
    with pytest.raises(SkipwiseError, match=r"chat\.jsonl:1 has no field 'body'"):
        conversation_sources(f"{chat}::body+messages")


def test_a_folder_of_conversations_and_a_saved_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.json", "b.json"):
        (folder / name).write_text(json.dumps([{"conversations": SHAREGPT}]))
    (folder / "notes.md").write_text("About this data.")
    with pytest.raises(SkipwiseError, match=r"holds conversations \(a.json\) and texts \(notes.md\); name them as two"):
        conversation_sources(str(folder))
    assert len(conversation_sources(str(folder), exclude=["notes.md"])) == 2
    datasets.Dataset.from_list([{"messages": TURNS}] * 2).save_to_disk(tmp_path / "saved")
    (source,) = conversation_sources(str(tmp_path / "saved"))
    assert (source.kind, source.chat) == ("saved", "messages")


def test_the_first_row_is_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=r"chat\.jsonl:1 has no assistant turn"):
        conversation_sources(str(rows(tmp_path / "chat.jsonl", {"messages": [user("Hi")]})))
