"""The report as a browser shows it: it loads nothing, its figures change when switched, and it fits a phone."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skipwise.report.build import write_report
from skipwise.utils.atomic_files import read_jsonl
from support.sample_run import write_sample_rows, write_sample_run

if TYPE_CHECKING:
    import playwright.sync_api as api
else:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium or google-chrome")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of one run, of several, of one that is not finished, and of one full of markup."""
    folder = tmp_path_factory.mktemp("runs")
    bad = "</script><script>window.hacked = 1</script><img src=x onerror=window.hacked=1>"
    one = write_sample_run(folder / "one")
    many = [one, *(write_sample_run(folder / f"run-{i}", shift=0.1 * i, seed=i) for i in (1, 2))]
    many.append(write_sample_run(folder / "randpos", settings={"positions": {"sampler": "randpos"}}, seed=7))
    partial = write_sample_run(folder / "partial", done=23, results=False)
    markup = write_sample_run(folder / "<img src=x onerror=window.hacked=1>", settings={"model": {"path": bad}})
    for row in read_jsonl(markup / "results.jsonl")[:3]:
        with (markup / "results.jsonl").open("a") as file:
            file.write(json.dumps(row | {"model": bad, "value": float("inf"), "high": float("inf")}) + "\n")
    runs = {"one": [one], "many": many, "partial": [partial], "markup": [markup]}
    runs["paired"] = [write_sample_run(folder / "paired", paired=True)]
    runs["single"] = [one_document(folder / "single")]
    runs |= {"rows": [write_sample_rows(folder / "rows.jsonl")]}
    return {name: write_report(folders, folder / f"{name}.html") for name, folders in runs.items()}


def one_document(folder: Path) -> Path:
    """A run with pairs whose perplexity is of one document, and whose extended model is far off at every length."""
    write_sample_run(folder, paired=True)
    rows = read_jsonl(folder / "results.jsonl")
    for row in rows:
        if row["task"] == "perplexity":
            worse = 200.0 if row["model"] == "extended" else 1.0
            row |= {"n": 1, "value": worse * row["value"], "low": worse * row["low"], "high": worse * row["high"]}
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Recorder:
    """One tab with what it printed as errors and what it asked for."""

    def __init__(self, browser: "api.Browser") -> None:
        self.page = browser.new_context(accept_downloads=True).new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture(scope="module")
def recorder(browser: "api.Browser") -> Recorder:
    return Recorder(browser)


