"""What a page answers first: did the extension work, what did it cost inside the old window, can the model be used?

Each answer is one sentence with its figure and paired interval. A figure that decides nothing says so.
"""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.evals.paired_change import Change
from skipwise.evals.rows import Row
from skipwise.report.comparisons import Comparison, comparisons, counted, inside, verdict_counts
from skipwise.report.run_files import Run
from skipwise.report.wording import change_clause
from skipwise.utils.text import length_text


class Answer(NamedTuple):
    """One question with its answer, as the page shows it."""

    question: str
    label: str
    """The answer in a word or two."""
    verdict: str
    """`better`, `worse` or `undecided`, which the page may colour; `unknown` where nothing was measured."""
    text: str
    command: str | None = None
    """What to type next."""


WORKED = "Did it work?"
COST = "What did it cost inside the old window?"
USABLE = "Can I use it?"
CHANCE = 1 / 20
"""Share of verdicts that 95% intervals give where nothing changed."""


def of_run(run: Run) -> list[dict[str, Any]]:
    """The three answers of a run, as plain values."""
    first, later = (run.latest(model) for model in ("original", "extended"))
    known, target = comparisons(first, later), run.config.target_length
    original = run.original_length or 0  # known wherever there are rows
    answers = [
        worked(known, original, target) or _unmeasured(WORKED, first, later),
        cost(known, original) or _unmeasured(COST, first, later),
        _usable(run),
    ]
    return [answer._asdict() for answer in answers]


