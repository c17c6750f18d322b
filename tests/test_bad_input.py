"""Bad input of every kind ends in one clear line and exit code 2: no traceback, no long silence, nothing half-written.

Hypothesis makes command lines, settings, recipes, rows, texts and model folders, most of them wrong in one or two
places. A few dozen run by default, two thousand with `-m slow`.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.cli import main
from skipwise.config.settings import settings as all_settings
from support.tiny import tiny_llama

SILENCE = 30
"""Seconds of computing after which a case has hung."""
TEXT = Path(argparse.__file__).read_text(encoding="utf-8")[:30_000]
RECIPE: dict[str, Any] = {
    "target_length": 256,
    "model": {"path": "MODEL"},
    "data": {"paths": ["book.txt"]},
    "training": {"steps": 0, "validation_examples": 1},
    "evaluation": {"tasks": ["perplexity"], "lengths": [64], "documents": 1},
}
EVALUATE = "eval MODEL --tasks perplexity --lengths 32 --data book.txt --out rows.jsonl"

# Values that are wrong nearly everywhere, and some that are right somewhere.
TEXTS = st.sampled_from(
    "|x|-1|0|1|64|1k|32k|1e12|1e400|nan|inf|true|null|a,b|,|a\nb|../..|/|/dev/null|/dev/zero|~nobody-here/x|a\0b|\udcff|"
    "%s|{x}|MODEL|book.txt|rows.jsonl|recipe.yaml|here|here/new/deep|book.txt/new|no/such-thing|<script>|`|perplexity|"
    f"passkey|yarn|linear|--out|-|[1, 2|{{a: 1}}| |{'é' * 200}|{'y' * 5000}".split("|")
)
SCALARS = st.one_of(
    st.none(), st.booleans(), TEXTS, st.integers(-5, 5), st.sampled_from([10**9, 10**40, 2**63, -(2**31), 64, 256]),
    st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.5, 1e-9, 1e30]),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["a", "path", "steps", "factor", ""]), SCALARS, max_size=2),
)
COMMANDS = st.sampled_from(
    ["extend", "eval", "inspect", "search", "plan", "coverage", "report", "export", "verify", "assets", "settings"]
)


class Hung(BaseException):
    """A case took too long. No `except Exception` swallows it."""


def _hung(*_: object) -> None:
    raise Hung(f"silent for {SILENCE} s")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise `Hung` after 30 seconds of computing, or four times as long on the wall."""
    before = [signal.signal(number, _hung) for number in (signal.SIGVTALRM, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_VIRTUAL, SILENCE)
    signal.setitimer(signal.ITIMER_REAL, 4 * SILENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGVTALRM, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def everything(folder: Path) -> dict[str, int]:
    """Every path below a folder, with the size of files."""
    return {str(path.relative_to(folder)): path.lstat().st_size if path.is_file() else -1 for path in folder.rglob("*")}


def check(words: list[str]) -> None:
    """Run a command in the current folder; see that it works, or ends as a mistake should."""
    here = Path.cwd()
    before = everything(here)
    out, err = io.StringIO(), io.StringIO()
    with watched(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(words)
        except SystemExit as end:  # --help and --version
            code = int(end.code or 0)
    said = err.getvalue()
    assert code in (0, 1, 2), code
    assert "Traceback" not in said
    after = everything(here)
    hidden = [
        name for name in set(after) - set(before) if Path(name).name.startswith(".") and Path(name).name != ".lock"
    ]
    assert not hidden, f"left behind: {hidden}"
    if code == 2:
        lines = [line for line in said.splitlines() if line.startswith("skipwise: ")]
        assert len(lines) == 1, said
        assert said.splitlines()[-1] == lines[0], said
        assert 20 < len(lines[0]) < 1500, lines[0]
        if "--push" not in words:  # what was exported is whole; only the upload failed
            assert after == before, f"written: {set(after.items()) ^ set(before.items())}"
    elif code == 0 and "--help" not in words:
        assert "skipwise: " not in said


def to_json(value: Any) -> str:
    return json.dumps(value)


# Each kind of case: what Hypothesis draws, and how it becomes a command.


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, most values wrong."""
    command = draw(COMMANDS)
    chosen = next(action for action in main.build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    words = [command] if draw(st.integers(0, 30)) else [draw(TEXTS)]
    for action in chosen.choices[command]._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        if not action.required and draw(st.integers(0, 2)):
            continue
        right = {
            "model": "MODEL",
            "run": "rows.jsonl",
            "target": "256",
            "data": "book.txt",
            "out": "here/new",
            "tasks": "passkey",
        }
        if command == "verify":  # it starts a process: seconds for nothing that is not checked elsewhere
            right = {"model": "no/such-model"}
        value = right.get(action.dest, "1") if draw(st.integers(0, 2)) else draw(TEXTS)
        if action.dest == "set":
            value = draw(settings_texts())
        if action.dest == "target" and command == "search":  # what is right must be quick
            words += ["--set", "search.population=2", "--set", "search.generations=0", "--set", "search.documents=1"]
        words += action.option_strings[:1] + ([] if action.nargs == 0 else [value])
    return words


@st.composite
def settings_texts(draw: st.DrawFn) -> str:
    key = draw(st.one_of(st.sampled_from([setting.key for setting in all_settings()]), TEXTS))
    return f"{key}={draw(st.one_of(TEXTS, VALUES.map(str)))}" if draw(st.integers(0, 20)) else key


@st.composite
def set_options(draw: st.DrawFn) -> list[str]:
    """A command that is right but for its `--set`."""
    command = draw(
        st.sampled_from(
            [
                ["inspect", "MODEL"],
                ["plan", "MODEL", "--target", "256", "--device", "a100"],
                ["eval", "MODEL", "--tasks", "perplexity", "--lengths", "32", "--data", "book.txt"],
                ["extend", "--config", "recipe.yaml", "--out", "here/new"],
            ]
        )
    )
    return command + [
        word for setting in draw(st.lists(settings_texts(), min_size=1, max_size=2)) for word in ("--set", setting)
    ]


@st.composite
def recipes(draw: st.DrawFn) -> bytes:
    """A recipe with one to three settings changed, or its text damaged."""
    values = json.loads(json.dumps(RECIPE))
    for key in draw(st.lists(st.sampled_from([setting.key for setting in all_settings()]), min_size=1, max_size=3)):
        place, *inner = values, *key.split(".")
        for part in inner[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[inner[-1]] = draw(VALUES)
    text = yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    return damaged(draw, text) if not draw(st.integers(0, 3)) else text


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut, doubled, or with something put into their midst."""
    at = draw(st.integers(0, len(content)))
    put = draw(
        st.sampled_from(
            [b"", b"\0", b"\xff\xfe", b"{", b"[" * 3000, b"&a *a", b"\n\n", b'"', b"!!x ", b"\xef\xbb\xbf", b": ", b"}"]
        )
    )
    return content[:at] + put + draw(st.sampled_from([content[at:], content[at + 1 :], b""]))


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """A file of rows: right ones, with fields changed, left out or added, and lines that are no rows."""
    lines = []
    good = json.loads(Path("rows.jsonl").read_text().splitlines()[0])
    for _ in range(draw(st.integers(0, 3))):
        row = dict(good)
        for name in draw(st.lists(st.sampled_from([*good, "new"]), max_size=2)):
            if draw(st.booleans()):
                row[name] = draw(VALUES)
            else:
                row.pop(name, None)
        line = draw(
            st.one_of(
                st.just(to_json(row)), st.just(to_json(row)), st.sampled_from(["", "[]", "null", "{", "[" * 5000])
            )
        )
        lines.append(line)
    content = "\n".join([*lines, ""]).encode()
    return damaged(draw, content) if not draw(st.integers(0, 4)) else content


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, bytes]:
    """Name and content of a file of text."""
    name = draw(
        st.sampled_from(
            ["a.txt", "a.md", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv", "a.parquet", "a", "a.gguf"]
        )
    )
    kinds = {
        "rows": lambda: "\n".join(to_json({"text": draw(st.one_of(VALUES, st.just(TEXT)))}) for _ in range(3)).encode(),
        "words": lambda: TEXT.encode(),
        "bytes": lambda: draw(st.binary(max_size=200)),
        "table": lambda: b'id,text\n1,"' + TEXT[:2000].replace('"', "").encode() + b'"\n',
        "array": lambda: to_json([{"text": TEXT}, draw(VALUES)]).encode(),
        "odd": lambda: draw(
            st.sampled_from([b"", b"\0" * 100, b"\xef\xbb\xbf", "é\u2028\U0001f600".encode() * 50, b"{\n", b"[" * 5000])
        ),
    }
    content = kinds[draw(st.sampled_from([*kinds]))]()
    content = damaged(draw, content) if not draw(st.integers(0, 3)) else content
    return name, gzip.compress(content) if name.endswith(".gz") and draw(st.booleans()) else content


CONFIG_KEYS = (
    "model_type architectures rope_parameters rope_scaling rope_theta max_position_embeddings hidden_size head_dim "
    "num_attention_heads num_key_value_heads num_hidden_layers intermediate_size sliding_window layer_types vocab_size "
    "original_max_position_embeddings partial_rotary_factor bos_token_id eos_token_id dtype hidden_act text_config "
    "tie_word_embeddings quantization_config"
).split()
SCALINGS = st.fixed_dictionaries(
    {},
    optional={
        "rope_type": st.one_of(
            st.sampled_from(["yarn", "linear", "llama3", "longrope", "dynamic", "default", "su"]), SCALARS
        ),
        "type": st.one_of(st.sampled_from(["yarn", "linear", "su"]), SCALARS),
        "factor": SCALARS,
        "rope_theta": SCALARS,
        "original_max_position_embeddings": SCALARS,
        "long_factor": VALUES,
        "short_factor": VALUES,
        "attention_factor": SCALARS,
        "beta_fast": SCALARS,
    },
)


READERS = [
    ["inspect", "changed", "--json"],
    ["eval", "changed", "--tasks", "perplexity", "--lengths", "32", "--data", "book.txt", "--out", "here/rows.jsonl"],
    ["plan", "changed", "--target", "512", "--device", "a100", "--json"],
]


@st.composite
def models(draw: st.DrawFn) -> tuple[dict[str, bytes | None], list[str]]:
    """Files of a model folder that are changed (None: deleted), and a command that reads the folder."""
    changes: dict[str, bytes | None] = {}
    if draw(st.integers(0, 3)):
        config = json.loads(Path("MODEL/config.json").read_text())
        for key in draw(st.lists(st.sampled_from(CONFIG_KEYS), min_size=1, max_size=2)):
            config[key] = draw(SCALINGS if key.startswith("rope_") and key != "rope_theta" else VALUES)
        changes["config.json"] = draw(
            st.one_of(
                st.just(to_json(config)),
                st.just(to_json(config)),
                st.sampled_from(["[]", "{}", "null", "", '{"a":' * 3000]),
            )
        ).encode()
    else:
        name = draw(st.sampled_from(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]))
        content = Path("MODEL", name).read_bytes()
        changes[name] = draw(st.one_of(st.none(), st.just(b""), st.just(damaged(draw, content))))
    return changes, draw(st.sampled_from(READERS))


def run_words(words: list[str]) -> None:
    check(words)


def run_recipe(recipe: bytes) -> None:
    Path("recipe.yaml").write_bytes(recipe)
    check(["extend", "--config", "recipe.yaml", "--out", "here/new"])


def run_rows(content: bytes) -> None:
    Path("rows.jsonl").write_bytes(content)
    check(["report", "rows.jsonl", "--out", "here/page.html"])
    check(EVALUATE.split())


def run_text(file: tuple[str, bytes]) -> None:
    name, content = file
    Path(name).write_bytes(content)
    check(["eval", "MODEL", "--tasks", "perplexity", "--lengths", "32", "--data", name, "--out", "here/rows.jsonl"])


def run_model(case: tuple[dict[str, bytes | None], list[str]]) -> None:
    changes, reader = case
    shutil.copytree("MODEL", "changed")
    for name, content in changes.items():
        Path("changed", name).unlink()
        if content is not None:
            Path("changed", name).write_bytes(content)
    check(reader)


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "command lines": (command_lines(), run_words),
    "settings": (set_options(), run_words),
    "recipes": (recipes(), run_recipe),
    "rows": (rows(), run_rows),
    "texts": (texts(), run_text),
    "models": (models(), run_model),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a text, a recipe and rows that are right."""
    folder = tmp_path_factory.mktemp("good")
    tiny_llama(folder / "MODEL", window=64, adds_bos=True)
    (folder / "book.txt").write_text(TEXT, encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "here").mkdir()
    with contextlib.chdir(folder):
        assert main.main(EVALUATE.split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no hub."""
    import huggingface_hub.constants

    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@contextlib.contextmanager
def copy_of(good: Path) -> Iterator[None]:
    """Work in a fresh copy of the good folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        shutil.copytree(good, place)
        with contextlib.chdir(place):
            yield


def fuzz(kind: str, good: Path, cases: int) -> None:
    strategy, run = KINDS[kind]

    @settings(
        max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        with copy_of(good):
            run(data.draw(strategy))

    one()


def test_the_good_files_are_good(good: Path) -> None:
    """Else every case below would fail for another reason than its own."""
    for words in (
        ["inspect", "MODEL"],
        ["report", "rows.jsonl", "--out", "here/page.html"],
        ["eval", "MODEL", "--tasks", "perplexity", "--lengths", "32", "--data", "book.txt", "--out", "here/rows.jsonl"],
        ["extend", "--config", "recipe.yaml", "--out", "here/new"],
    ):
        with copy_of(good), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            assert main.main(words) == 0, err.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_bad_inputs(kind: str, good: Path) -> None:
    fuzz(kind, good, 6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_bad_inputs(kind: str, good: Path) -> None:
    fuzz(kind, good, 340)


@pytest.mark.parametrize(
    "words",
    [
        ["extend", "--model", "", "--target", "1k"],
        ["eval", "MODEL", "--tasks", "passkey", "--lengths", "1e12"],
        ["inspect", "MODEL", "--html", "book.txt/page.html"],
        ["extend", "--config", "book.txt", "--out", "here/new"],
    ],
)
def test_a_process_of_its_own(words: list[str], good: Path) -> None:
    """The same from a shell: one line, exit code 2, whatever Python prints at its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with copy_of(good):
        before = everything(Path.cwd())
        done = subprocess.run(
            [sys.executable, "-m", "skipwise", *words], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("skipwise: ")
        assert done.stdout == ""
        assert everything(Path.cwd()) == before
