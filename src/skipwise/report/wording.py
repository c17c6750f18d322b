"""What a report says of a run in words: changes, settings, what is missing, what to type."""

import json
import math
import shlex
from typing import Any

from skipwise.evals.paired_change import Change, shared_unit, unit_name
from skipwise.evals.rows import Row
from skipwise.positions.sampler import describe
from skipwise.report.comparisons import Comparison
from skipwise.report.run_files import Environment, Run
from skipwise.utils.text import count_text, length_text, parameters_text, short_value_text


def measure_name(row: Row) -> str:
    """What a row measures: `perplexity`, `passkey retrieval`, `key value: lines`."""
    if row.task in ("perplexity", "passkey"):
        return {"perplexity": "perplexity", "passkey": "passkey retrieval"}[row.task]
    name = row.task.replace("_", " ")
    return f"{name}: {row.variant.replace('_', ' ')}" if row.variant else name


def change_text(change: Change, metric: str) -> str:
    """A change with its interval: `−12% [−15%, −9.1%]` for a perplexity, else `+90 points [+61, +100]`."""
    value, low, high = (_difference(end, metric) for end in (change.value, change.low, change.high))
    if not math.isfinite(change.low) or not math.isfinite(change.high):
        return f"{value}{'' if metric == 'perplexity' else ' points'}, no interval"
    return f"{value} [{low}, {high}]" if metric == "perplexity" else f"{value} points [{low}, {high}]"


def _difference(value: float, metric: str) -> str:
    """A ratio of perplexities as percent, or as a factor from 10 on; a difference of scores as points."""
    if metric == "perplexity" and not value <= 10:
        return f"×{value:.3g}" if math.isfinite(value) else "×∞"
    percent = 100 * (value - 1 if metric == "perplexity" else value)
    digits = 2 if abs(percent) < 10 else 3
    return f"{'−' if percent < 0 else '+'}{abs(percent):.{digits}g}{'%' if metric == 'perplexity' else ''}"


def change_clause(c: Comparison, *, interval: bool = True) -> str:
    """`perplexity at 32k fell from 612 to 31.0 (−95% [−96%, −94%], 4 documents)`.

    The verb is neutral where the paired interval holds no change; without one, where the two intervals overlap.
    """
    before, after = (short_value_text(row.metric, row.value) for row in (c.before, c.after))
    length = f" at {length_text(c.after.length)}" if c.after.length else ""
    moved = f"from {before} to {after}"
    verb = f"stayed at {after}" if before == after else f"{_verb(c)} {moved}"
    text = f"{measure_name(c.after)}{length} {verb}"
    if not interval:
        return text
    if c.change is None:
        return f"{text} ({count_text(c.after.n, unit_name(c.after))})"
    few, same = c.change.few, c.change.same_texts
    basis = f"{few}, which decides nothing" if few else _basis(c.after, c.change.n)
    unsure = c.change.verdict == "undecided" and not few
    parts = [change_text(c.change, c.after.metric), *([_detectable(c.change, c.after.metric)] if unsure else [])]
    parts += [basis, *(["undecided"] if unsure else [])]
    low, high = (_difference(end, c.after.metric) for end in (same.low, same.high)) if same else ("", "")
    here = f"; on these very texts [{low}, {high}]" if same else ""
    return f"{text} ({', '.join(parts)}{here})"


def _basis(row: Row, units: int) -> str:
    """`4 documents`, or `40 prompts about 4 lists` where the interval is over the lists."""
    prompts, shared = count_text(row.n, unit_name(row)), shared_unit(row)
    return f"{prompts} about {count_text(units, shared)}" if shared and units < row.n else prompts


def _detectable(change: Change, metric: str) -> str:
    """`25 points would have shown`."""
    if change.detectable is None or not math.isfinite(change.detectable):
        return "no change would have shown"
    size = _difference(change.detectable, metric)
    return f"{size}{'' if metric == 'perplexity' else ' points'} would have shown"


def _verb(c: Comparison) -> str:
    if c.change:
        certain = c.change.verdict != "undecided"
    else:
        ends = (c.before.low, c.before.high, c.after.low, c.after.high)
        low, high, after_low, after_high = (math.nan if end is None else end for end in ends)
        certain = high < after_low or after_high < low
    return ("fell" if c.after.value < c.before.value else "rose") if certain else "went"


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
        notes += [f"Conversations: {note}." for note in run.environment.conversations]
        notes += [f"Layers: {note}." for note in run.environment.layers]
    return notes


def _overlaps(run: Run) -> str:
    """How much of each task's texts the training text holds too: `3.5% of the passages of perplexity`."""
    shares = {row.task: row.overlap for row in run.results if row.overlap is not None}
    if not shares:
        return "not looked up"
    parts = [f"{100 * share:.2g}% of the passages of {task}" for task, share in shares.items() if share]
    return ", ".join(parts) or f"no passage of the texts of {', '.join(shares)}"


