"""What the packaged model is pre-trained on: texts, tokens, and rows of one window each.

Texts come from packages that are pinned or installed. Recall documents, lists and copies are made row by row: they
teach a model to look up earlier text, which ordinary texts teach late or never.
"""

import ast
import itertools
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from skipwise.assets import catalogue
from skipwise.assets.texts import STDLIB_HELD_OUT, reference_text
from skipwise.data.documents import documents
from skipwise.data.labels import IGNORED
from skipwise.data.recall_documents import Recall
from skipwise.data.text_sources import sources

Ids = NDArray[np.int64]
Streams = dict[str, NDArray[np.uint16]]
BOS = "<|bos|>"
HELD_OUT = ("workshop", "alice", "stdlib-held-out")
PACKAGES = ("torch", "transformers", "numpy", "pandas", "scipy", "sympy", "networkx", "datasets")
CODE_CHARACTERS = 36_000_000
SAMPLE_CHARACTERS = 8_000_000
"""Text of each kind that the tokenizer is trained on."""
MIX = {"code": 4, "books": 1, "modern": 3, "recall": 2, "list": 1, "copy": 1}
"""Rows of each kind in a batch."""
STYLES = ("{k}: {v}", "{k} = {v}", "'{k}' = '{v}'", '"{k}": "{v}",', "{k} -> {v}", "{k} {v}")
"""How a list writes a pair."""
ASKS = ("\n\n", "\n\nOnce more:\n", "\n\nOne of them again:\n", "\n\n# ")
QUESTION_TOKENS = 40
"""More than a question about a list and its answer have."""


class Row(NamedTuple):
    """A row's tokens, and its labels: -100 where nothing is to be learnt. `answers` has labels at answers only."""

    ids: Ids
    labels: Ids
    answers: Ids


# --- texts --------------------------------------------------------------------------------------------------------


def read(*names: str) -> list[str]:
    """Read the documents of packaged texts."""
    return [document.text for document in documents(sources([str(catalogue.get(name)) for name in names]))]


def sources_of_packages() -> dict[str, list[Path]]:
    """List the Python sources of PACKAGES."""
    site = Path(sysconfig.get_path("purelib"))
    return {name: sorted((site / name).rglob("*.py")) for name in PACKAGES}


def code() -> list[str]:
    """Read Python sources up to CODE_CHARACTERS: the standard library, then PACKAGES in a shuffled order."""
    standard = Path(sysconfig.get_path("stdlib"))
    files = [p for p in sorted(standard.rglob("*.py")) if "site-packages" not in p.parts]
    extra = list(itertools.chain.from_iterable(sources_of_packages().values()))
    files += [extra[i] for i in np.random.default_rng(0).permutation(len(extra))]
    texts, size = [], 0
    for path in files:
        if path.name not in STDLIB_HELD_OUT and size < CODE_CHARACTERS:
            texts.append(path.read_text(encoding="utf-8", errors="ignore"))
            size += len(texts[-1])
    return texts


def docstrings() -> list[str]:
    """Take the plain paragraphs of the docstrings of PACKAGES, a text for each package: English of this century."""
    texts = []
    for files in sources_of_packages().values():
        topics = {}
        for path in files:
            try:
                nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="ignore"))))
            except (SyntaxError, ValueError):
                continue
            holders = (n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
            topics[str(path)] = "\n\n".join(filter(None, map(ast.get_docstring, holders)))
        texts.append(reference_text(topics))
    return texts


# --- tokens -------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that encodes each digit as one token."""
    tokenizer = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BOS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS)


def sample(texts: list[str], size: int) -> list[str]:
    """Take as much of every text, from its start, as makes about `size` characters in all."""
    share = size / sum(map(len, texts))
    return [text[: round(share * len(text))] for text in texts]


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> NDArray[np.uint16]:
    """Encode all texts as one stream of token ids, with a BOS before each text."""
    return np.concatenate([np.asarray(tokenizer(text, verbose=False)["input_ids"], dtype=np.uint16) for text in texts])


