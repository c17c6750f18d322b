"""Check an exported model: what plain transformers makes of it in a clean process against what it should be.

One `Check` for each: it loads, the configuration agrees with itself and with the weights, the frequencies are those of
the training, the logits those of a reference, and a passkey is found at the far end of the window. A checkpoint of
which no run is known promises none of the last: what is seen is then `noted` and not judged.
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

from skipwise.config import EvaluationConfig, ModelConfig, RunConfig, read_yaml, validate
from skipwise.errors import SkipwiseError
from skipwise.evals.task import Inputs, Question
from skipwise.evals.tasks import passkey
from skipwise.export import legacy_fields
from skipwise.export.hugging_face import Origin
from skipwise.models import adapter_files, agreement, checkpoint, configuration, sources
from skipwise.models.library_messages import one_line
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from skipwise.utils.text import length_text

Logits = npt.NDArray[np.float32]

DEPTHS = [0.1, 0.4, 0.7, 1.0]
_PROBE = 64
_SAME, _ROUNDED = 1e-4, 0.05
"""Relative differences allowed: of frequencies, and of logits of equal weights; of logits between two dtypes."""

_NO_LIMIT = 10**12
"""transformers writes 1e30 as the `model_max_length` of a tokenizer without one."""


class Check(NamedTuple):
    """What was seen of one thing, in one line."""

    name: str
    state: Literal["ok", "failed", "noted", "skipped"]
    """`noted`: seen, and nothing says what it should be. `skipped`: not looked at, for the reason in `detail`."""
    detail: str


def ask_clean_process(request: Path) -> str | None:
    """Have a request answered by plain transformers in a process of its own; the last line of its error, if any."""
    # -P: the script's own folder, which holds modules of ours, is kept off the path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("verify_process.py")), str(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else None


def verify(
    path: str,
    *,
    against: str | None = None,
    length: int | None = None,
    ask: Callable[[Path], str | None] = ask_clean_process,
) -> list[Check]:
    """Check a Hugging Face folder or a run.

    Args:
        path: The folder.
        against: Run or model whose logits are the reference; the run that made the model when absent and known.
        length: Tokens of the passkey prompts; the window when absent.
        ask: Who answers the request file.

    Returns:
        One check a row of the table in docs/export.md.

    Raises:
        SkipwiseError: No model folder, or a `length` that no passkey prompt of this model can have.
    """
    file = Path(path).expanduser()
    if file.is_file():
        hint = f"; give its folder, {file.parent}" if (file.parent / "config.json").is_file() else ""
        raise SkipwiseError(f"{path} is a file: expected a Hugging Face folder or a run{hint}")
    adapted = file.is_dir() and adapter_files.is_adapter(file)
    origin = Origin(path, weights=adapted)  # what is wrong with a model's weights is a result of the check
    if origin.source.gguf or not Path(origin.source.place).is_dir():
        raise SkipwiseError(f"{path}: expected a Hugging Face folder on this machine, or a run; not GGUF, no hub id")
    run = _run_config(origin)
    reference = Origin(against) if against else origin if origin.run else None
    probes = _probes(origin.config)
    inputs = Inputs(checkpoint.tokenizer(origin.source), EvaluationConfig(depths=DEPTHS, trials=1))
    questions = _needles(inputs, length, hf_config.window(origin.config))
    prompts = [question.ids for question in questions]
    request = {"model": origin.source.place, "probes": probes, "prompts": prompts, "new_tokens": passkey.ANSWER_TOKENS}
    if base := origin.source.base:
        if base.base is not None:
            raise SkipwiseError(f"{path} is an adapter on an adapter; merge it first: skipwise export {path} --out X")
        request["base"] = [base.place, {"gguf_file": base.gguf} if base.gguf else {}]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "request.json"
        at.write_text(json.dumps(request), encoding="utf-8")
        error = ask(at)
        if error is not None:
            return [Check("loads without Skipwise", "failed", _why(origin, error))]
        facts = json.loads((at.parent / "facts.json").read_text(encoding="utf-8"))
        actual = np.load(at.parent / "logits.npy")
    loads = _loads(origin, facts, actual)
    # The reference may be this very model, which cannot be read where it does not load.
    expected = _logits(reference, probes) if reference and loads.state == "ok" else None
    return [
        loads,
        _window(origin, run, facts),
        _spellings(origin, run, facts),
        _head(facts),
        _frequencies(origin, run, reference, facts),
        *_compared(origin, reference, expected, actual),
        _retrieved(inputs, questions, run, facts),
    ]


def table(checks: list[Check]) -> str:
    """Lay checks out in aligned columns, one a line."""
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
    logits = []
    for probe in probes:
        ids = torch.tensor([probe["ids"]], device=model.device)  # (1, T)
        positions = torch.tensor([probe["positions"]], device=model.device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False)
        logits.append(output.logits[0].float().cpu().numpy())
    return np.stack(logits)


def _needles(inputs: Inputs, length: int | None, window: int) -> list[Question]:
    """Passkey prompts of `length` tokens, or as long as the window; none where a window does not hold one.

    Raises:
        SkipwiseError: `length` is shorter than any such prompt, or beyond the window, or the window holds none.
    """
    shortest = passkey.minimum_length(inputs)
    if length is not None and window < shortest:
        raise SkipwiseError(
            f"--length {length_text(length)}: the model's window of {length_text(window)} tokens holds no passkey "
            f"prompt, which takes {length_text(shortest)} with this tokenizer; leave --length out"
        )
    if length is not None and not shortest <= length <= window:
        raise SkipwiseError(
            f"--length {length_text(length)}: expected tokens from {length_text(shortest)}, which the shortest passkey "
            f"prompt of this tokenizer takes, to {length_text(window)}, the model's window"
        )
    if (length or window) < shortest:
        return []
    return [passkey.question(inputs, cell, 0) for cell in passkey.cells(inputs, length or window)]


def _run_config(origin: Origin) -> RunConfig | None:
    """The configuration of the run that made a model, from the run or from beside the weights."""
    places = [origin.run / "config.yaml"] if origin.run else []
    for place in [*places, Path(origin.source.place) / "skipwise.yaml"]:
        if place.is_file():
            return validate(RunConfig, read_yaml(place), str(place))
    return None


def _why(origin: Origin, error: str) -> str:
    """Why a model does not load: what its files lack, or else the error of the process that tried, in our words."""
    try:
        sources.find(ModelConfig(path=origin.source.place))
    except SkipwiseError as reason:
        return str(reason)
    return one_line(RuntimeError(error))


def _loads(origin: Origin, facts: dict[str, Any], logits: Logits) -> Check:
    """Whether the files held every weight of the model and no other, all of them numbers."""
    name = "loads without Skipwise"
    try:
        agreement.check_report(facts["report"], origin.config, origin.source.given)
    except SkipwiseError as error:
        return Check(name, "failed", str(error))
    if not np.isfinite(logits).all():
        return Check(name, "failed", "its logits are not finite numbers; look for NaN or infinity in its weights")
    return Check(name, "ok", f"transformers {facts['transformers']}")


def _window(origin: Origin, run: RunConfig | None, facts: dict[str, Any]) -> Check:
    """The window in the configuration, as transformers reads it, in the tokenizer, and as it was asked for."""
    # The dynamic type takes max_position_embeddings for the original window.
    dynamic = hf_config.parameters(origin.config)["rope_type"] == "dynamic"
    windows = {
        "configuration": hf_config.window(origin.config) if dynamic else facts["max_position_embeddings"],
        "tokenizer": facts["model_max_length"],
        **({"recipe": run.target_length} if run else {}),
    }
    limited = windows["tokenizer"] < _NO_LIMIT
    agreed = len(set(windows.values())) == 1 or (run is None and not limited)
    sizes = [
        f"{name} {length_text(value) if value < _NO_LIMIT else 'without a limit'}" for name, value in windows.items()
    ]
    return Check("window", "ok" if agreed else "failed" if run else "noted", ", ".join(sizes))


def _spellings(origin: Origin, run: RunConfig | None, facts: dict[str, Any]) -> Check:
    """Whether old and new loaders read the same scaling from config.json."""
    name = "both RoPE spellings"
    saved = json.loads((Path(origin.source.place) / "config.json").read_text(encoding="utf-8"))
    part = legacy_fields.language_part(saved)
    if not part.get("rope_parameters"):
        if run is None:
            return Check(name, "ok", "the older fields alone, which old and new loaders read")
        return Check(name, "failed", "config.json has no rope_parameters, which transformers 5 writes")
    wanted = legacy_fields.older_fields(part)
    if not set(wanted) & set(part):
        if legacy_fields.with_older_fields(saved, origin.config) is None:
            return Check(name, "skipped", "this family would misread the older fields, so they are left out")
        if run is None:
            return Check(name, "noted", "rope_parameters alone, which loaders before transformers 5 do not see")
    wrong = [key for key, value in wanted.items() if part.get(key) != value]
    if wrong:
        return Check(name, "failed", "; ".join(f"{key} is {part.get(key)}, expected {wanted[key]}" for key in wrong))
    read, written = (legacy_fields.without_marks(each) for each in (facts["rope_parameters"], part["rope_parameters"]))
    if read != written:
        return Check(name, "failed", f"transformers reads {read}, rope_parameters are {written}")
    return Check(name, "ok", ", ".join(sorted(["rope_parameters", *wanted])))


def _head(facts: dict[str, Any]) -> Check:
    """Whether every loader uses the head in the file: transformers 4 and GGUF converters go by the flag alone."""
    name, tied, flag = "head", facts["tied"], facts["tie_word_embeddings"]
    if tied is None:
        return Check(name, "skipped", "the model has no head")
    if flag and not tied:
        return Check(
            name,
            "failed",
            "tie_word_embeddings is true and the weights hold a head of their own: older loaders would put the "
            "embedding in its place; write false in config.json",
        )
    kind = "the embedding" if tied else "its own"
    return Check(name, "ok", f"{kind}, tie_word_embeddings is {str(bool(flag)).lower()}")


def _trained_config(origin: Origin, run: RunConfig | None, reference: Origin | None) -> tuple[PreTrainedConfig, str]:
    """A configuration with the training's RoPE that does not come from this export, if there is one, and its origin."""
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


