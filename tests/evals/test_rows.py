"""Rows: what is written is read again, rows of earlier versions are read, and lines that hold no row are refused."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from skipwise.errors import SkipwiseError
from skipwise.evals.rows import ALWAYS, MODEL, REQUIRED, SETUP, append, digest, parse, read

MODEL_COLUMNS: dict[str, Any] = {
    "model": "extended",
    "path": "runs/a/model",
    "fingerprint": "0a1b2c",
    "window": 32768,
    "original_length": 8192,
    "scaling": {"method": "yarn", "factor": 4.0},
    "quantised_from": None,
    "dtype": "bfloat16",
}
# Lines as version 0.1.0 wrote them.
OLD_PERPLEXITY = MODEL_COLUMNS | {
    **{"task": "perplexity", "task_version": 2, "protocol": "prefix", "length": 4096, "depth": None},
    **{"metric": "perplexity", "n": 2, "seed": 0, "bos": True, "documents": ["a.txt", "b.txt"], "data": "d1"},
    **{"start": 0, "value": 31.25, "low": 30.0, "high": 33.5, "interval": "bootstrap 95%", "tokens": 8190},
    **{"seconds": 1.5, "beyond_window": False, "sums": [14000.5, 14100.25], "counts": [4095, 4095]},
}
OLD_K_MAX = MODEL_COLUMNS | {
    **{"task": "k_max", "task_version": 1, "protocol": None, "length": 32768, "depth": 0.75, "depth_index": 8192},
    **{"metric": "accuracy", "n": 2, "answer_tokens": 16, "seed": 0, "chat": False, "data": "d2", "value": 0.5},
    **{"low": 0.1, "high": 0.9, "interval": "wilson 95%", "scores": [1.0, 0.0], "tokens": 8170, "seconds": 1.0},
    **{"answers": [[["12345"], " 12345."], [["54321"], " 5"]], "beyond_window": False},
}
OLD_HARNESS = MODEL_COLUMNS | {
    **{"task": "harness", "task_version": 1, "protocol": "piqa", "benchmark_version": "1", "fewshot": 0, "limit": None},
    **{"length": 0, "depth": None, "metric": "acc", "n": 2, "seed": 0, "chat": False, "data": "d3", "value": 0.5},
    **{"low": None, "high": None, "interval": None, "tokens": 100, "seconds": 1.0, "beyond_window": False},
}
OLD_PASSKEY = MODEL_COLUMNS | {
    **{"task": "passkey", "task_version": 2, "protocol": None, "length": 4096, "depth": 0.25, "depth_index": 1},
    **{"metric": "accuracy", "n": 1, "answer_tokens": 16, "seed": 0, "chat": False, "data": "d4", "value": 1.0},
    **{"low": 0.2, "high": 1.0, "interval": "wilson 95%", "scores": [1.0], "tokens": 4080, "seconds": 1.0},
}


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = [OLD_PERPLEXITY, OLD_K_MAX, OLD_HARNESS, OLD_PASSKEY]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"model": "cut off', encoding="utf-8")
    perplexity, k_max, harness, passkey = read(path)
    assert (perplexity.variant, perplexity.length, perplexity.start) == ("prefix", 4096, 0)
    assert (perplexity.value, perplexity.sums, perplexity.counts) == (31.25, [14000.5, 14100.25], [4095, 4095])
    assert (k_max.variant, k_max.distance, k_max.depth, k_max.length) == (None, 8192, 0.75, 32768)
    assert k_max.answers[0] == [["12345"], " 12345."]
    assert (harness.variant, harness.length, harness.interval, harness.fewshot) == ("piqa", None, None, 0)
    assert (passkey.depth, passkey.distance) == (0.25, None)


@pytest.mark.parametrize("old", [OLD_PERPLEXITY, OLD_K_MAX, OLD_HARNESS, OLD_PASSKEY], ids=lambda old: old["task"])
def test_a_row_is_written_as_it_is_read(old: dict[str, Any], tmp_path: Path) -> None:
    row = parse(old, "here")
    append(tmp_path / "rows.jsonl", row)
    append(tmp_path / "rows.jsonl", row.replace(value=math.inf))
    assert read(tmp_path / "rows.jsonl") == [row, row.replace(value=math.inf)]
    (written, _) = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert set(ALWAYS) <= set(written)
    assert not {"protocol", "depth_index", "stride"} & set(written)
    # A finished row of an earlier version is not measured again.
    assert read(tmp_path / "rows.jsonl")[0].identity == row.identity


def test_the_identity_holds_everything_that_is_known_before_measuring() -> None:
    row = parse(OLD_K_MAX, "here")
    other: dict[str, Any] = {
        **{"scaling": None, "quantised_from": "Q4_0", "depths": [0.5], "bos": True, "chat": True, "depth": None},
        **{"start": 3, "stride": 4, "span": 5, "distance": 9},
    }
    for column in (*MODEL, *SETUP):
        before = getattr(row, column)
        now = other[column] if column in other else f"{before}x" if isinstance(before, str | None) else before + 1
        assert row.replace(**{column: now}).identity != row.identity, column
        assert (row.replace(**{column: now}).setup() != row.setup()) == (column in SETUP), column
    for column, now in {"path": "moved", "value": 1.0, "seconds": 2.0, "scores": [1.0, 1.0], "low": 0.3}.items():
        assert row.replace(**{column: now}).identity == row.identity, column


def test_the_digest_of_several_rows() -> None:
    rows = [parse(OLD_K_MAX, "a"), parse(OLD_PASSKEY, "b")]
    assert digest(rows) == "0ad208635d8bb8f0"  # sha256 of '["d2", "d4"]'
    assert digest(rows[::-1]) != digest(rows)


def test_a_row_cannot_be_changed_and_has_no_other_columns() -> None:
    row = parse(OLD_K_MAX, "here")
    with pytest.raises(ValidationError, match="frozen"):
        row.value = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="protocol"):
        row.replace(protocol="x")
    assert parse(OLD_K_MAX | {"of a later version": 1}, "here") == row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({column: ...}, f"line 3: '{column}' is missing") for column in REQUIRED),
        ({"length": -4}, "line 3: length = -4"),
        ({"length": "long"}, "line 3: length = 'long'"),
        ({"n": -1}, "line 3: n = -1"),
        ({"value": "high"}, "line 3: value = 'high'"),
        ({"value": -2.0}, "line 3: value = -2.0"),
        ({"scores": 3}, "line 3: scores = 3"),
    ],
)
def test_a_line_that_holds_no_row_is_refused(changes: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in (OLD_PERPLEXITY | changes).items() if value is not ...}
    with pytest.raises(SkipwiseError) as error:
        parse(values, "rows.jsonl line 3")
    assert message in str(error.value)
    assert "rows.jsonl line 3" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_rows_are_light() -> None:
    code = "import sys, skipwise.evals.rows; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
