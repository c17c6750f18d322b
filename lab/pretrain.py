"""Pre-train the small language model that the package carries, from nothing.

    python lab/pretrain.py collect    # write the tokenizer and the token streams to lab/data; needs package registries
    python lab/pretrain.py train      # write the model to src/skipwise/assets/bundled, its figures to lab/bundled.json

The model is a llama with 2,557,632 parameters, a window of 256 tokens and a byte-level BPE of 4,096 entries that
encodes each digit as one token. It is trained on public-domain prose, Python source code and synthetic recall documents
(skipwise.data.recall_documents). lab/bundled.json records the run that made the packaged weights: 16.2 million tokens,
73 minutes on one to two CPU threads, and the losses and passkey shares at its end.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import sysconfig
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from skipwise.assets.texts import STDLIB_HELD_OUT
from skipwise.data.recall_documents import Recall

Tokens = NDArray[np.uint16]
HERE = Path(__file__).parent
BOS = "<|bos|>"
PACKAGES = ["torch", "transformers", "numpy", "pandas", "scipy", "sympy", "networkx", "datasets"]
CODE_BYTES, TRAIN_SHARE = 36_000_000, 0.98


class Phase(NamedTuple):
    """Steps with one window, one mix of rows and one learning-rate schedule."""

    window: int
    mix: dict[str, int]
    steps: int
    rate: float
    of: int
    """Steps that the cosine of the learning rate spans."""


WINDOW = 256
# A model learns to look up earlier text late, or never, from long windows of plain text. From short windows full of
# copies it learns this within a few hundred steps, and keeps it when the windows grow.
PHASES = [
    Phase(WINDOW, {"code": 3, "prose": 2, "recall": 3}, 3000, 3e-3, 5500),
    Phase(32, {"code": 12, "prose": 12, "copy": 40}, 400, 1e-3, 800),
    Phase(96, {"code": 5, "prose": 5, "copy": 11}, 400, 1e-3, 800),
    Phase(WINDOW, {"code": 2, "prose": 1, "recall": 4, "copy": 1}, 2600, 1.5e-3, 2600),
    Phase(WINDOW, {"code": 2, "prose": 1, "recall": 5}, 500, 7e-4, 500),
    Phase(WINDOW, {"code": 1, "prose": 1, "recall": 6}, 1000, 1e-3, 1000),
]


# --- texts --------------------------------------------------------------------------------------------------------


def prose() -> list[str]:
    """Read the public-domain books that packages carry."""
    from skipwise.assets import catalogue
    from skipwise.data.documents import documents
    from skipwise.data.text_sources import sources

    paths = [str(catalogue.get(name)) for name in ("shakespeare", "milton", "spurgeon", "jargon")]
    return [document.text for document in documents(sources(paths))]


def code() -> list[str]:
    """Read the standard library, then installed packages in a shuffled order, up to CODE_BYTES."""
    standard = Path(sysconfig.get_path("stdlib"))
    files = [
        p for p in sorted(standard.rglob("*.py")) if "site-packages" not in p.parts and p.name not in STDLIB_HELD_OUT
    ]
    site = Path(sysconfig.get_path("purelib"))
    extra = [path for name in PACKAGES for path in sorted((site / name).rglob("*.py"))]
    order = np.random.default_rng(0).permutation(len(extra))
    texts, size = [], 0
    for path in itertools.chain(files, (extra[i] for i in order)):
        text = path.read_text(encoding="utf-8", errors="ignore")
        texts.append(text)
        size += len(text)
        if size > CODE_BYTES:
            break
    return texts


# --- tokens -------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int, window: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BOS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS, model_max_length=window
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tokens:
    """Encode all texts as one stream of token ids, with a BOS before each text."""
    ids = itertools.chain.from_iterable(
        itertools.chain.from_iterable(tokenizer(texts[i : i + 256])["input_ids"]) for i in range(0, len(texts), 256)
    )
    return np.fromiter(ids, dtype=np.uint16)


def collect(folder: Path, vocabulary: int, window: int) -> None:
    """Write a tokenizer and token streams to `folder`. The last documents of each kind are held out."""
    texts = {"prose": prose(), "code": code()}
    sample = [text[:20_000] for value in texts.values() for text in value]
    tokenizer = train_tokenizer(sample, vocabulary, window)
    tokenizer.save_pretrained(folder)
    for name, value in texts.items():
        cut = round(len(value) * TRAIN_SHARE)
        train_ids, held_out_ids = encode(tokenizer, value[:cut]), encode(tokenizer, value[cut:])
        np.savez(folder / f"{name}.npz", train=train_ids, held_out=held_out_ids)
        print(f"{name}: {len(value)} documents, {sum(map(len, value)) / 1e6:.1f} MB, {len(train_ids)} tokens")


_work: dict[str, Any] = {}  # what the forked workers share


def _recall_rows(job: tuple[int, int]) -> Tokens:
    """Make `count` recall documents of one window each. The generator is keyed by the job's number."""
    number, count = job
    maker, filler, window = _work["maker"], _work["filler"], _work["window"]
    rng = np.random.default_rng((1, number))
    rows = np.empty((count, window), dtype=np.uint16)
    for row in rows:
        start = rng.integers(0, len(filler) - window)
        row[:], _ = maker.document(rng, filler[start : start + window], window)
    return rows


