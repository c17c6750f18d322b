"""Instructions: prompts drawn by the seed, right and wrong answers by every rule, and a chat template."""

from pathlib import Path

import pytest

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.task import Inputs, Question
from skipwise.evals.tasks.instructions import ANSWER_TOKENS, KINDS, TASK, draw, ended, score
from support.tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def asked(*truth: str) -> Question:
    return Question([], [], list(truth))


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        (["contains", "A cat."], "Here it is: A cat.", "a cat."),
        (["capitals", "A CAT."], "A CAT.", "It is A CAT."),
        (["number", "12"], "5 + 7 = 12", "12 is 5 + 7"),
        (["number", "12"], "\n12.\nThat is 5 + 7.", "112"),
        (["numbers", "3 5 9"], "3, 5, 9", "9, 5, 3"),
        (["first_word", "yes"], " Yes, it is.", "It is, yes."),
        (["name", "Paris"], "The capital is paris.", "Parisian"),
        (["name", "Paris"], "Paris", "Rome\nParis"),
        (["words", "3"], "Dogs bark loudly.", "Dogs bark loudly.\nThey do."),
        (["json", '{"age": 3}'], '```json\n{"age": 3}\n```', 'Here: {"age": 3}'),
        (["json", '{"age": 3}'], '{"age": 3}', '{"age": "3"}'),
        (["bullets", "2"], "- red\n- blue\n", "- red\n- blue\n- green"),
        (["keywords", "lamp", "shoe"], "The lamp stood on a shoe.", "The lamps stood on a shoe."),
        (["ends", "That is all."], "It rains. That is all.\n", "That is all. It rains."),
    ],
)
def test_rules(truth: list[str], right: str, wrong: str) -> None:
    assert score(right, asked(*truth)) == 1
    assert score(wrong, asked(*truth)) == 0


def test_an_answer_ends_where_nothing_can_change_its_score() -> None:
    assert ended("yes,", asked("first_word", "yes"))
    assert not ended("yes", asked("first_word", "yes"))
    assert ended("12\n", asked("number", "12"))
    assert not ended("12", asked("number", "12"))
    assert not ended("- red\n", asked("bullets", "1")), "one more line would be wrong"
    assert not ended("shoe", asked("keywords", "shoe")), "it may go on to be shoes"
    assert ended("shoe.", asked("keywords", "shoe"))


def test_every_kind_has_a_right_answer_of_its_own() -> None:
    """The right answer, worked out from the words of the instruction."""
    for kind in KINDS:
        drawn = draw(0, kind, 10)
        assert len({text for text, _ in drawn}) == 10, "none comes twice"
        assert drawn == draw(0, kind, 10) == draw(0, kind, 12)[:10]
        assert drawn != draw(1, kind, 10)
    assert len(draw(0, "capital", 40)) == 40, "more than there are"
    ((text, truth),) = draw(0, "sum", 1)
    numbers = [int(word.strip("?")) for word in text.split() if word.strip("?").isdigit()]
    assert truth == ["number", str(sum(numbers))]
    ((text, truth),) = draw(0, "extract", 1)
    name = text.split("What did ")[1].split()[0]
    assert f"{truth[1]}." in text.split(f"{name} bought")[1].split(" What")[0]


def test_prompts_use_the_chat_template_and_fit_their_cell(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = CHATML
    inputs = Inputs(tokenizer, EvaluationConfig(chat=True))
    cells = TASK.cells(inputs, 1024)
    assert [cell.variant for cell in cells] == list(KINDS)
    assert sum(cell.n for cell in cells) == 140
    for cell in cells:
        for trial in range(cell.n):
            question = TASK.question(inputs, cell, trial)
            assert len(question.ids) + ANSWER_TOKENS <= cell.length < 1024
            text = tokenizer.decode(question.ids)
            assert text.startswith("<|im_start|>user\n")
            assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    plain = Inputs(tokenizer, EvaluationConfig())
    assert tokenizer.decode(TASK.question(plain, TASK.cells(plain, 1024)[0], 0).ids).endswith("\nAnswer:")


def test_a_length_that_holds_no_prompt_is_refused(tmp_path: Path) -> None:
    inputs = Inputs(tiny_tokenizer(tmp_path), EvaluationConfig())
    with pytest.raises(SkipwiseError, match="instructions at 100 tokens: the longest prompt and its answer take"):
        TASK.cells(inputs, 100)
