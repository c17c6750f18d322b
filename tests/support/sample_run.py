"""A run folder as `skipwise extend` leaves it, with plausible numbers drawn from a seed: 8k → 32k in 60 steps."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.config import RunConfig, dump_yaml, merge, validate
from skipwise.utils.atomic_files import append_jsonl, write_text

ORIGINAL, TARGET = 8192, 32768
LENGTHS = [2048, 4096, 8192, 12288, 16384, 24576, 32768]
PASSKEY_LENGTHS = [2048, 4096, 8192, 16384, 24576, 32768]
DOCUMENTS = ["hamlet.txt", "hamlet_first_quarto.txt", "cymbeline.txt", "coriolanus.txt"]
DEPTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
PERPLEXITY = {
    "original": [33.2, 31.7, 29.0, 32.1, 58.2, 214.0, 612.0],
    "extended": [33.1, 32.3, 30.1, 30.7, 30.9, 30.8, 31.0],
}
CONFIG: dict[str, Any] = {
    "target_length": TARGET,
    "out": "runs/smollm2-32k",
    "model": {"path": "smollm2"},
    "data": {"paths": ["shakespeare"], "exclude": ["hamlet*", "c*"], "recall": 0.3},
    "training": {"steps": 60, "train_length": 1024, "validate_every": 10},
    "evaluation": {"lengths": LENGTHS, "retrieval_lengths": PASSKEY_LENGTHS, "trials": 4},
}


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Bounds of the 95 % interval of a share."""
    centre, spread = (hits + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def write_log(folder: Path, steps: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        seconds, loss = 5.9 * step, 3.42 + shift + 0.45 * math.exp(-step / 12) + rng.normal(0, 0.06)
        row = {"kind": "train", "step": step, "loss": loss, "learning_rate": 2e-5 * min(1, step / 10)}
        append_jsonl(folder / "log.jsonl", row | {"grad_norm": 0.9, "tokens": step * 2048, "seconds": seconds})
        if step % 10 == 0:
            level = 3.4 + shift + 0.3 * math.exp(-step / 14)
            row = {"kind": "validation", "step": step, "loss_skipped": level + 0.04, "loss_plain": level - 0.05}
            append_jsonl(folder / "log.jsonl", row | {"seconds": seconds + 1})


def paired_columns(value: float, label: str) -> dict[str, Any]:
    """Losses of four documents of 1,000 tokens each, whose differences between two models vary a little."""
    spread = [0.0, 0.01, -0.01, 0.005] if label == "extended" else [0.0] * 4
    return {"sums": [1000 * (math.log(value) + s) for s in spread], "counts": [1000] * 4, "data": "texts"}


def write_results(folder: Path, shift: float, seed: int, paired: bool) -> None:
    for label in ("original", "extended"):
        rng = np.random.default_rng(0 if label == "original" else seed)
        worse = 0.0 if label == "original" else 6 * shift
        window = ORIGINAL if label == "original" else TARGET
        scaling = None if label == "original" else {"method": "yarn", "factor": 4.0}
        base: dict[str, Any] = {"model": label, "path": f"models/{label}", "fingerprint": f"{label}-{shift}", "seed": 0}
        if label == "original":
            base["fingerprint"] = "original-0a1b2c"
        base |= {"window": window, "original_length": ORIGINAL, "scaling": scaling, "task_version": 1, "seconds": 4.0}
        for length, value in zip(LENGTHS, PERPLEXITY[label], strict=True):
            value *= math.exp(shift) if label == "extended" else 1
            row = {"task": "perplexity", "variant": "prefix", "length": length, "depth": None, "metric": "perplexity"}
            row |= {"value": value, "low": value * 0.91, "high": value * 1.12, "interval": "bootstrap 95%", "n": 4}
            row |= {"documents": DOCUMENTS, "bos": True, "tokens": 4 * (length - 1)}
            append_jsonl(folder / "results.jsonl", base | row | (paired_columns(value, label) if paired else {}))
        for length in PASSKEY_LENGTHS:
            hits, every = [], list[float]()
            for depth in [*DEPTHS, None]:
                n = 4 if depth is not None else 4 * len(DEPTHS)
                share = max(0.0, 0.96 - worse * length / TARGET) if length <= window else 0.0
                hits.append(int(rng.binomial(n, share)) if depth is not None else sum(hits))
                low, high = wilson(hits[-1], n)
                row = {"task": "passkey", "variant": None, "length": length, "depth": depth, "metric": "accuracy"}
                row |= {"value": hits[-1] / n, "low": low, "high": high, "interval": "wilson 95%", "n": n}
                if paired and depth is None:
                    row |= {"scores": every, "data": f"all at {length}"}
                elif paired:
                    scores = [1.0] * hits[-1] + [0.0] * (n - hits[-1])
                    every += scores
                    answers = [
                        [[str(number)], f" {number}." if right else " 7 7 7"]
                        for number, right in enumerate(scores, 10_001)
                    ]
                    row |= {"scores": scores, "answers": answers, "data": f"{depth} at {length}"}
                append_jsonl(folder / "results.jsonl", base | row | {"tokens": length - 40})


def write_sample_run(
    folder: Path,
    *,
    done: int = 60,
    results: bool = True,
    settings: dict[str, Any] | None = None,
    shift: float = 0.0,
    seed: int = 0,
    paired: bool = False,
) -> Path:
    """Write a run of which `done` of 60 steps have happened; returns `folder`.

    `shift` makes its losses worse. `paired` adds what changes are counted from: losses, scores and answers.
    """
    config = validate(RunConfig, merge(CONFIG, settings or {}))
    dump_yaml(config, folder / "config.yaml")
    environment: dict[str, Any] = {
        "skipwise": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "python": "3.11.2",
        "device": "cpu, 2 threads",
        "commit": "6554c08b3f0e",
        "dirty": False,
        "started": "2026-11-20T09:30:00+00:00",
        "parameters": 134_515_008,
        "original_length": ORIGINAL,
        "rope": {"dim": 64, "theta": 100000.0},
    }
    if done == config.training.steps:
        environment |= {"train_seconds": 5.9 * done, "train_tokens": 2048 * done, "peak_memory_bytes": 3_980_000_000}
    write_text(folder / "environment.json", json.dumps(environment))
    write_log(folder, done, shift, seed)
    if results:
        write_results(folder, shift, seed, paired)
    return folder


RULER = ["niah_single_1", "niah_multikey_1", "niah_multivalue", "vt", "cwe"]
ROWS_LENGTHS = [4096, 8192, 16384, 32768]


def write_sample_rows(path: Path, names: tuple[str, ...] = ("before", "after", "other-7b")) -> Path:
    """Rows of every task as `skipwise eval --out` leaves them: a model, its extension, and one of another tokenizer."""
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        window = TARGET if number else ORIGINAL
        base: dict[str, Any] = {
            "model": name,
            "path": name,
            "fingerprint": f"print-{name}",
            "window": window,
            "seed": 0,
        }
        base |= {"original_length": ORIGINAL, "scaling": None, "dtype": "bfloat16", "task_version": 2, "chat": False}
        for row in [*_perplexities(window, rng), *_retrieval(window, number, rng), *_short(number, rng)]:
            row["data"] = f"{'other' if number == 2 else 'same'}-{row['task']}-{row['variant']}-{row['length']}"
            row["beyond_window"] = (row["length"] or 0) > window
            append_jsonl(path, base | {"depth": None, "tokens": 99} | row)
    return path


def _perplexities(window: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for i, length in enumerate(ROWS_LENGTHS):
        for start in [0, *ROWS_LENGTHS[max(i - 1, 0) : i]]:
            level = 3.4 if length <= window else 4 + length / TARGET
            hard = np.array([0.2, -0.3, 0.1, 0.0])
            sums = (length - start) * (level + hard + rng.normal(0, 0.02, 4))
            value = math.exp(sums.sum() / 4 / (length - start))
            row = {"task": "perplexity_by_position" if start else "perplexity", "variant": "prefix", "length": length}
            row |= {"start": start, "metric": "perplexity", "value": value, "low": value * 0.9, "high": value * 1.1}
            row |= {"interval": "bootstrap 95%", "n": 4, "documents": DOCUMENTS, "sums": sums.tolist()}
            quarters = [[float(loss) / 4 + wave for wave in (2.0, -2.0, 1.0, -1.0)] for loss in sums]
            row |= {"block_sums": quarters, "block_counts": [[(length - start) // 4] * 4] * 4}
            rows.append(row | {"counts": [length - start] * 4})
    return rows


def _retrieval(window: int, number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows with scores: some tasks by depth, some in variants, some graded; and two that are tokens."""
    rows = []
    kinds: list[tuple[str, str | None, str, list[float]]] = [
        *(("passkey", None, "accuracy", DEPTHS), ("needle", None, "accuracy", DEPTHS)),
        *(("key_value", variant, "accuracy", DEPTHS) for variant in ("lines", "json")),
        *(("ruler", variant, "match", []) for variant in [*RULER, "average"]),
        *(("document_qa", variant, "accuracy", []) for variant in ("title", "author")),
        *(("summarize", variant, "rouge F1", []) for variant in ("rouge1", "rouge2", "rougeL")),
    ]
    for task, variant, metric, depths in kinds:
        for length in ROWS_LENGTHS:
            share, together = (0.85 if length <= window else 0.05), list[float]()
            for depth in [*depths, None]:
                if metric == "accuracy":
                    scores = (
                        together
                        if depth is None and depths
                        else (rng.random(4 if depths else 20) < share).astype(float).tolist()
                    )
                else:
                    scores = np.clip(rng.normal(share / 2, 0.15, 20), 0, 1).tolist()
                together = together + scores
                low, high = wilson(round(sum(scores)), len(scores))
                row = {"task": task, "variant": variant, "length": length, "depth": depth, "metric": metric}
                row |= {
                    "value": sum(scores) / len(scores),
                    "low": low,
                    "high": high,
                    "n": len(scores),
                    "scores": scores,
                }
                rows.append(row | {"interval": "wilson 95%" if metric == "accuracy" else "bootstrap 95%"})
    reach = (8192, 32768, 16384)[number]
    for k in range(1024, TARGET + 1, 1024):
        low, high = wilson(9 * (k <= reach), 10)
        row = {"task": "k_max", "variant": None, "length": TARGET, "depth": 1 - k / TARGET, "distance": k, "n": 10}
        row |= {"metric": "accuracy", "value": 0.9 * (k <= reach), "low": low, "high": high, "interval": "wilson 95%"}
        rows.append(row | {"scores": [float(k <= reach)] * 9 + [0.0]})
    tokens: dict[str, Any] = {"n": 10, "low": reach, "high": reach, "interval": "bootstrap 95%"}
    for task, variant, metric in (("k_max", None, "k_max"), ("ruler", "effective_length", "tokens")):
        rows.append(tokens | {"metric": metric, "task": task, "variant": variant, "length": TARGET, "value": reach})
    return rows


def _short(number: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for name, share in (("boolq", 0.7), ("piqa", 0.68), ("winogrande", 0.55)):
        scores = (rng.random(200) < share - 0.02 * number).astype(float).tolist()
        low, high = wilson(round(sum(scores)), 200)
        row = {"task": "harness", "variant": name, "length": None, "metric": "accuracy", "value": sum(scores) / 200}
        rows.append(row | {"low": low, "high": high, "n": 200, "scores": scores, "interval": "wilson 95%"})
    return rows