def settings(run: Run) -> list[dict[str, Any]]:
    """Groups of (label, value) that say what was done; the same groups and labels for every run."""
    config, environment = run.config, run.environment or Environment()
    training, positions, evaluation = config.training, config.positions, config.evaluation
    theta, quantised = environment.rope.get("theta"), environment.quantised_from
    commit = (environment.commit or "")[:10] + (", changed" if environment.dirty else "")
    rate = f"{training.learning_rate:g}".replace("e-0", "e-")
    groups = {
        "Model": {
            "Base": config.model.path + (f", dequantised from {quantised} GGUF" if quantised else ""),
            "Parameters": parameters_text(environment.parameters) if environment.parameters else "unknown",
            "Original window": length_text(run.original_length),
            "Target window": length_text(config.target_length),
        },
        "Positions": {
            "Sampler": describe(positions.sampler, positions.base, positions.chunks, positions.text),
            "RoPE scaling": _scaling(run),
            "RoPE base θ": f"{theta:,.0f}" if theta else "unknown",
            "Train length": f"{length_text(run.train_length)} tokens",
        },
        "Training": {
            "Steps": f"{training.steps:,}",
            "Batch": f"{training.batch_size * training.gradient_accumulation} × {length_text(run.train_length)} tokens",
            "Trained": _trained(run, environment),
            "Learning rate": f"{rate}, {training.schedule}, {training.warmup_steps} warm-up",
            "Teacher": f"the original model, weight {training.distill:g}" if training.distill else "none",
            "Arithmetic": f"{config.model.precision}, seed {training.seed}",
        },
        "Data": {
            "Text": ", ".join(config.data.described()) or "unknown",
            "Left out": ", ".join(config.data.exclude) or "nothing",
            "Held out": "the first documents, for validation"
            if config.data.streaming
            else f"{100 * config.data.validation:g}% for validation",
            "Synthetic recall": f"{100 * config.data.recall:g}% of examples",
            "Plain positions": f"{100 * config.data.plain:g}% of examples",
        },
        "Evaluation": {
            "Documents": _documents(run) or ", ".join(evaluation.data) or "held-out part of the text",
            "Perplexity": f"{evaluation.protocol}, up to {evaluation.documents} documents",
            "Passkey": f"{evaluation.trials} × {len(evaluation.depths)} depths for each length",
            "Seed": f"{evaluation.seed}",
            "Also trained on": _overlaps(run),
        },
        "Machine": {
            "Device": environment.device or "unknown",
            "PyTorch": f"{environment.torch or 'unknown'}, Python {environment.python or 'unknown'}",
            "Transformers": environment.transformers or "unknown",
            "Skipwise": (environment.skipwise or "unknown") + (f", commit {commit}" if commit else ""),
        },
    }
    return [{"title": title, "rows": list(rows.items())} for title, rows in groups.items()]


def _trained(run: Run, environment: Environment) -> str:
    """What was trained: all weights, or adapters and how many parameters they have."""
    adapter, trained = run.config.adapter, environment.trained_parameters
    if not run.config.training.steps:
        return "nothing"
    if adapter.method == "none":
        return "all weights"
    share = ""
    if trained:
        share = f", {parameters_text(trained)} parameters"
        if environment.parameters:
            share += f" ({100 * trained / environment.parameters:.2g}%)"
    also = f", {' and '.join(adapter.also_train)} whole" if adapter.also_train else ""
    name = {"lora": "LoRA", "qlora": "QLoRA"}[adapter.method]
    return f"{name} of rank {adapter.rank}{also}{share}; merged into the model"


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
    if run.config.training.steps and run.config.training.sharpen != 1:
        shown.append(f"attention factor × {run.config.training.sharpen:g} after training")
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
    gguf = shlex.quote(f"{run.folder.as_posix()}/model.gguf")
    llama = f"""# one file for llama.cpp, with its window and scaling inside
skipwise export {folder} --format gguf --dtype q8_0 --out {gguf}

# chat in the terminal, or serve an API; -c is the window to reserve memory for
llama-cli -m {gguf} -c {target} -f PROMPT.txt
llama-server -m {gguf} -c {target}"""
    skipwise = f"""# measure more, on other documents
skipwise eval {path} --lengths {length_text(target // 2)},{length_text(target)} --data BOOK.txt --out more.jsonl

# go on with this run, if it was interrupted
skipwise extend --resume --out {folder}

# extend further; the window so far is read from the model's configuration
skipwise extend --model {path} --target {length_text(2 * target)} --data TEXTS --out runs/longer"""
    return [
        {"title": "transformers", "text": transformers},
        {"title": "vLLM", "text": f"vllm serve {path} --max-model-len {target}"},
        {"title": "llama.cpp", "text": llama},
        {"title": "Skipwise", "text": skipwise},
    ]
