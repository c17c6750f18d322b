"""A corpus of documents with reference summaries that every machine with Python has.

A document is the source of a module of the standard library without its docstring; its summary is the first paragraph
of that docstring, which the module's author wrote. One module in five is held out, chosen by its name. The modules of
character sets are left out: they are copies of each other.
"""

import ast
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.assets import catalogue
from skipwise.evals.tasks.summarize import LEAD, prompt_text

HELD_OUT = 5
"""One module in so many is held out."""
LEAST_WORDS = 3
CHARACTERS = 12
"""More than a token of code ever averages: what is tokenised of a long module."""
LEFT_OUT = "encodings"
"""Folder of modules that are generated from one form."""


class Summarised(NamedTuple):
    """A module."""

    name: str
    text: str
    summary: str


def modules(folder: Path) -> list[Summarised]:
    """All modules below a folder that have a docstring, in the order of their names."""
    documents = []
    for path in sorted(folder.rglob("*.py")):
        if LEFT_OUT in path.relative_to(folder).parts:
            continue
        source = path.read_text(encoding="utf-8", errors="ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        docstring = ast.get_docstring(tree)
        if not docstring or len(tree.body) < 2:
            continue
        end = tree.body[0].end_lineno or 1
        summary = " ".join(docstring.strip().split("\n\n")[0].split())[:300]
        text = "\n".join(source.splitlines()[end:]).strip()
        if len(summary.split()) >= LEAST_WORDS and len(text) > 500:
            documents.append(Summarised(str(path.relative_to(folder)), text, summary))
    return documents


def is_held_out(name: str) -> bool:
    """Whether a module is kept for evaluation."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0


def write(
    folder: Path, tokenizer: Any, length: int, answer_tokens: int, source: Path | None = None
) -> tuple[Path, Path]:
    """Write rows to train on (prompt and completion) and rows to evaluate (text and summary).

    Documents are cut to what a window leaves beside the prompt and the answer; the prompt is that of the task
    `summarize`.

    Args:
        folder: Where both files go.
        tokenizer: Counts tokens.
        length: Tokens of the window.
        answer_tokens: Most tokens of a summary.
        source: Folder of the modules; the standard library if absent.

    Returns:
        The file to train on and the file to evaluate.
    """
    room = length - answer_tokens - len(tokenizer(prompt_text("") + LEAD)["input_ids"]) - 4
    rows, references = [], []
    for module in modules(source or catalogue.get("stdlib")):
        if is_held_out(module.name):
            references.append({"text": module.text, "summary": module.summary})
            continue
        start = module.text[: room * CHARACTERS]
        ids = tokenizer(start, add_special_tokens=False, verbose=False)["input_ids"][:room]
        summary = tokenizer(module.summary, add_special_tokens=False)["input_ids"][: answer_tokens - 1]
        prompt = prompt_text(tokenizer.decode(ids)) + LEAD
        rows.append({"prompt": prompt, "completion": " " + tokenizer.decode(summary)})
    return _written(folder, "train", rows), _written(folder, "held_out", references)


def _written(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    """Write rows to a file whose name changes with them, so that what was trained on others is trained anew."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
