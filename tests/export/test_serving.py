"""The extended packaged model behind `transformers serve`, asked through the OpenAI client; it also passes `verify`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import skipwise
from skipwise.cli import main
from skipwise.config import ModelConfig, ServerConfig
from skipwise.evals.tasks import passkey
from skipwise.utils.atomic_files import read_jsonl
from support import ROOT
from support.real_servers import ORIGINAL, transformers_serve

pytestmark = pytest.mark.slow
openai = pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `serving`)")
pytest.importorskip("fastapi", reason="transformers serve is not installed (extra `serving`)")

RECIPE = ROOT / "recipes/bundled.yaml"
TARGET = 1024
QUICK = [
    *("training.steps=120", "training.save_every=120", "training.validate_every=120", "evaluation.tasks=[passkey]"),
    *(f"evaluation.lengths=[{TARGET}]", f"evaluation.retrieval_lengths=[{ORIGINAL}, {TARGET}]", "evaluation.trials=2"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model, trained from 256 to 1,024 tokens for 120 steps: a minute on two idle cores."""
    out = tmp_path_factory.mktemp("serving") / "run"
    settings = [part for setting in QUICK for part in ("--set", setting)]
    assert main.main(["extend", "--config", str(RECIPE), "--target", str(TARGET), "--out", str(out), *settings]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "exported"
    assert main.main(["export", str(run), "--out", str(out), "--dtype", "float32"]) == 0
    return out


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    """Address of a real server process with the exported model."""
    with transformers_serve(exported) as address:
        yield address


def test_a_value_hidden_beyond_the_original_window(
    run: Path, exported: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = openai.OpenAI(base_url=server, api_key="none", timeout=300)
    answers = {}
    for key, depth in {"48151": 0.1, "62342": 0.3, "90876": 0.5, "17354": 0.7, "35209": 0.9}.items():
        prompt = passkey.prompt_text(key, 144, depth) + passkey.LEAD
        answer = client.completions.create(model=str(exported), prompt=prompt, max_tokens=12, temperature=0)
        assert answer.usage.prompt_tokens > 3 * ORIGINAL
        assert answer.usage.prompt_tokens + 12 <= TARGET
        answers[key] = answer.choices[0].text
    right = [key for key, text in answers.items() if passkey.first_number(text) == key]
    with capsys.disabled():
        print(f"\n{len(right)} of 5 found in prompts of {answer.usage.prompt_tokens} tokens: {answers}")
    assert len(right) >= 3
    before = [row for row in read_jsonl(run / "results.jsonl") if row["model"] == "original" and row["depth"] is None]
    assert {row["length"]: row["value"] for row in before}[TARGET] == 0, "the original model finds none"


def test_served_verdicts_are_those_in_process(
    exported: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"tasks": ["passkey"], "lengths": [ORIGINAL, 512, TARGET], "depths": [0.0, 0.25, 0.5, 1.0], "trials": 5}
    out = tmp_path / "rows.jsonl"
    asked = ServerConfig(url=server, model=str(exported), tokenizer=str(exported), concurrency=2)
    served = skipwise.evaluate(asked, settings, out)
    local = skipwise.evaluate(ModelConfig(path=str(exported), precision="float32"), settings, out)
    prompts = [score for row in served if row.depth is not None for score in row.scores]
    with capsys.disabled():
        print(f"\n{sum(prompts):.0f} of {len(prompts)} prompts right, served and in process")
    assert len(prompts) == 60
    assert [(row.data, row.scores) for row in served] == [(row.data, row.scores) for row in local]
    assert not any(row.cut for row in served)
    assert main.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0


def test_the_export_passes_verify(run: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main.main(["verify", str(exported), "--against", str(run)])
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{printed}")
    assert code == 0
    assert "the recipe on bundled" in printed
