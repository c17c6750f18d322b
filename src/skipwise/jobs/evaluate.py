"""Evaluate models: the same tasks at the same lengths for each, as rows that can be compared.

Everything that can be refused is refused before the first model is loaded.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from transformers import PreTrainedConfig

from skipwise.config import EvaluationConfig, ModelConfig, ScalingConfig, ServerConfig, is_url, validate
from skipwise.config.task_names import READS_DOCUMENTS
from skipwise.errors import SkipwiseError
from skipwise.evals import division, prompted, rows, runner, suites, tasks
from skipwise.evals.rows import Row
from skipwise.evals.served.client import Client
from skipwise.evals.served.deployment import Deployment, explore
from skipwise.evals.served.session import ServedSession
from skipwise.evals.task import Inputs, Task
from skipwise.evals.tasks import longppl, perplexity
from skipwise.models import checkpoint, configuration, families, sources
from skipwise.models.agreement import check_text
from skipwise.models.device import device_of
from skipwise.models.load import load
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from skipwise.runs.folder import model_of_run
from skipwise.training import processes
from skipwise.training.processes import Team
from skipwise.utils.os_errors import check_writable

Model = str | Path | ModelConfig | ServerConfig


@dataclass
class _Candidate:
    """A model that is not loaded yet, or one that is served."""

    config: ModelConfig | ServerConfig
    given: str
    """As the user named it."""
    name: str
    window: int
    """Tokens."""
    inputs: Inputs
    model: PreTrainedConfig | None
    documents: Sequence[runner.Document] = ()
    client: Client | None = None
    deployment: Deployment | None = None
    scaling: ScalingConfig | None = None
    """A scaling to `window` that the model gets while it is loaded."""

    def session(self, label: str = "", out: Path | None = None) -> ServedSession | None:
        """What a server is asked with; None for a model in this process."""
        if self.client is None or self.deployment is None:
            return None
        documents = self.documents
        return ServedSession(self.client, self.deployment, self.inputs, label=label, out=out, documents=documents)


def evaluate(
    models: Model | Sequence[Model],
    config: EvaluationConfig | Mapping[str, Any] | None = None,
    out: str | Path = "results.jsonl",
    *,
    scalings: Sequence[str] = (),
    usual_scalings: Sequence[str] = (),
) -> list[Row]:
    """Evaluate models and append their rows to a file.

    All models are measured at the same lengths; the processes of a job (torchrun) divide them. A row that `out` holds
    already is not measured again, so an interrupted evaluation goes on where it was.

    Args:
        models: One or several models: a run folder, a model folder, a hub id, a .gguf file, a packaged name, or a
            `ModelConfig` with such a path; or the URL of an OpenAI-compatible server, or a `ServerConfig`.
        config: Settings of the evaluation, such as `{"tasks": ["passkey"], "lengths": ["4k", "8k"]}`; the defaults for
            what is absent. `lengths` are tokens; when absent, they double from a quarter of the smallest window to the
            largest.
        out: File that rows are read from and appended to, one JSON object a line.
        scalings: Scalings that each model in process is measured with too, untrained, such as `dynamic:4`: a method
            and the factor of the window.
        usual_scalings: The same, for models that carry no scaling of their own.

    Returns:
        The rows of all models, the finished ones among them. None in a process of a job that is not the first.

    Raises:
        SkipwiseError: before the first model is loaded, for a model, a server, a setting, documents, a missing package
            or a file that cannot be used; later, for requests that a server fails again and again.
    """
    given = [models] if isinstance(models, Model) else list(models)
    settings = config if isinstance(config, EvaluationConfig) else validate(EvaluationConfig, dict(config or {}))
    if not given:
        raise SkipwiseError("no model to evaluate: give a folder, a hub id, a .gguf file or a packaged name")
    if not settings.tasks:
        raise SkipwiseError("evaluation.tasks is empty: expected names such as [perplexity, passkey]")
    reading = next((name for name in settings.tasks if name in READS_DOCUMENTS), None)
    if reading and not settings.data and settings.suite is None:
        raise SkipwiseError(f"{reading} needs documents: give them with --data, or choose --tasks passkey")
    with processes.joined(again="run the same command") as team, contextlib.ExitStack() as stack:
        return _evaluate(given, settings, Path(out), (scalings, usual_scalings), team, stack)


def _evaluate(
    given: Sequence[Model],
    settings: EvaluationConfig,
    out: Path,
    scalings: tuple[Sequence[str], Sequence[str]],
    team: Team,
    stack: contextlib.ExitStack,
) -> list[Row]:
    """`evaluate` in one of the processes of `team`. Connections to servers are closed with `stack`."""
    _check_out(out)
    if settings.suite is None:
        runner.check(settings)
    asked = [_scaling(text) for text in scalings[0]]
    plain = [_candidate(model, settings, stack) for model in given]
    if asked and all(candidate.client for candidate in plain):
        raise SkipwiseError("--scaling is for models in process and only servers are named; leave it out")
    candidates = [one for candidate in plain for one in _beside(candidate, *scalings)]
    windows = [candidate.window for candidate in candidates]
    lengths = list(settings.lengths or runner.default_lengths(min(windows), max(windows)))
    if settings.suite:
        models = [(candidate.inputs, candidate.session()) for candidate in candidates]
        settings = suites.fitted(settings, lengths, models)
        runner.check(settings)
    for candidate in candidates:
        _check_tasks(candidate, settings, lengths)
    names = Counter(candidate.name for candidate in candidates)
    if team.first:
        division.adopt(out)
    team.arrive("start")
    team.meet("start")
    measured: list[Row] = []
    for candidate in candidates:
        label = candidate.name if names[candidate.name] < 2 else candidate.given
        measured += _measure(candidate, settings, label, out, lengths, team)
    return measured


def _measure(
    candidate: _Candidate, settings: EvaluationConfig, label: str, out: Path, lengths: list[int], team: Team
) -> list[Row]:
    """The rows of one model; none in a process that is not the first."""
    documents, inputs = candidate.documents, candidate.inputs
    if candidate.client:
        session = candidate.session(label, out) if team.first else None
        return runner.evaluate_served(session, settings, lengths) if session else []
    assert isinstance(candidate.config, ModelConfig)
    target = candidate.window if candidate.scaling else None
    loaded = load(candidate.config, target_length=target, scaling=candidate.scaling)
    return runner.evaluate(loaded, settings, documents, label=label, out=out, lengths=lengths, inputs=inputs, team=team)


def _candidate(model: Model, settings: EvaluationConfig, stack: contextlib.ExitStack) -> _Candidate:
    """Find a model or a server. Errors: SkipwiseError for one that cannot be used."""
    if isinstance(model, ServerConfig):
        return _served(model, settings, stack)
    if not isinstance(model, ModelConfig) and is_url(str(model)):
        return _served(validate(ServerConfig, {"url": str(model)}, "server"), settings, stack)
    return _unloaded(model, settings)


def _served(config: ServerConfig, settings: EvaluationConfig, stack: contextlib.ExitStack) -> _Candidate:
    """Ask a server for its model. Its connection is closed with `stack`."""
    client = stack.enter_context(Client(config))
    deployment = explore(client, chat=settings.chat)
    inputs = Inputs(deployment.tokenizer, settings, deployment.chat is None or deployment.chat.continues)
    path = PurePath(deployment.name)
    name = f"{path.name if path.is_absolute() else deployment.name} (served)"
    given = config.address if config.model is None else f"{config.model} at {config.address}"
    return _Candidate(
        config, given, name, deployment.window, inputs, deployment.config, client=client, deployment=deployment
    )


def _unloaded(model: str | Path | ModelConfig, settings: EvaluationConfig) -> _Candidate:
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


def _beside(plain: _Candidate, scalings: Sequence[str], usual_scalings: Sequence[str]) -> list[_Candidate]:
    """A model, and the same with other scalings; a served model alone."""
    if plain.model is None or not isinstance(plain.config, ModelConfig):
        return [plain]
    bare = hf_config.describe(plain.model) is None
    asked = dict.fromkeys([*scalings, *(usual_scalings if bare else [])])
    return [plain, *(_scaled(plain, *_scaling(text)) for text in asked)]


def _scaling(text: str) -> tuple[ScalingConfig, float]:
    """(method, factor) of `dynamic:4`. Errors: SkipwiseError for anything else."""
    method, _, factor = text.partition(":")
    try:
        number = float(factor)
    except ValueError:
        number = math.nan
    if not 1 < number <= 10_000:
        raise SkipwiseError(f"--scaling {text}: expected a method and a factor above 1, such as dynamic:2,dynamic:4")
    return validate(ScalingConfig, {"method": method}, "scaling"), number


def _scaled(plain: _Candidate, scaling: ScalingConfig, factor: float) -> _Candidate:
    """The model with a scaling. Errors: SkipwiseError for one that does not apply."""
    assert isinstance(plain.config, ModelConfig)
    assert plain.model is not None
    original = plain.config.original_length or hf_config.true_original_length(plain.model)
    window = round(factor * original)
    values = scale(plain.model, scaling, target_length=window, original_length=plain.config.original_length)
    name = f"{plain.name} ({scaling.method} ×{factor:g})"
    given = f"{plain.given} ({scaling.method} ×{factor:g})"
    return replace(plain, name=name, given=given, window=window, model=values, scaling=scaling)


def _check_tasks(candidate: _Candidate, settings: EvaluationConfig, lengths: list[int]) -> None:
    """Read the documents and lay out the prompts. Errors: SkipwiseError for lengths that they do not reach or fit."""
    inputs, session = candidate.inputs, candidate.session()
    for name in dict.fromkeys(settings.tasks):
        task = tasks.task(name)
        if isinstance(task, Task):
            cells = prompted.grid((candidate.deployment and task.served) or task, inputs, lengths)
            if candidate.deployment:
                runner.check_admitted(candidate.deployment, max(cells, default=0))
        elif session:
            runner.check_served(name, session, lengths)
    if "longppl" in settings.tasks:
        longppl.rule(settings.longppl, max(lengths))
    if READS_DOCUMENTS & set(settings.tasks):
        candidate.documents = runner.load_documents(
            settings.data, inputs.tokenizer, minimum=max(lengths), limit=settings.documents
        )
        for name, ids in candidate.documents:
            if candidate.model is not None:
                check_text(name, ids, inputs.tokenizer, candidate.model)
        perplexity.choose(inputs, candidate.documents, lengths)


def _check_out(out: Path) -> None:
    """Errors: SkipwiseError for a file that holds no rows or cannot be written."""
    if out.is_dir():
        raise SkipwiseError(f"{out} is a folder; expected a file for rows, such as {out / 'results.jsonl'}")
    rows.read(out)
    check_writable(out)
