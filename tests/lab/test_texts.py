"""Questions and summaries that the laboratory makes from the standard library."""

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from lab import questions, summaries
from skipwise.assets import catalogue
from skipwise.config import validate
from skipwise.config.evaluation_settings import HarnessConfig
from skipwise.evals.tasks.harness.questions import read_questions
from skipwise.evals.tasks.summarize import LEAD


def test_questions_have_one_right_answer_and_fit_the_window(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(catalogue.get("bundled"))
    held_out = "\n".join(path.read_text() for path in catalogue.get("stdlib-held-out").rglob("*.py"))
    for path in questions.write(tmp_path, 40):
        rows = read_questions(Path(path), validate(HarnessConfig, {"tasks": [path], **questions.SETTINGS}))
        assert len(rows) == 40
        for row in rows:
            assert len(row.choices) == len(set(row.choices)) == 4
            right = f"{row.prompt} {row.choices[row.answer]}"
            assert len(tokenizer(right)["input_ids"]) <= 300
            if "next_line" in path:  # lm-eval puts a space between prompt and choice
                assert right in held_out
            else:
                key = row.prompt.rpartition("? The ")[2].removesuffix(" is")
                assert f"The {key} is {row.choices[row.answer]}." in row.prompt
        assert len({row.answer for row in rows}) == 4  # the place of the right answer tells nothing


def test_summaries_are_held_out_by_module_and_fit(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(catalogue.get("bundled"))
    (tmp_path / "modules").mkdir()
    for path in sorted(catalogue.get("stdlib").glob("[a-m]*.py")):
        shutil.copy(path, tmp_path / "modules")
    learned, held_out = summaries.write(tmp_path, tokenizer, 512, 40, tmp_path / "modules")
    rows, kept = ([json.loads(line) for line in path.read_text().splitlines()] for path in (learned, held_out))
    assert len(rows) > 40
    assert 5 < len(kept) < len(rows) / 2
    assert all(row["prompt"].endswith(LEAD) for row in rows)
    for row in rows[:50]:
        assert len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 <= 512
    documents = "\n".join(row["prompt"] for row in rows)
    assert not any(row["text"][:300] in documents for row in kept)
    assert not any(row["summary"][:60] in row["text"][:300] for row in kept)  # the docstring is cut off
