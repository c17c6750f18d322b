"""InfiniteBench (arXiv 2402.13718): the tasks that a rule scores, from the files that its authors publish.

`evaluation.infinitebench.data` names their .jsonl files, or the folder that holds them; a file's name tells its task.
Nine are covered, each a variant: `passkey`, `number_string`, `kv_retrieval`, `math_find`, `code_run`, `code_debug`,
`longbook_choice_eng`, `longbook_qa_eng` (F1 of words) and `longdialogue_qa_eng`. `longbook_sum_eng` (ROUGE),
`longbook_qa_chn` (Chinese) and `math_calc` (answers of 30,000 tokens) are refused.

Taken over from their code: prompts (those for base models, whose last words begin the answer; with `evaluation.chat`
those for GPT-4), how many tokens an answer may have, the rules of scoring, and that a prompt which is too long loses
its middle. What differs: decoding is greedy, and the largest of the lengths takes the place of their 128k. Only
`evaluation.infinitebench.limit` examples of each file are asked by default.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import published_files
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.utils.os_errors import user_path
from skipwise.utils.text import length_text

HIDDEN = "There is an important info hidden inside a lot of irrelevant text. Find it"
QUIZ = "I will quiz you about the important information"
OPTIONS = "A. {a}\nB. {b}\nC. {c}\nD. {d}"
MASKED = (
    'Below is a dialogue script where one random occurrence of a character name is replaced with "$$MASK$$", and you '
    "should try to guess who that character is.\n\n"
)


class Variant(NamedTuple):
    """One task of the benchmark."""

    body: str
    """The prompt for a base model; fields of `Example.fields` in braces."""
    lead: str
    """The words that begin the answer of a base model."""
    chat: str
    """The prompt for a chat model, whose answer is not begun."""
    answer_tokens: int
    score: Callable[[str, list[str]], float]
    """(answer, right answers) → 0 to 1."""


def first_number(answer: str, right: list[str]) -> float:
    """1 where the first run of digits is the right one."""
    match = re.search("[0-9]+", answer)
    return float(match is not None and match[0] == right[0])


def among_words(answer: str, right: list[str]) -> float:
    """1 where the right word is one of the answer's, punctuation aside."""
    return float(right[0] in re.sub(r"[\n:\"'.,?!{}]", " ", answer).split())


def name_among_words(answer: str, right: list[str]) -> float:
    """`among_words` of the answer in capitals, as a script writes names."""
    return among_words(answer.upper(), right)


def last_number(answer: str, right: list[str]) -> float:
    """1 where the last word is the right whole number."""
    words = re.sub(r"[\n.`'\":]", " ", answer).split()
    try:
        return float(bool(words) and int(words[-1]) == int(right[0]))
    except ValueError:
        return 0.0


def found_value(answer: str, right: list[str]) -> float:
    """1 where the first number, whole or with a point, is the right one; a sign is not looked at."""
    match = re.search(r"\d+\.\d+|\d+", answer)
    if match is None or (right[0].lstrip("-").isdigit() and "." in match[0]):
        return 0.0
    return float(float(match[0]) == float(right[0]))


def option_of_code(answer: str, right: list[str]) -> float:
    """1 for an answer that begins with the right letter and a mark, or names letter or function after "answer is:"."""
    name, letter = right
    text = answer.strip()
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    text = re.sub(" +", " ", re.sub(r"[\n`'\"\-*]|[Oo]ption", " ", text))
    for words in ("answer is:", "is:", "answer:", "correct option is:"):
        _, there, after = text.partition(words)
        if there:
            return float(after[1:].startswith((letter, name)))
    return 0.0


def option_of_book(answer: str, right: list[str]) -> float:
    """1 where the first letter, the letter or text after "answer is", or the first word A, B, C or D is right."""
    text = answer.strip()
    if not text:
        return 0.0
    if text[0] in "ABCD":
        return float(text[0] in right)
    if text in right:
        return 1.0
    text = re.sub(" +", " ", re.sub(r"[\n\"'.,?!{}]", " ", text))
    for words in ("answer is:", "answer:", "answer is", "option is"):
        _, there, after = text.partition(words)
        if there:
            return float(after[1:].startswith(tuple(right)))
    word = next((word for word in text.split() if word in "ABCD"), None)
    return float(word in right)