def collect(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer and the streams `code`, `books` and `modern` to `folder`."""
    texts = {
        "code": code(),
        "books": read("shakespeare", "milton", "spurgeon"),
        "modern": read("jargon") + docstrings(),
    }
    parts = itertools.chain.from_iterable(sample(value, SAMPLE_CHARACTERS) for value in texts.values())
    tokenizer = train_tokenizer(list(parts), vocabulary)
    tokenizer.save_pretrained(folder)
    streams: dict[str, Any] = {name: encode(tokenizer, value) for name, value in texts.items()}
    np.savez(folder / "streams.npz", **streams)


# --- rows ---------------------------------------------------------------------------------------------------------


class Rows:
    """Batches of rows of one window. A batch is a function of the seed and its number alone."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, streams: Streams, window: int, mix: dict[str, int], seed: int
    ) -> None:
        self.streams, self.window, self.mix, self.seed = streams, window, mix, seed
        self.recall = Recall(tokenizer, lists=0)  # `list` writes them

    def batch(self, number: int) -> Row:
        """Draw the rows of a batch, with as many of each kind as the mix says; (B, T) each."""
        rng = np.random.default_rng((self.seed, number))
        rows = [self.row(rng, kind, self.window) for kind, count in self.mix.items() for _ in range(count)]
        ids, labels, answers = (np.stack(part) for part in zip(*rows, strict=True))
        ids[:, 0] = 0  # every window starts with BOS, as every text does
        return Row(ids, labels, answers)

    def row(self, rng: np.random.Generator, kind: str, window: int) -> Row:
        """Draw one row."""
        if kind in self.streams:
            text = self.text(rng, kind, window)
            return Row(text, text.copy(), np.full_like(text, IGNORED))
        text = self.text(rng, str(rng.choice(list(self.streams))), window)
        if kind in ("copy", "list"):
            return self.copy(rng, text) if kind == "copy" else self.list(rng, text)
        ids, answers = self.recall.document(rng, text, window)
        return Row(ids, ids.copy(), answers)

    def text(self, rng: np.random.Generator, name: str, window: int) -> Ids:
        """Take a window at a random place of a stream."""
        start = rng.integers(0, len(self.streams[name]) - window)
        return self.streams[name][start : start + window].astype(np.int64)

    def copy(self, rng: np.random.Generator, text: Ids) -> Row:
        """Repeat a passage of text, or its shuffled tokens, until the row is full. Only the repetitions have labels."""
        passage = text[: rng.integers(3, len(text) // 2)]
        ids = np.resize(rng.permutation(passage) if rng.random() < 0.5 else passage, len(text))
        labels = np.where(np.arange(len(text)) <= len(passage), IGNORED, ids)
        return Row(ids, labels, labels.copy())

    def list(self, rng: np.random.Generator, text: Ids) -> Row:
        """Write random pairs after some text, and repeat one to three of them, whose values are the answers."""
        style, ask = STYLES[rng.integers(len(STYLES))], ASKS[rng.integers(len(ASKS))]
        digits = list("0123456789abcdef"[: 10 if rng.random() < 0.4 else 16])
        key_size, value_size = rng.integers(3, 9), rng.integers(3, 7)
        asked = int(rng.integers(1, 1 + max(1, min(3, len(text) // QUESTION_TOKENS // 2))))
        room = rng.uniform(0.2, 1) * (len(text) - asked * QUESTION_TOKENS)
        pairs: dict[str, str] = {}
        lines = [np.zeros(0, dtype=np.int64)]
        while sum(map(len, lines)) < room:
            key, value = ("".join(rng.choice(digits, size=size)) for size in (key_size, value_size))
            pairs[key] = value
            lines.append(self.encode("\n" + style.format(k=key, v=value)))
        listed = np.concatenate(lines)
        questions = [self.question(style, ask, key, pairs[key]) for key in rng.permutation(list(pairs))[:asked]]
        ids = np.concatenate([text, listed, *(tokens for tokens, _ in questions)])[-len(text) :]
        answers = np.full(len(text), IGNORED, dtype=np.int64)
        tail = np.concatenate([labels for _, labels in questions])
        answers[-len(tail) :] = tail
        # Nobody can predict random pairs: they have no labels.
        labels = ids.copy()
        labels[-len(tail) - len(listed) : -len(tail)] = IGNORED
        return Row(ids, labels, answers)

    def question(self, style: str, ask: str, key: str, value: str) -> tuple[Ids, Ids]:
        """Write a pair once more, and label the tokens from the value on."""
        lead, end = style.format(k=key, v="|").split("|")
        tokens, start = self.encode(ask + lead + value + end), self.encode(ask + lead.rstrip(" "))
        same = next((i for i, pair in enumerate(zip(tokens, start, strict=False)) if pair[0] != pair[1]), len(start))
        return tokens, np.where(np.arange(len(tokens)) < same, IGNORED, tokens)

    def encode(self, text: str) -> Ids:
        """Token ids of a text, without special tokens."""
        return np.asarray(self.recall.encode(text), dtype=np.int64)
