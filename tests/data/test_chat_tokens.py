"""Conversations as tokens: only answers have labels, exactly, by a template's own marks or by prefixes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipwise.data.chat_rows import Conversation
from skipwise.data.chat_tokens import ANSWER, TURN, ChatTokeniser
from skipwise.errors import SkipwiseError
from support.chat import CHATML, FORGETFUL, MARKED, assistant, chat_tokenizer, user
from support.tiny import tiny_tokenizer

TURNS = [
    {"role": "system", "content": "Be brief."},
    user("What is argparse?"),
    assistant("A parser."),
    user("And 12 + 3?"),
    assistant("15\nThat is all."),
]


def answers(tokenizer: Any, made: Any) -> str:
    """The labelled text, runs divided by |."""
    labelled = (made.marks & ANSWER) != 0
    parts = np.split(np.arange(len(labelled)), np.flatnonzero(np.diff(labelled)) + 1)
    return "|".join(tokenizer.decode(made.ids[part]) for part in parts if labelled[part[0]])


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_only_answers_and_their_end_have_labels(tmp_path: Path, template: str) -> None:
    tokenizer = chat_tokenizer(tmp_path, template)
    (made,) = ChatTokeniser(tokenizer)([("x:1", Conversation(TURNS))])
    assert made.ids.tolist() == tokenizer.apply_chat_template(TURNS, return_dict=False)
    assert answers(tokenizer, made) == "A parser.<|im_end|>|15\nThat is all.<|im_end|>"


def test_the_two_methods_agree(tmp_path: Path) -> None:
    made = [
        ChatTokeniser(chat_tokenizer(tmp_path / str(i), template))([("x:1", Conversation(TURNS))])[0]
        for i, template in enumerate((CHATML, MARKED))
    ]
    assert made[0].ids.tolist() == made[1].ids.tolist()
    assert ((made[0].marks ^ made[1].marks) & ANSWER == 0).all()


def test_turns_begin_where_answers_do_and_behind_them(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path)
    (made,) = ChatTokeniser(tokenizer)([("x:1", Conversation(TURNS))])
    starts = np.flatnonzero(made.marks & TURN).tolist()
    texts = [tokenizer.decode(made.ids[start:]).split("\n")[0] for start in starts]
    assert texts == ["<|im_start|>assistant", "<|im_start|>user", "<|im_start|>assistant"]


def test_a_template_that_renders_a_turn_differently_later_is_refused(tmp_path: Path) -> None:
    tokenise = ChatTokeniser(chat_tokenizer(tmp_path, FORGETFUL))
    turns = [user("Hi"), assistant("<think>Hm.</think>Hello."), user("Bye"), assistant("<think>Ah.</think>Bye.")]
    with pytest.raises(SkipwiseError, match=r"chat\.jsonl:9: answer 1 cannot be told from its question exactly"):
        tokenise([("chat.jsonl:8", Conversation(turns[:2])), ("chat.jsonl:9", Conversation(turns))])
    (made,) = tokenise([("chat.jsonl:8", Conversation(turns[:2]))])
    assert answers(tokenise.tokenizer, made) == "<think>Hm.</think>Hello.<|im_end|>"


def test_an_answer_that_grows_together_with_its_header_is_refused(tmp_path: Path) -> None:
    """White space at the start of an answer makes one token with the line end of the header."""
    tokenizer = chat_tokenizer(tmp_path)
    header, joined = tokenizer.encode("assistant\n"), tokenizer.encode("assistant\n    Hello")
    assert joined[: len(header)] != header, "the tokenizer must join them, or this tests nothing"
    with pytest.raises(SkipwiseError, match=r"x:1: answer 1 cannot be told .* take white space from the start"):
        ChatTokeniser(tokenizer)([("x:1", Conversation([user("Hi"), assistant("    Hello")]))])


def test_a_template_that_refuses_is_one_line(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem turn') }}{% endif %}" + CHATML
    with pytest.raises(SkipwiseError, match=r"x:1: the chat template refuses the conversation \(no system turn\)"):
        ChatTokeniser(chat_tokenizer(tmp_path, template))([("x:1", Conversation(TURNS))])


def test_pairs_need_no_template(tmp_path: Path) -> None:
    pair = Conversation([user("12 + 3 ="), assistant(" 15")], is_pair=True)
    for adds_bos in (False, True):
        tokenizer = tiny_tokenizer(tmp_path / str(adds_bos), adds_bos=adds_bos)
        (made,) = ChatTokeniser(tokenizer)([("x:1", pair)])
        assert tokenizer.decode(made.ids) == ("<s>" if adds_bos else "") + "12 + 3 = 15</s>"
        assert answers(tokenizer, made) == " 15</s>"
        assert np.flatnonzero(made.marks & TURN).tolist() == [int(np.flatnonzero(made.marks & ANSWER)[0])]
    with pytest.raises(SkipwiseError, match="x:1 holds turns, and the tokenizer has no chat template"):
        ChatTokeniser(tokenizer)([("x:1", Conversation(TURNS))])
    tokenizer.eos_token = None
    with pytest.raises(SkipwiseError, match="x:1: the tokenizer has no EOS token"):
        ChatTokeniser(tokenizer)([("x:1", pair)])


def test_pairs_take_the_template_where_there_is_one(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path)
    (made,) = ChatTokeniser(tokenizer)([("x:1", Conversation([user("Hi"), assistant("Ho")], is_pair=True))])
    assert answers(tokenizer, made) == "Ho<|im_end|>"
    assert tokenizer.decode(made.ids).startswith("<|im_start|>user\nHi<|im_end|>")
