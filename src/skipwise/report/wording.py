"""What a report says of a run in words: its headline, settings, what is missing, what to type."""

import json
import math
import shlex
from typing import Any

from skipwise.evals.rows import Row
from skipwise.report.run_files import Environment, Run
from skipwise.utils.text import length_text, short_value_text


def value_text(row: Row) -> str:
    """The value of a row, to three digits."""
    return short_value_text(row.metric, row.value)


def headline(runs: list[Run]) -> str:
    """The result in one sentence."""
    if len(runs) > 1:
        return _comparison(runs)
    run = runs[0]
    window = f"{length_text(run.original_length)} to {length_text(run.config.target_length)} tokens"
    if run.original_length is None:
        window = f"an unknown length to {length_text(run.config.target_length)} tokens"
    tasks = {"perplexity": "perplexity", "passkey retrieval": "passkey"}
    parts = [_change(subject, *pair) for subject, task in tasks.items() if (pair := run.at_target(task))]
    if parts:
        return f"Window extended from {window}: {' and '.join(parts)}."
    if not run.finished:
        return f"Extending the window from {window}: step {run.steps_done:,} of {run.config.training.steps:,}."
    return f"Window extended from {window}; not evaluated{' yet' if run.config.evaluation.tasks else ''}."


def _change(subject: str, before: Row | None, after: Row) -> str:
    """`perplexity at 32k fell from 612 to 31.0`; a neutral verb where the two intervals overlap."""
    subject = f"{subject} at {length_text(after.length)}"
    if before is None:
        return f"{subject} is {value_text(after)}"
    if value_text(before) == value_text(after):
        return f"{subject} stayed at {value_text(after)}"
    ends = (before.low, before.high, after.low, after.high)
    low, high, after_low, after_high = (math.nan if end is None else end for end in ends)
    apart = high < after_low or after_high < low
    verb = ("fell" if after.value < before.value else "rose") if apart else "went"
    return f"{subject} {verb} from {value_text(before)} to {value_text(after)}"


def _comparison(runs: list[Run]) -> str:
    """The run of lowest perplexity at the longest length that all runs were measured at."""
    tables = [run.totals("perplexity", "extended") for run in runs]
    shared = set.intersection(*(set(table) for table in tables))
    if not shared:
        return f"{len(runs)} runs, with no length at which the perplexity of all was measured."
    rows = [table[max(shared)] for table in tables]
    best = min(range(len(runs)), key=lambda i: rows[i].value)
    tokens, value = length_text(max(shared)), value_text(rows[best])
    return f"Of {len(runs)} runs, {runs[best].name} has the lowest perplexity at {tokens} tokens: {value}."


