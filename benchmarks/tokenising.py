"""Compare making a token store with the tokenizer's own speed on the same texts, and look at the memory.

    python benchmarks/tokenising.py [--model smollm2] [--megabytes 8 32] [--rounds 3] [--duplicates exact]

A store is made from files on the disk: reading, hashing, tokenising and writing. The baseline is `encode_batch` of the
tokenizer on the same pieces, which are in memory before the clock starts. Every part runs in a process of its own, one
after the other, to measure its peak memory. The output is MB/s of both, their ratio (median and spread of the rounds),
and the peak memory at each size. Run it on an idle machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILE = 4_000_000  # bytes of one text file
ROW = 3_000  # characters of one row


def write_corpus(folder: Path, megabytes: int) -> None:
    """Half in text files, half in rows, from the standard library's sources; no two documents are alike."""
    from skipwise.assets import catalogue
    from skipwise.data.documents import documents
    from skipwise.data.text_sources import sources

    catalogue.get("stdlib")
    text = "".join(document.text for document in documents(sources(["stdlib"])))
    folder.mkdir(parents=True)
    half, number, start = megabytes * 500_000, 0, 0
    for index in range(max(half // FILE, 1)):
        size = min(FILE, half)
        content = f"# file {index}\n" + (text * (size // len(text) + 2))[start % len(text) :][:size]
        (folder / f"{index:04}.txt").write_text(content, encoding="utf-8")
        start += size
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        while number * ROW < half:
            place = number * ROW % (len(text) - ROW)
            rows.write(json.dumps({"text": f"{number}\n{text[place : place + ROW]}"}) + "\n")
            number += 1


def store(tokenizer_folder: str, folder: Path, duplicates: str) -> dict[str, float]:
    from transformers import AutoTokenizer

    from skipwise.config import DataConfig
    from skipwise.data import token_store

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    with tempfile.TemporaryDirectory() as cache:
        data = DataConfig.model_validate({"paths": [str(folder)], "cache": cache, "duplicates": duplicates})
        started = time.perf_counter()
        made = token_store.open_store(data, tokenizer, progress=False)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "tokens": len(made.tokens), "documents": len(made)}


def baseline(tokenizer_folder: str, folder: Path) -> dict[str, float]:
    from transformers import AutoTokenizer

    from skipwise.config import DataConfig
    from skipwise.data.store_building import Corpus

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    batches = [
        [piece.text for piece in batch] for batch in Corpus(DataConfig(paths=[str(folder)]), tokenizer).batches()
    ]
    backend, tokens = tokenizer.backend_tokenizer, 0
    started = time.perf_counter()
    for texts in batches:
        tokens += sum(len(one) for one in backend.encode_batch(texts, add_special_tokens=False))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "tokens": tokens,
        "bytes": sum(len(text.encode()) for batch in batches for text in batch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duplicates", default="exact", choices=["keep", "exact", "near"])
    parser.add_argument("--part", nargs=3, help="run one part here and print JSON")
    args = parser.parse_args()
    if args.part:
        part, tokenizer, folder = args.part
        figures = (
            store(tokenizer, Path(folder), args.duplicates) if part == "store" else baseline(tokenizer, Path(folder))
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures | {"peak": peak}))
        return
    from skipwise.config import ModelConfig
    from skipwise.models import checkpoint, sources

    with tempfile.TemporaryDirectory() as work:
        tokenizer = str(Path(work) / "tokenizer")
        checkpoint.tokenizer(sources.find(ModelConfig(path=args.model))).save_pretrained(tokenizer)

        def run(part: str, megabytes: int) -> dict[str, float]:
            command = [sys.executable, __file__, "--duplicates", args.duplicates]
            command += ["--part", part, tokenizer, str(Path(work) / str(megabytes))]
            environment = os.environ | {"TOKENIZERS_PARALLELISM": "true"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return figures

        sizes = sorted(args.megabytes)
        for size in sizes:
            write_corpus(Path(work) / str(size), size)
        largest, ratios = sizes[-1], list[float]()
        for _ in range(args.rounds):
            raw, ours = run("baseline", largest), run("store", largest)
            assert raw["tokens"] == ours["tokens"], "the same tokens"
            ratios.append(raw["seconds"] / ours["seconds"])
            speeds = [raw["bytes"] / each["seconds"] / 1e6 for each in (raw, ours)]
            print(
                f"{raw['bytes'] / 1e6:.0f} MB, {raw['tokens'] / 1e6:.1f} M tokens, {ours['documents']:.0f} documents: "
                f"encode_batch {speeds[0]:.2f} MB/s, store {speeds[1]:.2f} MB/s, ratio {ratios[-1]:.2f}, "
                f"peak of the store {ours['peak']:.0f} MB",
                flush=True,
            )
        print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        for size in sizes[:-1]:
            print(f"peak of the store of {size} MB: {run('store', size)['peak']:.0f} MB")


if __name__ == "__main__":
    main()
