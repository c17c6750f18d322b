"""RULER's prompts, task by task, against the published specification; scores against hand-worked ones and lm-eval's."""

import collections
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import zeta

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import task
from skipwise.evals.intervals import share_interval
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question
from skipwise.evals.tasks.ruler import documents as ruler_documents
from skipwise.evals.tasks.ruler import prompts
from skipwise.evals.tasks.ruler import task as ruler
from skipwise.evals.tasks.ruler.prompts import NOISE
from support.tiny import tiny_tokenizer

LENGTH = 6000
ESSAY = " ".join(f'Mr. Reader, sentence number {i} says "so." It has a second part, too!' for i in range(150))
WORDS, NUMBERS = r"[\w' ]+(?:-[\w' ]+)+", r"[1-9]\d{6}"
UUIDS = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
# name: (needles hidden, distractors of the same form, keys asked for, references, keys, values)
NEEDLES = {
    "niah_single_1": (1, False, 1, 1, WORDS, NUMBERS),
    "niah_single_2": (1, False, 1, 1, WORDS, NUMBERS),
    "niah_single_3": (1, False, 1, 1, WORDS, UUIDS),
    "niah_multikey_1": (4, False, 1, 1, WORDS, NUMBERS),
    "niah_multikey_2": (1, True, 1, 1, WORDS, NUMBERS),
    "niah_multikey_3": (1, True, 1, 1, UUIDS, UUIDS),
    "niah_multivalue": (4, False, 1, 4, WORDS, NUMBERS),
    "niah_multiquery": (4, False, 4, 4, WORDS, NUMBERS),
}
WITHOUT_FILES = [*NEEDLES, "vt", "cwe", "fwe"]
ANSWER_TOKENS = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A BPE of 512 tokens that puts a BOS before every text."""
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), adds_bos=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "essay.txt").write_text(ESSAY)
    articles = [
        {
            "title": f"Article {a}",
            "paragraphs": [
                {
                    "context": f"Paragraph {p} of article {a} tells of town {a}{p}.",
                    "qas": [
                        {
                            "question": f"Which town {a}{p}?",
                            "is_impossible": False,
                            "answers": [{"text": f"Town {a}{p}"}],
                        },
                        {"question": "No answer?", "is_impossible": True, "answers": []},
                    ],
                }
                for p in range(4)
            ],
        }
        for a in range(30)
    ]
    articles[0]["paragraphs"][0]["qas"][0]["answers"] += [{"text": "the town"}]  # type: ignore[index]
    (folder / "squad.json").write_text(json.dumps({"data": articles}))
    entries = [
        {
            "question": f"Who wrote book {i}?",
            "answer": f"Author {i}",
            "context": [[f"Title {i}.{j}", [f"Book {i} part {j}. ", f"By Author {i}."]] for j in range(10)],
        }
        for i in range(20)
    ]
    (folder / "hotpotqa.json").write_text(json.dumps(entries))
    return {
        "essays": [str(folder / "essay.txt")],
        "squad": str(folder / "squad.json"),
        "hotpotqa": str(folder / "hotpotqa.json"),
    }


@pytest.fixture
def inputs(tokenizer: Any, files: dict[str, Any]) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig.model_validate({"ruler": {"samples": 3, **files}}))


def ask(inputs: Inputs, name: str, *, length: int = LENGTH, trial: int = 0) -> tuple[Question, str]:
    cell = Cell(length, 3, ruler.VARIANTS[name].answer_tokens, variant=name)
    question = ruler.question(inputs, cell, trial)
    return question, str(inputs.tokenizer.decode(question.ids, skip_special_tokens=True))


@pytest.mark.parametrize("name", [*WITHOUT_FILES, "qa_1", "qa_2"])
def test_prompts_fill_the_budget_and_go_on_with_their_draft(inputs: Inputs, name: str) -> None:
    for trial in range(3):
        question, text = ask(inputs, name, trial=trial)
        answer_tokens = ANSWER_TOKENS.get(name, 128)
        slack = {"qa_1": 40, "qa_2": 60, "cwe": 60, "niah_multikey_3": 140}.get(name, 60)
        assert LENGTH - slack < len(question.ids) + answer_tokens <= LENGTH
        assert question.ids == inputs.tokenizer(text)["input_ids"]
        assert len(question.draft) <= answer_tokens or name == "niah_multiquery"
        drafted = inputs.decode(question.draft)
        assert ruler.score(drafted, question) == 1.0
        assert question.truth != ask(inputs, name, trial=(trial + 1) % 3)[0].truth
        assert ask(inputs, name, trial=trial)[0] == question


@pytest.mark.parametrize("name", NEEDLES)
def test_needles(inputs: Inputs, name: str) -> None:
    hidden, distractors, queries, references, key_form, value_form = NEEDLES[name]
    question, text = ask(inputs, name)
    intro, rest = text.split("\n", 1)
    context, closing = rest.rsplit("\n", 1)
    kind = "uuids" if value_form == UUIDS else "numbers"
    found = re.findall(rf"One of the special magic {kind} for ({key_form}) is: ({value_form})\.", context)
    assert len(found) > 50 if distractors else len(found) == hidden
    assert len(set(found)) == len(found)
    asked = [key for key, value in found if value in question.truth]
    assert len(question.truth) == references == len(set(question.truth)) == len(asked)
    one = kind.removesuffix("s") if references == 1 else kind
    assert intro == (
        f"{'A' if references == 1 else 'Some'} special magic {one} {'is' if references == 1 else 'are'} hidden within "
        f"the following text. Make sure to memorize it. I will quiz you about the {one} afterwards."
    )
    keys = list(dict.fromkeys(asked))
    assert len(keys) == queries
    query = re.fullmatch(
        rf"What {'is' if references == 1 else 'are all'} the special magic {one} for (.*) mentioned in the provided "
        rf"text\? The special magic {one} for \1 mentioned in the provided text {'is' if references == 1 else 'are'}",
        closing,
    )
    assert query
    named = query[1].replace(", and ", ", ").split(", ")
    assert sorted(named) == sorted(keys)
    if queries > 1:  # the references follow the order of the question
        assert [dict(found)[key] for key in named] == question.truth
        assert ", and " in query[1]
    noise = re.sub(rf"( ?|\n?)One of the special magic {kind} for {key_form} is: {value_form}\.", "", context)
    if name == "niah_single_1":
        assert set(noise.strip("\n").split("\n")) == {NOISE}
    elif distractors:
        assert noise.strip() == ""
    else:
        whole = re.sub(r" *One of the special magic \w+ for .+? is: \S+\. *", " ", f" {context} ").strip()
        assert ESSAY.startswith(whole)
        # Behind the last word a sentence may be cut short, as the generator's is.
        context = re.sub(r"( One of the special magic \w+ for \S+ is: \S+\.)+$", "", context)
        ends = [before for before, _ in re.findall(r"(\S+) (One of the special magic)", f". {context}")]
        assert all(re.search(r"[.!]\"?$", end) for end in ends)
        assert "Mr." not in ends


def test_needles_stand_at_rulers_depths(inputs: Inputs) -> None:
    depths = np.round(np.linspace(0, 100, num=40, endpoint=True))
    assert list(prompts.DEPTHS) == depths.astype(int).tolist()
    sentences = re.findall(r"Mr\. Reader.*?\"so\.\"|It has.*?!", ESSAY)
    essay = prompts.essay([ESSAY])
    assert [" ".join(essay.words[a:b]) for a, b in zip([0, *essay.ends], essay.ends, strict=False)] == sentences
    for seed in range(30):
        context = prompts._in_essay(essay, ["NEEDLE."], random.Random(seed), len(essay.words))
        depth = random.Random(seed).sample(prompts.DEPTHS, 1)[0]
        before = context.split("NEEDLE.")[0]
        assert len(re.findall(r"\"so\.\"|too!", before)) == int(len(sentences) * (depth / 100))


def test_an_essay_that_is_too_short_begins_again() -> None:
    essay = prompts.essay(["One two. Three four"])
    assert essay.ends == [2, 4]
    text = prompts._in_essay(essay, ["N."], random.Random(0), 10)
    assert text.replace("N. ", "").replace(" N.", "") == "One two. Three four One two. Three four One two."


def test_variable_tracking(inputs: Inputs) -> None:
    question, text = ask(inputs, "vt")
    example, prompt = text.split("\n\nMemorize", 1)
    form = re.compile(
        r"Memorize and track the chain\(s\) of variable assignment hidden in the following text\.\n\n(.*)\n"
        r"Question: Find all variables that are assigned the value (\d{5}) in the text above\. "
        r"Answer: According to the chain\(s\) of variable assignment in the text above, 5 variables are assigned the "
        r"value \2, they are: (.*)",
        re.DOTALL,
    )
    for part, letters, answered in ((example, 3, True), (f"Memorize{prompt}", 5, False)):
        match = form.fullmatch(part)
        assert match, part
        lines = match[1].split("\n")
        steps = [line for line in lines if line != NOISE]
        first = re.fullmatch(rf"VAR ([A-Z]{{{letters}}}) = {match[2]}", steps[0])
        assert first
        names = [first[1]]
        for step in steps[1:]:
            following = re.fullmatch(rf"VAR ([A-Z]{{{letters}}}) = VAR {names[-1]} ", step)
            assert following, step
            names.append(following[1])
        assert len(set(names)) == 5
        assert match[3] == (" " + " ".join(names) if answered else "")
    assert names == question.truth
    assert inputs.count(example) > 400 or example.count(NOISE) == 5


@pytest.mark.parametrize(("length", "counts", "example_words"), [(4095, (6, 1, 3, 1), 20), (9000, (30, 3, 10, 3), 40)])
def test_common_words(inputs: Inputs, length: int, counts: tuple[int, ...], example_words: int) -> None:
    question, text = ask(inputs, "cwe", length=length)
    form = (
        r"Below is a numbered list of words\. In these words, some appear more often than others\. "
        r"Memorize the ones that appear most often\.\n(.*)\n"
        r"Question: What are the 10 most common words in the above list\? "
        r"Answer: The top 10 words that appear most often in the list are:"
    )
    match = re.fullmatch(rf"{form} (.*)\n{form}", text)
    assert match
    example, answer, prompt = (re.split(r" ?\d+\. ", part)[1:] for part in match.groups())
    for words, common, often, seldom in ((prompt, question.truth, *counts[:2]), (example, answer, *counts[2:])):
        count = collections.Counter(words)
        assert len(common) == 10
        assert {word for word, n in count.items() if n == often} == set(common)
        assert {n for word, n in count.items() if word not in common} == {seldom}
    assert len(set(example)) == example_words
    assert [int(n) for n in re.findall(r"(\d+)\. ", match[3])] == list(range(1, len(prompt) + 1))


def test_more_words_than_there_are() -> None:
    source = prompts.PromptTexts(200_000, len, lambda: prompts.essay([ESSAY]), lambda: pytest.fail("read"), 0)
    known = len(prompts.words()[2])
    sample = prompts.common_words(source, random.Random(0), known + 50)
    listed = re.split(r" ?\d+\. ", sample.body.split("\n")[-2])[1:]
    assert len(set(listed)) == known + 50


def test_frequent_words(inputs: Inputs) -> None:
    question, text = ask(inputs, "fwe")
    match = re.fullmatch(
        r"Read the following coded text and track the frequency of each coded word\. "
        r"Find the three most frequently appeared coded words\. (.*)\n"
        r"Question: Do not provide any explanation\. Please ignore the dots '\.\.\.\.'\. "
        r"What are the three most frequently appeared words in the above coded text\? "
        r"Answer: According to the coded text above, the three most frequently appeared words are:",
        text,
    )
    assert match
    count = collections.Counter(match[1].split(" "))
    ranked = [word for word, _ in count.most_common()]
    assert ranked[0] == "..."
    assert ranked[1:4] == question.truth
    assert all(re.fullmatch("[a-z]{6}", word) for word in ranked[1:])
    vocabulary = (LENGTH - 50) // 50
    fits = [
        n
        for n in range(100, LENGTH)
        if np.array_equal(
            [k for k in (n * np.arange(1, vocabulary + 1) ** -2.0 / zeta(2)).astype(int) if k],
            sorted(count.values(), reverse=True),
        )
    ]
    assert fits


def test_the_fewest_coded_words_tell_the_third_from_the_fourth() -> None:
    for n in range(prompts.FEWEST_CODED, 3000):
        counts = [int(n / k**2 / zeta(2)) for k in range(1, 6)]
        assert sorted(set(counts), reverse=True) == counts, n


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_question_answering(inputs: Inputs, files: dict[str, Any], name: str) -> None:
    found = ruler_documents.squad(files["squad"]) if name == "qa_1" else ruler_documents.hotpotqa(files["hotpotqa"])
    length = 2500
    for trial in range(3):
        question, text = ask(inputs, name, length=length, trial=trial)
        task_line = (
            "Answer the question based on the given documents. "
            "Only give me the answer and do not output any other words."
        )
        match = re.fullmatch(
            rf"{re.escape(task_line)}\n\nThe following are given documents\.\n\n(.*)\n\n{re.escape(task_line)}\n\n"
            r"Question: (.*) Answer:",
            text,
            re.DOTALL,
        )
        assert match
        asked = found.questions[trial]
        assert (match[2], question.truth) == (asked.question, asked.answers)
        documents = re.split(r"(?:^|\n\n)Document \d+:\n", match[1])[1:]
        assert [int(n) for n in re.findall(r"Document (\d+):", match[1])] == list(range(1, len(documents) + 1))
        assert set(documents) <= set(found.texts)
        assert len(set(documents)) == len(documents)
        assert {found.texts[i] for i in asked.documents + asked.related} <= set(documents)
    assert question.variant == "any"


def test_question_files(files: dict[str, Any], tmp_path: Path) -> None:
    squad = ruler_documents.squad(files["squad"])
    assert (len(squad.texts), len(squad.questions)) == (120, 120)
    assert squad.questions[0].answers == ["Town 00", "the town"]
    assert [len(part) for part in squad.questions[5][2:]] == [1, 3]
    hotpot = ruler_documents.hotpotqa(files["hotpotqa"])
    assert hotpot.texts[hotpot.questions[3].documents[2]] == "Title 3.2\nBook 3 part 2. By Author 3."
    with pytest.raises(SkipwiseError, match="cannot read"):
        ruler_documents.squad(str(tmp_path / "none.json"))
    for read, wrong in ((ruler_documents.squad, files["hotpotqa"]), (ruler_documents.hotpotqa, files["squad"])):
        with pytest.raises(SkipwiseError, match="is not"):
            read(wrong)


@pytest.mark.parametrize("name", [*WITHOUT_FILES, "qa_1", "qa_2"])
def test_a_larger_size_never_takes_fewer_tokens(inputs: Inputs, name: str) -> None:
    cell = Cell(LENGTH, 3, 32, variant=name)
    sizes = [len(ruler._prompt_ids(inputs, cell, 1, more)) for more in (0, 1, 2, 5, 11, 50, 51, 130)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


@pytest.mark.parametrize("name", [*WITHOUT_FILES, "qa_1", "qa_2"])
def test_the_shortest_length_and_shorter(tokenizer: Any, files: dict[str, Any], name: str) -> None:
    inputs = Inputs(tokenizer, EvaluationConfig.model_validate({"ruler": {"samples": 4, "tasks": [name], **files}}))
    for length in (1, 64):
        with pytest.raises(task.TooShortError, match=rf"RULER's {name} does not fit in {length} tokens"):
            ruler.cells(inputs, length)
    fitting = next(length for length in range(100, 6000, 50) if fits(inputs, length))
    exact = next(length for length in range(fitting - 50, fitting + 1) if fits(inputs, length))
    (cell,) = ruler.cells(inputs, exact)
    for trial in range(cell.n):
        assert 0 < len(ruler.question(inputs, cell, trial).ids) <= exact - cell.answer_tokens


def fits(inputs: Inputs, length: int) -> bool:
    try:
        return bool(ruler.cells(inputs, length))
    except task.TooShortError:
        return False


def test_tasks_that_nobody_named_are_left_out_aloud(inputs: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    unnamed = Inputs(inputs.tokenizer, EvaluationConfig.model_validate({"ruler": {"samples": 1}}))

    def needed(length: int) -> int:
        return ruler._needed(unnamed, Cell(length, 1, ruler.VARIANTS["cwe"].answer_tokens, variant="cwe"))

    short = next(length for length in range(6000, 500, -250) if needed(length) > length)
    found = [cell.variant for cell in ruler.cells(unnamed, short)]
    assert "cwe" not in found
    assert len(found) >= 5
    assert f", and of their average: cwe ({needed(short):,} tokens)" in capsys.readouterr().err
    assert "cwe" in [cell.variant for cell in ruler.cells(unnamed, 12_000)]


def test_chat_prompts_end_in_the_begun_reply(inputs: Inputs, files: dict[str, Any]) -> None:
    tokenizer = inputs.tokenizer
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[reply]"
    chat = Inputs(tokenizer, EvaluationConfig.model_validate({"chat": True, "ruler": files}))
    for name, end in (("vt", "they are: "), ("niah_single_1", "provided text is"), ("cwe", "in the list are:")):
        question, text = ask(chat, name)
        body, reply = text.rsplit("[/][reply]", 1)
        assert body.startswith("[user]")
        assert reply.startswith(("Answer: ", "The special"))
        assert reply.endswith(end)
        assert len(question.ids) <= LENGTH - ANSWER_TOKENS.get(name, 128)
    tokenizer.chat_template = None


def test_the_tasks_asked_for(files: dict[str, Any]) -> None:
    def names(**ruler_settings: Any) -> list[str]:
        return ruler.names(EvaluationConfig.model_validate({"ruler": ruler_settings}).ruler)

    assert names() == WITHOUT_FILES
    assert names(squad="x") == [*WITHOUT_FILES, "qa_1"]
    assert names(tasks=["vt", "cwe", "vt"], hotpotqa="x") == ["vt", "cwe"]
    with pytest.raises(SkipwiseError, match=r"qa_2 needs a local file: give evaluation\.ruler\.hotpotqa"):
        names(tasks=["qa_2"], squad="x")
    with pytest.raises(SkipwiseError, match="is empty"):
        names(tasks=[])


def test_fewer_questions_than_samples(tokenizer: Any, files: dict[str, Any]) -> None:
    settings = EvaluationConfig.model_validate({"ruler": {"samples": 21, "tasks": ["qa_2"], **files}})
    with pytest.raises(SkipwiseError, match="has 20 questions"):
        ruler.cells(Inputs(tokenizer, settings), LENGTH)


ANSWERS = [
    ("1234567", ["1234567"], 1.0),
    ("12345678 and", ["1234567"], 1.0),
    ("none", ["1234567"], 0.0),
    ("11, 22 and\x0044", ["11", "22", "33", "44"], 0.75),
    ("ABCDE\x00fghij", ["abcde", "FGHIJ"], 1.0),
    ("", ["a", "b"], 0.0),
    ("  1. Apple\t2. pear ", ["apple", "plum"], 0.5),
]


@pytest.mark.parametrize(("answer", "truth", "value"), ANSWERS)
def test_score(answer: str, truth: list[str], value: float) -> None:
    assert ruler.score(answer, Question([], [], truth)) == value
    assert ruler.score(answer, Question([], [], truth, "any")) == float(value > 0)


def test_scores_equal_lm_evals() -> None:
    """lm-eval's own RULER scoring of the same answers. Where one reference is enough, its score is the share found and
    RULER's whether any was: with one reference they agree."""
    theirs = pytest.importorskip("lm_eval.tasks.ruler.common_utils", reason="lm-eval is not installed")
    rng = random.Random(0)
    for _ in range(300):
        truth = [rng.choice(("Apple", "1234567", "QXZ", "a b", "é")) for _ in range(rng.randint(1, 5))]
        said = "".join(rng.choice((*truth, "apple", "qxz", "no", " ", "\x00", "\n", "É")) for _ in range(4))
        document = {"max_length": 4096, "outputs": truth}
        assert ruler.score(said, Question([], [], truth)) == theirs.process_results(document, [said])["4096"]
        one = {"max_length": 4096, "outputs": truth[:1]}
        ours = ruler.score(said, Question([], [], truth[:1], "any"))
        assert ours == theirs.process_results_part(one, [said])["4096"]


