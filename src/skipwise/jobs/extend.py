"""The main job: extend a model as a configuration says, and leave everything about it in a run folder.

    config.yaml  environment.json  log.jsonl  checkpoints/step-…/  model/  results.jsonl  report.html

Every stage leaves its result in the folder and is skipped when it is there, so an interrupted run goes on where it was.
"""

import contextlib
import gc
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

from skipwise.config import ModelConfig, RunConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import division
from skipwise.evals import rows as rows_module
from skipwise.evals.runner import Document, evaluate
from skipwise.export import adapter_folder, hugging_face, source_card
from skipwise.export.model_card import write_card
from skipwise.jobs.early_checks import check_inputs, check_room
from skipwise.jobs.overlaps import said_overlaps
from skipwise.jobs.run_inputs import RunTexts, evaluation_documents, resolved_config, run_texts
from skipwise.models import configuration, merging, sources
from skipwise.models.agreement import check_text
from skipwise.models.checks import check_packing
from skipwise.models.load import LoadedModel, load
from skipwise.models.reach import reach
from skipwise.report.build import write_report
from skipwise.rope.scale import sharpen
from skipwise.runs.environment import environment, peak_memory, read_environment
from skipwise.runs.folder import check_folder, held_folder, open_folder
from skipwise.training import adapters, processes, sharding
from skipwise.training.processes import FINISHED, Team
from skipwise.training.teacher import Teacher
from skipwise.training.trainer import train
from skipwise.utils.atomic_files import atomic_folder, read_jsonl, write_text
from skipwise.utils.progress import say
from skipwise.utils.termination import terminable
from skipwise.utils.text import gigabytes_text, length_text

ENVIRONMENT = "environment.json"
RESULTS = "results.jsonl"


class Evaluation(NamedTuple):
    """What all processes of a job measure together."""

    config: RunConfig
    """Resolved."""
    model: ModelConfig
    documents: list[Document]
    """For perplexity."""
    label: str
    overlaps: dict[str, float]
    """By task, the share of its texts' passages that the training text holds too."""


def extend(config: RunConfig, *, resume: bool = False) -> Path:
    """Extend a model's window: measure it, train it, save it, measure it again and write a report.

    Args:
        config: All settings of the run.
        resume: Go on with the run in the folder `config.out`, if there is one. What it finished is not done again.

    Returns:
        The run folder.

    Raises:
        SkipwiseError: For whatever cannot work, before anything is trained where that can be known; in training for a
            loss that is not finite.
        Terminated: After SIGTERM. A resumed run goes on from the last whole step.
    """
    with terminable(), processes.joined() as team:
        processes.check(config, team.place)
        if team.first:
            _extend(config, resume, team)
            team.finish(FINISHED)
        else:
            _help(team)
    return Path(config.out)


def _extend(config: RunConfig, resume: bool, team: Team) -> None:
    """Do all of a run but the part of the measurements and of the training that other processes do."""
    folder = Path(config.out)
    check_folder(folder, resume)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_folder(folder))
        check_inputs(config)
        rows_module.read(folder / RESULTS)
        lengths_given = config.evaluation.lengths is not None
        model = configuration.read(sources.find(config.model))
        config = resolved_config(config, model)
        layers = _unreached_layers(config, model)
        loaded = load(config.model)
        if config.adapter.method != "none":
            adapters.check_settings(loaded.model, config.adapter)
        texts = run_texts(config, loaded.tokenizer) if config.data.paths else None
        if texts:
            stack.callback(texts.close)
        config, documents = evaluation_documents(config, loaded.tokenizer, texts, lengths_given=lengths_given)
        stores = [spans.store for spans in texts.held_out] + texts.conversations if texts else []
        if texts and texts.conversations:
            check_packing(loaded.model)
        texts_to_read = [("data", store.tokens) for store in stores]
        for name, ids in [*texts_to_read, *documents]:
            check_text(name, ids, loaded.tokenizer, model)
        trained = (folder / "model").exists()
        if texts and not trained:
            length, size = texts.examples.example_length, team.place.size
            check_room(loaded, config, length, resume=resume, processes=size)
        overlaps = said_overlaps(config, texts, documents) if texts and texts.learned else {}
        open_folder(config, folder, resume)
        division.adopt(folder / RESULTS)
        known: dict[str, Any] = {"layers": layers, "source": source_card.facts(config.model)}
        if team.place.size > 1:
            known["processes"] = team.place.size
        if texts and texts.conversations:
            known["conversations"] = [store.describe() for store in texts.conversations]
        facts = _environment(loaded, folder, known)
        _evaluate(loaded, Evaluation(config, config.model, documents, "original", overlaps), team)
        del loaded
        gc.collect()
        if not trained:
            facts |= _train(config, texts, folder, resume, team)
            write_text(folder / ENVIRONMENT, json.dumps(facts, indent=2))
        extended = config.model.model_copy(update={"path": str(folder / "model"), "revision": None})
        _evaluate(load(extended), Evaluation(config, extended, documents, "extended", overlaps), team)
        write_card(folder / "model", config, facts, rows_module.read(folder / RESULTS))
        write_report([folder], folder / "report.html")