def recall_rows(tokenizer: PreTrainedTokenizerFast, filler: NDArray[np.int64], window: int, count: int) -> Tokens:
    """Make at least `count` recall documents of `window` tokens each, in parallel."""
    _work.update(maker=Recall(tokenizer), filler=filler, window=window)
    per_job = 2000
    with multiprocessing.get_context("fork").Pool() as pool:
        return np.concatenate(pool.map(_recall_rows, [(i, per_job) for i in range(-(-count // per_job))]))


# --- training -----------------------------------------------------------------------------------------------------


class Batches:
    """Batches of rows of one window, with as many rows of each kind as `mix` says.

    Rows of prose and of code start at random places of their streams. A copy row repeats a passage, or its shuffled
    tokens, until the row is full.
    """

    def __init__(self, streams: dict[str, Tokens], recall: Tokens, mix: dict[str, int], window: int, seed: int) -> None:
        self.streams, self.recall, self.mix, self.window = streams, recall, mix, window
        self.rng = np.random.default_rng(seed)

    def row(self, kind: str) -> Tokens:
        if kind == "recall":
            row: Tokens = self.recall[self.rng.integers(len(self.recall))]
            return row
        stream = self.streams["prose" if kind == "copy" else kind]
        start = self.rng.integers(0, len(stream) - self.window)
        text = stream[start : start + self.window]
        if kind != "copy":
            return text
        passage = text[: self.rng.integers(3, self.window // 2)]
        return np.resize(self.rng.permutation(passage) if self.rng.random() < 0.5 else passage, self.window)

    def draw(self, device: str) -> torch.Tensor:
        rows = [self.row(kind) for kind, count in self.mix.items() for _ in range(count)]
        ids = torch.from_numpy(np.stack(rows).astype(np.int64))
        ids[:, 0] = 0  # every window starts with BOS, as every text does
        return ids.to(device)  # (B, T)


def optimizer(model: torch.nn.Module, rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: warm-up over 100 steps, then a cosine to a hundredth of the peak."""
    return peak * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(model: LlamaForCausalLM, batches: Batches, phase: Phase, look: Callable[[], str]) -> float:
    """Train one phase. Return its loss, averaged over the last 100 steps."""
    device = model.device.type
    adam = optimizer(model, phase.rate)
    started, recent = time.monotonic(), deque[float](maxlen=100)
    for step in range(phase.steps):
        for group in adam.param_groups:
            group["lr"] = rate_at(step, phase.of, phase.rate)
        ids = batches.draw(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if step % 100 == 99:
            spent = time.monotonic() - started
            rate = (step + 1) * ids.numel() / spent
            progress = f"step {step + 1} of {phase.steps} · loss {np.mean(recent):.3f} · {rate / 1e3:.1f} k tok/s"
            print(f"{progress} · {spent:.0f} s{look() if step % 500 == 499 else ''}", flush=True)
    return float(np.mean(recent))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: Tokens, window: int) -> float:
    """Mean loss a token (nats) over the first 256 windows of held-out text."""
    rows = torch.from_numpy(ids[: len(ids) // window * window].astype(np.int64)).view(-1, window)[:256]
    rows[:, 0] = 0
    losses = []
    for batch in rows.to(model.device).split(32):
        logits = model(input_ids=batch, use_cache=False).logits.float()
        losses.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).item())
    return sum(losses) / len(losses)


@torch.no_grad()
def passkey(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int, trials: int) -> float:
    """Share of the pass keys that the model answers, over all depths: a quick look. To measure, use `skipwise eval`."""
    rng = np.random.default_rng(length)
    task = (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
        "I will quiz you about the important information there.\n"
    )
    noise = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    right = 0
    for _ in range(trials):
        key = str(rng.integers(10000, 100000))
        needle = f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
        question = "\nWhat is the pass key? The pass key is"
        fixed = len(tokenizer(task + needle + question)["input_ids"]) + 6
        count = (length - fixed) // len(tokenizer(noise, add_special_tokens=False)["input_ids"])
        before = int(rng.integers(0, count + 1))
        prompt = task + noise * before + needle + noise * (count - before) + question
        ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=model.device)
        answer = model.generate(ids, max_new_tokens=7, do_sample=False)[0, ids.shape[1] :]
        right += tokenizer.decode(answer).strip().startswith(key)
    return right / trials


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["collect", "train"])
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src/skipwise/assets/bundled")
    parser.add_argument("--figures", type=Path, default=HERE / "bundled.json")
    parser.add_argument("--first", type=int, default=0, help="phase to start with, from the result of the one before")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--recall-documents", type=int, default=24_000)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.stage == "collect":
        return collect(args.data, 4096, WINDOW)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.data)
    loaded = {name: np.load(args.data / f"{name}.npz") for name in ("prose", "code")}
    streams = {name: arrays["train"] for name, arrays in loaded.items()}
    held_out = {name: arrays["held_out"] for name, arrays in loaded.items()}
    recall = recall_rows(tokenizer, streams["prose"].astype(np.int64), WINDOW, args.recall_documents)
    print({name: len(ids) for name, ids in streams.items()}, "recall", recall.shape, flush=True)

    config = LlamaConfig(
        vocab_size=4096, hidden_size=args.hidden, intermediate_size=args.hidden * 8 // 3, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.heads, max_position_embeddings=WINDOW,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    results = [args.data / f"phase-{number}" for number in range(len(PHASES))]
    model = LlamaForCausalLM.from_pretrained(results[args.first - 1]) if args.first else LlamaForCausalLM(config)
    model.to(device).train()

    def look() -> str:
        return f" · passkey {[passkey(model, tokenizer, n, 20) for n in (WINDOW * 3 // 4, WINDOW)]}"

    started = time.monotonic()
    losses = []
    for number, phase in list(enumerate(PHASES))[args.first :]:
        print(f"phase {number}: {phase}", flush=True)
        losses.append(round(train(model, Batches(streams, recall, phase.mix, phase.window, number), phase, look), 4))
        model.save_pretrained(results[number])

    model.eval().to(torch.bfloat16)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    model.float()
    figures = {
        "parameters": model.num_parameters(),
        "phases": [phase._asdict() for phase in PHASES],
        "tokens": sum(phase.steps * sum(phase.mix.values()) * phase.window for phase in PHASES),
        "loss_of_phases": losses,
        "corpus_tokens": {name: len(ids) for name, ids in streams.items()},
        "held_out_loss": {name: round(held_out_loss(model, ids, WINDOW), 4) for name, ids in held_out.items()},
        "passkey": {str(n): passkey(model, tokenizer, n, 100) for n in (WINDOW * 3 // 4, WINDOW, WINDOW * 2)},
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started),
    }
    args.figures.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
