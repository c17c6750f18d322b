"""How `skipwise plan` shows its facts: as text for a terminal, and as the data of an HTML page."""

import textwrap
from datetime import UTC, datetime
from typing import Any

from skipwise import __version__
from skipwise.planning.plan import SHARE, Cost, Plan
from skipwise.utils.text import aligned, bytes_text, length_text, parameters_text, quantity

WIDTH = 110
"""Characters of a line of text."""


def seconds_text(seconds: float) -> str:
    """`45 ms`, `12.3 s`, `4.2 min`, `3.1 h`, `12 days`."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for unit, size, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:,.3g} days"


def _columns(plan: Plan) -> tuple[list[str], list[list[str]]]:
    examples = f"{plan.options.examples:,} examples"
    titles = ["work", "tokens", "trained", "memory", "fits", "a step", examples]
    return titles, [_row(cost) for cost in plan.costs]


def _row(cost: Cost) -> list[str]:
    training = cost.trained_parameters > 0
    return [
        cost.name,
        f"{cost.sequences} × {length_text(cost.tokens)}",
        parameters_text(cost.trained_parameters) if training else "–",
        bytes_text(cost.memory),
        {True: "yes", False: "no", None: "?"}[cost.fits],
        seconds_text(cost.step_seconds) + (" (link)" if cost.bound == "link" else ""),
        seconds_text(cost.total_seconds) if training else "–",
    ]


def _coverage_rows(plan: Plan) -> tuple[list[str], list[list[str]]]:
    titles = ["sampler", f"{SHARE:.0%} of distances", f"all, {100 * plan.options.probability:.4g}% sure"]
    return titles, [[c.sampler, *(f"{n:,}" if n else "–" for n in (c.most_seen, c.all_seen))] for c in plan.coverage]


def _suite_rows(plan: Plan) -> list[list[str]]:
    """A line a suite: its tasks, the tokens that it reads and how long that takes."""
    lines = [["suite", "tasks", "tokens read", "time"]]
    for suite in plan.suites:
        lines.append([suite.name, f"{len(suite.tasks)}", quantity(suite.tokens, ""), seconds_text(suite.seconds)])
    return [[*map(str.strip, line)] for line in lines]


def _device_parts(plan: Plan) -> tuple[str, str, str]:
    """Memory, name and where the rates come from."""
    count = f"{plan.options.devices} × " if plan.options.devices > 1 else ""
    memory = "unknown" if plan.device.memory is None else bytes_text(plan.device.memory)
    return memory, count + plan.device.name, plan.device.source


LORA = "LoRA is a cost model: adapters on every linear layer, the frozen weights in the arithmetic's type"


def text(plan: Plan) -> str:
    """The plan for a terminal."""
    titles, rows = _columns(plan)
    seen_titles, seen = _coverage_rows(plan)
    size = f"{parameters_text(plan.parameters)} parameters"
    memory, name, origin = _device_parts(plan)
    window = f"{length_text(plan.original_length)} → {length_text(plan.target_length)} tokens"
    notes = [f"LoRA rank {plan.options.rank}: {LORA[len('LoRA is a ') :]}", *plan.notes]
    return "\n".join(
        [
            f"{plan.model} ({plan.family}, {size}), {window}, trained on {length_text(plan.train_length)} at a time",
            f"device: {name}, memory {memory}; {origin}",
            "",
            *aligned([titles, *rows]),
            "",
            "examples until distances of the target have been seen:",
            *aligned([seen_titles, *seen]),
            "",
            "evaluation of one model by suite (`skipwise eval --suite`), up to the target; wrong answers take longer:",
            *aligned(_suite_rows(plan)),
            "",
            *(line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")),
        ]
    )


def page(plan: Plan) -> dict[str, Any]:
    """Data of the HTML page, for the scripts `page.render.SHEET`."""
    titles, rows = _columns(plan)
    seen_titles, seen = _coverage_rows(plan)
    seen = [[f"{chunks} chunks", *examples] for chunks, *examples in seen]
    pose, full = plan.costs[0], plan.costs[2]
    target = length_text(plan.target_length)
    span = f"{length_text(plan.original_length)} to {target} tokens"
    return {
        "runs": [],
        "series": [],
        "headline": f"What it costs to extend {plan.model} from {span}",
        "kicker": f"{plan.model}, {parameters_text(plan.parameters)} parameters",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "tiles": [
            ["PoSE, memory", bytes_text(pose.memory), f"{bytes_text(full.memory)} at full length"],
            ["PoSE, time", seconds_text(pose.total_seconds), f"{seconds_text(full.total_seconds)} at full length"],
            ["Evaluation at target", seconds_text(plan.costs[-1].step_seconds), bytes_text(plan.costs[-1].memory)],
            ["Memory of the device", *_device_parts(plan)],
        ],
        "notes": plan.notes,
        "sections": [
            {
                "id": "costs",
                "nav": "Costs",
                "title": "Memory and time",
                "lead": f"For {plan.options.examples:,} examples in training; one text in evaluation.",
                "tables": [{"title": "Costs", "columns": titles, "rows": rows, "stack": True}],
                "notes": [LORA],
            },
            {
                "id": "window",
                "nav": "Window",
                "title": "As the window grows",
                "lead": "One example on one device. PoSE's examples stay short, whatever the window.",
                "charts": [_chart(plan, 1), _chart(plan, 2)],
            },
            {
                "id": "distances",
                "nav": "Distances",
                "title": "Examples until distances have been seen",
                "lead": f"Each has {length_text(plan.train_length)} tokens, over a window of {target}.",
                "tables": [{"title": "Distances", "columns": seen_titles, "rows": seen, "stack": True}],
            },
        ],
    }


def _far_above(plan: Plan) -> bool:
    """Whether the device's memory lies so far above the curves that an axis up to it would flatten them."""
    most = max(point[1] for points in plan.curves.values() for point in points)
    return plan.device.memory is not None and plan.device.memory > FAR * most


FAR = 2
"""The axis reaches up to the memory of the device where that is at most so many times the largest need."""


def _chart(plan: Plan, value: int) -> dict[str, Any]:
    """A line a kind of work; `value` 1 is memory, 2 time."""
    title, label, unit = [("Memory", "memory", "bytes"), ("Time", "time of one example", "seconds")][value - 1]
    series = [
        {"name": name, "colour": colour, "points": [(point[0], point[value]) for point in points]}
        for colour, (name, points) in enumerate(plan.curves.items(), 1)
    ]
    last = max(point[0] for points in plan.curves.values() for point in points)
    if value == 1 and plan.device.memory is not None:
        limit = [(plan.train_length, plan.device.memory), (last, plan.device.memory)]
        line = {"name": "memory of the device", "colour": 0, "faint": True, "dash": "4 4", "points": limit}
        series.append(line | {"outside": _far_above(plan)})
    return {
        "title": title,
        "label": f"{title} by window",
        "x": {"label": "window, tokens", "scale": "log", "unit": "length"},
        "y": {"label": label, "scale": "log", "unit": unit},
        "marks": [{"x": plan.target_length, "label": "target"}],
        "series": series,
    }
