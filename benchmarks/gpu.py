"""Measure training and evaluation on one GPU, in at most nine minutes: one table as JSON and text.

    python benchmarks/gpu.py --out FOLDER              # on a GPU; written for one H100 with 80 GB
    python benchmarks/gpu.py --out FOLDER --device cpu --small      # tries the script itself, with toy models

Parts, longest last; each has its own processes, a budget of seconds, and its own failure, which stands in the table:

- tests: `pytest -m gpu`.
- training: tokens/s, MFU and peak memory of a SmolLM2-135M, a 1B and an 8B (LoRA) configuration with random weights,
  examples of 4k tokens, with Skipwise and with a plain Trainer; and with Liger kernels where they are installed.
- reading: the 1B reads 32k and 128k tokens and continues them; tokens/s beside `generate`.
- headline: seconds for each token of target window, PoSE at 4k against full length at 128k.
- limits: the longest full-length example that trains in 24 and 80 GB.

FOLDER/gpu.json and gpu.txt are written anew after every figure. Needed: torch, transformers, accelerate, peft, numpy,
pydantic 2, and rich for the tests. Where a machine can install nothing, bring what is missing in a folder and name it
in PYTHONPATH: `pip download` or `pip install --target FOLDER --platform manylinux2014_x86_64 --python-version 3.12
--only-binary=:all: pydantic pytest liger-kernel`.

MFU counts what PoSE's step needs: matrix products and causal attention, no recomputation, against the data sheet's
dense bf16 rate. Published on one H100 at 4k, bf16: Llama-3-8B LoRA 12,473 tokens/s; all weights of 8B on eight
5,762 to 6,667 a GPU, and 1,071 at 128k. No figures of a GPU have been taken with this script yet.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOTAL_SECONDS = 525  # of nine minutes
SIZES: dict[str, dict[str, Any]] = {
    "135M": {"layers": 30, "hidden": 576, "inner": 1536, "heads": 9, "keys": 3, "vocabulary": 49_152, "tied": True},
    "1B": {"layers": 16, "hidden": 2048, "inner": 8192, "heads": 32, "keys": 8, "vocabulary": 128_256, "tied": True},
    "8B": {"layers": 32, "hidden": 4096, "inner": 14_336, "heads": 32, "keys": 8, "vocabulary": 128_256, "tied": False},
}
TOY = {"layers": 2, "hidden": 64, "inner": 128, "heads": 4, "keys": 2, "vocabulary": 512, "tied": True}
PUBLISHED = {"8B lora 4k": 12_473, "8B all weights 4k, a GPU of eight": 6_667, "8B all weights 128k": 1_071}


class Plan:
    """Which cases run. `small`: the same ones with toy models and lengths, on any device."""

    def __init__(self, small: bool) -> None:
        self.train = 64 if small else 4096
        self.target = 512 if small else 131_072
        self.reads = [128, 512] if small else [32_768, 131_072]
        self.batches = {"135M": 8, "1B": 2, "8B": 1} if not small else dict.fromkeys(SIZES, 2)
        self.limits = [24, 80]
        self.longest = 4 * self.train if small else 262_144


def configuration(size: str, window: int, small: bool) -> Any:
    """A Llama configuration with `window` tokens before any scaling."""
    from transformers import LlamaConfig

    shape = TOY if small else SIZES[size]
    return LlamaConfig(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["inner"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["keys"],
        vocab_size=shape["vocabulary"],
        tie_word_embeddings=shape["tied"],
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )


def built(given: argparse.Namespace, dtype: Any) -> Any:
    """The model of a case on its device: random weights, RoPE scaled by YaRN from the trained length to the target."""
    import torch
    from transformers import AutoModelForCausalLM

    from skipwise.rope.scale import scale

    config = configuration(given.size, given.window, given.small)
    if given.target > given.window:
        config = scale(config, "yarn", target_length=given.target)
    torch.manual_seed(0)
    with torch.device(given.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention(given.device))
    return model


def attention(device: str) -> str:
    """FlashAttention 2 where its package is, else torch's own kernel, which is FlashAttention 2 or cuDNN's on a GPU."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if device == "cuda" and is_flash_attn_2_available() else "sdpa"


