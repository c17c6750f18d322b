"""What an extension keeps inside the old window: short multiple-choice tasks before and after (PoSE's table 3).

The packaged model is asked questions that it can answer: the next line of code, and a value a few lines above.
SmolLM2, in a full run, is also asked the plain questions that come with Skipwise, and every benchmark that lies in
lab/benchmarks (lm-eval's task folders and .yaml files, .jsonl files of questions, BIG-bench's task.json).
"""

import json
from pathlib import Path

from lab import questions
from lab.bench import ORIGINAL, WINDOW, Bench, Model, pick, variant
from lab.findings import Claim, mean_over_seeds, no_worse
from lab.recipe_space import RECIPES, settings_of
from lab.tables import Result, Table
from skipwise.evals.rows import Row
from skipwise.evals.tasks.placed.plain_questions import QUESTIONS

TITLE = "short tasks before and after an extension"
SOURCE = "PoSE, arXiv 2309.10400, table 3; Position Interpolation, arXiv 2306.15595, table 5"
FACTOR = 16
MARGIN = 0.03
"""The paper's largest loss at 16k is 2.9 points (ARC-C, linear)."""
CHANCE = 0.25
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAPER = Table(
    "The papers: LLaMA-7B, 2k to 16k (PoSE), 2k to 8k (Position Interpolation)",
    ["model", "BoolQ", "PIQA", "WinoGrande", "TruthfulQA", "ARC-C", "HellaSwag"],
    [
        ["original (PoSE's)", "75.11", "78.67", "69.85", "34.08", "51.19", "77.75"],
        ["PoSE, linear", "74.50", "78.13", "68.59", "32.05", "48.29", "75.56"],
        ["PoSE, NTK", "74.28", "78.24", "68.90", "33.89", "49.83", "76.82"],
        ["PoSE, YaRN", "74.28", "78.02", "69.06", "34.00", "49.23", "77.04"],
        ["full-length, linear", "70.95", "77.64", "69.06", "31.89", "48.55", "74.19"],
        ["original (PI's)", "76.1", "78.9", "69.6", "-", "-", "-"],
        ["interpolation to 8k", "73.2", "78.2", "69.0", "-", "-", "-"],
    ],
)
SMOLLM2 = settings_of(RECIPES / "smollm2.yaml")
"""8k to 32k."""


def asked(bench: Bench, model: Model, tasks: list[str], limit: int) -> dict[str, list[Row]]:
    """The row of each seed for each benchmark: `acc` where it has that, else its first share."""
    harness = {"tasks": tasks, "limit": limit, **questions.SETTINGS}
    measured = bench.measure(model, {"tasks": ["harness"], "lengths": [WINDOW], "harness": harness})
    rows = {}
    for name in dict.fromkeys(row.variant for row in measured[0] if row.variant):
        metrics = [row.metric for row in measured[0] if row.variant == name and 0 <= row.value <= 1]
        metric = "acc" if "acc" in metrics else metrics[0]
        rows[name] = pick(measured, variant=name, metric=metric)
    return rows


def section(
    bench: Bench, models: dict[str, Model], tasks: list[str], limit: int, title: str
) -> tuple[Table, list[Claim]]:
    """The table of one base model and the claims about its extensions; the first model is the base."""
    rows = {name: asked(bench, model, tasks, limit) for name, model in models.items()}
    base, *extended = rows
    benchmarks = [name for name, of_seeds in rows[base].items() if above_chance(of_seeds[0])]
    cells = [[name, *(mean_over_seeds(of[benchmark]).text() for benchmark in rows[base])] for name, of in rows.items()]
    claims = [
        no_worse(name, rows[name][benchmark], base, rows[base][benchmark], benchmark, MARGIN)
        for name in extended
        for benchmark in benchmarks
    ]
    return Table(title, ["model", *rows[base]], cells), claims


def above_chance(row: Row) -> bool:
    """Whether the interval of a base model lies above guessing among four, as in the questions made here."""
    return row.low is not None and row.low > CHANCE


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    made = questions.write(bench.folder / "questions", 100 if bench.quick else 1000)
    small: dict[str, Model] = {
        "the packaged model": ORIGINAL,
        "YaRN untrained": variant("pose", factor, scaling__method="yarn", training__steps=0),
        "PoSE with linear scaling": variant("pose", factor),
        "PoSE with NTK": variant("pose", factor, scaling__method="ntk"),
        "PoSE with YaRN": variant("pose", factor, scaling__method="yarn"),
    }
    limit = 100 if bench.quick else 1000
    table, claims = section(
        bench, small, made, limit, f"The packaged model, extended {factor}×: questions answered, one of four"
    )
    tables = [table]
    if not bench.quick:
        large: dict[str, Model] = {
            "SmolLM2": "smollm2",
            "PoSE with linear scaling": {**SMOLLM2, "scaling.method": "linear"},
            "PoSE with YaRN": {**SMOLLM2, "scaling.method": "yarn"},
        }
        tasks = [*made, plain_questions(bench.folder / "questions"), *further()]
        table, more = section(bench, large, tasks, 300, "SmolLM2-135M, 8k to 32k: answers chosen")
        tables.append(table)
        claims += more
    return Result(
        claims,
        tables,
        paper=PAPER,
        remark="Claims are about the tasks of which the base model answers more than one in four. BoolQ, PIQA and the "
        "others need a hub; these are questions made from held-out code, so the numbers do not compare with the "
        "paper's, only their changes do.",
    )


def plain_questions(folder: Path) -> str:
    """Write the plain questions of the task `placed` as a file."""
    path = folder / "plain.jsonl"
    rows = [
        {"text": f"Question: {one.prompt}\nAnswer:", "choices": one.choices, "answer": one.answer} for one in QUESTIONS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def further() -> list[str]:
    """Benchmarks that the user has put into lab/benchmarks."""
    return [str(path) for path in sorted(BENCHMARKS.iterdir())] if BENCHMARKS.is_dir() else []