def rows_headline(series: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    """The result of comparing models without runs, or what was measured."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    over = f"{len(tasks)} tasks" if len(tasks) > 1 else tasks[0]
    if len(series) == 1:
        return f"{series[0]['name']} on {over}."
    changes = [
        row["change"] for row in results if row["depth"] is None and row["change"] and "verdict" in row["change"]
    ]
    if len(series) > 2 or not changes:
        return f"{len(series)} models compared on {over}."
    counts = {verdict: sum(change["verdict"] == verdict for change in changes) for verdict in ("better", "worse")}
    return (
        f"{series[1]['name']} against {series[0]['name']} on {over}: better in {counts['better']} and worse in "
        f"{counts['worse']} of {len(changes)} paired comparisons."
    )


def missing(run: Run) -> list[str]:
    """What a reader might look for and will not find, and why."""
    notes, steps = [], run.config.training.steps
    models = {row.model for row in run.results}
    if not run.finished:
        notes.append(f"Training has not finished: step {run.steps_done:,} of {steps:,}.")
    elif steps and not run.train:
        notes.append("There is no training log (log.jsonl), hence no training curve.")
    if not run.config.evaluation.tasks:
        notes.append("Nothing was evaluated, because evaluation.tasks is empty.")
    elif not models:
        notes.append(f"Not evaluated yet. To go on: skipwise extend --resume --out {shlex.quote(str(run.folder))}")
    elif "original" not in models:
        notes.append("The original model was not evaluated: there is no “before” to compare with.")
    elif "extended" not in models:
        notes.append("The extended model was not evaluated: there is no “after” to compare with.")
    if run.outdated:
        notes.append(f"{run.outdated:,} earlier results, of other texts or settings, are in results.jsonl alone.")
    if run.environment is None:
        notes.append("There is no environment.json: versions, device and memory are unknown.")
    else:
        notes += [f"Layers: {note}." for note in run.environment.layers]
    return notes


def settings(run: Run) -> list[dict[str, Any]]:
    """Groups of (label, value) that say what was done; the same groups and labels for every run."""
    config, environment = run.config, run.environment or Environment()
    training, positions, evaluation = config.training, config.positions, config.evaluation
    theta, quantised = environment.rope.get("theta"), environment.quantised_from
    commit = (environment.commit or "")[:10] + (", changed" if environment.dirty else "")
    pose = f", {positions.chunks} chunks, {positions.text} text" if positions.sampler == "pose" else ""
    rate = f"{training.learning_rate:g}".replace("e-0", "e-")
    groups = {
        "Model": {
            "Base": config.model.path + (f", dequantised from {quantised} GGUF" if quantised else ""),
            "Parameters": f"{environment.parameters / 1e6:,.0f} million" if environment.parameters else "unknown",
            "Original window": length_text(run.original_length),
            "Target window": length_text(config.target_length),
        },
        "Positions": {
            "Sampler": positions.sampler + pose,
            "RoPE scaling": _scaling(run),
            "RoPE base θ": f"{theta:,.0f}" if theta else "unknown",
            "Train length": f"{run.train_length:,} tokens",
        },
        "Training": {
            "Steps": f"{training.steps:,}",
            "Batch": f"{training.batch_size * training.gradient_accumulation} × {run.train_length:,} tokens",
            "Learning rate": f"{rate}, {training.schedule}, {training.warmup_steps} warm-up",
            "Arithmetic": f"{config.model.precision}, seed {training.seed}",
        },
        "Data": {
            "Text": ", ".join(config.data.paths) or "unknown",
            "Left out": ", ".join(config.data.exclude) or "nothing",
            "Held out": f"{100 * config.data.validation:g}% for validation",
            "Synthetic recall": f"{100 * config.data.recall:g}% of examples",
        },
        "Evaluation": {
            "Documents": _documents(run) or ", ".join(evaluation.data) or "held-out part of the text",
            "Perplexity": f"{evaluation.protocol}, up to {evaluation.documents} documents",
            "Passkey": f"{evaluation.trials} × {len(evaluation.depths)} depths for each length",
            "Seed": f"{evaluation.seed}",
        },
        "Machine": {
            "Device": environment.device or "unknown",
            "PyTorch": f"{environment.torch or 'unknown'}, Python {environment.python or 'unknown'}",
            "Transformers": environment.transformers or "unknown",
            "Skipwise": (environment.skipwise or "unknown") + (f", commit {commit}" if commit else ""),
        },
    }
    return [{"title": title, "rows": list(rows.items())} for title, rows in groups.items()]


def _documents(run: Run) -> str:
    """The first few documents whose perplexity was measured."""
    names = next((row.documents for row in run.results if row.documents), [])
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scaling(run: Run) -> str:
    """`yarn ×4, beta_slow 2.75`."""
    values = run.config.scaling.model_dump(exclude={"method"}, exclude_none=True)
    factor = run.config.target_length / run.original_length if run.original_length else None
    if run.config.scaling.method == "none":
        return "none"
    method = run.config.scaling.method + (f" ×{factor:.4g}" if factor else "")
    listed = values.pop("factors", None)
    shown = [f"{key} {value:,g}" for key, value in values.items()]
    return ", ".join([method, *([f"factors {listed[0]:g} to {listed[-1]:g}"] if listed else []), *shown])


def commands(run: Run) -> list[dict[str, str]]:
    """What to type to use the extended model, one entry a tool."""
    model, target = (run.folder / "model").as_posix(), run.config.target_length
    transformers = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

path = {json.dumps(model, ensure_ascii=False)}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", device_map="auto")

text = open("long.txt", encoding="utf-8").read()
inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length={target} - 200)
output = model.generate(**inputs.to(model.device), max_new_tokens=200)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:]))"""
    path, folder = shlex.quote(model), shlex.quote(run.folder.as_posix())
    skipwise = f"""# measure more, on other documents
skipwise eval {path} --lengths {length_text(target // 2)},{length_text(target)} --data BOOK.txt --out more.jsonl

# go on with this run, if it was interrupted
skipwise extend --resume --out {folder}

# extend further; the window so far is read from the model's configuration
skipwise extend --model {path} --target {length_text(2 * target)} --data TEXTS --out runs/longer"""
    return [
        {"title": "transformers", "text": transformers},
        {"title": "vLLM", "text": f"vllm serve {path} --max-model-len {target}"},
        {"title": "Skipwise", "text": skipwise},
    ]
