"""The configuration of a run: one strict section for each stage (`sections`), read by `reading`.

Defaults < YAML file < command-line options < `--set a.b=c`. An unknown key is an error that names the nearest valid
one.
"""

from skipwise.config.reading import dump_yaml, merge, parse_settings, read_yaml, validate
from skipwise.config.sections import (
    DEFAULT_TRAIN_LENGTH,
    DataConfig,
    DocumentQAConfig,
    EvaluationConfig,
    HarnessConfig,
    KeyValueConfig,
    KMaxConfig,
    Length,
    ModelConfig,
    NeedleConfig,
    PositionsConfig,
    RulerConfig,
    RulerTask,
    RunConfig,
    ScalingConfig,
    SearchConfig,
    Stage,
    SummarizeConfig,
    TrainingConfig,
    parse_length,
    read_factors,
)

__all__ = [
    "DEFAULT_TRAIN_LENGTH",
    "DataConfig",
    "DocumentQAConfig",
    "EvaluationConfig",
    "HarnessConfig",
    "KMaxConfig",
    "KeyValueConfig",
    "Length",
    "ModelConfig",
    "NeedleConfig",
    "PositionsConfig",
    "RulerConfig",
    "RulerTask",
    "RunConfig",
    "ScalingConfig",
    "SearchConfig",
    "Stage",
    "SummarizeConfig",
    "TrainingConfig",
    "dump_yaml",
    "merge",
    "parse_length",
    "parse_settings",
    "read_factors",
    "read_yaml",
    "validate",
]
