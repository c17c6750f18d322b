"""HELMET (arXiv 2410.02694): the tasks that a rule scores, from the files that its authors publish.

`evaluation.helmet.data` names test files as `NAME=PATH` with HELMET's name of the dataset; each is a variant:

- recall: `json_kv`, and RULER's files `ruler_niah_s_1` … `ruler_qa_2`;
- RAG: `kilt_nq`, `kilt_triviaqa`, `kilt_hotpotqa`, `kilt_popqa_3`, with solved examples from `evaluation.helmet.demos`;
- many-shot learning: `icl_NAME_Nshot_balance`, where the test file and the demos file hold rows of a text and a label
  (`text` and `label`, or the label's name in the published data, such as `coarse_label` or `intent`).

Scores are HELMET's: substring exact match for json_kv, RAG and RULER's questions, recall for the rest of RULER, exact
match of the label. `alce`, `narrativeqa`, `multi_lexsum` and `infbench_sum`, which another model judges, are refused;
so is `msmarco`. `infbench_qa` and `infbench_choice` are asked by the task `infinitebench`.

Taken over from their code: prompts, the words that begin the answer (they count as part of it), how many tokens it may
have, where it ends, and that the end of a context that is too long is cut off. What differs: which questions, solved
examples and labels are drawn, because that hangs on a library's random numbers; labels are balanced as theirs. Rows
about one question (the same answer at several depths) are one unit of the interval.
"""

import hashlib
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import published_files
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.utils.text import length_text

SPECIAL = "special magic {type_needle_v}"
ABOUT = "the {type_needle_v} afterwards.\n{context}\nWhat"
ONLY = "Only give me the answer and do not output any other words."


class Variant(NamedTuple):
    """One kind of dataset."""

    body: str
    """The prompt; fields of a row in braces."""
    lead: str
    """The words that begin the answer, a line of their own."""
    answer_tokens: int
    score: Literal["contains", "recall", "equals"]
    fields: tuple[str, ...]
    """Fields that a row must have."""
    one_line: bool = False
    """Whether the answer ends with its line."""


def _needles(plural: bool, answer_tokens: int = 50) -> Variant:
    verb, noun = ("are", "are all the") if plural else ("is", "is the")
    article = "Some" if plural else "A"
    return Variant(
        f"{article} {SPECIAL} {verb} hidden within the following text. Make sure to memorize it. I will quiz you about "
        f"{ABOUT} {noun} {SPECIAL} for {{query}} mentioned in the provided text?",
        f"The {SPECIAL} for {{query}} mentioned in the provided text {verb}",
        answer_tokens,
        "recall",
        ("context", "query", "type_needle_v"),
    )


RAG = Variant(
    "Use the given documents to write a concise and short answer to the question. Write your answer in the following "
    "format:\nAnswer: [answer]\n\n{demos}{context}\n\nQuestion: {question}",
    "Answer:",
    20,
    "contains",
    ("question", "answers", "ctxs"),
    one_line=True,
)
VARIANTS = {
    "json_kv": Variant(
        "{context}\n\nExtract the value corresponding to the specified key in the JSON object below.\n\n{demos}"
        "Key: {question}",
        "Corresponding value:",
        100,
        "contains",
        ("context", "question", "answer"),
    ),
    **{f"ruler_niah_{name}": _needles(False) for name in ("s_1", "s_2", "s_3", "mk_1", "mk_2")},
    "ruler_niah_mk_3": _needles(False, 100),
    "ruler_niah_mv": _needles(True),
    "ruler_niah_mq": _needles(True, 100),
    "ruler_vt": Variant(
        "{example}Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
        "Question: Find all variables that are assigned the value {query} in the text above.",
        "Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned "
        "the value {query}, they are:",
        50,
        "recall",
        ("context", "query", "num_v"),
    ),
    "ruler_cwe": Variant(
        "{example}Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
        "ones that appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?",
        "Answer: The top 10 words that appear most often in the list are:",
        100,
        "recall",
        ("context",),
    ),
    "ruler_fwe": Variant(
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
        "appeared coded words.\n{context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?",
        "Answer: According to the coded text above, the three most frequently appeared words are:",
        50,
        "recall",
        ("context",),
    ),
    **{
        f"ruler_qa_{number}": Variant(
            f"Answer the question based on the given documents. {ONLY}\n\nThe following are given documents.\n\n"
            f"{{context}}\n\nAnswer the question based on the given documents. {ONLY}\n\nQuestion: {{question}}",
            "Answer:",
            50,
            "contains",
            ("context",),
        )
        for number in (1, 2)
    },
    **dict.fromkeys(("kilt_nq", "kilt_triviaqa", "kilt_hotpotqa", "kilt_popqa_3"), RAG),
}
ICL = Variant(
    'Use the provided mapping from the text to label to assign a label to the text. Only output "label: {{label}}" and '
    "nothing else. \n\n{context}\n\n{question}",
    "label:",
    20,
    "equals",
    (),
    one_line=True,
)
ICL_NAME = re.compile(r"icl_[a-z0-9_]+?_([1-9][0-9]{0,5})shot(_balance)?")
LABELS = ("label", "fine_label", "coarse_label", "intent")
JUDGED = ("alce", "narrativeqa", "multi_lexsum", "infbench_sum", "longproc")
PASSAGE = "Document (Title: {title}): {text}"


