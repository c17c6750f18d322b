"""The model card: figures of every task, names that are no markup, and what the source's own card says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from skipwise.config import ModelConfig, RunConfig
from skipwise.evals.rows import Row
from skipwise.export import source_card
from skipwise.export.model_card import plain_card, run_card
from skipwise.utils.text import code, escape

ENVIRONMENT: dict[str, Any] = {"original_length": 8192, "device": "CPU (x86_64), 2 threads", "train_seconds": 750}


def card(rows: list[Row], path: str = "models/tiny", **environment: Any) -> str:
    config = RunConfig.model_validate(
        {"target_length": "32k", "model": {"path": path}, "training": {"train_length": 1024}}
    )
    return run_card(config, ENVIRONMENT | environment, rows)


def row(model: str, task: str, value: float, **more: Any) -> Row:
    figures = {"low": value * 0.9, "high": value * 1.1, "interval": "wilson 95%", "metric": "accuracy", "n": 20}
    return Row(**{"model": model, "fingerprint": model, "task": task, "value": value, **figures, **more})


def tables(text: str) -> dict[str, list[list[str]]]:
    """The cells of every table by the title above it."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.split("## Figures")[1].split("## Use")[0].splitlines():
        if line.startswith("|"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif line:
            title = line
    return found


def test_the_figures_of_every_task() -> None:
    rows = []
    for model, value in (("original", 0.25), ("extended", 0.5)):
        rows += [
            row(model, "perplexity", 40 * value, variant="prefix", metric="perplexity", length=8192, n=4),
            row(model, "perplexity", 60 * value, variant="prefix", metric="perplexity", length=32768, n=4),
            row(model, "perplexity_by_position", 9.0, variant="prefix", metric="perplexity", start=8192, length=32768),
            row(model, "passkey", value, length=32768, beyond_window=model == "original"),
            row(model, "passkey", 1.0, length=32768, depth=0.5),
            row(model, "k_max", value, length=32768),
            row(model, "k_max", 1.0, length=32768, depth=0.5, distance=16384),
            row(model, "k_max", 16384, metric="k_max", length=32768, low=8192, high=20000),
            row(model, "ruler", value, variant="vt", metric="match", length=8192),
            row(model, "ruler", 8192, variant="effective_length", metric="effective_length", low=0, high=8192),
            row(model, "harness", value, variant="piqa", metric="acc", n=1838),
            row(model, "harness", value, variant="piqa", metric="acc_norm", n=1838),
            row(model, "harness", 12.5, variant="wiki", metric="bleu", low=None, high=None, interval=None),
        ]
    text = card(rows)
    shown = tables(text)
    head = ["length", "original", "extended"]
    assert shown[r"perplexity (prefix), value \[wilson 95%\], n documents:"] == [
        *(head, ["---", "---:", "---:"]),
        *(["8k", "10.00 [9.00, 11.00], n = 4", "20.00 [18.00, 22.00], n = 4"],),
        *(["32k", "15.00 [13.50, 16.50], n = 4", "30.00 [27.00, 33.00], n = 4"],),
    ]
    assert shown[r"perplexity\_by\_position (prefix), value \[wilson 95%\], n documents:"][2][0] == "8k-32k"
    assert shown[r"passkey (accuracy), value \[wilson 95%\], n prompts:"][2:] == [
        ["32k", "25% [22%, 28%], n = 20*", "50% [45%, 55%], n = 20"]
    ]
    (_, _, *k_max) = shown[r"k\_max, value \[wilson 95%\], n prompts:"]
    assert [line[:3] for line in k_max] == [
        ["accuracy", "32k", "25% [22%, 28%], n = 20"],
        [r"k\_max", "32k", "16k [8k, 20,000], n = 20"],
    ]
    (_, _, *ruler) = shown[r"ruler, value \[wilson 95%\], n prompts:"]
    assert [line[:4] for line in ruler] == [
        ["vt", "match", "8k", "25.0% [22.5%, 27.5%], n = 20"],
        [r"effective\_length", r"effective\_length", "-", "8k [0, 8k], n = 20"],
    ]
    (_, _, *harness) = shown[r"harness, value \[wilson 95%\], n questions:"]
    assert [line[:4] for line in harness] == [
        ["piqa", "acc", "-", "25.0% [22.5%, 27.5%], n = 1,838"],
        ["piqa", r"acc\_norm", "-", "25.0% [22.5%, 27.5%], n = 1,838"],
        ["wiki", "bleu", "-", "12.500, n = 20"],
    ]
    assert "0 tokens" not in text
    assert r"\* beyond the window" in text
    assert "12.5 minutes on CPU" in text


def test_a_model_that_was_measured_before_has_one_column() -> None:
    old, new = (row("extended", "passkey", 1.0, length=64, fingerprint=name) for name in ("a", "b"))
    assert tables(card([old, new]))[r"passkey (accuracy), value \[wilson 95%\], n prompts:"][0] == [
        "length",
        "extended",
    ]
    assert "None were measured." in card([])


BAD = "x<h1><script>alert(1)`rm -rf`|[link](http:x)&amp;*b*_i_"


def test_names_are_no_markup() -> None:
    rows = [row("original", "harness", 0.5, variant=BAD, metric="acc"), row("original", "harness", 0.5, metric="x`y")]
    for text in (card(rows, path=f"models/{BAD}"), plain_card(BAD, 256, 64, None)):
        outside = "\n".join(line for line in text.splitlines() if not line.startswith("- "))
        for part in outside.split("``"):  # what stands between double backticks is code
            if "<script>" in part:
                assert part == BAD or part == f"models/{BAD}"
        title = next(line for line in text.splitlines() if line.startswith("# "))
        assert "<" not in title
        assert "\\`rm" in title
        assert "\\[link\\](" in title
        assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    assert sum(line.startswith("| x&lt;") for line in card(rows).splitlines()) == 1
    assert "\\|" in card(rows)


def test_code_and_text_by_hand() -> None:
    assert code("a`b") == "``a`b``"
    assert code("`a``") == "``` `a`` ```"
    assert code("two\nlines") == "`two lines`"
    assert escape("a_b|c <i>&\n# d") == r"a\_b\|c &lt;i&gt;&amp; \# d"


SOURCE = """---
license: llama3.1
license_name: "odd: name"
license_link: LICENSE
language: [en, de]
base_model: someone/base
datasets: [x]
tags: [y]
---
# A model
"""


def test_what_the_sources_card_says_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "m.gguf").write_bytes(b"")
    known = {
        **{"base_model": "someone/base", "license": "llama3.1", "license_name": "odd: name"},
        **{"license_link": "LICENSE", "language": ["en", "de"]},
    }
    assert source_card.facts(ModelConfig(path=str(tmp_path))) == known
    assert source_card.facts(ModelConfig(path=str(tmp_path / "m.gguf"))) == known
    front = yaml.safe_load(card([], path=str(tmp_path)).split("---\n")[1])
    assert front.items() >= known.items()
    assert front["tags"] == ["long-context", "rope", "pose", "skipwise"]
    # A run keeps what it knew at its start, so its card does not change when the source is gone.
    front = yaml.safe_load(card([], path="gone", source=known).split("---\n")[1])
    assert front.items() >= known.items()


@pytest.mark.parametrize(
    "text", ["", "no front matter", "---\n- a\n---\n", "---\na: [\n---\n", "---\nlicense: 3\n---\n"]
)
def test_a_source_without_a_card_gives_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert source_card.facts(ModelConfig(path=str(tmp_path))) == {}
    assert "license" not in card([], path=str(tmp_path)).split("---\n")[1]


def test_hub_ids_and_packaged_models() -> None:
    assert source_card.facts(ModelConfig(path="someone/nothing-here")) == {"base_model": "someone/nothing-here"}
    assert source_card.facts(ModelConfig(path="bundled")) == {"license": "apache-2.0"}
