"""Compare evaluation in Skipwise with the code that it replaces: the same numbers, and how much faster.

    python benchmarks/evaluation.py [--model bundled] [--window 4096] [--prompts 200] [--only prefix,sliding,passkey]

- prefix: perplexity at 16 lengths. Baseline: one forward pass for each length.
- sliding: windows moved by a stride. Baseline: full logits and transformers' own loss on the scored labels. Each runs
  in its own process, to measure its peak memory.
- passkey: a grid of prompts. Baselines: ten uncached passes for each prompt, as the published scripts decode
  (`--script N` of the prompts, since it is slow), and plain `generate` with a cache.

Variants take turns. A ratio is that of their times. YaRN scales RoPE to a window beyond the model's own. Nothing is
trained.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from skipwise.config import EvaluationConfig, ModelConfig, ScalingConfig
from skipwise.evals import document_losses, runner
from skipwise.evals.session import Session
from skipwise.evals.task import Inputs, header, measure
from skipwise.evals.tasks import passkey, perplexity
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel, load
from skipwise.runs.environment import peak_memory


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def scaled(path: str, window: int) -> LoadedModel:
    loaded = load(ModelConfig(path=path))
    if window <= loaded.window:
        return loaded
    return load(ModelConfig(path=path), target_length=window, scaling=ScalingConfig(method="yarn"))


def text_of(loaded: LoadedModel, tokens: int) -> list[document_losses.Document]:
    return runner.load_documents(["stdlib-held-out"], loaded.tokenizer, minimum=tokens, limit=1)


def prefix(loaded: LoadedModel, window: int) -> None:
    lengths = [window * (i + 1) // 16 for i in range(16)]
    documents = text_of(loaded, window)
    ids = torch.tensor([documents[0][1][:window].tolist()])

    @torch.no_grad()
    def naive() -> list[float]:
        return [math.exp(loaded.model(ids[:, :n], labels=ids[:, :n], use_cache=False).loss) for n in lengths]

    reader = Reader(loaded.model)  # it probes the model's code once, so it is made outside the timing

    def ours() -> list[float]:
        parts = [(0, n) for n in lengths]
        rows = perplexity.measure(loaded, reader, documents, parts, document_losses.PerplexityVariant())
        return [row.value for row in rows]

    ours()
    (slow, before), (fast, after) = timed(naive), timed(ours)
    worst = max(abs(a - b) / a for a, b in zip(before, after, strict=True))
    print(f"prefix   16 lengths to {window}: {slow:.2f} s and {fast:.2f} s, {slow / fast:.1f} x faster; "
          f"largest relative difference {worst:.1e}")  # fmt: skip


@torch.no_grad()
def sliding_plain(loaded: LoadedModel, text: list[int], window: int, stride: int) -> float:
    """Do as the transformers documentation does: masked labels, full logits, the mean loss times its tokens."""
    total, count = 0.0, 0
    for start, stop, scored in document_losses.windows(len(text), window, stride):
        ids = torch.tensor([text[start:stop]])
        labels = ids.clone()
        labels[:, :-scored] = -100
        scored = min(scored, stop - start - 1)
        total += float(loaded.model(ids, labels=labels, use_cache=False).loss) * scored
        count += scored
    return math.exp(total / count)


def sliding_ours(loaded: LoadedModel, documents: list[document_losses.Document], window: int, how: Any) -> float:
    [row] = perplexity.measure(loaded, Reader(loaded.model), documents, [(0, window)], how)
    return float(row.value)


def sliding(path: str, window: int, stride: int, variant: str | None) -> None:
    span = 2 * window
    if variant is None:
        results = {}
        for name in ("plain", "ours"):
            command = [sys.executable, __file__, "--model", path, "--window", str(window), "--variant", name]
            results[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        a, b = results["plain"], results["ours"]
        print(f"sliding  window {window}, stride {stride}: {a['seconds']:.2f} s and {b['seconds']:.2f} s, "
              f"{a['seconds'] / b['seconds']:.2f} x faster; {a['value']:.5f} and {b['value']:.5f}; above the model "
              f"{a['bytes'] / 2**20:.0f} and {b['bytes'] / 2**20:.0f} MiB")  # fmt: skip
        return
    loaded = scaled(path, window)
    documents = text_of(loaded, span)
    how = document_losses.PerplexityVariant("sliding", stride, span)
    text = documents[0][1][:span].tolist()
    call = {"plain": lambda: sliding_plain(loaded, text, window, stride)}.get(
        variant, lambda: sliding_ours(loaded, documents, window, how)
    )
    before = peak_memory()
    seconds, value = timed(call)
    print(json.dumps({"seconds": seconds, "value": value, "bytes": peak_memory() - before}))


def retrieval(loaded: LoadedModel, window: int, prompts: int, script: int) -> None:
    settings = EvaluationConfig(trials=math.ceil(prompts / 5 / 4))
    inputs = Inputs(loaded.tokenizer, settings)
    lengths = [window // 8, window // 4, window // 2, window]
    grids = [passkey.cells(inputs, length) for length in lengths]
    questions = [[[passkey.question(inputs, c, t) for t in range(c.n)] for c in grid] for grid in grids]
    flat = [question for grid in questions for cell in grid for question in cell]
    job = Session(loaded, settings)

    def ours() -> list[float]:
        scores: list[float] = []
        for grid, asked in zip(grids, questions, strict=True):
            parts = [(c, header(passkey.TASK, inputs, c, q), q) for c, q in zip(grid, asked, strict=True)]
            rows = dict(measure(passkey.TASK, inputs, parts, job.answer))
            scores += [score for i in range(len(grid)) for score in rows[i].scores]
        return scores

    @torch.no_grad()
    def generated() -> list[float]:
        scores = []
        for question in flat:
            ids = torch.tensor([question.ids])
            out = loaded.model.generate(ids, max_new_tokens=passkey.ANSWER_TOKENS, do_sample=False, pad_token_id=0)
            scores.append(passkey.TASK.score(inputs.decode(out[0, ids.shape[1] :].tolist()), question))
        return scores

    @torch.no_grad()
    def published(chosen: list[Any]) -> list[float]:
        scores = []
        for question in chosen:
            ids = list(question.ids)
            for _ in range(10):
                ids.append(int(loaded.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            scores.append(passkey.TASK.score(inputs.decode(ids[len(question.ids) :]), question))
        return scores

    chosen = [int(i) for i in np.linspace(0, len(flat) - 1, min(script, len(flat)))]
    job.reader  # noqa: B018, probes the model's code before the timing
    (fast, mine), (slow, theirs) = timed(ours), timed(generated)
    script_time, some = timed(lambda: published([flat[i] for i in chosen]))
    tokens = sum(len(flat[i].ids) for i in chosen) / sum(len(question.ids) for question in flat)
    same = sum(a == b for a, b in zip(mine, theirs, strict=True))
    agree = sum(mine[i] == score for i, score in zip(chosen, some, strict=True))
    print(f"passkey  {len(flat)} prompts of {lengths} tokens, {np.mean(mine):.0%} right: {fast:.1f} s; "
          f"plain generate {slow:.1f} s, {slow / fast:.2f} x; ten uncached passes {script_time / tokens:.0f} s "
          f"(from {len(chosen)} prompts), {script_time / tokens / fast:.1f} x; "
          f"same verdicts {same} of {len(flat)} and {agree} of {len(chosen)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--script", type=int, default=40)
    parser.add_argument("--only", default="prefix,sliding,passkey")
    parser.add_argument("--variant", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        return sliding(args.model, args.window, 256, args.variant)
    loaded = scaled(args.model, args.window)
    if "prefix" in args.only:
        prefix(loaded, args.window)
    if "sliding" in args.only:
        sliding(args.model, args.window, 256, None)
    if "passkey" in args.only:
        retrieval(loaded, args.window, args.prompts, args.script)


if __name__ == "__main__":
    main()
