"""Trained models for the tables. A model is made once and shared by all tables that ask for the same settings.

A model of one seed is a run folder of `skipwise extend` without evaluation; measurements are rows beside it. Both are
found again by a digest of their settings, so an interrupted table goes on where it stopped.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipwise.assets import catalogue as assets
from skipwise.config import RunConfig, merge, validate
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row
from skipwise.jobs.evaluate import evaluate
from skipwise.jobs.extend import extend
from skipwise.utils.progress import say

Settings = Mapping[str, Any]
"""Settings of a run by their dotted keys, such as {"positions.sampler": "pose"}."""
Model = Settings | str
"""A model to train, or the name or folder of one that is measured as it is."""
ORIGINAL = "bundled"
"""The packaged model as it is."""

WINDOW = 256
"""Window of the packaged model, tokens."""
SHARED: dict[str, Any] = {
    "model.path": "bundled",
    "data.paths": ["stdlib"],
    "data.recall": 0.5,
    "training.train_length": WINDOW,
    "training.batch_size": 8,
    "training.steps": 400,
    "training.learning_rate": 1e-3,
    "training.schedule": "cosine",
    "training.warmup_steps": 20,
    "training.validate_every": 100_000,
    "evaluation.tasks": [],
}
"""What all models of the papers' tables share unless one says otherwise. Half of the examples are recall documents:
without them a model of this size learns no retrieval at all."""
QUICK: dict[str, Any] = {"training.steps": 40, "training.warmup_steps": 5}
"""What `--quick` changes: enough to run every part, too little to decide."""
QUICK_FACTOR = 4
"""Largest extension of a `--quick` table but for those that are about larger ones."""

CORPORA = {"code": "stdlib-held-out", "prose": "workshop"}
"""Texts that perplexity is read on: files that the training text leaves out, and prose of another kind, from a public
package. The packaged model was pre-trained on neither. (The standard library holds `python-reference`.)"""

OLD_WINDOW: dict[str, Any] = {
    "tasks": ["perplexity"],
    "lengths": [WINDOW],
    "protocol": "sliding",
    "stride": WINDOW // 2,
}
"""Evaluation of perplexity inside the original window."""


def variant(sampler: str, factor: int, **settings: Any) -> Settings:
    """Settings of a model trained towards `factor` windows; other settings with `__` for the dot of their key."""
    further = {key.replace("__", "."): value for key, value in settings.items()}
    return {"target_length": factor * WINDOW, "positions.sampler": sampler, "scaling.method": "linear", **further}


def full_length(factor: int, **settings: Any) -> Settings:
    """Settings of training at the whole target: as many examples as other variants, `factor` times the tokens."""
    parts = {"training__train_length": factor * WINDOW, "training__batch_size": 1, "training__gradient_accumulation": 8}
    return variant("full", factor, **parts, **settings)


def doubling(factor: int) -> list[int]:
    """Lengths from the window to `factor` windows, tokens."""
    return [WINDOW * 2**k for k in range(factor.bit_length())]


@functools.cache
def base_digest(model: str) -> str:
    """Digest of the packaged model's weights, so that another one is trained anew; the name of any other model."""
    if model != ORIGINAL:
        return model
    return hashlib.sha256((assets.get(model) / "model.safetensors").read_bytes()).hexdigest()[:16]


