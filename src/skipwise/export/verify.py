"""An exported model flows in; what plain transformers makes of it in a clean process is held against what it should be.

One `Check` for each: it loads, the configuration agrees with itself, the frequencies are those of the training, the
logits those of a reference, and a passkey is found at the far end of the window.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig

from skipwise.config import EvaluationConfig, RunConfig, read_yaml, validate
from skipwise.errors import SkipwiseError
from skipwise.evals.task import Inputs, Question, TooShortError
from skipwise.evals.tasks import passkey
from skipwise.export import legacy_fields
from skipwise.export.hugging_face import Origin
from skipwise.models import checkpoint, configuration, sources
from skipwise.rope import hf_config
from skipwise.rope.scale import scale

Logits = npt.NDArray[np.float32]

DEPTHS = [0.1, 0.4, 0.7, 1.0]
_PROBE = 64
_SAME, _ROUNDED = 1e-4, 0.05
"""Relative differences allowed: of frequencies, and of logits of equal weights; of logits between two dtypes."""


class Check(NamedTuple):
    name: str
    state: Literal["ok", "failed", "skipped"]
    detail: str


def outside(request: Path) -> str | None:
    """Have a request answered by plain transformers in a process of its own; the last line of its error, if any."""
    # -P: the script's own folder, which holds modules of ours, is kept off the path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("verify_process.py")), str(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1][:300] if done.returncode else None


def verify(
    path: str,
    *,
    against: str | None = None,
    length: int | None = None,
    ask: Callable[[Path], str | None] = outside,
) -> list[Check]:
    """Check the Hugging Face folder or run at `path`.

    against: run or model whose logits are the reference; the run that made the model when absent and known. length:
    tokens of the passkey prompts, the window when absent. ask: who answers the request file.
    Errors: SkipwiseError for a path that is no model folder.
    """
    origin = Origin(path)
    if origin.source.gguf or not Path(origin.source.place).is_dir():
        raise SkipwiseError(f"{path}: expected a Hugging Face folder; GGUF files are llama.cpp's, hub ids come first")
    reference = Origin(against) if against else origin if origin.run else None
    probes = _probes(origin.config)
    expected = _logits(reference, probes) if reference else None
    inputs = Inputs(checkpoint.tokenizer(origin.source), EvaluationConfig(depths=DEPTHS, trials=1))
    questions = _needles(inputs, length or hf_config.window(origin.config))
    prompts = [question.ids for question in questions]
    request = {"model": origin.source.place, "probes": probes, "prompts": prompts, "new_tokens": passkey.ANSWER_TOKENS}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "request.json"
        at.write_text(json.dumps(request), encoding="utf-8")
        error = ask(at)
        if error is not None:
            return [Check("loads without Skipwise", "failed", error)]
        facts = json.loads((at.parent / "facts.json").read_text(encoding="utf-8"))
        found = np.load(at.parent / "logits.npy")
    return [
        Check("loads without Skipwise", "ok", f"transformers {facts['transformers']}"),
        _window(origin, facts),
        _spellings(origin, facts),
        _frequencies(origin, reference, facts),
        *_compared(origin, reference, expected, found),
        _retrieved(inputs, questions, facts),
    ]


def table(checks: list[Check]) -> str:
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:<{width}}  {check.state:<7}  {check.detail}" for check in checks)


def _probes(config: PreTrainedConfig) -> list[dict[str, list[int]]]:
    """Random tokens at the first positions, and at both ends of the window."""
    window, vocabulary = hf_config.window(config), config.get_text_config().vocab_size
    ids = np.random.default_rng(0).integers(0, vocabulary, _PROBE).tolist()
    half = _PROBE // 2
    far = [*range(half), *range(max(window, _PROBE) - half, max(window, _PROBE))]
    return [{"ids": ids, "positions": list(range(_PROBE))}, {"ids": ids, "positions": far}]


@torch.no_grad()
def _logits(reference: Origin, probes: list[dict[str, list[int]]]) -> Logits:
    model = reference.load(torch.float32).to("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for probe in probes:
        ids = torch.tensor([probe["ids"]], device=model.device)  # (1, T)
        positions = torch.tensor([probe["positions"]], device=model.device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False)
        found.append(output.logits[0].float().cpu().numpy())
    return np.stack(found)


def _needles(inputs: Inputs, length: int) -> list[Question]:
    """Passkey prompts of `length` tokens; none where they do not fit."""
    try:
        return [passkey.question(inputs, cell, 0) for cell in passkey.cells(inputs, length)]
    except TooShortError:
        return []


def _run_config(origin: Origin) -> RunConfig | None:
    """The configuration of the run that made a model, from the run or from beside the weights."""
    places = [origin.run / "config.yaml"] if origin.run else []
    for place in [*places, Path(origin.source.place) / "skipwise.yaml"]:
        if place.is_file():
            return validate(RunConfig, read_yaml(place), str(place))
    return None


def _window(origin: Origin, facts: dict[str, Any]) -> Check:
    """The window in the configuration, as transformers reads it, in the tokenizer, and as it was asked for."""
    run = _run_config(origin)
    # The dynamic type takes max_position_embeddings for the original window.
    dynamic = hf_config.parameters(origin.config)["rope_type"] == "dynamic"
    told = {
        "configuration": hf_config.window(origin.config) if dynamic else facts["max_position_embeddings"],
        "tokenizer": facts["model_max_length"],
        **({"recipe": run.target_length} if run else {}),
    }
    agreed = len(set(told.values())) == 1
    said = ", ".join(f"{name} {value:,}" for name, value in told.items())
    return Check("window", "ok" if agreed else "failed", said)


def _spellings(origin: Origin, facts: dict[str, Any]) -> Check:
    """Whether old and new loaders read the same scaling from config.json."""
    name = "both RoPE spellings"
    saved = json.loads((Path(origin.source.place) / "config.json").read_text(encoding="utf-8"))
    part = legacy_fields.language_part(saved)
    if not part.get("rope_parameters"):
        return Check(name, "failed", "config.json has no rope_parameters, which transformers 5 writes")
    wanted = legacy_fields.older_fields(part)
    if not set(wanted) & set(part) and legacy_fields.with_older_fields(saved, origin.config) is None:
        return Check(name, "skipped", "this family would misread the older fields, so they are left out")
    wrong = [key for key, value in wanted.items() if part.get(key) != value]
    if wrong:
        return Check(name, "failed", "; ".join(f"{key} is {part.get(key)}, expected {wanted[key]}" for key in wrong))
    read, written = (
        legacy_fields.without_marks(found) for found in (facts["rope_parameters"], part["rope_parameters"])
    )
    if read != written:
        return Check(name, "failed", f"transformers reads {read}, rope_parameters are {written}")
    return Check(name, "ok", ", ".join(sorted(["rope_parameters", *wanted])))


def _trained_config(origin: Origin, reference: Origin | None) -> tuple[PreTrainedConfig, str]:
    """A configuration with the training's RoPE that does not come from this export, if there is one, and its origin."""
    run = _run_config(origin)
    if run:
        try:
            # The folder under test must not decide that code is run.
            named = run.model.model_copy(update={"trust_remote_code": False})
            base = configuration.read(sources.find(named))
            original = run.model.original_length
            scaled = scale(base, run.scaling, target_length=run.target_length, original_length=original)
            return scaled, f"the recipe on {run.model.path}"
        except SkipwiseError:  # the base model may be gone; the next best is compared then
            pass
    if reference and reference.source.place != origin.source.place:
        return reference.config, f"the configuration of {reference.name}"
    return origin.config, "its own configuration"


