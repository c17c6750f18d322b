"""`skipwise plan`: times worked out by hand, this machine measured, JSON that follows its types, a page that opens."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from skipwise.cli import main
from skipwise.config.sampler_names import sampler_names
from skipwise.errors import SkipwiseError
from skipwise.planning import devices, operations_and_bytes
from skipwise.planning.operations_and_bytes import Workload
from skipwise.planning.plan import Estimate, Options, Plan
from skipwise.positions.coverage import examples_until_seen
from skipwise.positions.sampler import Sampler
from skipwise.report import plan_view as shown
from support import family_configs
from support.tiny import llama_config

CONFIG = llama_config(layers=2, window=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "tiny"
    CONFIG.save_pretrained(path)
    return path


def estimate(**options: object) -> Estimate:
    chosen = Options(device="h100", **options)
    return Estimate(CONFIG, operations_and_bytes.work(CONFIG), devices.named("h100", chosen.utilisation), chosen)


def test_a_named_device_is_its_data_sheet() -> None:
    found = devices.named("NVIDIA H100", 0.5)
    assert found.layers == found.attention_training == 0.5 * 989e12
    assert (found.memory, found.bf16, found.kind) == (80 * 10**9, True, "cuda")
    assert "50% utilisation" in found.source
    with pytest.raises(SkipwiseError, match="did you mean rtx4090"):
        devices.named("RTX 4091")
    with pytest.raises(SkipwiseError, match="known: here, a100-40gb"):
        devices.named("abacus")
    with pytest.raises(SkipwiseError, match="utilisation 2"):
        devices.named("a100", 2)


def test_a_step_worked_out_by_hand() -> None:
    found, work = estimate(), operations_and_bytes.work(CONFIG)
    cost = found.training("x", 2, 64, rank=0)
    forward = 64 * (work.layer_flops + work.head_flops)
    seconds = 2 * (3 * forward + 3.5 * work.attention_flops(64)) / (0.4 * 989e12)
    update = (40 * work.parameters + 12 * 512 * 64) / (0.8 * 3.35e12)
    assert cost.step_seconds == pytest.approx(seconds + update + devices.STEP_SECONDS, rel=1e-9)
    assert cost.total_seconds == pytest.approx(400 * cost.step_seconds)
    run = Workload(2, 64, True, bf16=True)
    assert cost.memory == int(
        operations_and_bytes.bytes_of(CONFIG, run, alike=True).peak() * devices.SLACK + devices.RUNTIME
    )
    assert cost.fits
    assert estimate(checkpointing=True).training("x", 2, 64, rank=0).step_seconds > cost.step_seconds


def test_adapters_skip_the_gradients_of_frozen_weights() -> None:
    found, work = estimate(), operations_and_bytes.work(CONFIG)
    cost = found.training("x", 1, 64, rank=4)
    assert cost.trained_parameters == 4 * work.adapter
    forward = 64 * (work.layer_flops + work.head_flops)
    adapters = 64 * 6 * 4 * work.adapter
    seconds = (2 * forward + adapters + 3.5 * work.attention_flops(64)) / (0.4 * 989e12)
    update = 40 * 4 * work.adapter / (0.8 * 3.35e12)
    assert cost.step_seconds == pytest.approx(seconds + update + devices.STEP_SECONDS, rel=1e-9)


def test_several_devices_split_examples_and_share_states() -> None:
    one, eight = (estimate(devices=n, examples=800).training("x", 2, 64, rank=0) for n in (1, 8))
    assert (one.sequences, eight.sequences) == (2, 16)
    assert eight.total_seconds == pytest.approx(one.total_seconds / 8, rel=0.01)
    found = operations_and_bytes.bytes_of(CONFIG, Workload(2, 64, True, bf16=True), alike=True)
    assert eight.memory == int(found.peak(8) * devices.SLACK + devices.RUNTIME)
    slow = Estimate(CONFIG, operations_and_bytes.work(CONFIG), devices.named("l4"), Options(devices=8))
    object.__setattr__(slow.device, "link", 1.0)
    assert slow.training("x", 1, 64, rank=0).bound == "link"


def test_reading_in_chunks_needs_the_cache_and_one_chunk() -> None:
    found = estimate()
    whole, chunks = found.evaluation(100_000)
    assert whole.step_seconds == chunks.step_seconds
    cache = 100_000 * 2 * (2 * 2 * 2 * 16 + 2 * 4 * 16)  # bf16: two layers of two key heads; one layer for every head
    forward = operations_and_bytes.bytes_of(CONFIG, Workload(1, 16384, False, bf16=True), alike=True).peak()
    assert chunks.memory == int((forward + cache) * devices.SLACK + devices.RUNTIME)


def test_eager_attention_holds_the_scores_of_a_chunk() -> None:
    config, sheet = family_configs.config("gemma2"), devices.named("h100", 0.4)
    found = Estimate(config, operations_and_bytes.work(config), sheet, Options(device="h100")).evaluation(100_000)
    scores = 4 * 16384 * 100_000 * 8  # heads, chunk, keys; bf16 twice and fp32
    assert 0.8 * scores < found[1].memory < 2 * scores
    assert found[1].memory < found[0].memory


def test_curves_meet_the_costs() -> None:
    found = estimate()
    curves = found.curves(64, 1024)
    assert [point[0] for point in curves["full length"]] == [64, 128, 256, 512, 1024, 2048]
    assert len({point[1:] for point in curves["PoSE"]}) == 1
    for name, at in (("full length", 512), ("evaluation", 256)):
        tokens, memory, seconds = next(point for point in curves[name] if point[0] == at)
        cost = found.training("", 1, at, rank=0) if name == "full length" else found.evaluation(at)[1]
        assert memory == pytest.approx(cost.memory, rel=1e-3)
        assert seconds == pytest.approx(cost.step_seconds)
        assert tokens == at


def test_this_machine_is_measured() -> None:
    found = devices.here(CONFIG, 2, 64, device=torch.device("cpu"), dtype=torch.float32)
    rates = (found.layers, found.layers_training, found.head, found.head_training)
    for rate in (*rates, found.attention, found.attention_training, found.bandwidth):
        assert 1e6 < rate < 1e14
    assert found.runtime > devices.LIBRARY_BYTES
    assert found.memory > found.runtime
    assert not found.bf16
    measured = Estimate(CONFIG, operations_and_bytes.work(CONFIG), found, Options()).training("x", 2, 64, rank=0)
    assert 0 < measured.step_seconds < 60


@pytest.fixture(scope="module")
def printed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """What the command prints as JSON, read back, and its page. The folder holds config.json and no weights."""
    page = tmp_path_factory.mktemp("page") / "page.html"
    where = ["plan", str(folder), "--target", "1k", "--device", "a100", "--train-length", "32", "--chunks", "4"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main.main([*where, "--json", "--html", str(page)]) == 0
    return TypeAdapter(Plan).validate_json(out.getvalue()), page


def test_the_command_line(printed: tuple[Plan, Path]) -> None:
    found = printed[0]
    assert [cost.name for cost in found.costs] == [
        "PoSE, all weights",
        "PoSE, LoRA",
        "full length, all weights",
        "full length, LoRA",
        "evaluation, one pass",
        "evaluation, in chunks",
    ]
    assert (found.model, found.parameters) == ("tiny", operations_and_bytes.work(CONFIG).parameters)
    assert (found.train_length, found.target_length, found.device.name) == (32, 1024, "NVIDIA A100 80 GB")
    assert [c.chunks for c in found.coverage] == [2, 3, 4]
    assert found.coverage[0].all_seen == examples_until_seen(Sampler("pose", 32, 1024), 0.95)
    assert found.costs[0].memory < found.costs[2].memory
    lines = shown.text(found).splitlines()
    assert lines[0].startswith("tiny (llama, ")
    assert lines[1].startswith("device: NVIDIA A100 80 GB, memory 80 GB; data sheet")
    assert sum(line.startswith("full length") for line in lines) == 2
    seen = found.coverage[0]
    assert ["pose,", "2", "chunks", f"{seen.most_seen:,}", f"{seen.all_seen:,}"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "64"], "not beyond the original window of 64"),
        (["--target", "1k", "--train-length", "2k"], "target_length 1024 is shorter than train_length 2048"),
        (["--target", "1k", "--train-length", "128", "--distill"], "teaches within its window of 64 tokens"),
        (["--target", "1k", "--device", "abacus"], "no figures for device"),
        (["--target", "1k", "--devices", "0"], "--devices: '0': expected a whole number from 1"),
        (["--target", "1k", "--probability", "2"], "--probability: '2': expected a number above 0"),
        (["--target", "much"], "expected a number of tokens"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["plan", str(folder), *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_defaults_are_said_once() -> None:
    parsed = main.build_parser().parse_args(["plan", "m", "--target", "1k"])
    for name, value in Options().__dict__.items():
        assert getattr(parsed, name) == value, name


CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium or google-chrome")
def test_the_page_opens_in_a_browser(printed: tuple[Plan, Path]) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, problems = browser.new_page(), []
        page.on("console", lambda m: problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(printed[1].as_uri())
        page.locator("#window .plot > svg").nth(1).wait_for()
        names = [
            line.get_attribute("data-series") for line in page.locator("#window .chart").first.locator(".series").all()
        ]
        assert names == ["PoSE", "full length", "evaluation", "memory of the device"]
        # A device far larger than the model does not flatten the curves: which here differ by a few percent.
        memory = page.locator("#window .chart").first
        paths = memory.locator(".series:not([data-series='memory of the device']) .line").all()
        boxes = [box for path in paths if (box := path.bounding_box())]
        height = max(box["y"] + box["height"] for box in boxes) - min(box["y"] for box in boxes)
        assert height > 0.1 * memory.locator(".plot > svg").bounding_box()["height"]
        assert memory.locator(".above text").count() > 0
        assert page.locator("#costs tbody tr").count() == 6
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for table in page.locator(".scroll").all():
            assert table.evaluate("box => box.scrollWidth <= box.clientWidth")
        cells = page.locator("#costs tbody tr").first.locator("td")
        titles = cells.evaluate_all("all => all.map((cell) => getComputedStyle(cell, '::before').content)")
        assert [title.strip('"') for title in titles[:5]] == ["tokens", "trained", "memory", "fits", "a step"]
        assert problems == []
        browser.close()


@pytest.mark.parametrize("name", sampler_names())
def test_coverage_is_told_for_every_sampler(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["plan", str(folder), "--target", "512", "--device", "a100", "--train-length", "32", "--sampler", name]
    assert main.main(where) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith(name) and (name != "pose" or "2 chunks" in line))
    assert ("–" in row) == (name in ("original", "endprompt")), "never shown"
