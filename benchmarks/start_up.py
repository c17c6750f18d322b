"""Measure how soon `skipwise extend` begins its first step, as a ratio to importing torch and transformers.

    python benchmarks/start_up.py [--model bundled smollm2] [--rounds 3]

The texts are tokenised before the first round, so the store is prepared. Evaluation before the training is one short
text, and the validation before the first step one example. The time ends with the row of that validation in log.jsonl,
with which the first step begins. The baseline is `python -c "import torch, transformers"`. The two take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {
    "training.steps": "100000",
    "training.validation_examples": "1",
    "evaluation.tasks": "[perplexity]",
    "evaluation.lengths": "[64]",
    "evaluation.documents": "1",
}
TARGETS = {"bundled": "4k", "smollm2": "32k"}
LONGEST = 600.0


def command(model: str, out: Path) -> list[str]:
    words = [sys.executable, "-m", "skipwise", "extend", "--model", model, "--target", TARGETS.get(model, "32k")]
    words += ["--data", "stdlib", "--out", str(out)]
    for key, value in SETTINGS.items():
        words += ["--set", f"{key}={value}"]
    return words


def first_step(model: str) -> float:
    """Seconds from the start of the command to the beginning of its first step."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as messages:
        out = Path(folder) / "run"
        started = time.perf_counter()
        process = subprocess.Popen(command(model, out), stdout=subprocess.DEVNULL, stderr=messages)
        try:
            while time.perf_counter() - started < LONGEST:
                log = out / "log.jsonl"
                if log.exists() and '"validation"' in log.read_text(encoding="utf-8"):
                    return time.perf_counter() - started
                if process.poll() is not None:
                    messages.seek(0)
                    raise SystemExit(f"skipwise extend ended: {messages.read()[-2000:]}")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    raise SystemExit(f"no step within {LONGEST:.0f} s")


def imports() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, transformers"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(TARGETS), help="packaged names or folders")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for model in args.model:
        first_step(model)  # tokenises, and fetches what is not there
        rows = [(imports(), first_step(model)) for _ in range(args.rounds)]
        seconds = [step for _, step in rows]
        ratios = [step / base for base, step in rows]
        figures = {
            "model": model,
            "seconds": round(statistics.median(seconds), 2),
            "range": [round(min(seconds), 2), round(max(seconds), 2)],
            "imports": round(statistics.median(base for base, _ in rows), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