def _help(team: Team) -> None:
    """Wait for the first process of the job, and measure and train with it when it does."""
    while (message := team.wait()) != FINISHED:
        if isinstance(message, Evaluation):
            _measure(load(message.model), message, team)
        else:
            config, resume = message
            _train(config, None, Path(config.out), resume, team)
        gc.collect()


def _unreached_layers(config: RunConfig, model: PreTrainedConfig) -> list[str]:
    """Say which layers the extension does not reach. Raises SkipwiseError where it reaches none."""
    assert config.model.original_length is not None
    layers = reach(model, config.model.original_length, config.target_length)
    if layers.refusal:
        raise SkipwiseError(layers.refusal)
    for note in layers.notes:
        say(note)
    return list(layers.notes)


def _environment(loaded: LoadedModel, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The facts of environment.json, which is written where there is none or a damaged one. `known`: further ones."""
    facts = read_environment(folder / ENVIRONMENT)
    if facts is None:
        facts = environment(loaded) | known
        if seconds := [row["seconds"] for row in read_jsonl(folder / "log.jsonl") if "seconds" in row]:
            facts["train_seconds"] = max(seconds)
        write_text(folder / ENVIRONMENT, json.dumps(facts, indent=2))
    return facts


def _evaluate(loaded: LoadedModel, evaluation: Evaluation, team: Team) -> None:
    """Measure a model with the other processes."""
    team.tell(evaluation)
    _measure(loaded, evaluation, team)


def _measure(loaded: LoadedModel, evaluation: Evaluation, team: Team) -> None:
    """The part of an evaluation that every process has."""
    settings = evaluation.config.evaluation
    out, lengths = Path(evaluation.config.out) / RESULTS, settings.lengths or []
    evaluate(
        loaded,
        settings,
        evaluation.documents,
        label=evaluation.label,
        out=out,
        lengths=lengths,
        team=team,
        overlaps=evaluation.overlaps,
    )


def _teacher(config: RunConfig, loaded: LoadedModel, adapted: bool) -> Teacher:
    """Return the original model as a teacher: the frozen base of adapters, or a second copy of the weights."""
    weight = config.training.distill
    if adapted:
        return Teacher(loaded.model, weight, plain=configuration.read(sources.find(config.model)))
    original = load(config.model).model
    size = sum(weight.nbytes for weight in original.parameters())
    say(f"training.distill: the original model is held beside the trained one, {gigabytes_text(size)}")
    return Teacher(original, weight)


def _train(config: RunConfig, texts: RunTexts | None, folder: Path, resume: bool, team: Team) -> dict[str, Any]:
    """Scale, train and save the model.

    Args:
        config: The resolved configuration.
        texts: Opened by the first process; None where there are none, and in the other processes, which open them.
        folder: The run folder, in which the first process writes.
        resume: Go on from the last checkpoint.
        team: Processes that train together.

    Returns:
        The figures of the training for environment.json; empty in all processes but the first.
    """
    training, figures = config.training, dict[str, Any]()
    learns = bool(training.steps and config.data.paths)
    adapted = config.adapter.method != "none" and training.steps > 0
    if learns:
        team.tell((config, resume))
    with team.training() if learns else contextlib.nullcontext():
        loaded = load(
            config.model,
            target_length=config.target_length,
            scaling=config.scaling,
            dtype=None if adapted else torch.float32,
            four_bit=adapted and config.adapter.method == "qlora",
        )
        wrapped = adapters.attach(loaded.model, config.adapter, training.seed) if adapted else None
        if learns:
            texts = texts or run_texts(config, loaded.tokenizer)
            tokens = length_text(texts.examples.example_length)
            per_step = training.batch_size * training.gradient_accumulation
            several = f" in {team.place.size} processes" if team.place.size > 1 else ""
            say(f"training: {training.steps:,} steps of {per_step:,} examples of {tokens} tokens{several}")
            figures = train(
                loaded.model,
                training,
                texts.examples,
                texts.validation,
                folder=folder,
                precision=config.model.precision,
                resume=resume,
                teacher=_teacher(config, loaded, adapted) if training.distill else None,
            )
            if training.sharpen != 1:  # the saved configuration; nothing is computed with this model any more
                sharpen(loaded.model.config, training.sharpen)
        model = loaded.model
        if wrapped is not None:
            wrapped = adapters.gathered(wrapped, config.adapter)
        else:
            model = sharding.gathered(model, lambda: sharding.unfilled(loaded.model), torch.bfloat16)
    if not team.first:
        return {}
    figures["peak_memory_bytes"] = peak_memory()
    figures["trained_parameters"] = sharding.trained_parameters(loaded.model)
    if wrapped is not None:
        with atomic_folder(folder / "adapter") as written:
            adapters.save(wrapped, written, config.model)
            adapter_folder.complete(written, wrapped.get_base_model().config, loaded.tokenizer, config)
        model = merging.merge(wrapped, torch.bfloat16)
    hugging_face.save(model, loaded.tokenizer, folder / "model", window=config.target_length, dtype=torch.bfloat16)
    return figures
