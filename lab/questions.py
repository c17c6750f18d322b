"""Multiple-choice questions that a small model of Python code answers better than chance, for what an extension keeps.

They are made from the standard library's files that no training text holds. `next_line`: which line comes next, out of
four of the same file. `lookup`: which value a few lines above belongs to a name, out of the four that are there.
"""

import json
from pathlib import Path

import numpy as np

from skipwise.assets import catalogue
from skipwise.data.recall_documents import ADJECTIVES, NOUNS

CONTEXT_LINES = 10
LONGEST_LINE = 70
"""Characters. With the context that stays below the packaged model's window."""
SETTINGS = {"prompt": "{question}", "question_field": "text", "choices_field": "choices", "answer_field": "answer"}
"""Settings of the task `harness` that read these files."""


def next_lines(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Questions about the next line of code."""
    rng = np.random.default_rng(seed)
    files = [path.read_text(encoding="utf-8").splitlines() for path in _held_out()]
    questions: list[dict[str, object]] = []
    while len(questions) < count:
        lines = files[int(rng.integers(len(files)))]
        at = int(rng.integers(CONTEXT_LINES, len(lines)))
        right, context = lines[at], lines[at - CONTEXT_LINES : at]
        usable = [line for line in lines if line[:1] == " " and len(line.strip()) >= 12 and len(line) <= LONGEST_LINE]
        if right not in usable or max(map(len, context)) > LONGEST_LINE or not any(line.strip() for line in context):
            continue
        others = [usable[int(i)] for i in rng.permutation(len(usable))[:20] if usable[int(i)].strip() != right.strip()]
        # lm-eval puts a space before a choice: the first one of the line.
        choices = [line[1:] for line in [right, *dict.fromkeys(others)][:4]]
        questions.append(_question("\n".join([*context, ""]), choices, rng))
    return questions


def lookups(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Questions about one of four facts between lines of code."""
    rng = np.random.default_rng(seed)
    files = [path.read_text(encoding="utf-8").splitlines() for path in _held_out()]
    questions = []
    for _ in range(count):
        keys = [f"{ADJECTIVES[int(i)]} {NOUNS[int(rng.integers(len(NOUNS)))]}" for i in rng.permutation(12)[:4]]
        values = [f"{value}" for value in rng.permutation(np.arange(1000, 9999))[:4]]
        code = [line for line in files[int(rng.integers(len(files)))] if 8 <= len(line) <= LONGEST_LINE // 2]
        at = int(rng.integers(len(code) - 8))
        lines = []
        for fact, (key, value) in enumerate(zip(keys, values, strict=True)):
            lines += [f"The {key} is {value}.", *code[at + 2 * fact : at + 2 * fact + 2]]
        asked = int(rng.integers(4))
        text = "\n".join([*lines, f"What is the {keys[asked]}? The {keys[asked]} is"])
        questions.append(_question(text, [values[asked], *values[:asked], *values[asked + 1 :]], rng))
    return questions


def write(folder: Path, count: int) -> list[str]:
    """Write both files of questions and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, questions in (("next_line", next_lines(count)), ("lookup", lookups(count))):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")
        paths.append(str(path))
    return paths


def _held_out() -> list[Path]:
    return sorted(catalogue.get("stdlib-held-out").rglob("*.py"))


def _question(text: str, choices: list[str], rng: np.random.Generator) -> dict[str, object]:
    """A question whose first choice is right, with its choices in another order."""
    order = [int(i) for i in rng.permutation(len(choices))]
    return {"text": text, "choices": [choices[i] for i in order], "answer": order.index(0)}
