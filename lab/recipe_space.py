"""The settings that the search for a recipe tries: the space, the baselines, and balanced draws from the space."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lab.bench import WINDOW, Settings
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler
from skipwise.rope.methods import yarn_attention

FACTOR = 16
ATTENTION, SHARPEN = "scaling.attention_factor", "training.sharpen"
SPACE: dict[str, Sequence[Any]] = {
    "positions.sampler": ["pose", "stratified", "cream", "endprompt", "curriculum"],
    "positions.chunks": [2, 3, 4],
    "scaling.method": ["yarn", "critical", "ntk", "linear"],
    ATTENTION: [1.0, 1.1],
    SHARPEN: [1.0, 1.15],
    "training.train_length": [WINDOW, WINDOW // 2],
    "training.learning_rate": [3e-4, 1e-3, 2e-3],
    "data.recall": [0.3, 0.5, 0.7],
    "data.plain": [0.0, 0.2],
    "training.distill": [0.0, 0.5, 1.0],
}
"""Values of each setting. Attention factors are multiples of YaRN's own."""
MOST_CANDIDATES = 1000
"""Far below the number of distinct settings, so that drawing ends."""
WITH_ATTENTION = ("yarn", "critical")
"""Scalings that take an attention factor, in training and, sharpened, after it."""
BASELINES: dict[str, dict[str, Any]] = {
    "PoSE, linear": {"positions.sampler": "pose", "scaling.method": "linear", "data.recall": 0.5},
    "PoSE, YaRN": {"positions.sampler": "pose", "scaling.method": "yarn", "data.recall": 0.5},
}
RECIPES = Path(__file__).parent.parent / "recipes"
PACKAGED = RECIPES / "bundled.yaml"


@dataclass(frozen=True)
class Candidate:
    """Settings with a name."""

    name: str
    settings: dict[str, Any]
    baseline: bool = False

    @property
    def described(self) -> str:
        """`sampler pose, chunks 3 …`."""
        return ", ".join(f"{key.partition('.')[2]} {value}" for key, value in self.settings.items())


def budgeted(settings: Mapping[str, Any], steps: int, factor: int) -> Settings:
    """Settings of a training of `steps` × 8 windows of tokens towards `factor` windows."""
    length = settings.get("training.train_length", WINDOW)
    budget = {"training.batch_size": 8 * WINDOW // length, "training.steps": steps}
    return {"target_length": factor * WINDOW, **settings, **budget, "training.warmup_steps": steps // 12}


@functools.cache
def settings_of(recipe: Path) -> dict[str, Any]:
    """What the recipe of a file trains, by dotted keys: without its evaluation and its folder."""
    parts: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    settings = {"target_length": parts["target_length"]}
    for part in ("model", "scaling", "positions", "data", "training"):
        settings |= {f"{part}.{key}": value for key, value in parts.get(part, {}).items()}
    return settings


def packaged() -> dict[str, Any]:
    """The settings of the packaged model's recipe that the search tries."""
    return {key: value for key, value in settings_of(PACKAGED).items() if key in {*SPACE, "positions.text"}}


def without_unused(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of positions that their sampler does not use."""
    uses = Sampler(settings["positions.sampler"], WINDOW, FACTOR * WINDOW).final.method.uses
    unused = {f"positions.{name}" for name in ("chunks", "text") if name not in uses}
    return {key: value for key, value in settings.items() if key not in unused}


def baselines(factor: int = FACTOR) -> list[Candidate]:
    """What every rung trains: PoSE with two scalings and, at its own factor, the packaged model's recipe."""
    chosen = {**BASELINES, **({"the packaged recipe": packaged()} if factor == FACTOR else {})}
    return [Candidate(name, settings, baseline=True) for name, settings in chosen.items()]


def candidates(count: int, seed: int, factor: int = FACTOR) -> list[Candidate]:
    """The baselines, and distinct draws from the space in which every value of a setting is drawn as often.

    Args:
        count: Draws.
        seed: Of the draws.
        factor: Windows in the target.

    Raises:
        SkipwiseError: For a number of draws that there cannot be.
    """
    if not 1 <= count <= MOST_CANDIDATES:
        raise SkipwiseError(f"--candidates {count}: expected 1 to {MOST_CANDIDATES:,}")
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Any]] = []
    while len(drawn) < count:
        columns = [rng.permutation(np.resize(rng.permutation(len(values)), count)) for values in SPACE.values()]
        for places in zip(*columns, strict=True):
            values = {key: of[int(place)] for (key, of), place in zip(SPACE.items(), places, strict=True)}
            settings = applicable(values, factor)
            if settings not in drawn:
                drawn.append(settings)
    return [*baselines(factor), *(Candidate(f"#{n}", settings) for n, settings in enumerate(drawn[:count], 1))]


def applicable(values: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """The settings of one draw, without those that its sampler or scaling does not use."""
    # The teacher reads only text that does not skip.
    text = {"positions.text": "contiguous"} if values["training.distill"] else {}
    settings = without_unused({**values, **text})
    times = settings.pop(ATTENTION)
    if settings["scaling.method"] not in WITH_ATTENTION:
        del settings[SHARPEN]
    elif times != 1:
        settings[ATTENTION] = round(yarn_attention(factor) * times, 2)
    return settings