def train(given: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps; the first two, which warm up, are left out."""
    import numpy as np
    import torch

    from skipwise.config import AdapterConfig
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.planning import operations_and_bytes
    from skipwise.training import adapters
    from training import step_times

    if given.device == "cuda" and given.gigabytes:  # as if the GPU had no more
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, given.gigabytes * 1e9 / total))
    lora = given.mode == "lora"
    model = built(given, torch.bfloat16 if lora else torch.float32)
    work = operations_and_bytes.work(model.config)
    variant = given.variant.removesuffix("+liger")
    if given.variant.endswith("+liger"):
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, None if variant == "plain" else {"fused_linear_cross_entropy": False})
    if lora:
        adapters.attach(model, AdapterConfig(method="lora"))
    documents = [np.random.default_rng(0).integers(3, 500, size=2 * given.target)]
    examples = SkippedPositions(
        documents,
        sampler="pose" if given.length < given.target else "full",
        target_length=given.target,
        train_length=given.length,
        examples=given.batch * given.steps,
    )
    sizes: dict[str, Any] = {"steps": given.steps, "batch": given.batch, "precision": "bfloat16"}
    recompute = {"elementwise": "recompute_elementwise", "layers": "gradient_checkpointing"}.get(given.recompute)
    sizes |= {recompute: True} if recompute else {}
    stamps = step_times(variant, model, examples, **sizes)
    warm = min(2, given.steps - 1)
    seconds = (stamps[-1] - stamps[warm]) / (given.steps - warm)
    tokens = given.batch * given.length
    # Frozen weights need no gradients: two thirds of the products. Attention's backward pass is twice its forward pass.
    products = (2 if lora else 3) * (work.layer_flops + work.head_flops) + (6 * work.adapter * 16 if lora else 0)
    flops = tokens * products + 3 * given.batch * work.attention_flops(given.length)
    return {"tokens_per_second": tokens / seconds, "seconds": seconds, "flops": flops / seconds, **memory(given.device)}


def memory(device: str) -> dict[str, Any]:
    import torch

    from skipwise.runs.environment import peak_memory

    reserved = {"reserved": torch.cuda.max_memory_reserved()} if device == "cuda" else {}
    return {"memory": peak_memory(), **reserved}


def read(given: argparse.Namespace) -> dict[str, Any]:
    """Read a text and continue it by eight tokens: the reader of evaluation, or transformers' `generate`."""
    import torch

    from skipwise.models import sliced_loss
    from skipwise.models.chunked_reader import Reader

    model = built(given, torch.bfloat16).eval()
    ids = torch.randint(3, 500, (1, given.length), device=given.device)
    reader = Reader(model) if given.variant == "skipwise" else None
    new = 8

    @torch.no_grad()
    def once(tokens: Any) -> float:
        wait(given.device)
        started = time.perf_counter()
        if reader is None:
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
            model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        else:
            cache = reader.cache(1, tokens.shape[1] + new)
            last = [hidden[:, -1:] for _, hidden in reader.read(tokens, cache)][-1]
            for _ in range(new - 1):
                token = sliced_loss.logits(model, last).argmax(-1)
                [(_, last)] = reader.read(token, cache)
            sliced_loss.logits(model, last).argmax(-1)
        wait(given.device)
        return time.perf_counter() - started

    once(ids[:, : given.length // 8])
    seconds = min(once(ids) for _ in range(2))
    return {"tokens_per_second": given.length / seconds, "seconds": seconds, **memory(given.device)}


def wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def fits(given: argparse.Namespace) -> dict[str, Any]:
    """Double the length of a full-length example until memory runs out; print each length that trains."""
    length, longest = given.length, 0
    while length <= given.target:
        case = argparse.Namespace(**{**vars(given), "length": length, "target": length, "window": length, "steps": 2})
        try:
            train(case)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            break
        longest = length
        print(json.dumps({"longest": longest}), flush=True)
        length *= 2
    return {"longest": longest}


class Table:
    """The figures so far, in two files."""

    def __init__(self, folder: Path, facts: dict[str, Any], peak: float | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.facts, self.peak = folder, facts, peak
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        if self.peak and "flops" in row:
            row["mfu"] = row["flops"] / self.peak
        self.rows.append(row)
        text = json.dumps({**self.facts, "published_tokens_per_second": PUBLISHED, "rows": self.rows}, indent=1)
        (self.folder / "gpu.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "gpu.txt").write_text(self.text(), encoding="utf-8")
        print(self.line(row), flush=True)

    @staticmethod
    def line(row: dict[str, Any]) -> str:
        parts = [f"{row['part']:9} {row['case']:44}"]
        for key, form in (
            ("tokens_per_second", "{:10,.0f} tok/s"),
            ("mfu", "{:6.1%} MFU"),
            ("memory", "{:6.1f} GB"),
            ("longest", "longest {:,} tokens"),
            ("ratio", "{:6.2f} x"),
            ("result", "{}"),
            ("failed", "failed: {}"),
        ):
            if row.get(key) is not None:
                parts.append(form.format(row[key] / 1e9 if key == "memory" else row[key]))
        return "  ".join(parts)

    def text(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return "\n".join([facts, *(self.line(row) for row in self.rows)]) + "\n"


class Runner:
    """Runs cases in processes of their own, within their budgets and that of the whole script."""

    def __init__(self, given: argparse.Namespace, table: Table) -> None:
        self.given, self.table, self.end = given, table, time.monotonic() + given.seconds

    def case(self, part: str, name: str, budget: float, **options: Any) -> dict[str, Any]:
        """Run one case and put its row into the table."""
        words = [sys.executable, __file__, "--worker", part, "--device", self.given.device]
        words += ["--small"] if self.given.small else []
        for key, value in options.items():
            words += [f"--{key}", str(value)]
        row: dict[str, Any] = {"part": part, "case": name, **options}
        row |= self.process(words, budget * (10 if self.given.small else 1))
        self.table.add(row)
        return row

    def process(self, words: list[str], budget: float) -> dict[str, Any]:
        """The last line of JSON that a process prints, or why there is none."""
        left = min(budget, self.end - time.monotonic())
        if left < 5:
            return {"failed": "no time left"}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        late = False
        try:
            out, err = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            late = True
        values: dict[str, Any] = {}
        for line in out.splitlines():
            with contextlib.suppress(ValueError):
                parsed = json.loads(line)
                values = parsed if isinstance(parsed, dict) else values
        if late and not values:
            return {"failed": f"not done in {left:.0f} s"}
        if process.returncode and not late and not values:
            return {"failed": (err.strip().splitlines() or ["no message"])[-1][:300]}
        return {**values, **({"result": "stopped by its budget"} if late else {})}


def ratio(table: Table, name: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """A row with how many times as fast the first case is as the second."""
    if "tokens_per_second" in first and "tokens_per_second" in second:
        times = first["tokens_per_second"] / second["tokens_per_second"]
        table.add({"part": "ratio", "case": name, "ratio": times})


def tests(runner: Runner, plan: Plan) -> None:
    """The tests that need a GPU, before anything is measured."""
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "--noconftest", "-p", "no:cacheprovider"]
    words += [str(root / "tests" / "gpu")]
    started = time.monotonic()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=root)
        result = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    except subprocess.TimeoutExpired:
        result = "not done in 60 s"
    runner.table.add({"part": "tests", "case": f"pytest -m gpu, {time.monotonic() - started:.0f} s", "result": result})


def training(runner: Runner, plan: Plan) -> None:
    from importlib.util import find_spec

    liger = ["plain+liger", "skipwise+liger"] if find_spec("liger_kernel") else []
    for size, mode, budget in (("135M", "all", 25), ("1B", "all", 40), ("8B", "lora", 45)):
        rows = {}
        recompute = "elementwise" if size == "8B" else "none"
        for variant in ["plain", "skipwise", *liger]:
            options = {"size": size, "mode": mode, "variant": variant, "batch": plan.batches[size], "steps": 6}
            options |= {"length": plan.train, "target": plan.target, "window": plan.train, "recompute": recompute}
            rows[variant] = runner.case("train", f"{size} {mode} {plan.train} tokens, {variant}", budget, **options)
        ratio(runner.table, f"{size} {mode}: skipwise / plain", rows["skipwise"], rows["plain"])


def reading(runner: Runner, plan: Plan) -> None:
    for length in plan.reads:
        rows = {}
        for variant in ("generate", "skipwise"):
            options = {"size": "1B", "variant": variant, "length": length, "target": length, "window": length}
            rows[variant] = runner.case("read", f"1B reads {length} tokens, {variant}", 30, **options)
        ratio(runner.table, f"1B reads {length}: skipwise / generate", rows["skipwise"], rows["generate"])


def headline(runner: Runner, plan: Plan) -> None:
    """PoSE at the short length against full length, both with layers recomputed, as the long one needs it."""
    shared = {"size": "1B", "mode": "all", "variant": "skipwise", "recompute": "layers", "target": plan.target}
    short = {"batch": 2, "steps": 5, "length": plan.train, "window": plan.train}
    long = {"batch": 1, "steps": 3, "length": plan.target, "window": plan.target}
    first = runner.case("train", f"1B PoSE, {plan.train} tokens to {plan.target}", 30, **shared, **short)
    second = runner.case("train", f"1B full length, {plan.target} tokens", 75, **shared, **long)
    ratio(runner.table, f"a token of PoSE at {plan.train} / of full length", first, second)


def limits(runner: Runner, plan: Plan) -> None:
    for gigabytes in plan.limits:
        for size, mode in (("1B", "all"), ("8B", "lora")):
            options = {"size": size, "mode": mode, "variant": "skipwise", "recompute": "layers", "batch": 1}
            options |= {"length": plan.train, "target": plan.longest, "gigabytes": gigabytes}
            runner.case("fits", f"{size} {mode} in {gigabytes} GB", 40, **options)


PARTS: list[Callable[[Runner, Plan], None]] = [tests, training, reading, headline, limits]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of gpu.json and gpu.txt")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="toy models and lengths")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="budget of the whole script")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--worker", choices=["train", "read", "fits"], help="run one case here and print JSON")
    texts = {"size": "1B", "mode": "all", "variant": "skipwise", "recompute": "none"}
    for name, text in texts.items():
        parser.add_argument(f"--{name}", default=text, help=argparse.SUPPRESS)
    numbers = {"batch": 1, "steps": 4, "length": 4096, "target": 131_072, "window": 4096, "gigabytes": 0}
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = parse()
    if given.worker:
        print(json.dumps({"train": train, "read": read, "fits": fits}[given.worker](given)))
        return
    import torch
    import transformers

    from skipwise.planning.devices import SHEETS

    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu.py: no CUDA device here; try the script itself with --device cpu --small")
    name = torch.cuda.get_device_name(0) if given.device == "cuda" else "CPU"
    sheet = next((SHEETS[key] for key in SHEETS if key in name.lower().replace(" ", "")), None)
    facts = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}
    facts["attention"] = attention(given.device)
    runner = Runner(given, Table(given.out, facts, sheet.flops if sheet else None))
    plan = Plan(given.small)
    for part in PARTS:
        if given.only and part.__name__ not in given.only:
            continue
        try:
            part(runner, plan)
        except Exception as error:  # one part must not take the others with it
            runner.table.add(
                {"part": part.__name__, "case": "the whole part", "failed": f"{type(error).__name__}: {error}"}
            )


if __name__ == "__main__":
    main()
