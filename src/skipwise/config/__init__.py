"""The configuration of a run: one strict section for each stage (`*_settings`), read by `reading`.

Later sources replace earlier ones: defaults, YAML file, command-line options, `--set a.b=c`. An unknown key is an error
that names the nearest valid one.
"""

from skipwise.config.evaluation_settings import (
    DocumentQAConfig,
    EvaluationConfig,
    HarnessConfig,
    KeyValueConfig,
    KMaxConfig,
    LongPplConfig,
    NeedleConfig,
    RulerConfig,
    RulerTask,
    SummarizeConfig,
)
from skipwise.config.model_settings import ModelConfig, ScalingConfig
from skipwise.config.reading import dump_yaml, parse_settings, read_yaml, shown, validate
from skipwise.config.run_settings import RunConfig, SearchConfig
from skipwise.config.server import ServerConfig, is_url
from skipwise.config.stage import Stage
from skipwise.config.training_settings import (
    DEFAULT_TRAIN_LENGTH,
    AdapterConfig,
    DataConfig,
    PositionsConfig,
    TrainingConfig,
)
from skipwise.config.values import Length, as_length, merge, parse_length, read_factors, read_length

__all__ = [
    "DEFAULT_TRAIN_LENGTH",
    "AdapterConfig",
    "DataConfig",
    "DocumentQAConfig",
    "EvaluationConfig",
    "HarnessConfig",
    "KMaxConfig",
    "KeyValueConfig",
    "Length",
    "LongPplConfig",
    "ModelConfig",
    "NeedleConfig",
    "PositionsConfig",
    "RulerConfig",
    "RulerTask",
    "RunConfig",
    "ScalingConfig",
    "SearchConfig",
    "ServerConfig",
    "Stage",
    "SummarizeConfig",
    "TrainingConfig",
    "as_length",
    "dump_yaml",
    "is_url",
    "merge",
    "parse_length",
    "parse_settings",
    "read_factors",
    "read_length",
    "read_yaml",
    "shown",
    "validate",
]