def test_an_answer_ends_once_its_score_is_whole() -> None:
    question = Question([], [], ["11", "22"])
    assert [ruler.TASK.ended(said, question) for said in (" 11", " 11 2", " 11 22", " 11 22 no")] == [
        False,
        False,
        True,
        True,
    ]


def answering(say: Callable[[int, Question], str], inputs: Inputs) -> task.Answerer:
    def answer(questions: Sequence[Question], limit: int, ended: Any, advance: Any) -> Iterator[tuple[int, list[int]]]:
        for i, question in enumerate(questions):
            tokens: list[int] = inputs.tokenizer(say(i, question), add_special_tokens=False)["input_ids"]
            yield i, tokens

    return answer


def test_averages_and_the_effective_length(tokenizer: Any, files: dict[str, Any]) -> None:
    """Two tasks of four samples: at 3,000 tokens all is right, at 4,000 one of four prompts of one task is wrong, at
    5,000 one task finds half of every answer and the other nothing."""
    settings = {"samples": 4, "tasks": ["niah_multivalue", "niah_single_1"], **files}
    inputs = Inputs(tokenizer, EvaluationConfig.model_validate({"ruler": settings}))
    rows = []
    for length in (3000, 4000, 5000):
        parts = []
        for cell in ruler.cells(inputs, length):
            questions = [ruler.question(inputs, cell, trial) for trial in range(cell.n)]
            parts.append((cell, task.header(ruler.TASK, inputs, cell, questions), questions))

        def say(i: int, question: Question, length: int = length) -> str:
            if length == 5000:
                return " ".join(question.truth[:2]) if len(question.truth) == 4 else "no"
            return "no" if length == 4000 and i == 6 else ", ".join(reversed(question.truth))

        rows += [row for _, row in task.measure(ruler.TASK, inputs, parts, answering(say, inputs))]
    assert [(row.variant, row.length, row.value) for row in rows] == [
        *(("niah_multivalue", 3000, 1.0), ("niah_single_1", 3000, 1.0)),
        *(("niah_multivalue", 4000, 1.0), ("niah_single_1", 4000, 0.75)),
        *(("niah_multivalue", 5000, 0.5), ("niah_single_1", 5000, 0.0)),
    ]
    *averages, effective = ruler.summarise(inputs, rows)
    assert [(row.length, row.value, row.n) for row in averages] == [
        (3000, 1, 4),
        (4000, 0.875, 4),
        (5000, 0.25, 4),
    ]
    assert averages[1].scores == [1, 1, 0.5, 1]
    assert averages[0].tasks == ["niah_multivalue", "niah_single_1"]
    assert averages[0].low == pytest.approx(0.025 ** (1 / 8))  # eight right answers prove little
    assert {row.variant for row in averages} == {"average"}
    assert (effective.value, effective.low, effective.high, effective.threshold) == (4000, 0, 4000, 0.856)
    assert len({row.data for row in [*rows, *averages, effective]}) == 10
    assert ruler.effective_length(averages, 0.2).value == 5000
    assert ruler.effective_length(averages[1:], 0.9).value == 0


def test_wonderwords_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wonderwords", None)
    prompts.words.cache_clear()
    with pytest.raises(SkipwiseError, match=r"pip install 'skipwise\[ruler\]'"):
        prompts.words()


@pytest.mark.parametrize("below", [0.80, 0.855])
@pytest.mark.parametrize("n", [20, 220])
def test_coverage_of_the_effective_length(n: int, below: float) -> None:
    """Averages reach the threshold up to 4,000 tokens and lie just below it at four lengths beyond."""
    generator, lengths = np.random.default_rng(n), [2000, 4000, 8000, 16_000, 32_000, 64_000]
    shares = [0.95, 0.86] + [below] * 4
    inside = []
    for _ in range(2000):
        rows = []
        for length, count in zip(lengths, generator.binomial(n, shares).tolist(), strict=True):
            low, high, _ = share_interval(count, n)
            head = Row(task="ruler", metric="match", n=n, length=length, data=str(length))
            rows.append(head.replace(value=count / n, low=low, high=high))
        effective = ruler.effective_length(rows, 0.856)
        inside.append((effective.low or 0) <= 4000 <= (effective.high or 0))
    assert np.mean(inside) >= 0.95
