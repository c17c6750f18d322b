"""Search RoPE factors for a longer window, without training.

This is LongRoPE's evolutionary search (arXiv 2402.13753). The fitness of a list of factors is the untrained model's
perplexity on long text or, after LongRoPE2 (arXiv 2502.20082), on the answers to questions about facts hidden in it.
`scaling.method=longrope scaling.factors=FILE` takes the file that it writes. `FILE.search.jsonl` beside it holds every
scored candidate, so that an interrupted search can be resumed and ends with the same factors.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig

from skipwise.config import ModelConfig, ScalingConfig, SearchConfig
from skipwise.data.recall_documents import Recall
from skipwise.errors import SkipwiseError
from skipwise.evals.document_losses import Document
from skipwise.evals.runner import load_documents
from skipwise.evals.tasks.perplexity import bos_id
from skipwise.jobs.early_checks import check_texts
from skipwise.models import configuration, sources
from skipwise.models.forward import token_nll
from skipwise.models.load import LoadedModel, apply, load
from skipwise.models.memory import check_memory
from skipwise.models.reach import reach
from skipwise.rope import evolution, hf_config, methods
from skipwise.rope.evolution import Factors, Tried
from skipwise.utils import progress
from skipwise.utils.atomic_files import append_jsonl, read_jsonl, write_text
from skipwise.utils.os_errors import check_writable

MOST = 1.25
"""Largest factor that is tried, as a share of target / original; the paper's."""


class Example(NamedTuple):
    """A text that candidates are scored on."""

    ids: npt.NDArray[np.int64]
    """(T,)"""
    scored: int
    """How many of the last tokens count."""


@dataclass(frozen=True)
class Judge:
    """Score lists of factors with one model on some examples."""

    loaded: LoadedModel
    target: int
    attention_factor: float | None
    original_length: int | None
    """As the user gave it."""
    examples: Sequence[Example] = ()

    def apply(self, factors: Factors) -> None:
        """Give the model these factors, in place of those it has.

        Raises:
            SkipwiseError: As `rope.scale`.
        """
        scaling = ScalingConfig(method="longrope", factors=list(factors), attention_factor=self.attention_factor)
        apply(self.loaded.model, scaling, target_length=self.target, original_length=self.original_length)

    def loss(self, factors: Factors) -> float:
        """Return the mean -log p of the scored tokens of all examples under these factors; infinite for NaN."""
        self.apply(factors)
        device, total = self.loaded.model.device, 0.0
        for example in self.examples:
            losses = token_nll(self.loaded.model, torch.from_numpy(example.ids)[None].to(device))[0]  # (T - 1,)
            total += losses[-example.scored :].double().sum().item()
        value = total / sum(example.scored for example in self.examples)
        return value if math.isfinite(value) else math.inf


def search(
    model: ModelConfig, settings: SearchConfig, *, target_length: int, data: list[str], out: Path
) -> dict[str, Any]:
    """Search factors and write them to a file.

    Args:
        model: The model to search for.
        settings: Size of the search, fitness and seed.
        target_length: Window that the factors are for, tokens.
        data: Files, folders, `datasets` ids or packaged names with at least one document of the target length.
        out: File for the factors. A search that was begun there is resumed.

    Returns:
        What the file holds: the factors, their perplexity and that of the known methods, and all that they depend on.

    Raises:
        SkipwiseError: For a model, text, target or file that cannot work, and for a file in which another search has
            begun.
    """
    state = _check_out(out)
    check_texts(data)
    starts = _starts(model, target_length)
    judge, documents = _judge(model, settings, starts["yarn"], target_length, data)
    header = _header(judge, settings, documents)
    losses = _earlier_losses(state, header)
    tried = _evolve(judge, settings, list(starts.values()), losses, state)
    if not math.isfinite(tried[0].value):
        raise SkipwiseError("no candidate has a finite loss; check that the model works within its original window")
    result = {
        "factors": list(tried[0].factors),
        "perplexity": math.exp(tried[0].value),
        "perplexity_of_seeds": {name: math.exp(losses[factors]) for name, factors in starts.items()},
        "attention_factor": hf_config.attention_factor(judge.loaded.model.config),
        "original_length": judge.loaded.original_length,
        "candidates": len(tried),
        **header,
    }
    write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def _starts(model: ModelConfig, target_length: int) -> dict[str, Factors]:
    """`seeds` of a model that is not loaded yet. Raises SkipwiseError if an extension would reach no layer."""
    config = configuration.read(sources.find(model))
    starts = seeds(config, target_length, model.original_length)
    original = model.original_length or hf_config.true_original_length(config)
    if refusal := reach(config, original, target_length).refusal:
        raise SkipwiseError(refusal)
    return starts


def _judge(
    model: ModelConfig, settings: SearchConfig, start: Factors, target_length: int, data: list[str]
) -> tuple[Judge, Sequence[Document]]:
    """Load the model, then read the documents and make the examples. `start` is any list of factors, tried at once."""
    judge = Judge(load(model), target_length, settings.attention_factor, model.original_length)
    judge.apply(start)  # what cannot work fails here, before the documents are read
    tokenizer = judge.loaded.tokenizer
    check_memory(judge.loaded.model, target_length)
    documents = load_documents(data, tokenizer, minimum=target_length, limit=settings.documents)
    return replace(judge, examples=make_examples(tokenizer, documents, settings, target_length)), documents


