"""The main job: extend a model as a configuration says, and leave everything about it in a run folder.

    config.yaml  environment.json  log.jsonl  checkpoints/step-…/  model/  results.jsonl  report.html

Every stage leaves its result in the folder and is skipped when it is there, so an interrupted run goes on where it was.
"""

import dataclasses
import gc
import json
from pathlib import Path
from typing import Any

import torch

from skipwise.config import DEFAULT_TRAIN_LENGTH, RunConfig, merge, validate
from skipwise.data import token_store
from skipwise.data.recall_documents import Recall
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.data.token_store import Spans
from skipwise.data.tokenising import leading_bos
from skipwise.errors import SkipwiseError
from skipwise.evals import rows as rows_module
from skipwise.evals.rows import Row
from skipwise.evals.runner import default_lengths, evaluate, load_documents
from skipwise.evals.task import Inputs
from skipwise.evals.tasks import passkey, perplexity
from skipwise.export import hugging_face, source_card
from skipwise.export.model_card import write_card
from skipwise.jobs.early_checks import check_inputs, check_room
from skipwise.models.load import LoadedModel, load
from skipwise.models.reach import reach
from skipwise.positions.sampler import sampler_from_config
from skipwise.report.build import write_report
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from skipwise.runs.environment import environment, peak_memory, read_environment
from skipwise.runs.folder import check_folder, held_folder, open_folder
from skipwise.runs.processes import refuse_several_processes
from skipwise.training.trainer import train
from skipwise.utils.atomic_files import read_jsonl, write_text
from skipwise.utils.progress import say
from skipwise.utils.termination import terminable
from skipwise.utils.text import length_text

ENVIRONMENT = "environment.json"
RESULTS = "results.jsonl"


def resolve(config: RunConfig, loaded: LoadedModel) -> RunConfig:
    """`config` with everything that depends on the model written out. Errors: SkipwiseError for lengths that clash."""
    original, target = loaded.original_length, config.target_length
    if target <= original:
        raise SkipwiseError(
            f"target_length {target:,} is not beyond the model's own window of {original:,} tokens; "
            f"give a longer one, e.g. --target {4 * original}"
        )
    train_length = config.training.train_length or min(original, DEFAULT_TRAIN_LENGTH)
    if train_length > original and config.positions.sampler != "full":
        raise SkipwiseError(
            f"training.train_length {train_length:,} is longer than the model's own window of {original:,} tokens; "
            "skipped positions need no more than that"
        )
    scaled = scale(
        loaded.model.config, config.scaling, target_length=target, original_length=config.model.original_length
    )
    if config.training.steps:
        hf_config.refuse_training(scaled)
    precision = str(loaded.model.dtype).removeprefix("torch.")
    found = {
        "model": {"original_length": original, "precision": precision},
        "training": {"train_length": train_length},
        "evaluation": {"lengths": config.evaluation.lengths or default_lengths(original, target)},
    }
    return validate(RunConfig, merge(config.model_dump(), found))


def _reach(config: RunConfig, loaded: LoadedModel) -> list[str]:
    """Say which layers the extension does not reach. Errors: SkipwiseError where it reaches none."""
    layers = reach(loaded.model.config, loaded.original_length, config.target_length)
    if layers.refusal:
        raise SkipwiseError(layers.refusal)
    for note in layers.notes:
        say(note)
    return list(layers.notes)