VARIANTS = {
    "passkey": Variant(
        f"{HIDDEN} and memorize it. {QUIZ}.\n\n{{context}}\n\n{{input}}",
        "\n\nThe pass key is",
        f"{HIDDEN} and memorize them. {QUIZ} there.\n\n{{context}}\n\n{{input}}",
        6,
        first_number,
    ),
    "number_string": Variant(
        f"{HIDDEN}. {QUIZ} there.\n\n{{context}}\n\n{{input}}",
        "\n\nThe sequence of digits is",
        f"{HIDDEN}. {QUIZ} there.\n\n{{context}}\n\n{{input}}",
        12,
        first_number,
    ),
    "kv_retrieval": Variant(
        "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n{input}",
        "",
        "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n{input}",
        50,
        among_words,
    ),
    "math_find": Variant("{prefix}\n\n{context}\n\n{input}", "", "{prefix}\n\n{context}\n\n{input}", 3, found_value),
    "code_run": Variant(
        "There is a function called {func} in the following Python code.\n\n{context}\n\nPlease compute the exact "
        "value of {call}.",
        " The value of {call} is",
        "Following is a set of Python functions. There is a function called named {func}.\n\n{context}\n\nPlease give "
        "me the exact number of the return value of {call}. Be concise. Your response must end with the final "
        "returned value.",
        5,
        last_number,
    ),
    "code_debug": Variant(
        "Following is a Python code where exactly one of the functions/methods has a deliberate error that makes it "
        f"crash.\n\n{{context}}\n\nOptions:\n{OPTIONS}",
        "\n\nThe correct option is:",
        "There is ONLY ONE function in the large project that is deliberately made to include an obvious error. Please "
        "find the function that contains the most obvious errors. I will give you four options to narrow your scope. "
        "You can inspect the options and think. Eventually, tell me the answer using one single letter (A, B, C, or "
        f"D).\n\n{{context}}\n\nWhich funtion has deliberate error?\n{OPTIONS}"  # codespell:ignore funtion
        "\n\nYou should first find the functions in the options. Repeat their content, inspect through code, and at "
        "last give me your answer for the function that has the deliberate and obvious error in A, B, C, or D.",
        5,
        option_of_code,
    ),
    "longbook_choice_eng": Variant(
        f"Read the book and answer the question.\n\n{{context}}\n\nQuestion: {{input}}\n{OPTIONS}",
        "\n\nThe letter of the correct answer is",
        "Read the book and answer the question.\n\n{context}\n\nQuestion: {input}\n\nOnly one of the following options "
        "is correct, tell me the answer using one single letter (A, B, C, or D). Don't say anything else.\n" + OPTIONS,
        40,
        option_of_book,
    ),
    "longbook_qa_eng": Variant(
        "Read the book and answer the question. Be very concise in your answer.\n\n{context}\n\nQuestion: {input}",
        "\nAnswer:",
        "Read the book below and answer a question.\n\n{context}\n\nQuestion: {input}\n\nBe very concise.",
        40,
        published_files.word_f1,
    ),
    "longdialogue_qa_eng": Variant(
        f"{MASKED}{{context}}",
        "\n\nThe name that has been replaced with $$MASK$$ is likely",
        f"{MASKED}The dialogue:\n\n---\n\n{{context}}\n\n---\n\nEnd of dialogue.\n\nWhich character is most likely "
        '"$$MASK$$"? Just say the name used by the scriptwriter (before the colon marks) of one single character and '
        "nothing else.",
        40,
        name_among_words,
    ),
}
REFUSED = {
    "longbook_sum_eng": "its summaries of 1,200 tokens are scored by ROUGE",
    "longbook_qa_chn": "its questions are Chinese",
    "math_calc": "its answers have up to 30,000 tokens",
}
NUMBERS = {"code_run": r"-?\d+", "math_find": r"-?\d+(\.\d+)?"}
"""Form of a right answer that is compared as a number."""
CHOICES = ("code_debug", "longbook_choice_eng")
LABELS = "ABCD"


class Example(NamedTuple):
    """One question: what its prompt is filled with, and its right answers."""

    fields: dict[str, str]
    right: list[str]


def files(settings: EvaluationConfig) -> dict[str, Path]:
    """The files by their task.

    Raises:
        SkipwiseError: No file is named, one is not there, or its name is no task that is covered.
    """
    given = settings.infinitebench.data
    if not given:
        raise SkipwiseError(
            "infinitebench needs InfiniteBench's files: name them, or their folder, in evaluation.infinitebench.data "
            "(docs/evaluation.md says where they are published)"
        )
    chosen: dict[str, Path] = {}
    for text in given:
        folder = user_path(text)
        inside = sorted(path for path in folder.glob("*.jsonl") if path.stem in VARIANTS) if folder.is_dir() else []
        if folder.is_dir() and not inside:
            raise SkipwiseError(f"evaluation.infinitebench.data: {text} holds none of {', '.join(VARIANTS)} (.jsonl)")
        for path in inside or [published_files.existing_file(text, "evaluation.infinitebench.data")]:
            name = _name(path)
            if chosen.setdefault(name, path) != path:
                raise SkipwiseError(
                    f"evaluation.infinitebench.data names two files for {name}, {chosen[name]} and {path}; ask one "
                    "after the other"
                )
    return chosen