class Bench:
    """Makes and measures models.

    Args:
        folder: Where models and rows are kept.
        quick: Few steps and prompts, one seed.
        seeds: Seeds of each trained model.
    """

    def __init__(self, folder: Path, *, quick: bool, seeds: int) -> None:
        self.folder, self.quick, self.seeds = folder, quick, 1 if quick else seeds

    @property
    def steps(self) -> int:
        """Optimiser steps of a model whose settings say nothing else."""
        return int((QUICK if self.quick else SHARED)["training.steps"])

    def step_counts(self) -> list[int]:
        """Steps at which a table by step looks, ascending, none twice."""
        shares = (6, 2) if self.quick else (16, 8, 4, 2, 1)
        return sorted({max(self.steps // share, 1) for share in shares})

    def factor(self, wanted: int) -> int:
        """Windows in the target of a table."""
        return min(wanted, QUICK_FACTOR) if self.quick else wanted

    def config(self, settings: Settings, seed: int) -> RunConfig:
        """The configuration of one model. Raises SkipwiseError for a setting that does not exist."""
        flat = {**SHARED, **(QUICK if self.quick else {}), **settings, "training.seed": seed}
        nested: dict[str, Any] = {}
        for key, value in flat.items():
            part: Any = value
            for name in reversed(key.split(".")):
                part = {name: part}
            nested = merge(nested, part)
        config = validate(RunConfig, nested)
        identity = {
            **config.model_dump(mode="json", exclude={"out", "evaluation"}),
            "base": base_digest(config.model.path),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        return config.model_copy(update={"out": str(self.folder / digest)})

    def identity(self, settings: Settings) -> list[str]:
        """What tells the models of one recipe from others: a digest for each seed."""
        return [Path(self.config(settings, seed).out).name for seed in range(self.seeds)]

    def models(self, model: Model) -> list[Path]:
        """Models of one recipe, one a seed, made if need be; a model that nothing is trained for has one seed."""
        if isinstance(model, str):
            return [Path(model)]
        steps = self.config(model, 0).training.steps
        return [self.trained(model, seed) for seed in range(self.seeds if steps else 1)]

    def trained(self, settings: Settings, seed: int) -> Path:
        """The model of one seed. An interrupted training goes on where it stopped; its checkpoints go at the end."""
        config = self.config(settings, seed)
        folder = Path(config.out)
        if not (folder / "report.html").exists():
            say(f"model {folder}: {dict(settings)}, seed {seed}")
            extend(config, resume=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return folder / "model"

    def perplexity(self, model: Model, corpus: str, lengths: Sequence[int]) -> list[list[Row]]:
        """Perplexity rows of each seed's model on the first n tokens of each document of a corpus."""
        documents = 2 if self.quick else 6
        evaluation = {"tasks": ["perplexity"], "lengths": list(lengths), "data": [corpus], "documents": documents}
        return self.measure(model, evaluation)

    def retrieval(self, model: Model, task: str, lengths: Sequence[int], **more: Any) -> list[list[Row]]:
        """Rows of a task of prompts for each seed's model; `more` are settings of the evaluation."""
        trials = 2 if self.quick else 8
        return self.measure(model, {"tasks": [task], "lengths": list(lengths), "trials": trials, **more})

    def pairs(self, model: Model, lengths: Sequence[int]) -> list[list[Row]]:
        """Rows of `key_value` with short keys; every list asks for values at all depths."""
        count = 4 if self.quick else 8
        return self.retrieval(
            model, "key_value", lengths, trials=count, key_value={"protocols": ["lines"], "lists": count}
        )

    def measure(self, model: Model, evaluation: Mapping[str, Any]) -> list[list[Row]]:
        """The rows of each seed's model."""
        return [self.rows(path, evaluation) for path in self.models(model)]

    def rows(self, model: Path, evaluation: Mapping[str, Any]) -> list[Row]:
        """The rows of one model; those that were measured before are read."""
        name = model.parent.name if model.name == "model" else model.name
        out = self.folder / "rows" / f"{name}.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        return evaluate(model, evaluation, out)

    def facts(self) -> dict[str, Any]:
        """What a result says about how it was made."""
        settings = {**SHARED, **(QUICK if self.quick else {})}
        settings.pop("training.validate_every")
        settings.pop("evaluation.tasks")
        seeds = list(range(self.seeds))
        return {"seeds": seeds, "quick": self.quick, "packaged model": base_digest(ORIGINAL), "settings": settings}


def pick(measured: Sequence[Sequence[Row]], **columns: Any) -> list[Row]:
    """The row of each seed that has these values in these columns; over all depths and the whole text if not named.

    Raises:
        SkipwiseError: for none, or for several that are not told apart.
    """
    wanted = {"depth": None, **columns}
    chosen = []
    for rows in measured:
        same = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
        if len(same) != 1:
            raise SkipwiseError(f"{len(same)} rows have {wanted}; expected one")
        chosen += same
    return chosen