class Data:
    """Text of a run: examples to train on, examples for the validation losses, documents for perplexity."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        training = config.training
        assert training.train_length is not None
        sampler = sampler_from_config(
            config.positions,
            train_length=training.train_length,
            target_length=config.target_length,
            seed=training.seed,
        )
        store = token_store.open_store(config.data, tokenizer)
        usable = token_store.usable(store, sampler.document_length)
        short = token_store.left_out(store, sampler.document_length)
        say(
            f"text: {len(usable):,} documents, {int(store.lengths[usable].sum()):,} tokens; left out "
            f"{short.documents:,} shorter than {sampler.document_length:,} tokens ({short.tokens:,} tokens)"
        )
        spans = token_store.split(store, usable, config.data.validation, sampler.document_length)
        learn, held = (Spans(store, part) for part in spans)
        recall = Recall(tokenizer) if config.data.recall else None
        steps = training.steps * training.batch_size * training.gradient_accumulation
        common: dict[str, Any] = {"bos": leading_bos(tokenizer), "mask_seams": training.mask_seams}
        self.examples = SkippedPositions(
            learn,
            sampler=sampler,
            **common,
            examples=max(steps, 1),
            recall=recall,
            recall_share=config.data.recall,
        )
        samplers = {"skipped": sampler, "plain": dataclasses.replace(sampler, name="original")}
        self.validation = {
            name: SkippedPositions(held, sampler=one, **common, examples=training.validation_examples)
            for name, one in samplers.items()
        }
        self.held = held

    def documents(self) -> list[perplexity.Document]:
        """The held-out parts, longest first."""
        order = sorted(range(len(self.held)), key=lambda i: -int(self.held.lengths[i]))
        return [(self.held.name(i), self.held[i]) for i in order[:64]]


def _evaluation_documents(
    config: RunConfig, tokenizer: Any, data: Data, *, named: bool
) -> tuple[RunConfig, list[perplexity.Document]]:
    """Documents for perplexity, and the configuration with lengths that they reach.

    Lengths that the user `named` are all kept. Errors: SkipwiseError when the documents do not reach them.
    """
    wanted = config.evaluation
    assert wanted.lengths is not None
    if wanted.data and "perplexity" in wanted.tasks:
        limit = wanted.documents
        return config, load_documents(wanted.data, tokenizer, minimum=max(wanted.lengths), limit=limit)
    documents = data.documents()
    longest = len(documents[0][1])
    reached = [length for length in wanted.lengths if length <= longest]
    if len(reached) == len(wanted.lengths) or "perplexity" not in wanted.tasks:
        return config, documents
    said = f"perplexity: the longest held-out text has {longest:,} tokens"
    if named or not reached:
        raise SkipwiseError(
            f"{said}, evaluation.lengths go up to {max(wanted.lengths):,}; name longer documents with evaluation.data"
        )
    say(f"{said}, so it is measured up to {max(reached):,}; name longer documents with evaluation.data")
    minimum = passkey.minimum_length(Inputs(tokenizer, wanted))
    found = {
        "lengths": reached,
        "retrieval_lengths": wanted.retrieval_lengths or [n for n in wanted.lengths if n >= minimum],
    }
    return validate(RunConfig, merge(config.model_dump(), {"evaluation": found})), documents


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
    folder = Path(config.out)
    refuse_several_processes()
    check_folder(folder, resume)
    with terminable(), held_folder(folder):
        check_inputs(config)
        rows_module.read(folder / RESULTS)
        loaded = load(config.model)
        named = config.evaluation.lengths is not None
        config = resolve(config, loaded)
        layers = _reach(config, loaded)
        data = Data(config, loaded.tokenizer)
        config, documents = _evaluation_documents(config, loaded.tokenizer, data, named=named)
        trained = (folder / "model").exists()
        if not trained:
            check_room(loaded, config, data.examples.sampler.example_length, resume=resume)
        open_folder(config, folder, resume)
        facts = _environment(loaded, folder, {"layers": layers, "source": source_card.facts(config.model)})
        _evaluate(loaded, config, documents, "original", folder)
        del loaded
        gc.collect()
        if not trained:
            facts |= _train(config, data, folder, resume)
            write_text(folder / ENVIRONMENT, json.dumps(facts, indent=2))
        extended = load(config.model.model_copy(update={"path": str(folder / "model"), "revision": None}))
        _evaluate(extended, config, documents, "extended", folder)
        write_card(folder / "model", config, facts, rows_module.read(folder / RESULTS))
        write_report([folder], folder / "report.html")
    return folder


def _environment(loaded: LoadedModel, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The facts of environment.json, which is written where there is none or a damaged one. `known`: further ones."""
    facts = read_environment(folder / ENVIRONMENT)
    if facts is None:
        facts = environment(loaded) | known
        if seconds := [row["seconds"] for row in read_jsonl(folder / "log.jsonl") if "seconds" in row]:
            facts["train_seconds"] = max(seconds)
        write_text(folder / ENVIRONMENT, json.dumps(facts, indent=2))
    return facts


def _evaluate(
    loaded: LoadedModel, config: RunConfig, documents: list[perplexity.Document], label: str, folder: Path
) -> list[Row]:
    lengths = config.evaluation.lengths or []
    return evaluate(loaded, config.evaluation, documents, label=label, out=folder / RESULTS, lengths=lengths)


def _train(config: RunConfig, data: Data, folder: Path, resume: bool) -> dict[str, Any]:
    """Scale, train and save the model. Returns the figures of the training for environment.json."""
    training, tokens = config.training, data.examples.sampler.example_length
    loaded = load(config.model, target_length=config.target_length, scaling=config.scaling, dtype=torch.float32)
    per_step = training.batch_size * training.gradient_accumulation
    say(f"training: {training.steps:,} steps of {per_step:,} examples of {length_text(tokens)} tokens")
    figures = train(
        loaded.model,
        training,
        data.examples,
        data.validation,
        folder=folder,
        precision=config.model.precision,
        resume=resume,
    )
    figures["peak_memory_bytes"] = peak_memory()
    hugging_face.save(
        loaded.model, loaded.tokenizer, folder / "model", window=config.target_length, dtype=torch.bfloat16
    )
    return figures
