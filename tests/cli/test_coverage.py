"""`skipwise coverage`: the table, JSON, the page, refusals in one line, and its speed at a long target."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.cli import main
from skipwise.config.sampler_names import sampler_names
from skipwise.positions.coverage import examples_until_seen
from skipwise.positions.sampler import Sampler


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["coverage", "--sampler", "pose,stratified,original", "--chunks", "2,3", "--target", "1k"]
    assert main.main([*where, "--train-length", "64"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    rows = {re.split("  +", line)[0]: line for line in lines[3:8]}
    assert list(rows) == [
        "pose, 2 chunks",
        "pose, 3 chunks",
        "stratified, 2 chunks",
        "stratified, 3 chunks",
        "original",
    ]
    assert f"{examples_until_seen(Sampler('pose', 64, 1024)):,}" in rows["pose, 2 chunks"]
    assert " exact " in rows["pose, 2 chunks"]
    assert re.search(r" sampled  0\.\d+ ± 0\.\d", rows["pose, 3 chunks"])
    assert rows["original"].count("never") == 2
    plot = {re.split("  +", line)[0]: line for line in lines[10:15]}
    assert plot.keys() == rows.keys()
    assert plot["pose, 2 chunks"][-64:].count("█") >= 2
    assert plot["original"].rstrip().endswith("████"), "the train length is one sixteenth of 64 blocks"


def test_json_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "coverage.html"
    names = ",".join(sampler_names())
    where = ["coverage", "--sampler", names, "--target", "512", "--train-length", "32", "--json", "--html", str(page)]
    assert main.main(where) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["sampler"] for row in rows] == list(sampler_names())
    for row in rows:
        assert len(row["chances"]) == len(row["edges"]) - 1 == 512
        assert (row["errors"] is None) == (row["chances_are"] == "exact")
    assert all(f'"name":"{name}' in page.read_text(encoding="utf-8") for name in sampler_names())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "posse", "--target", "4k"], "unknown sampler 'posse': .*did you mean 'pose'"),
        (["--chunks", "2,x", "--target", "4k"], "--chunks 'x': expected whole numbers"),
        (["--chunks", "0", "--target", "4k"], r"chunks 0: expected 1 to train_length \(2048\)"),
        (["--target", "1k"], "target_length 1024 is shorter than train_length 2048"),
        (["--target", "4k", "--probability", "1"], "--probability 1: no number of examples"),
        (["--target", "long"], "--target long: expected a number of tokens"),
        (["--sampler", "curriculum", "--base", "full", "--target", "4k"], "unknown base 'full'"),
    ],
)
def test_refusals(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["coverage", *options]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert re.fullmatch(rf"skipwise: .*{message}.*\n", captured.err)


def test_a_long_target_takes_seconds() -> None:
    """T = 131,072 in under 5 s of CPU, with all imports, and without torch."""
    code = (
        "import sys, time; from skipwise.cli import main; "
        "main.main('coverage --sampler pose,stratified --chunks 2,3 --target 128k --train-length 8k'.split()); "
        "assert 'torch' not in sys.modules; print(time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stderr) < 5