class Example(NamedTuple):
    """One row: what its prompt is filled with, its right answers and what it shares with other rows."""

    fields: dict[str, str]
    right: list[str]
    key: str


def variant_of(name: str) -> Variant:
    """The kind of a dataset by HELMET's name.

    Raises:
        SkipwiseError: It is unknown, or not covered.
    """
    if ICL_NAME.fullmatch(name):
        return ICL
    if name in VARIANTS:
        return VARIANTS[name]
    setting = f"evaluation.helmet.data: {name}"
    if name.startswith(JUDGED):
        raise SkipwiseError(f"{setting} is judged by another model, which is not covered; leave it out")
    if name.startswith("infbench"):
        raise SkipwiseError(f"{setting} is asked by the task infinitebench (evaluation.infinitebench.data)")
    raise SkipwiseError(f"{setting} is not covered; expected {', '.join(VARIANTS)} or icl_NAME_Nshot_balance")


def _named(specs: list[str], setting: str) -> dict[str, Path]:
    """The files of `NAME=PATH` by name. Errors: SkipwiseError for another form or a missing file."""
    chosen = {}
    for spec in specs:
        name, equal, path = spec.partition("=")
        if not equal or not name or not path:
            raise SkipwiseError(f"{setting}: {spec} is not NAME=PATH, such as json_kv=test_k50_dep6.jsonl")
        variant_of(name)
        if name in chosen:
            raise SkipwiseError(f"{setting} names two files for {name}; ask one after the other")
        chosen[name] = published_files.existing_file(path, setting)
    return chosen


def check(settings: EvaluationConfig) -> dict[str, Path]:
    """The test files by dataset.

    Raises:
        SkipwiseError: None is named, one is not there or not covered, or solved examples are missing.
    """
    given = settings.helmet
    if not given.data:
        raise SkipwiseError(
            "helmet needs HELMET's test files: name them in evaluation.helmet.data as NAME=PATH, such as "
            "json_kv=test_k50_dep6.jsonl (docs/evaluation.md says where they are published)"
        )
    files = _named(given.data, "evaluation.helmet.data")
    demos = _named(given.demos, "evaluation.helmet.demos")
    for name in files:
        if name not in demos and (ICL_NAME.fullmatch(name) or (variant_of(name) is RAG and given.shots)):
            more = "" if ICL_NAME.fullmatch(name) else ", or evaluation.helmet.shots=0"
            raise SkipwiseError(f"helmet: {name} needs solved examples; give evaluation.helmet.demos={name}=PATH{more}")
    return files


def examples(inputs: Inputs, name: str) -> list[Example]:
    """The rows of one dataset that are asked."""
    return inputs.once(("helmet", name), lambda: _read(inputs.settings, name))