def _frequencies(origin: Origin, reference: Origin | None, facts: dict[str, Any]) -> Check:
    """Those that the loaded model computes with, against numbers worked out from what it was trained with."""
    config, where = _trained_config(origin, reference)
    name = "frequencies of the training" if config is not origin.config else "frequencies"
    try:
        wanted, attention = hf_config.inv_freq(config), hf_config.attention_factor(config)
    except SkipwiseError as error:
        return Check(name, "skipped", str(error))
    tables = facts["frequencies"]
    if hf_config.is_nested(facts["rope_parameters"]):
        tables = {key: value for key, value in tables.items() if "full_attention" in key}
    differences = [
        float(np.max(np.abs(np.asarray(found) / wanted - 1))) if len(found) == len(wanted) else float("inf")
        for found in tables.values()
    ]
    factors = [abs(factor / attention - 1) for factor in facts["attention_scaling"]]
    if not differences or not factors:
        return Check(name, "failed", "the loaded model shows no table of them, or no factor on cos and sin")
    worst = max([*differences, *factors])
    return Check(name, "ok" if worst < _SAME else "failed", f"differ by {worst:.1e} at most from {where}")


def _compared(origin: Origin, reference: Origin | None, expected: Logits | None, found: Logits) -> Iterator[Check]:
    """Logits at the first positions and at both ends of the window, against the reference's."""
    names = ["logits at short positions", "logits at long positions"]
    if reference is None or expected is None:
        yield from (Check(name, "skipped", "no reference; give one with --against") for name in names)
        return
    limit = _SAME if origin.dtype(None) == reference.dtype(None) else _ROUNDED
    for name, ours, theirs in zip(names, expected, found, strict=True):
        if ours.shape != theirs.shape:
            yield Check(name, "failed", f"{reference.name} has {ours.shape[-1]} tokens, this model {theirs.shape[-1]}")
            continue
        difference = float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))
        said = f"differ by {difference:.1e} from {reference.name}'s, {limit:g} is allowed"
        yield Check(name, "ok" if difference <= limit else "failed", said)


def _retrieved(inputs: Inputs, questions: list[Question], facts: dict[str, Any]) -> Check:
    name = "passkey at the target"
    if not questions:
        return Check(name, "skipped", "the window does not hold a passkey prompt")
    answers = [inputs.decode(ids) for ids in facts["answers"]]
    right = sum(passkey.TASK.score(text, question) for text, question in zip(answers, questions, strict=True))
    longest = max(len(question.ids) for question in questions)
    detail = f"{right:.0f} of {len(questions)} found in prompts of {longest:,} tokens"
    return Check(name, "ok" if 2 * right >= len(questions) else "failed", detail)
