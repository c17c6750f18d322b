"""Summaries of long documents before and after fine-tuning on documents with references (PI's table 6)."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lab import summaries
from lab.bench import WINDOW, Bench, pick, variant
from lab.findings import better, mean_over_seeds
from lab.tables import Result, Table
from skipwise.assets import catalogue
from skipwise.evals.tasks.summarize import MEASURES

TITLE = "summaries before and after fine-tuning on references"
SOURCE = "Position Interpolation, arXiv 2306.15595, table 6"
FACTOR = 8
ANSWER_TOKENS = 48
PAPER = Table(
    "The paper, GovReport, 16k",
    ["model", "ROUGE-1", "ROUGE-2", "ROUGE-L"],
    [
        ["CoLT5 Base", "58.7", "29.6", "31.4"],
        ["CoLT5 XL", "61.3", "32.2", "33.8"],
        ["LLaMA-7B, interpolated to 16k and fine-tuned", "60.0", "28.0", "29.5"],
    ],
)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    length = factor * WINDOW
    tokenizer = AutoTokenizer.from_pretrained(catalogue.get("bundled"))
    learned, held_out = summaries.write(bench.folder.absolute() / "summaries", tokenizer, length, ANSWER_TOKENS)
    extended = variant("pose", factor)
    documents = 16 if bench.quick else 64
    summarize = {"data": [str(held_out)], "documents": documents, "output_tokens": ANSWER_TOKENS}
    evaluation = {"tasks": ["summarize"], "lengths": [length], "summarize": summarize}
    before = bench.measure(extended, evaluation)
    tuned = [fine_tuned(bench, path, learned, factor) for path in bench.models(extended)]
    after = [bench.rows(bench.trained(settings, seed), evaluation) for seed, settings in enumerate(tuned)]
    rows, claims = [], []
    for name, measured in (("extended with PoSE", before), ("the same, fine-tuned on references", after)):
        rows.append([name, *(mean_over_seeds(pick(measured, variant=measure)).text() for measure in MEASURES)])
    for measure, shown in zip(MEASURES, PAPER.columns[1:], strict=True):
        chosen = [pick(measured, variant=measure) for measured in (after, before)]
        claims.append(better("fine-tuning on references", chosen[0], "the extended model without it", chosen[1], shown))
    count = sum(1 for _ in learned.open(encoding="utf-8"))
    return Result(
        claims,
        [Table(f"ROUGE of {documents} modules, up to {length:,} tokens", ["model", *PAPER.columns[1:]], rows)],
        paper=PAPER,
        remark="The corpus is Python's standard library: a document is a module without its docstring, the reference "
        f"that docstring's first paragraph. {count} modules are learned from, at full length, with a loss on summaries "
        "only; before that all modules were among the texts that the model itself was trained on. "
        "A model of this size learns how such a sentence sounds, not much of what a module does.",
    )


def fine_tuned(bench: Bench, model: Path, learned: Path, factor: int) -> dict[str, Any]:
    """Settings of fine-tuning an extended model at its window, without skips."""
    length = factor * WINDOW
    return {
        **variant("full", factor, model__path=str(model.absolute()), data__paths=[str(learned)], data__recall=0.0),
        "training.train_length": length,
        "training.batch_size": 1,
        "training.gradient_accumulation": 4,
        "training.validation_examples": 2,
        "training.steps": max(bench.steps // 2, 1),
    }