def _read(settings: EvaluationConfig, name: str) -> list[Example]:
    file, given = check(settings)[name], settings.helmet
    demos = _named(given.demos, "evaluation.helmet.demos").get(name)
    if match := ICL_NAME.fullmatch(name):
        return _many_shot(settings, name, file, demos or file, int(match[1]))
    variant = variant_of(name)
    rows = published_files.rows_of(file, variant.fields)
    solved = published_files.rows_of(demos, variant.fields) if demos and given.shots else []
    if name == "kilt_popqa_3":
        rows, solved = ([row for row in part if _is_rare(row)] for part in (rows, solved))
        if not rows:
            raise SkipwiseError(f"{file.name} holds no question about a subject with 's_pop' below 1,000")
    keys = [str(row.get("id", row.get("question", number))) for number, row in enumerate(rows)]
    chosen = set(published_files.drawn(sorted(set(keys)), given.limit, settings.seed))
    made = []
    for number, (key, row) in enumerate(zip(keys, rows, strict=True), 1):
        if key in chosen:
            made.append(_example(variant, row, key, solved, given.shots, f"{file.name}:{number}"))
    return made


def _is_rare(row: dict[str, Any]) -> bool:
    """Whether few look up the subject of a question, so that it counts to `kilt_popqa_3`."""
    popularity = row.get("s_pop", 1)
    return isinstance(popularity, int | float) and popularity < 1000


def _example(
    variant: Variant, row: dict[str, Any], key: str, solved: list[dict[str, Any]], shots: int, place: str
) -> Example:
    right = published_files.texts(row.get("answer", row.get("answers", row.get("outputs", []))))
    if not right:
        raise SkipwiseError(f"{place} has no field 'answer', 'answers' or 'outputs' with an answer")
    fields = {name: str(value) for name, value in row.items() if isinstance(value, str | int | float)}
    if wrong := next((name for name in _texts_of(variant) if name not in fields), None):
        raise SkipwiseError(f"{place} has no text in {wrong!r}")
    fields["question"] = str(row.get("query", row.get("question", ""))) if variant is not RAG else str(row["question"])
    fields["example"] = f"{row['example']}\n\n" if row.get("example") else ""
    if variant is RAG:
        fields["context"] = _passages(row, place)
        others = [one for one in solved if one["question"] != row["question"]]
        distinct = list({one["question"]: one for one in others}.values())
        order = np.random.default_rng(_number(key)).permutation(len(distinct))[:shots].tolist()
        fields["demos"] = "".join(
            f"{_passages(one, place)}\n\nQuestion: {one['question']}\nAnswer: {_solution(one, place)}\n\n"
            for one in (distinct[i] for i in order)
        )
    else:
        pairs = row.get("demos") or []
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise SkipwiseError(f"{place}: expected pairs of a key and a value in 'demos'")
        fields["demos"] = "".join(f"Key: {a}\nCorresponding value: {b}\n\n" for a, b in pairs[:shots])
    return Example(fields, right, key)


def _texts_of(variant: Variant) -> tuple[str, ...]:
    """Fields of a row that a prompt holds as they are."""
    return ("question",) if variant is RAG else tuple(name for name in variant.fields if name != "answer")


def _solution(row: dict[str, Any], place: str) -> str:
    """The answer of a solved example."""
    right = published_files.texts(row["answers"])
    if not right:
        raise SkipwiseError(f"{place}: its solved example {row['question']!r:.80} has no answer")
    return right[0]


def _passages(row: dict[str, Any], place: str) -> str:
    try:
        return "\n\n".join(PASSAGE.format(title=one["title"], text=one["text"]) for one in row["ctxs"])
    except (TypeError, KeyError) as error:
        raise SkipwiseError(f"{place}: expected 'ctxs' with a 'title' and a 'text' each") from error


