"""Evaluate models: the same tasks at the same lengths for each, as rows that can be compared.

Everything that can be refused is refused before the first model is loaded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from skipwise.config import EvaluationConfig, ModelConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.evals import prompted, rows, runner, tasks
from skipwise.evals.rows import Row
from skipwise.evals.task import Inputs, Task
from skipwise.evals.tasks import perplexity
from skipwise.models import checkpoint, configuration, families, sources
from skipwise.models.agreement import check_text
from skipwise.models.device import device_of
from skipwise.models.load import load
from skipwise.rope import hf_config
from skipwise.runs.folder import model_of_run
from skipwise.utils.os_errors import check_writable


@dataclass
class _Candidate:
    """A model that is not loaded yet."""

    config: ModelConfig
    given: str
    """As the user named it."""
    name: str
    window: int
    """Tokens."""
    inputs: Inputs
    model: PreTrainedConfig
    documents: Sequence[runner.Document] = ()


def evaluate(
    models: str | Path | ModelConfig | Sequence[str | Path | ModelConfig],
    config: EvaluationConfig | Mapping[str, Any] | None = None,
    out: str | Path = "results.jsonl",
) -> list[Row]:
    """Evaluate models and append their rows to a file.

    All models are measured at the same lengths. A row that `out` holds already is not measured again, so an interrupted
    evaluation goes on where it was.

    Args:
        models: One or several models: a run folder, a model folder, a hub id, a .gguf file, a packaged name, or a
            `ModelConfig` with such a path.
        config: Settings of the evaluation, such as `{"tasks": ["passkey"], "lengths": ["4k", "8k"]}`; the defaults for
            what is absent. `lengths` are tokens; when absent, they double from a quarter of the smallest window to the
            largest.
        out: File that rows are read from and appended to, one JSON object a line.

    Returns:
        The rows of all models, the finished ones among them.

    Raises:
        SkipwiseError: before the first model is loaded, for a model, a setting, documents, a missing package or a file
            that cannot be used.
    """
    given = [models] if isinstance(models, str | Path | ModelConfig) else list(models)
    settings = config if isinstance(config, EvaluationConfig) else validate(EvaluationConfig, dict(config or {}))
    out = Path(out)
    if not given:
        raise SkipwiseError("no model to evaluate: give a folder, a hub id, a .gguf file or a packaged name")
    if not settings.tasks:
        raise SkipwiseError("evaluation.tasks is empty: expected names such as [perplexity, passkey]")
    if "perplexity" in settings.tasks and not settings.data:
        raise SkipwiseError("perplexity needs documents: give them with --data, or choose --tasks passkey")
    _check_out(out)
    runner.check(settings)
    candidates = [_candidate(model, settings) for model in given]
    windows = [candidate.window for candidate in candidates]
    lengths = list(settings.lengths or runner.default_lengths(min(windows), max(windows)))
    for candidate in candidates:
        _check_tasks(candidate, settings, lengths)
    names = Counter(candidate.name for candidate in candidates)
    measured: list[Row] = []
    for candidate in candidates:
        label = candidate.name if names[candidate.name] < 2 else candidate.given
        measured += runner.evaluate(
            load(candidate.config),
            settings,
            candidate.documents,
            label=label,
            out=out,
            lengths=lengths,
            inputs=candidate.inputs,
        )
    return measured


def _candidate(model: str | Path | ModelConfig, settings: EvaluationConfig) -> _Candidate:
    """Find a model and read its configuration and tokenizer. Errors: SkipwiseError for one that cannot be loaded."""
    config = model if isinstance(model, ModelConfig) else validate(ModelConfig, {"path": str(model)}, "model")
    given, run = config.path, model_of_run(config.path)
    if run:
        config = config.model_copy(update={"path": str(run)})
    source = sources.find(config)
    device_of(config.device)
    values = configuration.read(source)
    families.architecture(values)
    name = run.parent.resolve().name if run else source.name
    inputs = Inputs(checkpoint.tokenizer(source), settings)
    return _Candidate(config, given, name, hf_config.window(values), inputs, values)


def _check_tasks(candidate: _Candidate, settings: EvaluationConfig, lengths: list[int]) -> None:
    """Read the documents and lay out the prompts. Errors: SkipwiseError for lengths that they do not reach or fit."""
    inputs = candidate.inputs
    for name in dict.fromkeys(settings.tasks):
        task = tasks.task(name)
        if isinstance(task, Task):
            prompted.grid(task, inputs, lengths)
    if "perplexity" in settings.tasks:
        candidate.documents = runner.load_documents(
            settings.data, inputs.tokenizer, minimum=max(lengths), limit=settings.documents
        )
        for name, ids in candidate.documents:
            check_text(name, ids, inputs.tokenizer, candidate.model)
        perplexity.choose(inputs, candidate.documents, lengths)


def _check_out(out: Path) -> None:
    """Errors: SkipwiseError for a file that holds no rows or cannot be written."""
    if out.is_dir():
        raise SkipwiseError(f"{out} is a folder; expected a file for rows, such as {out / 'results.jsonl'}")
    rows.read(out)
    check_writable(out)