@pytest.fixture
def opened(recorder: Recorder, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator["api.Page"]:
    """A report of (name, viewport), by default of one run on a desktop; any error or request fails the test."""
    name, viewport = getattr(request, "param", ("one", DESKTOP))
    recorder.problems.clear()
    recorder.requests.clear()
    page = recorder.page
    page.set_viewport_size(viewport)
    page.emulate_media(media="screen", color_scheme="light")
    page.goto(pages[name].as_uri())
    page.locator("#perplexity .plot > svg, #distances .plot > svg").first.wait_for()
    yield page
    assert recorder.problems == []
    loaded = [url for url in recorder.requests if not url.startswith(("data:", "blob:"))]
    assert set(loaded) == {pages[name].as_uri()}
    page.evaluate("localStorage.clear()")


def drawn(page: "api.Page", section: str) -> str:
    return page.locator(f"#{section} .plot > svg").inner_html()


# Texts of a figure that lie over one another, and texts that reach out of it.
COLLISIONS = """() => [...document.querySelectorAll('.chart svg[viewBox], .heat svg[viewBox]')].flatMap((svg) => {
  const frame = svg.getBoundingClientRect(), found = [];
  const texts = [...svg.querySelectorAll('text')].filter((t) => t.textContent)
    .map((t) => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([a, p], i) => {
    if (p.left < frame.left - 1 || p.right > frame.right + 1 || p.top < frame.top - 1 || p.bottom > frame.bottom + 1)
      found.push(`${a} is cut`);
    texts.slice(i + 1).forEach(([b, q]) => {
      if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3)
        found.push(`${a} over ${b}`);
    });
  });
  return found;
})"""
SETTLED = """[...document.querySelectorAll('.plot > svg')]
  .every((svg) => Math.abs(svg.clientWidth - svg.width.baseVal.value) < 1)"""


@pytest.mark.parametrize(
    "opened",
    [(name, PHONE) for name in ("one", "many", "partial", "markup", "rows", "paired", "single")],
    indirect=True,
)
def test_every_page_fits_every_screen(opened: "api.Page") -> None:
    assert opened.evaluate("window.hacked") is None
    for width in (390, 320, 360, 700, 1280, 1920):
        opened.set_viewport_size({"width": width, "height": 844})
        opened.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        opened.wait_for_function(SETTLED)
        assert opened.evaluate("document.documentElement.scrollWidth") == width
        assert opened.evaluate(COLLISIONS) == [], width
        chart = opened.locator("section .chart:has(> .plot)").last
        card, figure = chart.bounding_box(), chart.locator(".plot > svg").bounding_box()
        assert card["width"] - 40 < figure["width"] < card["width"]


def test_the_perplexity_axis_switches(opened: "api.Page") -> None:
    log = drawn(opened, "perplexity")
    assert opened.locator("#perplexity .above text").all_text_contents() == ["612"]
    opened.get_by_role("radio", name="linear").first.check()
    assert drawn(opened, "perplexity") != log
    assert opened.locator("#perplexity .above text").all_text_contents() == ["214", "612"]
    opened.get_by_role("radio", name="log").first.check()
    assert opened.locator("#perplexity .above text").all_text_contents() == ["612"]


def test_the_legend_hides_and_shows_series(opened: "api.Page") -> None:
    keys, series = opened.locator("#perplexity .key"), opened.locator("#perplexity .series")
    assert (keys.count(), series.count()) == (2, 2)
    assert opened.locator("#perplexity .series .mark").count() == 13  # 14 points, of which one is above the axis
    keys.nth(0).click()
    assert series.count() == 1
    assert series.get_attribute("data-series") == "extended"
    assert keys.nth(0).get_attribute("aria-pressed") == "false"
    keys.nth(1).click()
    assert "Nothing is chosen" in opened.locator("#perplexity .chart").inner_text()
    keys.nth(0).click()
    assert series.get_attribute("data-series") == "original"


def test_the_training_curve_changes_its_axis(opened: "api.Page") -> None:
    titles = []
    for axis in ("steps", "tokens", "time"):
        opened.get_by_role("radio", name=axis, exact=True).check()
        titles.append(opened.locator("#training text.title").last.text_content())
    assert titles == ["steps", "tokens trained", "minutes"]
    assert opened.locator("#training .series").count() == 4


@pytest.mark.parametrize("opened", [("many", DESKTOP)], indirect=True)
def test_several_runs_switch_the_kind_of_loss_and_keep_their_colours(opened: "api.Page") -> None:
    before = drawn(opened, "training")
    opened.get_by_role("radio", name="validation, plain").check()
    assert drawn(opened, "training") != before
    names = [series.get_attribute("data-series") for series in opened.locator("#training .series").all()]
    assert names == ["one", "run-1", "run-2", "randpos"]

    def colour(section: str, name: str) -> str:
        line = opened.locator(f"#{section} .series[data-series='{name}'] .line").first
        return line.evaluate("line => getComputedStyle(line).stroke")

    colours = {name: {colour(section, name) for section in ("perplexity", "training", "distances")} for name in names}
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 4


def test_the_distance_axis_switches(opened: "api.Page") -> None:
    log = drawn(opened, "distances")
    opened.locator("#distances").get_by_role("radio", name="linear").check()
    assert drawn(opened, "distances") != log


def test_a_pointer_and_the_keyboard_read_the_chart(opened: "api.Page") -> None:
    figure, tip = opened.locator("#perplexity .plot > svg"), opened.locator("#perplexity .tip")
    assert tip.is_hidden()
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    opened.mouse.move(box["x"] + box["width"] - 30, box["y"] + 150)
    text = tip.inner_text()
    for part in ("32k tokens", "original", "612", "557–685, 4 documents", "extended", "31.0"):
        assert part in text
    opened.mouse.move(0, 0)
    assert tip.is_hidden()
    figure.focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert "4k tokens" in tip.inner_text()
    assert "4k tokens: original 31.7" in opened.locator("#live").inner_text()
    opened.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.parametrize("opened", [("one", PHONE)], indirect=True, ids=["phone"])
def test_the_heat_map_tells_value_n_and_interval(opened: "api.Page") -> None:
    cells, tip = opened.locator("#retrieval .panel").first.locator(".cell"), opened.locator("#retrieval .tip").first
    assert cells.count() == 6 * 6
    cells.nth(3).dispatch_event("pointerdown", {"pointerType": "touch"})
    assert tip.inner_text().split("\n") == ["16k tokens, depth 0%", "0%", "4 prompts, interval 0–49%"]
    cells.nth(3).focus()
    opened.keyboard.press("ArrowDown")
    assert "depth 25%" in tip.inner_text()
    assert "4 prompts" in opened.evaluate("document.activeElement.getAttribute('aria-label')")
    colours = [cells.nth(i).locator("rect").evaluate("rect => getComputedStyle(rect).fill") for i in (0, 3)]
    assert colours[0] != colours[1]


def test_the_theme_follows_the_system_until_it_is_chosen(opened: "api.Page") -> None:
    def background() -> str:
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    opened.emulate_media(color_scheme="dark")
    dark = background()
    assert dark != light
    opened.locator("#theme").click()
    assert background() == light
    opened.reload()
    kept = opened.evaluate("localStorage.getItem('skipwise-theme')")  # a browser may forget what a file:// page stored
    assert background() == (light if kept == "light" else dark)


def test_tabs_show_one_panel_and_obey_arrow_keys(opened: "api.Page") -> None:
    assert "from_pretrained" in opened.locator("#use [role=tabpanel]:visible").inner_text()
    opened.get_by_role("tab", name="vLLM").click()
    assert "vllm serve" in opened.locator("#use [role=tabpanel]:visible").inner_text()
    opened.keyboard.press("ArrowRight")
    assert "llama-server" in opened.locator("#use [role=tabpanel]:visible").inner_text()
    opened.keyboard.press("ArrowRight")
    assert "skipwise extend" in opened.locator("#use [role=tabpanel]:visible").inner_text()
    assert opened.get_by_role("tab", name="Skipwise").get_attribute("aria-selected") == "true"


def test_copy_puts_the_command_on_the_clipboard(opened: "api.Page") -> None:
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.get_by_role("tab", name="vLLM").click()
    opened.locator("#use .copy:visible").click()
    opened.get_by_role("button", name="Copied").wait_for()
    assert opened.evaluate("navigator.clipboard.readText()").startswith("vllm serve ")


def test_tables_sort_by_their_columns(opened: "api.Page") -> None:
    table = opened.locator("#numbers table:visible")

    def values() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
        return [float(cell.rstrip("%").replace(",", "")) for cell in cells if not cell.endswith("%")]

    for order in ("ascending", "descending"):
        table.get_by_role("button", name="value").click()
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == order
        assert values() == sorted(values(), reverse=order == "descending")
        assert len(values()) == 14


def test_downloads_hold_the_data(opened: "api.Page", pages: dict[str, Path]) -> None:
    measured = read_jsonl(pages["one"].parent / "one" / "results.jsonl")
    with opened.expect_download() as got:
        opened.get_by_role("button", name="JSON").click()
    data = json.loads(Path(got.value.path()).read_text())
    assert [row["value"] for row in data["results"]] == [row["value"] for row in measured]
    with opened.expect_download() as got:
        opened.get_by_role("button", name="CSV").click()
    assert got.value.suggested_filename == "skipwise-evaluation.csv"
    rows = list(csv.DictReader(io.StringIO(Path(got.value.path()).read_text(), newline="")))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in measured]
    assert [row["n"] for row in rows] == [str(row["n"]) for row in measured]