def _number(text: str) -> int:
    """A seed that is the same for one text on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2**31


def _many_shot(settings: EvaluationConfig, name: str, file: Path, demos: Path, shots: int) -> list[Example]:
    """Each question with its own draw of labelled texts, whose labels are renamed to numbers in a random order."""
    label = LABELS[1] if "fine" in name else LABELS[2] if "coarse" in name else None
    train, test = (_labelled(path, label) for path in (demos, file))
    numbers = {value: i for i, value in enumerate(sorted({value for _, value in [*train, *test]}))}
    made = []
    for text, value in published_files.drawn(test, settings.helmet.limit, settings.seed):
        generator = np.random.default_rng([settings.seed, _number(text)])
        renamed = generator.permutation(len(numbers)).tolist()
        shown = _balanced(train, shots, generator)
        context = "\n\n".join(f"{other}\nlabel: {renamed[numbers[one]]}" for other, one in shown)
        made.append(Example({"context": context, "question": text}, [str(renamed[numbers[value]])], text))
    return made


def _labelled(path: Path, label: str | None) -> list[tuple[str, str]]:
    """(text, label) of every row."""
    rows = published_files.rows_of(path, ("text",))
    field = next((name for name in ([label] if label else []) + list(LABELS) if name in rows[0]), None)
    if field is None:
        raise SkipwiseError(f"{path.name}:1 has no label; expected one of the fields {', '.join(LABELS)}")
    for number, row in enumerate(rows, 1):
        if wrong := next((name for name in ("text", field) if not isinstance(row.get(name), str | int)), None):
            raise SkipwiseError(f"{path.name}:{number} has no text or label in {wrong!r}")
    return [(str(row["text"]), str(row[field])) for row in rows]


def _balanced(rows: list[tuple[str, str]], shots: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """`shots` rows in rounds; a round has one row of every label, in a random order."""
    by_label: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_label.setdefault(row[1], []).append(row)
    rounds: list[list[tuple[str, str]]] = [[] for _ in range(math.ceil(shots / len(by_label)))]
    for part in by_label.values():
        order = np.concatenate([generator.permutation(len(part)) for _ in range(math.ceil(len(rounds) / len(part)))])
        for one, place in zip(rounds, order.tolist(), strict=False):
            one.append(part[place])
    return [one[i] for one in rounds for i in generator.permutation(len(one)).tolist()][:shots]


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each file."""
    made = []
    for name in check(inputs.settings):
        variant = variant_of(name)
        fixed = len(inputs.encode(variant.body, f"\n{variant.lead}")) + variant.answer_tokens
        if length <= fixed:
            raise TooShortError(
                f"helmet at {length_text(length)} tokens: {name} without its text takes {length_text(fixed)}; "
                "give longer evaluation.retrieval_lengths"
            )
        made.append(Cell(length, len(examples(inputs, name)), variant.answer_tokens, variant=name))
    return made


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt of one row."""
    name = cell.variant or ""
    variant, every = variant_of(name), examples(inputs, name)
    example, chat = every[trial], inputs.settings.chat
    lead = "" if chat else variant.lead.format(**example.fields)

    def prompt(context: str) -> tuple[str, str]:
        return variant.body.format(**{**example.fields, "context": context}), f"\n{lead}" if lead else ""

    ids = published_files.cut_end(inputs, example.fields["context"], prompt, cell.length - cell.answer_tokens)
    shared = inputs.once(("helmet units", name), lambda: Counter(one.key for one in every))
    draft = inputs.draft(lead, f" {example.right[0]}")[: cell.answer_tokens] if lead else []
    unit = f"question {example.key}" if max(shared.values()) > 1 else None
    return Question(ids, draft, [lead, *example.right], variant=name, unit=unit)


def score(answer: str, question: Question) -> float:
    """By the rule of the dataset, of the answer with the words that begin it."""
    lead, *right = question.truth
    variant = variant_of(question.variant or "")
    text = lead + (answer.partition("\n")[0] if variant.one_line else answer)
    if variant.score == "recall":
        return sum(one.lower() in text.lower() for one in right) / len(right)
    if variant.score == "contains":
        return published_files.contains(text, right)
    return published_files.equals(_first_line(text, "label:"), right)


def _first_line(text: str, words: str) -> str:
    """What stands behind some words to the end of that line; the first line where they are not there."""
    match = re.search(f"{words}(.*)", text, re.IGNORECASE) or re.search("^(.*)", text)
    line = match[1].strip() if match else ""
    return re.sub(f"^{re.escape(words)}", "", line, flags=re.IGNORECASE).strip()


def ended(answer: str, question: Question) -> bool:
    """Whether an answer of one line has ended."""
    return variant_of(question.variant or "").one_line and "\n" in answer


TASK = Task(
    name="helmet",
    version=1,
    metric="score",
    cells=cells,
    question=question,
    score=score,
    ended=ended,
    largest_only=True,
    apart=True,
    check=check,
)
