"""Search of RoPE factors for a longer window: a model and long texts flow in; a file of factors flows out.

LongRoPE's evolutionary search (arXiv 2402.13753), whose fitness is the untrained model's perplexity on long text, or,
after LongRoPE2 (arXiv 2502.20082), on the answers to questions about facts hidden in it. The file is what
`scaling.method=longrope scaling.factors=FILE` takes. Beside it, `FILE.search.jsonl` keeps every scored candidate, so
that an interrupted search goes on where it was and finds what it would have found.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from skipwise.config import ModelConfig, ScalingConfig, SearchConfig
from skipwise.data.recall_documents import Recall
from skipwise.errors import SkipwiseError
from skipwise.evals.runner import load_documents
from skipwise.evals.tasks.perplexity import Document, bos_id
from skipwise.models.forward import token_nll
from skipwise.models.load import LoadedModel, apply, load
from skipwise.models.memory import check_memory
from skipwise.rope import evolution, hf_config, methods
from skipwise.rope.evolution import Factors
from skipwise.utils import progress
from skipwise.utils.atomic_files import append_jsonl, read_jsonl, write_text

MOST = 1.25
"""Largest factor that is tried, as a share of target / original; the paper's."""


class Example(NamedTuple):
    ids: npt.NDArray[np.int64]
    """(T,)"""
    scored: int
    """How many of the last tokens count."""


@dataclass(frozen=True)
class Judge:
    """One model and what its factors are judged by."""

    loaded: LoadedModel
    target: int
    attention_factor: float | None
    original_length: int | None
    """As the user gave it."""
    examples: Sequence[Example] = ()

    def apply(self, factors: Factors) -> None:
        """Give the model these factors, in place of those it has. Errors: as `rope.scale`."""
        scaling = ScalingConfig(method="longrope", factors=list(factors), attention_factor=self.attention_factor)
        apply(self.loaded.model, scaling, target_length=self.target, original_length=self.original_length)

    def loss(self, factors: Factors) -> float:
        """Mean -log p of the scored tokens of all examples under these factors; infinite where it is no number."""
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
    """Search factors for `target_length` tokens and write them to `out`; what was written comes back.

    `data`: files, folders, `datasets` ids or packaged names with at least one document of the target length. Errors:
    SkipwiseError for a model, text or target that cannot work, and for a file that another search has begun.
    """
    loaded = load(model)
    judge = Judge(loaded, target_length, settings.attention_factor, model.original_length)
    found = seeds(loaded, target_length)
    judge.apply(found["yarn"])  # whatever cannot work fails here
    check_memory(loaded.model, target_length)
    documents = load_documents(data, loaded.tokenizer, minimum=target_length, limit=settings.documents)
    examples = make_examples(loaded.tokenizer, documents, settings, target_length)
    judge = Judge(loaded, target_length, settings.attention_factor, model.original_length, examples)
    header = _header(loaded, settings, target_length, examples, documents)
    state = out.with_name(f"{out.name}.search.jsonl")
    known = _known(state, header)
    total = evolution.count(settings)
    with progress.bar("searching", total=total, unit="candidate", initial=min(len(known), total)) as bar:

        def score(factors: Factors) -> float:
            if factors not in known:
                value = judge.loss(factors)
                append_jsonl(state, {"factors": factors, "loss": value if math.isfinite(value) else None})
                known[factors] = value
                bar.note(f"best perplexity {math.exp(min(known.values())):.3f}")
                bar.advance()
            return known[factors]

        most = MOST * target_length / loaded.original_length
        tried = evolution.evolve(list(found.values()), settings, most, score)
    if not math.isfinite(tried[0].value):
        raise SkipwiseError("no candidate has a finite loss; check that the model works within its own window")
    result = {
        "factors": list(tried[0].factors),
        "perplexity": math.exp(tried[0].value),
        "perplexity_of_seeds": {name: math.exp(known[factors]) for name, factors in found.items()},
        "attention_factor": hf_config.attention_factor(loaded.model.config),
        "original_length": loaded.original_length,
        "candidates": len(tried),
        **header,
    }
    write_text(out, json.dumps(result, indent=1) + "\n")
    return result


def seeds(loaded: LoadedModel, target: int) -> dict[str, Factors]:
    """Where the search starts: the factors of the known methods, and those that the model carries, grown to the longer
    window by one power. All from 1 to the largest that is tried, and never decreasing. Errors: SkipwiseError for a
    target within the window."""
    config, original = loaded.model.config, loaded.original_length
    if target <= original:
        raise SkipwiseError(f"target_length ({target}) must be above the original window ({original} tokens)")
    dim, theta = hf_config.rotary_dim(config), hf_config.parameters(config)["rope_theta"]
    plain = methods.plain_inv_freq(dim, theta)
    names = ["yarn", "yarn_revised", "critical", "llama3", "linear", *(["ntk"] if dim > 2 else [])]
    found = {name: plain / methods.METHODS[name]().inv_freq(dim, theta, original, target) for name in names}
    has = hf_config.carried(config)
    if has.method not in ("none", "dynamic") and has.target > has.original:
        power = math.log(target / original) / math.log(has.target / has.original)
        found["carried"] = hf_config.factors(config) ** power
    most = MOST * target / original  # a carried list can grow beyond what is tried
    grown = {name: np.maximum.accumulate([1.0, *factors])[1:].round(6) for name, factors in found.items()}
    return {name: tuple(np.minimum(factors, most).tolist()) for name, factors in grown.items()}


def make_examples(tokenizer: Any, documents: Sequence[Document], settings: SearchConfig, length: int) -> list[Example]:
    """What candidates are judged by: the starts of the documents, all tokens scored, or, for `answers`, a hidden fact
    in each at `settings.depths` evenly spread places and a question about it at the end, only the answer scored."""
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


def _header(
    loaded: LoadedModel, settings: SearchConfig, target: int, examples: list[Example], documents: Sequence[Document]
) -> dict[str, Any]:
    """Everything that the scores depend on: two searches with equal headers score a candidate alike."""
    digest = hashlib.sha256(b"".join(example.ids.tobytes() for example in examples)).hexdigest()[:16]
    return {
        "model": loaded.name,
        "fingerprint": loaded.fingerprint,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "target_length": target,
        "documents": [name for name, _ in documents],
        "data": digest,
        "search": settings.model_dump(),
    }


def _known(state: Path, header: dict[str, Any]) -> dict[Factors, float]:
    """The losses that an interrupted search left. Errors: SkipwiseError when it was another search.

    More generations than before are the same search gone on.
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