def _name(path: Path) -> str:
    name = path.name.partition(".")[0]
    if name in VARIANTS:
        return name
    if name in REFUSED:
        raise SkipwiseError(f"evaluation.infinitebench.data: {name} is not covered, {REFUSED[name]}; leave it out")
    raise SkipwiseError(
        f"evaluation.infinitebench.data: {path.name} is not named after a task; expected {', '.join(VARIANTS)}"
    )


def examples(inputs: Inputs, name: str) -> list[Example]:
    """The examples of one task that are asked."""
    return inputs.once(("infinitebench", name), lambda: _read(inputs.settings, name))


def _read(settings: EvaluationConfig, name: str) -> list[Example]:
    file = files(settings)[name]
    rows = published_files.rows_of(file, ("input", "answer", *(["options"] if name in CHOICES else [])))
    chosen = published_files.drawn(list(enumerate(rows, 1)), settings.infinitebench.limit, settings.seed)
    return [_example(name, row, f"{file.name}:{number}") for number, row in chosen]


def _example(name: str, row: dict[str, Any], place: str) -> Example:
    context = row.get("context", row.get("content"))
    if not isinstance(context, str) or not isinstance(row["input"], str):
        raise SkipwiseError(f"{place}: expected texts in 'context' and 'input'")
    right = published_files.texts(row["answer"])
    if not right:
        raise SkipwiseError(f"{place}: its 'answer' holds no text or number")
    if name in NUMBERS and not re.fullmatch(NUMBERS[name], right[0].strip()):
        raise SkipwiseError(f"{place}: its 'answer' is {right[0][:40]!r}; expected a number")
    fields = {"context": context, "input": row["input"]}
    if name in CHOICES:
        options = published_files.texts(row["options"])
        if len(options) != len(LABELS) or right[0] not in options:
            raise SkipwiseError(f"{place}: expected four 'options', of which the 'answer' is one")
        fields |= dict(zip("abcd", options, strict=True))
        right = [right[0], LABELS[options.index(right[0])]]
    if name == "code_run":
        call = re.search(r"func_[0-9]+\(-?[0-9]+\)", row["input"])
        if call is None:
            raise SkipwiseError(f"{place}: its 'input' calls no function such as func_1(5)")
        fields |= {"call": call[0], "func": call[0].partition("(")[0]}
    if name == "math_find":
        wanted = re.search("The .+ of", row["input"])
        if wanted is None:
            raise SkipwiseError(f"{place}: its 'input' does not say which number to find")
        fields["prefix"] = f"What is {wanted[0].lower()[:-3]} in the following list?"
    return Example(fields, right)


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each file."""
    made = []
    for name in files(inputs.settings):
        variant = VARIANTS[name]
        fixed = len(inputs.encode(variant.chat if inputs.settings.chat else variant.body)) + variant.answer_tokens
        if length <= 2 * fixed:
            raise TooShortError(
                f"infinitebench at {length_text(length)} tokens: {name} without its text takes {length_text(fixed)}; "
                "give longer evaluation.retrieval_lengths"
            )
        made.append(Cell(length, len(examples(inputs, name)), variant.answer_tokens, variant=name))
    return made


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt of one example."""
    assert cell.variant is not None
    variant, example = VARIANTS[cell.variant], examples(inputs, cell.variant)[trial]
    chat = inputs.settings.chat
    lead = "" if chat else variant.lead.format(**example.fields)
    body = (variant.chat if chat else variant.body).format(**example.fields)
    ids = published_files.cut_middle(inputs, body, lead, cell.length - cell.answer_tokens)
    truth = example.right[-1] if cell.variant in CHOICES else example.right[0]
    draft = [] if cell.variant == "longbook_qa_eng" or chat else inputs.draft(lead, f" {truth}")
    return Question(ids, draft[: cell.answer_tokens], example.right, variant=cell.variant)


def score(answer: str, question: Question) -> float:
    """By the rule of the example's task."""
    return VARIANTS[question.variant or ""].score(answer, question.truth)


TASK = Task(
    name="infinitebench",
    version=1,
    metric="score",
    cells=cells,
    question=question,
    score=score,
    largest_only=True,
    apart=True,
    check=files,
)