def _frequencies(origin: Origin, run: RunConfig | None, reference: Origin | None, facts: dict[str, Any]) -> Check:
    """Those that the loaded model computes with, against numbers worked out from what it was trained with."""
    config, where = _trained_config(origin, run, reference)
    name = "frequencies of the training" if config is not origin.config else "frequencies"
    try:
        wanted, attention = hf_config.inv_freq(config), hf_config.attention_factor(config)
    except SkipwiseError as error:
        return Check(name, "skipped", str(error))
    tables = facts["frequencies"]
    if hf_config.is_nested(facts["rope_parameters"]):
        tables = {key: value for key, value in tables.items() if "full_attention" in key}
    differences = [
        float(np.max(np.abs(np.asarray(table) / wanted - 1))) if len(table) == len(wanted) else float("inf")
        for table in tables.values()
    ]
    factors = [abs(factor / attention - 1) for factor in facts["attention_scaling"]]
    if not differences or not factors:
        return Check(name, "failed", "the loaded model shows no table of them, or no factor on cos and sin")
    worst = max([*differences, *factors])
    return Check(name, "ok" if worst < _SAME else "failed", f"differ by {worst:.1e} at most from {where}")


def _compared(origin: Origin, reference: Origin | None, expected: Logits | None, actual: Logits) -> Iterator[Check]:
    """Logits at the first positions and at both ends of the window, against the reference's."""
    names = ["logits at short positions", "logits at long positions"]
    if reference is None or expected is None:
        reason = "no reference; give one with --against" if reference is None else "the model does not load whole"
        yield from (Check(name, "skipped", reason) for name in names)
        return
    limit = _SAME if origin.dtype(None) == reference.dtype(None) else _ROUNDED
    for name, theirs, ours in zip(names, expected, actual, strict=True):
        if ours.shape != theirs.shape:
            yield Check(name, "failed", f"{reference.name} has {theirs.shape[-1]} tokens, this model {ours.shape[-1]}")
            continue
        difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        detail = f"differ by {difference:.1e} from {reference.name}'s, {limit:g} is allowed"
        yield Check(name, "ok" if difference <= limit else "failed", detail)


def _retrieved(inputs: Inputs, questions: list[Question], run: RunConfig | None, facts: dict[str, Any]) -> Check:
    name = "passkey at the target"
    if not questions:
        shortest = length_text(passkey.minimum_length(inputs))
        return Check(name, "skipped", f"the window does not hold a passkey prompt, which takes {shortest} tokens")
    answers = [inputs.decode(ids) for ids in facts["answers"]]
    right = sum(passkey.TASK.score(text, question) for text, question in zip(answers, questions, strict=True))
    longest = max(len(question.ids) for question in questions)
    detail = f"{right:.0f} of {len(questions)} found in prompts of {length_text(longest)} tokens"
    return Check(name, "ok" if 2 * right >= len(questions) else "failed" if run else "noted", detail)
