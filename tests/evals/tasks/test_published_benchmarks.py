"""Files of LongBench v2, InfiniteBench and HELMET: prompts and rules by hand, cut as published, faults in a line."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.config import EvaluationConfig, ModelConfig, ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import published_files
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question, Task
from skipwise.evals.tasks import helmet, infinitebench, longbench_v2
from support import published_files as written
from support.openai_server import serving
from support.tiny import tiny_llama, tiny_tokenizer

LENGTH = 1024


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("published")
    return {
        "longbench_v2": {"data": str(written.write_longbench_v2(folder / "longbench"))},
        "infinitebench": {"data": [str(written.write_infinitebench(folder / "infinite"))]},
        "helmet": written.write_helmet(folder / "helmet"),
    }


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def inputs_of(tokenizer: Any, settings: dict[str, Any], **more: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig.model_validate({**settings, **more}))


def first(task: Task, inputs: Inputs, variant: str, length: int = 100_000, trial: int = 0) -> tuple[str, Question]:
    """The text and the question of a prompt that nothing is cut from."""
    cell = next(cell for cell in task.cells(inputs, length) if cell.variant == variant)
    question = task.question(inputs, cell, trial)
    return inputs.tokenizer.decode(question.ids), question


def test_longbench_prompts_are_the_published_ones(tokenizer: Any, settings: dict[str, Any]) -> None:
    text, question = first(longbench_v2.TASK, inputs_of(tokenizer, settings), "overall", trial=1)
    context = ("Valley 1 has 2 rivers.\n" + written.NOISE * 40).strip()
    choices = "(A) It has 1 rivers.\n(B) It has 2 rivers.\n(C) It has 3 rivers.\n(D) It has 4 rivers."
    assert text == (
        f"Please read the following text and answer the question below.\n\n<text>\n{context}\n</text>\n\nWhat is the "
        f"correct answer to this question: What is said of valley 1?\nChoices:\n{choices}\n\nFormat your response as "
        'follows: "The correct answer is (insert answer here)".\n\nThe correct answer is ('
    )
    assert longbench_v2.score("B) because", question) == 1.0
    assert longbench_v2.score("A)", question) == 0.0
    assert longbench_v2.ended("B)", question)
    assert not longbench_v2.ended("B", question)


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The correct answer is (C).", "C"),
        ("I think so. **The correct answer is (A)**", "A"),
        ("The correct answer is B, since", "B"),
        ("The correct answer is B. No: The correct answer is (D)", "D"),
        ("the correct answer is (C)", None),
        ("The correct answer is (E)", None),
        ("C", None),
        ("", None),
    ],
)
def test_longbench_letters(response: str, letter: str | None) -> None:
    assert longbench_v2.letter(response) == letter


def test_longbench_rows_of_subsets_are_parts_of_all(tokenizer: Any, settings: dict[str, Any]) -> None:
    inputs = inputs_of(tokenizer, settings)
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]  # easy: 0, 2, 4; short: 0, 3; medium: 1, 4; long: 2, 5
    row = Row(task="longbench_v2", variant="overall", metric="accuracy", length=LENGTH, n=6, scores=scores, data="x")
    further = {one.variant: one for one in longbench_v2.summarise(inputs, [row])}
    assert {name: (one.value, one.n) for name, one in further.items()} == {
        "easy": (pytest.approx(2 / 3), 3),
        "hard": (pytest.approx(1 / 3), 3),
        "short": (1.0, 2),
        "medium": (0.0, 2),
        "long": (0.5, 2),
    }
    assert len({one.data for one in further.values()}) == 5


@pytest.mark.parametrize("room", [300, 301, 517])
def test_a_long_prompt_loses_its_middle_and_no_more(tokenizer: Any, settings: dict[str, Any], room: int) -> None:
    inputs = inputs_of(tokenizer, settings)
    body = "".join(f"{i}, " for i in range(600)) + "the end"
    ids = published_files.cut_middle(inputs, body, "\nAnswer:", room)
    assert room - 4 <= len(ids) <= room
    text = tokenizer.decode(ids)
    assert text.startswith("0, 1, 2,")
    assert text.endswith("599, the end\nAnswer:")
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    seams = sum(b != a + 1 for a, b in itertools.pairwise(numbers))
    assert 1 <= seams <= 2, "one stretch in the middle is missing, its ends perhaps within a number"
    whole = published_files.cut_middle(inputs, "short", " x", room)
    assert tokenizer.decode(whole) == "short x"


def test_the_end_of_a_helmet_context_is_cut(tokenizer: Any, settings: dict[str, Any]) -> None:
    inputs = inputs_of(tokenizer, settings)
    cell = next(c for c in helmet.TASK.cells(inputs, 500) if c.variant == "ruler_niah_mk_2")
    question = helmet.TASK.question(inputs, cell, 0)
    assert 500 - 50 - 4 <= len(question.ids) <= 500 - 50
    text = tokenizer.decode(question.ids)
    assert text.endswith("\nThe special magic numbers for long-0 mentioned in the provided text is")
    assert "Make sure to memorize it. I will quiz you about the numbers afterwards.\nThe grass is green." in text
    assert "1000" not in text, "the needle stood in the part that was cut"


def test_infinitebench_prompts_are_the_published_ones(tokenizer: Any, settings: dict[str, Any]) -> None:
    inputs = inputs_of(tokenizer, settings)
    text, question = first(infinitebench.TASK, inputs, "passkey")
    assert text.startswith(
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you "
        "about the important information.\n\nThe grass is green."
    )
    assert text.endswith("\n\nWhat is the pass key?\n\nThe pass key is")
    assert question.truth[0] in text
    ends = {
        "kv_retrieval": '"\nThe value associated with the specified key is: ',
        "code_run": "\n\nPlease compute the exact value of func_0(-2). The value of func_0(-2) is",
        "code_debug": "Options:\nA. run_all\nB. load\nC. save\nD. stop\n\nThe correct option is:",
        "longbook_choice_eng": "C. The sun\nD. Nothing\n\nThe letter of the correct answer is",
        "longbook_qa_eng": "\n\nQuestion: What is blue?\nAnswer:",
        "longdialogue_qa_eng": "\n\nThe name that has been replaced with $$MASK$$ is likely",
        "math_find": "The largest number of the list is: ",
    }
    for name, end in ends.items():
        assert first(infinitebench.TASK, inputs, name)[0].endswith(end), name
    assert first(infinitebench.TASK, inputs, "math_find")[0].startswith(
        "What is the largest number in the following list?"
    )


@pytest.mark.parametrize(
    ("rule", "answer", "right", "score"),
    [
        (infinitebench.first_number, " 71432.", ["71432"], 1),
        (infinitebench.first_number, " 7, 71432", ["71432"], 0),
        (infinitebench.among_words, ' "d0e1-f2", so', ["d0e1-f2"], 1),
        (infinitebench.among_words, "d0e1-f23", ["d0e1-f2"], 0),
        (infinitebench.last_number, "It is -12.", ["-12"], 1),
        (infinitebench.last_number, "-12 it is", ["-12"], 0),
        (infinitebench.last_number, "", ["-12"], 0),
        (infinitebench.found_value, "is 42, or 43", ["42"], 1),
        (infinitebench.found_value, "42.0", ["42"], 0),
        (infinitebench.found_value, "4.50", ["4.5"], 1),
        (infinitebench.option_of_code, " B. load", ["load", "B"], 1),
        (infinitebench.option_of_code, "B", ["load", "B"], 0),  # a bare letter does not count by their rule
        (infinitebench.option_of_code, "The answer is: Option B", ["load", "B"], 1),
        (infinitebench.option_of_code, "The answer is: load", ["load", "B"], 1),
        (infinitebench.option_of_book, " B", ["The grass", "B"], 1),
        (infinitebench.option_of_book, "The answer is C", ["The grass", "B"], 0),
        (infinitebench.option_of_book, "The grass", ["The grass", "B"], 1),
        (infinitebench.option_of_book, "so it is B", ["The grass", "B"], 1),
        (infinitebench.name_among_words, "Joe: yes", ["JOE"], 1),
        (infinitebench.name_among_words, "Joey", ["JOE"], 0),
        (published_files.word_f1, "a blue sky", ["The sky!", "sea"], 2 / 3),  # precision 1/2, recall 1
        (published_files.word_f1, "", ["The sky"], 0),
    ],
)
def test_rules_of_infinitebench(rule: Any, answer: str, right: list[str], score: float) -> None:
    assert rule(answer, right) == pytest.approx(score)


def test_helmet_prompts_and_rules(tokenizer: Any, settings: dict[str, Any]) -> None:
    inputs = inputs_of(tokenizer, settings)
    text, question = first(helmet.TASK, inputs, "json_kv")
    rows = [json.loads(line) for line in Path(settings["helmet"]["data"][0].split("=")[1]).read_text().splitlines()]
    demos = "".join(f"Key: {a}\nCorresponding value: {b}\n\n" for a, b in rows[0]["demos"][:2])
    assert text == (
        f"{rows[0]['context']}\n\nExtract the value corresponding to the specified key in the JSON object below.\n\n"
        f"{demos}Key: {rows[0]['question']}\nCorresponding value:"
    )
    assert helmet.score(f' "{rows[0]["answer"].upper()}",', question) == 1.0
    assert helmet.score(f" {rows[1]['answer']}", question) == 0.0
    text, question = first(helmet.TASK, inputs, "ruler_vt", trial=1)
    assert text.startswith("VAR Q = 1. So: Q\n\nMemorize and track the chain(s)")
    assert text.endswith("2 variables are assigned the value 771, they are:")
    assert [helmet.score(answer, question) for answer in (" ab1, xyz", " AB1", " Q")] == [1.0, 0.5, 0.0]
    text, question = first(helmet.TASK, inputs, "kilt_nq")
    assert text.count("\nAnswer:") == 4  # the format, two solved examples, and the one that is asked
    assert "\n\nDocument (Title: River 1): River 1 is 1 miles long.\n\n" in text
    assert text.endswith("\n\nQuestion: how long is river 0?\nAnswer:")
    assert [helmet.score(answer, question) for answer in (" 0 Miles.\nx", " about 0 mi", " 1\n0 miles")] == [1, 1, 0]
    assert helmet.ended(" 1\n", question)
    name = "icl_trec_coarse_7shot_balance"
    text, question = first(helmet.TASK, inputs, name)
    assert text.startswith(
        'Use the provided mapping from the text to label to assign a label to the text. Only output "label: {label}" '
        "and nothing else. \n\n"
    )
    assert text.endswith("\n\na 0?\nlabel:")
    shown = re.findall(r"([abc]) \d\?\nlabel: (\d)", text)
    assert len(shown) == 7
    assert len({place for place, _ in shown[:3]}) == len({place for place, _ in shown[3:6]}) == 3, "balanced rounds"
    assert dict(shown)["a"] == question.truth[1]
    assert [helmet.score(f" {question.truth[1]}{more}", question) for more in ("", "\n3", "0")] == [1, 1, 0]


def test_questions_at_several_depths_are_one_unit(tokenizer: Any, settings: dict[str, Any]) -> None:
    inputs = inputs_of(tokenizer, settings, helmet={**settings["helmet"], "limit": 2})
    cell = next(c for c in helmet.TASK.cells(inputs, 5000) if c.variant == "kilt_nq")
    assert cell.n == 4, "two questions at two depths each"
    units = [helmet.TASK.question(inputs, cell, trial).unit for trial in range(cell.n)]
    assert len(set(units)) == 2
    other = next(c for c in helmet.TASK.cells(inputs, 5000) if c.variant == "json_kv")
    assert helmet.TASK.question(inputs, other, 0).unit is None


TASKS: list[Task] = [longbench_v2.TASK, infinitebench.TASK, helmet.TASK]


@pytest.mark.parametrize("length", [700, 4096])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_prompts_fit_and_the_truth_scores(tokenizer: Any, settings: dict[str, Any], task: Task, length: int) -> None:
    inputs = inputs_of(tokenizer, settings)
    cells: list[Cell] = task.cells(inputs, length)
    for cell in cells:
        for trial in range(cell.n):
            question = task.question(inputs, cell, trial)
            assert 0 < len(question.ids) <= length - cell.answer_tokens
            if question.draft and cell.variant != "code_debug":
                assert task.score(inputs.decode(question.draft), question) > 0, (cell.variant, question.truth)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_served_and_in_process_rows_are_equal(settings: dict[str, Any], tmp_path: Path, task: Task) -> None:
    pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `served`)")
    model = tiny_llama(tmp_path / "tiny", layers=1, window=LENGTH)
    small = {**settings, "infinitebench": {**settings["infinitebench"], "limit": 1}}
    asked = {**small, "tasks": [task.name], "lengths": [LENGTH]}
    with serving(model, generate=True, window=LENGTH) as address:
        served = skipwise.evaluate(ServerConfig(url=address, tokenizer=str(model)), asked, tmp_path / "rows.jsonl")
    exact = ModelConfig(path=str(model), precision="float32")
    local = skipwise.evaluate(exact, asked, tmp_path / "rows.jsonl")
    assert len(served) == len(local) == {"longbench_v2": 6, "infinitebench": 9, "helmet": 5}[task.name]
    for one, other in zip(served, local, strict=True):
        assert (one.variant, one.data, one.scores, one.cut) == (other.variant, other.data, other.scores, 0)


@pytest.mark.parametrize(
    ("task", "changes", "error"),
    [
        ("longbench_v2", {"longbench_v2": {}}, "needs LongBench v2's data.json"),
        ("longbench_v2", {"longbench_v2": {"data": "no.json"}}, "no.json is not there"),
        ("infinitebench", {"infinitebench": {}}, "needs InfiniteBench's files"),
        ("infinitebench", {"infinitebench": {"data": ["{folder}"]}}, "holds none of passkey"),
        ("infinitebench", {"infinitebench": {"data": ["{folder}/math_calc.jsonl"]}}, "not covered, its answers have"),
        ("infinitebench", {"infinitebench": {"data": ["{folder}/other.jsonl"]}}, "not named after a task"),
        ("infinitebench", {"infinitebench": {"data": ["{folder}/passkey.bin"]}}, "is not there"),
        ("helmet", {"helmet": {}}, "needs HELMET's test files"),
        ("helmet", {"helmet": {"data": ["json_kv"]}}, "is not NAME=PATH"),
        ("helmet", {"helmet": {"data": ["narrativeqa_130772={folder}/other.jsonl"]}}, "judged by another model"),
        ("helmet", {"helmet": {"data": ["alce_asqa_345={folder}/other.jsonl"]}}, "judged by another model"),
        ("helmet", {"helmet": {"data": ["infbench_qa_eng_1={folder}/other.jsonl"]}}, "by the task infinitebench"),
        ("helmet", {"helmet": {"data": ["msmarco={folder}/other.jsonl"]}}, "is not covered; expected json_kv"),
        ("longbench_v2", {"longbench_v2": {"data": "{folder}"}}, "is a folder; name the file in it"),
        (
            "helmet",
            {"helmet": {"data": ["json_kv={folder}/other.jsonl", "json_kv={folder}/math_calc.jsonl"]}},
            "names two files for json_kv",
        ),
        (
            "infinitebench",
            {"infinitebench": {"data": ["{folder}/a/passkey.jsonl", "{folder}/b/passkey.jsonl"]}},
            "names two files for passkey",
        ),
        ("helmet", {"helmet": {"data": ["kilt_nq={folder}/other.jsonl"]}}, "needs solved examples"),
        ("helmet", {"helmet": {"data": ["icl_x_5shot={folder}/other.jsonl"], "shots": 0}}, "needs solved examples"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, task: str, changes: dict[str, Any], error: str) -> None:
    for name in ("math_calc", "other", "a/passkey", "b/passkey"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written.write_jsonl(tmp_path / f"{name}.jsonl", [{"context": "x"}])
    values = json.loads(json.dumps(changes).replace("{folder}", str(tmp_path)))
    with pytest.raises(SkipwiseError, match=re.escape(error)) as caught:
        next(one for one in TASKS if one.name == task).check(EvaluationConfig.model_validate(values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "row", "error"),
    [
        ("passkey", {"input": "?", "answer": "1"}, "passkey.jsonl:1: expected texts in 'context' and 'input'"),
        ("passkey", {"context": "x", "answer": "1"}, "passkey.jsonl:1 has no field 'input'"),
        ("passkey", {"context": "x", "input": "?", "answer": []}, "its 'answer' holds no text or number"),
        ("passkey", {"context": "x", "input": "?", "answer": [None, " "]}, "its 'answer' holds no text or number"),
        ("math_find", {"context": "x", "input": "The sum of", "answer": "nine"}, "'nine'; expected a number"),
        ("code_run", {"context": "x", "input": "func_1(5)", "answer": "3.5"}, "'3.5'; expected a number"),
        ("code_run", {"context": "x", "input": "?", "answer": [1]}, "calls no function"),
        ("math_find", {"context": "x", "input": "?", "answer": [1]}, "which number to find"),
        ("code_debug", {"context": "x", "input": "?", "answer": "a", "options": ["b"]}, "four 'options'"),
    ],
)
def test_broken_rows_are_named(tokenizer: Any, tmp_path: Path, name: str, row: dict[str, Any], error: str) -> None:
    path = written.write_jsonl(tmp_path / f"{name}.jsonl", [row])
    inputs = inputs_of(tokenizer, {"infinitebench": {"data": [str(path)]}})
    with pytest.raises(SkipwiseError, match=re.escape(error)):
        infinitebench.cells(inputs, 4096)


KEY_VALUE = {"context": "{}", "question": "a", "answer": "b"}
RAG = {"question": "q", "answers": ["x"], "ctxs": [{"title": "t", "text": "u"}]}


@pytest.mark.parametrize(
    ("name", "row", "error"),
    [
        ("json_kv", {**KEY_VALUE, "context": ["{}"]}, "rows.jsonl:1 has no text in 'context'"),
        ("json_kv", {**KEY_VALUE, "demos": [1]}, "expected pairs of a key and a value in 'demos'"),
        ("json_kv", {**KEY_VALUE, "answer": None}, "with an answer"),
        ("ruler_vt", {"context": "c", "query": "q", "num_v": None, "outputs": ["x"]}, "has no text in 'num_v'"),
        ("kilt_nq", {**RAG, "ctxs": None}, "expected 'ctxs' with a 'title' and a 'text' each"),
        ("kilt_nq", {**RAG, "answers": []}, "with an answer"),
        ("kilt_popqa_3", {**RAG, "s_pop": 1000}, "holds no question about a subject with 's_pop' below 1,000"),
        ("kilt_popqa_3", {**RAG, "s_pop": "many"}, "holds no question about a subject with 's_pop' below 1,000"),
        ("icl_trec_fine_3shot", {"text": "a", "fine_label": None}, "no text or label in 'fine_label'"),
        ("icl_trec_fine_3shot", {"text": None, "fine_label": 1}, "no text or label in 'text'"),
        ("icl_trec_fine_0shot", {"text": "a", "fine_label": 1}, "is not covered"),
    ],
)
def test_broken_helmet_rows_are_named(
    tokenizer: Any, tmp_path: Path, name: str, row: dict[str, Any], error: str
) -> None:
    path = written.write_jsonl(tmp_path / "rows.jsonl", [row])
    given = {"data": [f"{name}={path}"], "demos": [f"{name}={path}"], "shots": 0}
    with pytest.raises(SkipwiseError, match=re.escape(error)):
        helmet.cells(inputs_of(tokenizer, {"helmet": given}), 4096)


def test_solved_examples_need_an_answer(tokenizer: Any, tmp_path: Path) -> None:
    path = written.write_jsonl(tmp_path / "rows.jsonl", [RAG])
    demos = written.write_jsonl(tmp_path / "demos.jsonl", [{**RAG, "question": "p", "answers": []}])
    given = {"data": [f"kilt_nq={path}"], "demos": [f"kilt_nq={demos}"]}
    with pytest.raises(SkipwiseError, match="its solved example 'p' has no answer"):
        helmet.cells(inputs_of(tokenizer, {"helmet": given}), 4096)


def test_a_question_about_a_subject_that_nobody_looks_up_counts(tokenizer: Any, tmp_path: Path) -> None:
    path = written.write_jsonl(tmp_path / "rows.jsonl", [{**RAG, "s_pop": 0}, {**RAG, "question": "p", "s_pop": 5000}])
    given = {"data": [f"kilt_popqa_3={path}"], "shots": 0}
    assert helmet.cells(inputs_of(tokenizer, {"helmet": given}), 4096)[0].n == 1


@pytest.mark.parametrize(("change", "error"), [({"answer": "E"}, "question 1 has the answer 'E'; expected A to D"),
                                               ({"context": None}, "question 1 has no text in 'context'")])  # fmt: skip
def test_broken_longbench_rows_are_named(tokenizer: Any, tmp_path: Path, change: dict[str, Any], error: str) -> None:
    path = written.write_longbench_v2(tmp_path)
    rows = json.loads(path.read_text())
    rows[0] |= change
    path.write_text(json.dumps(rows))
    with pytest.raises(SkipwiseError, match=re.escape(error)):
        longbench_v2.cells(inputs_of(tokenizer, {"longbench_v2": {"data": str(path)}}), 4096)