def of_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The first two answers for rows of two models, of which the later has the longer window; else nothing."""
    models = list(dict.fromkeys((row.model, row.fingerprint) for row in rows))
    if len(models) != 2:
        return []
    first, later = ([row for row in rows if (row.model, row.fingerprint) == model] for model in models)
    if later[0].window <= first[0].window:
        return []
    known = comparisons(first, later)
    answers = [worked(known, first[0].window, later[0].window), cost(known, first[0].window)]
    return [answer._asdict() for answer in answers if answer]


def worked(known: Sequence[Comparison], original: int, target: int) -> Answer | None:
    """Whether the model got better beyond the old window; None where nothing was measured there.

    Args:
        known: Comparisons with the original model.
        original: Tokens of the old window.
        target: Tokens of the new one.
    """
    beyond = [c for c in counted(known) if c.after.length and original < c.after.length <= target]
    if not beyond:
        return None
    longest = {(c.after.task, c.after.variant): c for c in sorted(beyond, key=lambda c: c.after.length or 0)}
    perplexity = [c for c in longest.values() if c.after.metric == "perplexity"]
    tasks = [c for c in longest.values() if c.after.metric != "perplexity"]
    figures = [*perplexity[:1], *([_telling(tasks)] if tasks else [])]
    return _judged(WORKED, figures, beyond, f"beyond {length_text(original)} tokens")


def cost(known: Sequence[Comparison], original: int) -> Answer | None:
    """What the model lost at lengths up to the old window; None where nothing was measured there."""
    within = [c for c in counted(known) if inside(c.after, original)]
    if not within:
        return None
    perplexity = [c for c in within if c.after.metric == "perplexity"]
    tasks = [c for c in within if c.after.metric != "perplexity"]
    figures = [_telling(part) for part in (perplexity, tasks) if part]
    return _judged(COST, figures, within, f"at and below {length_text(original)} tokens")


def cost_clause(run: Run) -> str | None:
    """The perplexity inside the old window for a headline; None where it was not compared."""
    if run.original_length is None:
        return None
    known = comparisons(*(run.latest(model) for model in ("original", "extended")))
    within = [c for c in counted(known) if c.after.task == "perplexity" and inside(c.after, run.original_length)]
    return change_clause(_telling(within), interval=False) if within else None


def _judged(question: str, figures: list[Comparison], every: list[Comparison], where: str) -> Answer:
    """The answer from the figures to name and the verdicts of all comparisons.

    A verdict that is said no more often than once in twenty comparisons, and of a change that is not far from none,
    is what chance gives; it is not coloured.
    """
    counts = verdict_counts(every)
    paired = sum(counts.values())
    text = " and ".join(change_clause(c) for c in figures)
    if not paired:
        return Answer(question, "Not paired", "unknown", _sentence(f"{text}; no prompts or texts could be paired"))
    certain = {verdict: n for verdict, n in counts.items() if verdict != "undecided" and n}
    far = {c.change.verdict for c in every if c.change and _far_from_none(c.change, c.after.metric)}
    beyond_chance = [verdict for verdict, n in certain.items() if n > paired * CHANCE or verdict in far]
    verdict = beyond_chance[0] if len(beyond_chance) == 1 else "undecided"
    label = ", ".join(f"{verdict} in {n}" for verdict, n in certain.items()) or "undecided"
    label = f"{label} of {paired}" if certain and paired > 1 else label.removesuffix(" in 1")
    if paired > len(figures):
        text += f"; {paired} comparisons {where}, {counts['undecided']} undecided"
    if certain and not beyond_chance:
        text += "; chance alone gives one verdict in twenty"
    return Answer(question, label.capitalize(), verdict, _sentence(text))


def _far_from_none(change: Change, metric: str) -> bool:
    """Whether "no change" lies more than 1.6 half widths from the middle of the interval.

    That is about 3.1 standard errors, which chance gives once in 500 comparisons.
    """
    low, high = (change.low, change.high) if metric != "perplexity" else (_log(change.low), _log(change.high))
    return change.verdict != "undecided" and abs(low + high) > 1.6 * (high - low)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _telling(every: Sequence[Comparison]) -> Comparison:
    """The comparison with the largest loss that is certain or, where none is, the longest; of equals the first."""
    worse = [c for c in every if c.change and c.change.verdict == "worse"]
    if worse:
        return max(worse, key=_loss)
    return max(every, key=lambda c: c.after.length or 0)


def _loss(c: Comparison) -> float:
    value = c.change.value if c.change else 0.0
    return value - 1 if c.after.metric == "perplexity" else -value


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _unmeasured(question: str, first: Sequence[Row], later: Sequence[Row]) -> Answer:
    if first and later:
        where = "beyond the old window" if question == WORKED else "inside it"
        text = f"The two models were not measured on the same prompts or texts {where}."
    else:
        lacking = [name for name, rows in (("original", first), ("extended", later)) if not rows]
        text = f"The {lacking[0]} model has not been evaluated." if len(lacking) == 1 else "Nothing has been evaluated."
    return Answer(question, "Not measured", "unknown", text)


def _usable(run: Run) -> Answer:
    """Whether there is a model that states the new window, and the command that loads it or finishes the run."""
    target, steps = run.config.target_length, run.config.training.steps
    resume = f"skipwise extend --resume --out {shlex.quote(run.folder.as_posix())}"
    done = f"{run.steps_done:,} of {steps:,} training steps are done" if steps else "RoPE was scaled without training"
    if not run.finished:
        return Answer(USABLE, "Not yet", "undecided", _sentence(done), resume)
    model = run.folder / "model"
    window = configured_window(model)
    if window is None:
        text = f"{done}, but the run has no model/config.json that states a window"
        return Answer(USABLE, "Not yet", "undecided", _sentence(text), resume)
    states = f"model/config.json states a window of {length_text(window)} tokens"
    if window < target:
        text = f"{done}, but {states} and not the target of {length_text(target)}"
        return Answer(USABLE, "Not at the target", "worse", _sentence(text))
    serve = f"vllm serve {shlex.quote(model.as_posix())} --max-model-len {target}"
    return Answer(
        USABLE, "Yes", "better", _sentence(f"{done}, and {states}; this serves it, other tools are below"), serve
    )


def configured_window(model: Path) -> int | None:
    """The window that a model folder's config.json states, in tokens; None where it states none."""
    try:
        values = json.loads((model / "config.json").read_bytes())
        window = values.get("max_position_embeddings") or values["text_config"]["max_position_embeddings"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return window if isinstance(window, int) else None
