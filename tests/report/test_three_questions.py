"""What a page answers first: verdicts from pairs alone, the loss inside the old window, whether there is a model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from skipwise.evals.rows import Row
from skipwise.report import three_questions
from skipwise.report.comparisons import comparisons, counted
from skipwise.report.headline import headline
from skipwise.report.model_answers import MOST_CHARACTERS, example
from skipwise.report.run_files import read_run
from skipwise.report.series import series
from skipwise.report.wording import settings
from skipwise.utils.atomic_files import read_jsonl
from skipwise.utils.text import parameters_text
from support.sample_run import write_sample_rows, write_sample_run


def perplexity(model: str, length: int, losses: list[float], **columns: Any) -> Row:
    """Documents of 100 tokens, each with its loss a token."""
    value = math.exp(sum(losses) / len(losses))
    return Row(
        **{
            **{"model": model, "fingerprint": model, "task": "perplexity", "variant": "prefix", "metric": "perplexity"},
            **{"window": 8192, "original_length": 8192, "length": length, "data": f"texts to {length}"},
            **{"value": value, "low": value * 0.9, "high": value * 1.1, "n": len(losses)},
            **{"sums": [100 * loss for loss in losses], "counts": [100] * len(losses)},
            **columns,
        }
    )


def passkey(model: str, length: int, scores: list[float], **columns: Any) -> Row:
    values = {"model": model, "fingerprint": model, "task": "passkey", "metric": "accuracy", "window": 8192}
    values |= {"original_length": 8192, "length": length, "value": sum(scores) / len(scores), "n": len(scores)}
    return Row(**{**values, "scores": scores, "data": f"keys at {length}", **columns})


ORIGINAL = [
    perplexity("original", 8192, [3.0, 3.2, 2.9, 3.1]),
    perplexity("original", 32768, [6.0, 6.2, 5.9, 6.1]),
    passkey("original", 8192, [1.0] * 20),
    passkey("original", 32768, [0.0] * 20),
]
EXTENDED = [
    perplexity("extended", 8192, [3.11, 3.31, 3.0, 3.22]),
    perplexity("extended", 32768, [3.1, 3.3, 3.0, 3.2]),
    passkey("extended", 8192, [1.0] * 20),
    passkey("extended", 32768, [1.0] * 19 + [0.0]),
]


def answers(extended: list[Row], original: list[Row] = ORIGINAL) -> list[three_questions.Answer | None]:
    known = comparisons(original, extended)
    return [three_questions.worked(known, 8192, 32768), three_questions.cost(known, 8192)]


def test_both_sides_of_the_old_window_have_their_figure_and_interval() -> None:
    worked, cost = answers(EXTENDED)
    assert worked is not None
    assert cost is not None
    assert (worked.label, worked.verdict) == ("Better in 2 of 2", "better")
    assert "erplexity at 32k fell from 424 to 23.3 (−94.5% [" in worked.text
    assert "passkey retrieval at 32k rose from 0% to 95% (+95 points [" in worked.text
    # 0.11 nats a token more are e^0.11 = 1.116 times the perplexity.
    assert (cost.label, cost.verdict) == ("Worse in 1 of 2", "worse")
    assert "erplexity at 8k rose from 21.1 to 23.6 (+11.6% [" in cost.text
    assert "passkey retrieval at 8k stayed at 100% (+0 points" in cost.text


def test_an_undecided_interval_is_no_verdict() -> None:
    _, cost = answers([perplexity("extended", 8192, [3.5, 2.9, 3.2, 2.8]), *EXTENDED[1:]])
    assert cost is not None
    assert (cost.label, cost.verdict) == ("Undecided", "undecided")
    assert "erplexity at 8k went from" in cost.text
    assert "4 documents, undecided)" in cost.text


@pytest.mark.parametrize("blocks", [1, 40])
def test_one_document_decides_nothing_whatever_its_blocks(blocks: int) -> None:
    """40 blocks that agree have a narrow interval, which holds for that document alone."""
    before = perplexity("original", 32768, [6.0 + 0.001 * i for i in range(blocks)], n=1)
    after = perplexity("extended", 32768, [3.0] * blocks, n=1)
    worked, _ = answers([after], [before])
    assert worked is not None
    assert (worked.label, worked.verdict) == ("Undecided", "undecided")
    assert "one document, which decides nothing" in worked.text


@pytest.mark.parametrize(
    ("others", "lost", "verdict"),
    [(5, 6, "worse"), (30, 6, "undecided"), (30, 20, "worse")],  # 6 of 20 lost: 2.4 standard errors; 20: 12.8
)
def test_one_verdict_among_many_is_what_chance_gives(others: int, lost: int, verdict: str) -> None:
    def rows(model: str, lost: int) -> list[Row]:
        alike = [passkey(model, 4096, [1.0] * 20, task="harness", variant=f"{i}", data=f"{i}") for i in range(others)]
        return [*alike, passkey(model, 8192, [0.0] * lost + [1.0] * (20 - lost))]

    _, cost = answers(rows("extended", lost), rows("original", 0))
    assert cost is not None
    assert (cost.label, cost.verdict) == (f"Worse in 1 of {others + 1}", verdict)
    assert f"asskey retrieval at 8k fell from 100% to {100 - 5 * lost}%" in cost.text
    assert ("chance alone" in cost.text) == (verdict == "undecided")


def test_other_tasks_alone_are_named_in_the_headline(tmp_path: Path) -> None:
    folder = write_sample_run(tmp_path / "run")
    rows = [row | {"task": "key_value", "variant": "lines"} for row in read_jsonl(folder / "results.jsonl")]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[-40:]))
    assert headline([read_run(folder, "run")]) == "Window extended from 8k to 32k tokens; measured: key value."


def test_a_loss_in_a_task_is_named_before_gains() -> None:
    needle = {"task": "needle", "data": "needles"}
    before, after = (passkey(m, 4096, [s] * 20, **needle) for m, s in (("original", 1.0), ("extended", 0.0)))
    _, cost = answers([*EXTENDED, after], [*ORIGINAL, before])
    assert cost is not None
    assert "needle at 4k fell from 100% to 0%" in cost.text


def test_a_measurement_counts_once() -> None:
    between = {"task": "perplexity_by_position", "start": 4096}
    average = {"task": "ruler", "variant": "average", "tasks": ["vt"], "data": "all"}

    def rows(model: str) -> list[Row]:
        return [
            perplexity(model, 8192, [3.0, 3.1]),
            perplexity(model, 8192, [3.0, 3.1], **between),
            passkey(model, 8192, [1.0, 0.0], task="ruler", variant="vt", data="vt"),
            passkey(model, 8192, [1.0, 0.0], **average),
            passkey(model, 8192, [1.0], depth=0.5),
        ]

    known = comparisons(rows("a"), rows("b"))
    assert len(known) == 5
    assert [(c.after.task, c.after.variant) for c in counted(known)] == [("perplexity", "prefix"), ("ruler", "vt")]


def test_the_headline_holds_the_loss_beside_the_gain(tmp_path: Path) -> None:
    run = read_run(write_sample_run(tmp_path / "run", paired=True), "run")
    assert headline([run]).endswith("; inside the old window, perplexity at 8k rose from 29.0 to 30.1.")


@pytest.mark.parametrize(
    ("config", "done", "label", "part"),
    [
        (None, 23, "Not yet", "23 of 60 training steps are done."),
        (None, 60, "Not yet", "no model/config.json"),
        ({"max_position_embeddings": 8192}, 60, "Not at the target", "a window of 8k tokens and not the target of 32k"),
        ({"text_config": {"max_position_embeddings": 32768}}, 60, "Yes", "a window of 32k tokens"),
        ("[", 60, "Not yet", "no model/config.json"),
    ],
)
def test_whether_it_can_be_used_is_read_from_the_model(
    tmp_path: Path, config: Any, done: int, label: str, part: str
) -> None:
    folder = write_sample_run(tmp_path / "a run", done=done)
    if config:
        (folder / "model").mkdir()
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "model" / "config.json").write_text(text)
    usable = three_questions.of_run(read_run(folder, "run"))[2]
    assert usable["label"] == label
    assert part in usable["text"]
    command = usable["command"]
    assert {"Yes": "vllm serve '", "Not yet": "skipwise extend --resume --out '"}.get(label, "None") in str(command)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    folder = write_sample_run(tmp_path / "run", paired=True)
    rows = read_jsonl(folder / "results.jsonl")
    for name, sentence in (("original", "The original model has not"), ("extended", "The extended model has not")):
        (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows if r["model"] != name))
        worked, cost, _ = three_questions.of_run(read_run(folder, "run"))
        assert worked["label"] == cost["label"] == "Not measured"
        assert sentence in worked["text"]
    (folder / "results.jsonl").unlink()
    assert three_questions.of_run(read_run(folder, "run"))[0]["text"] == "Nothing has been evaluated."


def test_rows_without_pairs_get_no_verdict(tmp_path: Path) -> None:
    worked, cost, _ = three_questions.of_run(read_run(write_sample_run(tmp_path / "run"), "run"))
    assert (worked["label"], worked["verdict"]) == ("Not paired", "unknown")
    assert "no prompts or texts could be paired" in cost["text"]


def test_two_models_of_a_file_get_the_first_two_answers(tmp_path: Path) -> None:
    paths = write_sample_rows(tmp_path / "two.jsonl", ("a", "b")), write_sample_rows(tmp_path / "three.jsonl")
    two, three = ([Row(**row) for row in read_jsonl(path)] for path in paths)
    assert [answer["question"] for answer in three_questions.of_rows(two)] == [
        three_questions.WORKED,
        three_questions.COST,
    ]
    assert three_questions.of_rows(three) == []


def spoken(model: str, length: int, depth: float, answer: str, **columns: Any) -> Row:
    return passkey(model, length, [float("42" in answer)], depth=depth, answers=[[["42"], answer]], **columns)


def test_the_question_shown_is_chosen_by_its_place() -> None:
    places = [(8192, 0.5), (16384, 0.5), (32768, 0.0), (32768, 0.5), (65536, 0.5)]
    first = [spoken("original", length, depth, " 7", data=f"{length} {depth}") for length, depth in places]
    later = [spoken("extended", length, depth, " 42" * 200, data=f"{length} {depth}") for length, depth in places]
    shown = example(first, later, 8192, 32768)
    assert shown is not None
    assert (shown["length"], shown["depth"], shown["truth"]) == (32768, 0.5, "42")
    assert shown["question"] == "What is the pass key? The pass key is"
    before, after = shown["answers"]
    assert (before["text"], before["score"], before["cut"]) == (" 7", 0.0, False)
    assert (len(after["text"]), after["score"], after["cut"]) == (MOST_CHARACTERS, 1.0, True)
    assert example(first, later[:1], 8192, 32768) is None
    alone = example([], later, 8192, 32768)
    assert alone is not None
    assert [answer["model"] for answer in alone["answers"]] == ["extended"]


def test_the_wording_is_that_of_the_task() -> None:
    pair = [[["00ff", "0123abcd"], "00ff'"]]
    row = passkey("extended", 32768, [1.0], task="key_value", variant="lines", answers=pair)
    shown = example([], [row], 8192, 32768)
    assert shown is not None
    assert shown["question"] == "What is the value of the key '0123abcd'?\n'0123abcd' = '"
    assert shown["truth"] == "00ff"
    unknown = example([], [row.replace(variant="older", task="key_value")], 8192, 32768)
    assert unknown is not None
    assert unknown["question"] is None


def test_models_of_one_label_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    from skipwise.report.run_files import Rows

    rows = [passkey("model", 8192, [1.0], path=f"runs/{name}/model", fingerprint=name) for name in ("first", "second")]
    (one, two), _ = series([], [Rows(tmp_path, "rows", [*rows], 0)])
    assert (one["name"], two["name"]) == ("first/model", "second/model")
    (one,), _ = series([], [Rows(tmp_path, "rows", rows[:1], 0)])
    assert one["name"] == "first/model"


@pytest.mark.parametrize(
    ("adapter", "trained", "text"),
    [
        ({"method": "none"}, 134_515_008, "all weights"),
        (
            {"method": "lora", "rank": 8, "also_train": ["norms"]},
            1_345_150,
            "LoRA of rank 8, norms whole, 1.35 M parameters (1%); merged into the model",
        ),
    ],
)
def test_settings_say_what_was_trained(tmp_path: Path, adapter: dict[str, Any], trained: int, text: str) -> None:
    folder = write_sample_run(tmp_path / "run", settings={"adapter": adapter})
    environment = json.loads((folder / "environment.json").read_text()) | {"trained_parameters": trained}
    (folder / "environment.json").write_text(json.dumps(environment))
    training = settings(read_run(folder, "run"))[2]
    assert dict(training["rows"])["Trained"] == text


def test_parameters_keep_three_digits() -> None:
    counts = [598_000, 2_557_632, 134_515_008, 999_600_000, 8_030_261_248]
    assert [parameters_text(n) for n in counts] == ["0.598 M", "2.56 M", "135 M", "1,000 M", "8.03 B"]
