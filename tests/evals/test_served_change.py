"""Served against in process: which models are compared, and what a broken deployment looks like."""

import json
import re
from pathlib import Path

from skipwise.cli import main
from skipwise.evals.rows import Row, append
from skipwise.evals.served_change import finding, partner
from skipwise.evals.tables import change_table, served_table
from skipwise.evals.task import scored

YARN = {"method": "yarn", "factor": 4.0}


def rows(model: str, right: dict[int, int], *, served: bool = False, data: str = "a", **columns: object) -> list[Row]:
    """Rows of 20 prompts at each length, of which so many are right."""
    head = Row(task="passkey", metric="accuracy", n=20, model=model, window=1024, original_length=256, scaling=YARN)
    head = head.replace(fingerprint=model, path=model, served="vLLM 0.33.0" if served else None, **columns)
    return [
        scored(head.replace(length=length, data=f"{data}{length}"), [1.0] * n + [0.0] * (20 - n))
        for length, n in right.items()
    ]


GOOD = {256: 20, 512: 20, 1024: 20}
ORIGINAL = rows("original", {256: 20, 512: 0, 1024: 0}, scaling=None, window=256)
EXTENDED = rows("extended", GOOD)


def test_a_served_model_is_compared_with_itself_in_process() -> None:
    models = {"original": ORIGINAL, "extended": EXTENDED, "other": rows("other", GOOD, data="b")}
    assert partner(rows("extended (served)", GOOD, served=True), models) == "extended", "the name decides"
    assert partner(rows("gpu-7 (served)", GOOD, served=True), models) == "extended", "then the scaling"
    plain = rows("gpu-7 (served)", GOOD, served=True, scaling=None)
    assert partner(plain, models) == "original"
    assert partner(rows("gpu-7 (served)", GOOD, served=True, data="c"), models) is None, "other prompts"
    assert partner(plain, {"served": plain}) is None


def test_the_finding_names_what_broke() -> None:
    def of(right: dict[int, int]) -> str:
        return finding(EXTENDED, rows("extended (served)", right, served=True))

    title = "extended served against in process"
    assert of(GOOD) == f"{title}: no worse at any of 3 lengths up to 1k tokens"
    assert of({256: 20, 512: 0, 1024: 0}) == (
        f"{title}: worse at 512, 1k tokens, all lengths beyond the original window of 256, as where a server does not "
        "read the scaling"
    )
    assert of({256: 20, 512: 20, 1024: 0}) == f"{title}: worse at 1k tokens and not at 512, as with a shorter window"
    assert of({256: 0, 512: 0, 1024: 0}) == f"{title}: worse at 256, 512, 1k tokens"
    assert "gpu-7 served against extended in process" in finding(EXTENDED, rows("gpu-7 (served)", GOOD, served=True))


def test_the_tables_compare_the_served_model_apart() -> None:
    dark = rows("extended (served)", {256: 20, 512: 0, 1024: 0}, served=True)
    everything = [*ORIGINAL, *EXTENDED, *dark]
    assert "(served)" not in change_table(everything)
    table = served_table(everything)
    assert "served against in process" in table.splitlines()[0]
    verdicts = re.findall(r"^passkey +(\w+) .*\] points (\w+)", table, re.M)
    assert verdicts == [("256", "undecided"), ("512", "worse"), ("1k", "worse")]
    assert served_table([*ORIGINAL, *EXTENDED]) == ""
    alone = [*ORIGINAL, *rows("x (served)", GOOD, served=True, data="c")]
    assert served_table(alone) == ""
    assert "other prompts" in change_table(alone)


def test_a_page_shows_the_comparison(tmp_path: Path) -> None:
    out, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    dark = rows("extended (served)", {256: 20, 512: 0, 1024: 0}, served=True)
    for row in [*ORIGINAL, *EXTENDED, *dark]:
        append(out, row)
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    data = json.loads(text)
    names = [series["name"] for series in data["series"]]
    bases = {series["name"]: names[series["base"]] for series in data["series"] if series["base"] is not None}
    assert bases == {"extended": "original", "extended (served)": "extended"}
    assert "read the scaling" in data["headline"]