def _evolve(
    judge: Judge, settings: SearchConfig, starts: list[Factors], losses: dict[Factors, float], state: Path
) -> list[Tried]:
    """Run the search. New scores are added to `losses` and appended to the file `state`."""
    total = evolution.count(settings)
    with progress.bar("searching", total=total, unit="candidate", initial=min(len(losses), total)) as bar:

        def score(factors: Factors) -> float:
            if factors not in losses:
                value = judge.loss(factors)
                append_jsonl(state, {"factors": factors, "loss": value if math.isfinite(value) else None})
                losses[factors] = value
                bar.note(f"best perplexity {math.exp(min(losses.values())):.3f}")
                bar.advance()
            return losses[factors]

        return evolution.evolve(starts, settings, MOST * judge.target / judge.loaded.original_length, score)


def _check_out(out: Path) -> Path:
    """Return the file of scored candidates. Raises SkipwiseError where no file can be written."""
    if out.is_dir():
        raise SkipwiseError(f"{out} is a folder; give a file for the factors, such as {out / 'factors.json'}")
    check_writable(out)
    state = out.with_name(f"{out.name}.search.jsonl")
    read_jsonl(state)
    return state


def seeds(config: PreTrainedConfig, target: int, original_length: int | None = None) -> dict[str, Factors]:
    """Return the lists of factors that the search starts from, by name.

    These are the factors of the known methods, and those that the model carries, grown to the longer window by one
    power. All lie between 1 and the largest that is tried, and never decrease.

    Args:
        config: The model's configuration.
        target: Window that the factors are for, tokens.
        original_length: Window before any scaling; read from the configuration when absent.

    Raises:
        SkipwiseError: The target is within the window.
    """
    original = original_length or hf_config.true_original_length(config)
    if target <= original:
        raise SkipwiseError(f"target_length ({target}) must be above the original window ({original} tokens)")
    dim, theta = hf_config.rotary_dim(config), hf_config.parameters(config)["rope_theta"]
    plain = methods.plain_inv_freq(dim, theta)
    names = ["yarn", "yarn_revised", "critical", "llama3", "linear", *(["ntk"] if dim > 2 else [])]
    lists = {name: plain / methods.METHODS[name]().inv_freq(dim, theta, original, target) for name in names}
    carried = hf_config.carried(config)
    if carried.method not in ("none", "dynamic") and carried.target > carried.original:
        power = math.log(target / original) / math.log(carried.target / carried.original)
        lists["carried"] = hf_config.factors(config) ** power
    most = MOST * target / original  # a carried list can grow beyond what is tried
    rising = {name: np.maximum.accumulate([1.0, *factors])[1:].round(6) for name, factors in lists.items()}
    return {name: tuple(np.minimum(factors, most).tolist()) for name, factors in rising.items()}


def make_examples(tokenizer: Any, documents: Sequence[Document], settings: SearchConfig, length: int) -> list[Example]:
    """Return what candidates are scored on.

    For `perplexity` these are the starts of the documents, with all tokens scored. For `answers` each document hides a
    fact at one of `settings.depths` evenly spread places and ends with a question about it; the answer alone is scored.

    Args:
        tokenizer: Of the model.
        documents: (name, tokens), each of at least `length` tokens.
        settings: Fitness, depths and seed.
        length: Tokens of an example.
    """
    bos = bos_id(tokenizer, True)
    start = [] if bos is None else [bos]
    room = length - len(start)
    if settings.fitness == "perplexity":
        texts = [np.array([*start, *tokens[:room]], dtype=np.int64) for _, tokens in documents]
        return [Example(ids, len(ids) - 1) for ids in texts]
    recall, examples = Recall(tokenizer), []
    for i, (_, tokens) in enumerate(documents):
        for j in range(settings.depths):
            rng = np.random.default_rng([settings.seed, i, j])
            ids, answer = recall.needle(rng, np.asarray(tokens), room, (j + 0.5) / settings.depths)
            examples.append(Example(np.array([*start, *ids], dtype=np.int64), answer))
    return examples


def _header(judge: Judge, settings: SearchConfig, documents: Sequence[Document]) -> dict[str, Any]:
    """Return all that the scores depend on: two searches with equal headers score a candidate alike."""
    digest = hashlib.sha256(b"".join(example.ids.tobytes() for example in judge.examples)).hexdigest()[:16]
    return {
        "model": judge.loaded.name,
        "fingerprint": judge.loaded.fingerprint,
        "dtype": str(judge.loaded.model.dtype).removeprefix("torch."),
        "target_length": judge.target,
        "documents": [name for name, _ in documents],
        "data": digest,
        "search": settings.model_dump(),
    }


def _earlier_losses(state: Path, header: dict[str, Any]) -> dict[Factors, float]:
    """Return the losses that an interrupted search left. Raises SkipwiseError for another search.

    More generations than before continue the same search.
    """
    rows = read_jsonl(state)
    if not rows:
        append_jsonl(state, header)
        return {}
    for key in header:
        before, now = (_same_but_for_generations(each.get(key)) for each in (rows[0], header))
        if before != now:
            raise SkipwiseError(
                f"{state} holds a search with another {key}: {before} there, {now} now; give another --out"
            )
    return {tuple(row["factors"]): math.inf if row["loss"] is None else row["loss"] for row in rows[1:]}


def _same_but_for_generations(value: Any) -> Any:
    return {key: part for key, part in value.items() if key != "generations"} if isinstance(value, dict) else value
