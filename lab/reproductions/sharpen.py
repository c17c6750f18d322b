"""Does a larger attention factor after the training help at the target?

Training on skipped positions shows every distance, but attention among few tokens at a time: a score that stands out
among 256 tokens drowns among 16,384. So the attention factor that is best at the target is above the one trained under.
A model is trained once with YaRN's own factor; then the factor in its configuration is multiplied (`training.sharpen`)
and the same weights are measured again. The rule that is tried, (ln T / ln L)^⅓ for training at L tokens and a target
of T, was fitted to the packaged model at 4×, 16× and 64×; docs/scaling.md shows a model that it does not fit.
"""

import math
import shutil
from pathlib import Path

import numpy as np
from transformers import AutoConfig

from lab.bench import CORPORA, WINDOW, Bench, pick, variant
from lab.findings import Claim, better, mean_over_seeds, no_worse
from lab.reproductions.attention_factor import vertex
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.rows import Row
from skipwise.rope.scale import sharpen
from skipwise.utils.atomic_files import atomic_folder

TITLE = "a larger attention factor after training"
SOURCE = "ours"
TIMES = [1.0, 1.07, 1.15, 1.22, 1.3]


COST = 0.05
"""What the rule may cost inside the old window: a share of the perplexity."""


def rule(factor: float) -> float:
    """The multiple of the trained factor for a target of `factor` windows."""
    return math.cbrt(math.log(factor * WINDOW, WINDOW))


def sharpened(model: Path, times: float) -> Path:
    """A copy of a run's model whose attention factor is multiplied, beside the run; the weights are a link."""
    folder = model.parent.with_name(f"{model.parent.name}-sharpen-{times:g}")
    if not folder.exists():
        config = AutoConfig.from_pretrained(model)
        sharpen(config, times)
        with atomic_folder(folder) as partial:
            shutil.copytree(model, partial / "model", ignore=shutil.ignore_patterns("*.safetensors"))
            for weights in model.glob("*.safetensors"):
                (partial / "model" / weights.name).symlink_to(weights.resolve())
            config.save_pretrained(partial / "model")
    return folder / "model"


def run(bench: Bench) -> Result:
    targets = [4] if bench.quick else [4, 16, 64]
    times = TIMES[::2] if bench.quick else TIMES
    rows, lines, optima, claims = list[list[str]](), list[Line](), list[float](), list[Claim]()
    for factor in targets:
        length = factor * WINDOW
        settings = variant("pose", factor, scaling__method="yarn", positions__chunks=3)
        evaluation = {
            "tasks": ["perplexity", "passkey"],
            "lengths": [WINDOW, length],
            "data": [CORPORA["code"]],
            "documents": 2 if bench.quick else 6,
            "trials": 2 if bench.quick else 8,
        }
        trained = bench.models(settings)
        measured = {t: [bench.rows(sharpened(model, t), evaluation) for model in trained] for t in times}

        def chosen(t: float, task: str, at: int, of: dict[float, list[list[Row]]] = measured) -> list[Row]:
            return pick(of[t], task=task, length=at)

        losses = [float(np.log(mean_over_seeds(chosen(t, "perplexity", length)).value)) for t in times]
        optima.append(vertex(times, losses))
        for task, at in (("perplexity", length), ("passkey", length), ("perplexity", WINDOW)):
            cells = [mean_over_seeds(chosen(t, task, at)).text() for t in times]
            rows.append([f"{factor}×, {task} at {at:,}", *cells])
        lines.append(Line(f"{factor}×", list(zip(times, np.exp(losses).tolist(), strict=True))))
        ruled = min(times, key=lambda t: abs(t - rule(factor)))
        name = f"×{ruled:g} at {factor}× (the rule gives {rule(factor):.2f})"
        for task in ("perplexity", "passkey"):
            what = f"{task} at {length:,} tokens"
            claims.append(
                better(name, chosen(ruled, task, length), "the trained factor", chosen(1.0, task, length), what)
            )
        old = (chosen(ruled, "perplexity", WINDOW), chosen(1.0, "perplexity", WINDOW))
        claims.append(no_worse(name, old[0], "the trained factor", old[1], f"perplexity at {WINDOW} tokens", COST))
    remark = "Best by perplexity at the target: " + ", ".join(
        f"{factor}× {best:.2f}" for factor, best in zip(targets, optima, strict=True)
    )
    return Result(
        claims,
        [
            Table(
                "The attention factor of the saved model, as a multiple of the trained one",
                ["", *(f"{t:g}" for t in times)],
                rows,
            )
        ],
        [Chart("Perplexity at the target", "multiple", "perplexity", lines, x_scale="linear", x_unit="count")],
        remark=f"{remark}.",
    )
