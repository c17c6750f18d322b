"""The settings of a run, composed of one section for each stage.

The docstring below a setting is its help text: `skipwise settings` prints it, and docs/settings.md is made from it. A
default is written in its section and nowhere else.
"""

from typing import Literal

from pydantic import Field

from skipwise.config.evaluation_settings import EvaluationConfig
from skipwise.config.model_settings import ModelConfig, ScalingConfig
from skipwise.config.stage import Stage
from skipwise.config.training_settings import AdapterConfig, DataConfig, PositionsConfig, TrainingConfig
from skipwise.config.values import Count, CountOrZero, Length, Seed


class SearchConfig(Stage):
    """Search of RoPE factors by `skipwise search` (docs/scaling.md)."""

    fitness: Literal["perplexity", "answers"] = "perplexity"
    """What candidates are judged by: perplexity of long text, or of answers to questions about facts hidden in it."""
    documents: Count = 4
    """Documents, the longest first."""
    depths: Count = 4
    """`answers`: places, evenly spread, at which a fact is hidden in each document."""
    population: Count = 64
    """Candidates of the first generation: the known scalings, and mutations of them."""
    generations: CountOrZero = 40
    """Generations after the first. A finished search continues when this is raised."""
    parents: Count = 32
    """Best candidates, which stay and have children."""
    mutations: CountOrZero = 16
    """Children of one parent in each generation."""
    crossovers: CountOrZero = 16
    """Children of two parents in each generation."""
    chance: float = Field(default=0.3, gt=0, le=1)
    """Probability that a dimension is changed, or taken from the other parent."""
    step: float = Field(default=0.01, gt=0)
    """Distance between the values that a factor can take."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Factor on cos and sin. √(1 + ln(factor) / ln(original)) when absent."""
    seed: Seed = 0
    """Seed of mutations, crossovers and hidden facts."""


class RunConfig(Stage):
    """A run of `skipwise extend`."""

    target_length: Length
    """Window that the model shall have, tokens (`32k` = 32,768)."""
    out: str = "runs/skipwise"
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    scaling: ScalingConfig = ScalingConfig()
    positions: PositionsConfig = PositionsConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    adapter: AdapterConfig = AdapterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