@pytest.mark.parametrize("opened", [("markup", DESKTOP)], indirect=True)
def test_infinite_values_are_named_and_stay_inside(opened: "api.Page") -> None:
    assert "∞" in opened.locator("#perplexity .above text").all_text_contents()
    figure = opened.locator("#perplexity .plot > svg").bounding_box()
    marks = opened.locator("#perplexity .plot > svg").locator(".mark, .above path").all()
    assert len(marks) == 14 + 3
    for box in (mark.bounding_box() for mark in marks):
        assert figure["y"] <= box["y"] <= figure["y"] + figure["height"]


def test_without_scripts_the_result_is_still_said(browser: "api.Browser", pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert "perplexity at 32k fell from 612 to 31.0" in page.locator("h1").inner_text()
    assert "allow JavaScript" in page.locator("main").inner_text()
    context.close()


def test_paper_shows_every_command_and_no_buttons(opened: "api.Page") -> None:
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.locator("#use [role=tabpanel]:visible").count() == 4
    assert opened.locator("#use .copy:visible").count() == 0
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("opened", [("rows", DESKTOP)], indirect=True)
def test_rows_of_all_tasks_are_compared_without_a_run(opened: "api.Page") -> None:
    assert opened.locator("h1").inner_text() == "3 models compared on 10 tasks."
    lead, rows = opened.locator("#summary .lead"), opened.locator("#summary tbody tr")
    assert rows.count() == 22
    text = lead.inner_text()
    assert "after against before: at and below 8k tokens better in" in text
    assert "; beyond better in" in text
    passkey = rows.filter(has_text="passkey").first
    assert [cell.split("\n")[0] for cell in passkey.locator("td").all_inner_texts()] == ["5%*", "95%", "85%"]
    assert "+90 points [+61.4, +100] better" in passkey.inner_text()
    assert "other prompts, not paired" in passkey.inner_text()
    opened.get_by_label("Length", exact=True).select_option("4096")
    assert "undecided" in passkey.inner_text()
    assert [cell.split("\n")[0] for cell in passkey.locator("td").all_inner_texts()][:2] == ["85%", "85%"]
    for name in ("k max", "ruler: effective length", "harness: boolq"):  # of no length
        assert rows.filter(has_text=name).count() == 1


@pytest.mark.parametrize("opened", [("rows", DESKTOP)], indirect=True)
def test_every_task_has_its_curve_and_its_map(opened: "api.Page") -> None:
    curves = opened.get_by_label("Scores of").locator("option").all_inner_texts()
    assert len(curves) == 16
    before = drawn(opened, "tasks")
    opened.get_by_label("Scores of").select_option("ruler average")
    assert drawn(opened, "tasks") != before
    assert opened.locator("#tasks .series .mark").count() == 12
    opened.get_by_label("Scores of").select_option("k_max")
    assert "between key and question" in opened.locator("#tasks text.title").last.text_content()
    marks = opened.locator("#tasks .series .mark").evaluate_all("all => all.map((m) => m.getAttribute('transform'))")
    assert len(marks) == 3 * 32
    assert len({mark.split()[0] for mark in marks}) == 32
    maps = opened.get_by_label("Task", exact=True).locator("option").all_inner_texts()
    assert maps == ["passkey", "needle", "key value: lines", "key value: json"]
    opened.get_by_label("Task", exact=True).select_option("key_value json")
    assert opened.locator("#retrieval .panel").count() == 3
    assert opened.locator("#perplexity .series .mark").count() == 12
    drawn_prefix = drawn(opened, "perplexity")
    opened.get_by_role("radio", name="between lengths").check()
    assert drawn(opened, "perplexity") != drawn_prefix


@pytest.mark.parametrize("opened", [("paired", DESKTOP)], indirect=True)
def test_three_questions_are_answered_before_anything_else(opened: "api.Page") -> None:
    cards = opened.locator(".answers .answer")
    assert cards.locator("h2").all_inner_texts() == [
        "Did it work?",
        "What did it cost inside the old window?",
        "Can I use it?",
    ]
    worked, cost, usable = cards.all_inner_texts()
    assert "Perplexity at 32k fell from 612 to 31.0 (−94.9% [" in worked
    assert "4 documents)" in worked
    assert "Perplexity at 8k rose from 29.0 to 30.1 (+3.9% [" in cost
    assert "skipwise extend --resume" in usable  # the sample has no model folder
    first = opened.locator("h1 ~ div").first
    assert first.get_attribute("class") == "answers"
    tones = cards.locator(".label").evaluate_all("all => all.map((label) => getComputedStyle(label).color)")
    assert len(set(tones)) == 3


@pytest.mark.parametrize("opened", [("paired", PHONE)], indirect=True)
def test_the_page_shows_what_both_models_say(opened: "api.Page") -> None:
    text = opened.locator("#example").inner_text()
    for part in ("32k tokens, depth 50%", "What is the pass key?", "10001", "7 7 7", "wrong", "10001.", "right"):
        assert part in text, part


@pytest.mark.parametrize("opened", [("single", DESKTOP)], indirect=True)
def test_one_document_is_never_coloured_as_a_verdict(opened: "api.Page") -> None:
    row = opened.locator("#summary tbody tr").filter(has_text="perplexity").first
    assert "one document decides nothing" in row.inner_text()
    colours = row.locator("small").evaluate_all("all => all.map((text) => getComputedStyle(text).color)")
    soft = opened.locator("#summary .lead").evaluate("lead => getComputedStyle(lead).color")
    assert set(colours) == {soft}
    assert "one document, which decides nothing" in opened.locator(".answers .answer").first.inner_text()


@pytest.mark.parametrize("opened", [("single", DESKTOP)], indirect=True)
def test_a_model_far_above_the_others_still_has_a_curve(opened: "api.Page") -> None:
    figure = opened.locator("#perplexity .plot > svg").bounding_box()
    marks = opened.locator("#perplexity .series[data-series=extended] .mark")
    assert marks.count() == 7
    for mark in marks.all():
        box = mark.bounding_box()
        assert figure["y"] <= box["y"] <= figure["y"] + figure["height"]
    opened.get_by_role("radio", name="linear").first.check()
    assert opened.locator("#perplexity .series[data-series=extended] .faint").count() == 1


@pytest.mark.parametrize("opened", [("paired", DESKTOP)], indirect=True)
def test_a_measurement_that_two_rows_show_is_counted_once(opened: "api.Page", pages: dict[str, Path]) -> None:
    rows = read_jsonl(pages["paired"].parent / "paired" / "results.jsonl")
    whole = [row for row in rows if row["depth"] is None and row["model"] == "extended"]
    lead = opened.locator("#summary .lead").inner_text()
    assert f"of {sum(row['length'] <= 8192 for row in whole)}; beyond" in lead
    assert lead.endswith(f"of {sum(row['length'] > 8192 for row in whole)}.")
