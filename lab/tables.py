"""What a reproduction gives: tables, charts, the paper's own numbers and a sentence; as JSON, text and one page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import findings
from lab.findings import Claim
from skipwise import __version__
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row
from skipwise.report.render import SHEET, render
from skipwise.utils.atomic_files import write_text
from skipwise.utils.text import aligned, count_text


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    """For each row of means over seeds, and each of its cells, the figure of each seed. On the page only the means are
    shown."""


def values_of(cells: Iterable[Sequence[Row]]) -> list[list[float]]:
    """The figures behind a row of a table: for each cell that of each seed."""
    return [[row.value for row in rows] for rows in cells]


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A line chart. A unit is one of the page's: `length`, `ratio`, `bytes`, `seconds`, `count`, `wave`."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    x_scale: str = "log"
    y_scale: str = "log"
    x_unit: str = "length"
    y_unit: str = "count"


@dataclass(frozen=True)
class Result:
    """A reproduction that has run."""

    claims: Sequence[Claim]
    """What the paper says, and whether it holds here."""
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    paper: Table | None = None
    """The paper's own numbers."""
    remark: str = ""
    """What the numbers rest on, or what else they show."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Seeds, settings, versions and seconds of the run."""


PARTS = ("title", "source", "holds", "finding", "claims", "tables", "charts", "paper", "remark", "facts")
"""What the file of a result holds."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Read all results of a folder as plain values, by name.

    Raises:
        SkipwiseError: A file holds something else.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            values = results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            known = values["facts"]["quick"] in (True, False) and set(PARTS) <= set(values)
            [Claim(**claim) for claim in values["claims"]]
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            known = False
        if not known:
            raise SkipwiseError(f"{path} is no result of the laboratory; remove it, or give another folder with --out")
    return results


def write(folder: Path, name: str, title: str, source: str, result: Result) -> bool:
    """Write a result as JSON, and the page of all results in the folder anew.

    Returns:
        Whether it was written: a quick result does not replace a full one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    earlier = read(folder).get(name)
    if result.facts["quick"] and earlier and not earlier["facts"]["quick"]:
        return False
    decided = {"holds": findings.holds(result.claims), "finding": findings.sentence(result.claims)}
    values = {"title": title, "source": source, **decided, **asdict(result)}
    write_text(path, json.dumps(values, indent=1) + "\n")
    write_page(folder)
    return True


def write_page(folder: Path) -> Path:
    """Write the page of all results in a folder and return its path. Raises SkipwiseError where there are none."""
    results = read(folder)
    if not results:
        raise SkipwiseError(f"{folder} holds no results; make some with: python -m lab reproduce all --quick")
    write_text(folder / "index.html", render(_page(results), SHEET, "laboratory"))
    return folder / "index.html"


def text(result: Result) -> str:
    """The result for a terminal."""
    parts = []
    decided = Table("Claims", CLAIM_COLUMNS, findings.table_of(result.claims))
    for table in [*result.tables, *([result.paper] if result.paper else []), decided]:
        parts += ["", table.title, "", *aligned([list(table.columns), *map(list, table.rows)])]
    last = [findings.sentence(result.claims), *([result.remark] if result.remark else [])]
    return "\n".join([*parts, "", *last])


CLAIM_COLUMNS = ["claim", "here", "numbers and 95 % interval"]
QUICK_NOTE = (
    "A quick result: its models, where it has any, have few training steps and one seed, and it asks few prompts and "
    "texts. It shows that the reproduction runs and which way its numbers point; run it without --quick to decide."
)


def _page(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Data of the page, for the scripts `render.SHEET`: full results first, the papers' before our own."""
    quick = [name for name, value in results.items() if value["facts"]["quick"]]
    verdicts = [value["holds"] for name, value in results.items() if name not in quick]
    order = sorted(results, key=lambda name: (name in quick, results[name]["source"].startswith("ours"), name))
    return {
        "runs": [],
        "series": [],
        "headline": "Findings of the papers, and our own, on small models",
        "kicker": "Laboratory",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "tiles": [
            *(
                [f"holds here: {word}", str(verdicts.count(word)), f"of {count_text(len(verdicts), 'full result')}"]
                for word in dict.fromkeys(verdicts)
            ),
            *([["quick", str(len(quick)), "decide nothing"]] if quick else []),
        ],
        "notes": [f"Quick results: {', '.join(quick)}. {QUICK_NOTE}"] if quick else [],
        "sections": [_section(name, results[name]) for name in order],
    }


def _section(name: str, value: dict[str, Any]) -> dict[str, Any]:
    claims = [Claim(**claim) for claim in value["claims"]]
    decided = {"title": "Claims", "columns": CLAIM_COLUMNS, "rows": findings.table_of(claims)}
    tables = [decided, *value["tables"], *([value["paper"]] if value["paper"] else [])]
    facts = " · ".join(f"{key}: {_plain(fact)}" for key, fact in value["facts"].items())
    quick = [QUICK_NOTE] if value["facts"]["quick"] else []
    remark = [value["remark"]] if value["remark"] else []
    return {
        "id": name,
        "nav": name,
        "title": f"{name}: {value['title']} ({value['source']})",
        "lead": f"{'A quick result, which decides nothing. ' if quick else ''}{value['finding']}",
        "tables": [
            {key: table[key] for key in ("title", "columns", "rows")}
            | {"heading": table["title"], "words": table is decided}
            for table in tables
        ],
        "charts": [_chart(chart) for chart in value["charts"]],
        "notes": [*quick, *remark, facts],
    }


def _plain(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{key} {value}" for key, value in fact.items())
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def _chart(chart: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": chart["title"],
        "label": chart["title"],
        "x": {"label": chart["x"], "scale": chart["x_scale"], "unit": chart["x_unit"]},
        "y": {"label": chart["y"], "scale": chart["y_scale"], "unit": chart["y_unit"]},
        "marks": [],
        "series": [
            {"name": line["name"], "colour": i, "points": line["points"]} for i, line in enumerate(chart["lines"])
        ],
    }
