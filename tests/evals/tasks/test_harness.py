"""Short benchmarks through lm-eval: scores worked out by hand, where benchmarks come from, and rolling perplexity."""

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from skipwise.config import EvaluationConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.document_losses import PerplexityVariant
from skipwise.evals.intervals import student
from skipwise.evals.rows import Row, read
from skipwise.evals.runner import evaluate
from skipwise.evals.tasks import perplexity
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel, load
from support.known import bigram_llama
from support.tiny import tiny_llama, tiny_tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra `harness`)")

from skipwise.evals.tasks.harness import task  # noqa: E402

WORDS = "the sky is blue and a number of arguments stands in this parser or in a string".split()


def questions_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        texts = [" ".join(generator.choice(WORDS, size=size)) for size in generator.integers(1, 6, 3)]
        rows.append({"question": f"Number {i}?", "choices": texts, "answer": int(generator.integers(3))})
    return rows


@pytest.fixture(scope="module")
def chances() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).dirichlet(np.full(512, 0.05), size=512) * 0.999 + 0.001 / 512


@pytest.fixture(scope="module")
def bigram(tmp_path_factory: pytest.TempPathFactory, chances: np.ndarray[Any, Any]) -> LoadedModel:
    """A model whose next token depends on the last alone, with known probabilities."""
    folder = tmp_path_factory.mktemp("bigram")
    tiny_tokenizer(folder)
    bigram_llama(chances, folder, window=64)
    return load(ModelConfig(path=str(folder), precision="float32", device="cpu"))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config_of(*tasks: str, **more: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"tasks": ["harness"], "harness": {"tasks": list(tasks)} | more})


def run(loaded: LoadedModel, out: Path, config: EvaluationConfig) -> tuple[list[Any], int]:
    """The rows, and how many forward passes they took."""
    passes: list[int] = []
    handle = loaded.model.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    rows = evaluate(loaded, config, [], label="m", out=out, lengths=[64])
    handle.remove()
    return rows, len(passes)


def by_hand(tokenizer: Any, chances: np.ndarray[Any, Any], row: dict[str, Any]) -> tuple[float, float]:
    """Whether the likeliest choice is right, by its probability and by that of a character."""
    prompt = f"Question: {row['question']}\nAnswer:"
    before = len(tokenizer(prompt)["input_ids"])
    sums = []
    for choice in row["choices"]:
        ids = tokenizer(f"{prompt} {choice}")["input_ids"]
        sums.append(sum(math.log(chances[a, b]) for a, b in zip(ids[before - 1 : -1], ids[before:], strict=True)))
    norms = [total / len(choice) for total, choice in zip(sums, row["choices"], strict=True)]
    return float(np.argmax(sums) == row["answer"]), float(np.argmax(norms) == row["answer"])


def test_scores_worked_out_by_hand(bigram: LoadedModel, chances: np.ndarray[Any, Any], tmp_path: Path) -> None:
    questions = questions_of(24)
    path, out = written(tmp_path / "quiz.jsonl", questions), tmp_path / "results.jsonl"
    rows, _ = run(bigram, out, config_of(path))
    expected = [by_hand(bigram.tokenizer, chances, question) for question in questions]
    assert [row.metric for row in rows] == ["acc", "acc_norm"]
    for row, scores in zip(rows, zip(*expected, strict=True), strict=True):
        assert row.scores == list(scores)
        assert row.value == pytest.approx(np.mean(scores))
        assert (row.low < row.value < row.high, row.interval) == (True, "Clopper-Pearson, at least 95%")
    assert rows[0].scores != rows[1].scores
    told = {"task": "harness", "variant": "quiz", "n": 24, "fewshot": 0, "limit": None, "benchmark_version": "1"}
    assert rows[0].model_dump().items() >= (told | {"length": None, "seed": 0, "beyond_window": False}).items()
    assert read(out) == rows


def kinds() -> list[Any]:
    """(name, post-processor, BOS, EOS) of tokenizers that put other special tokens around a text."""
    return [
        pytest.param("<s> $A", "<s>", "</s>", id="bos"),
        pytest.param("$A </s>", "<s>", "</s>", id="eos"),
        pytest.param("<s> $A </s>", "<s>", "</s>", id="bos-eos"),
        pytest.param("$A", None, None, id="neither"),
        pytest.param("$A </s>", None, "</s>", id="only-eos"),
    ]


def of_kind(bigram: LoadedModel, folder: Path, template: str, bos: str | None, eos: str | None) -> LoadedModel:
    """The bigram model with its tokenizer under another template."""
    backend = Tokenizer.from_str(tiny_tokenizer(folder).backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    names = {key: value for key, value in (("bos_token", bos), ("eos_token", eos)) if value}
    return dataclasses.replace(bigram, tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, **names))


def read_by(loaded: LoadedModel) -> tuple[list[list[int]], Any]:
    """The inputs of every forward pass from now on, and the handle that ends it."""
    seen: list[list[int]] = []

    def spy(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.extend((args[0] if args else kwargs["input_ids"]).tolist())

    return seen, loaded.model.get_decoder().register_forward_hook(spy, with_kwargs=True)


@pytest.mark.parametrize(("template", "bos", "eos"), kinds())
def test_choices_are_scored_to_their_last_token_whatever_the_tokenizer_adds(
    bigram: LoadedModel, chances: np.ndarray[Any, Any], tmp_path: Path, template: str, bos: str | None, eos: str | None
) -> None:
    loaded = of_kind(bigram, tmp_path, template, bos, eos)
    questions = questions_of(24)
    path = written(tmp_path / "quiz.jsonl", questions)
    seen, handle = read_by(loaded)
    rows, _ = run(loaded, tmp_path / "results.jsonl", config_of(path))
    handle.remove()
    expected = [by_hand(bigram.tokenizer, chances, question) for question in questions]
    assert [row.scores for row in rows] == [list(scores) for scores in zip(*expected, strict=True)]
    begin = [0] if template.startswith("<s>") else []
    plain = bigram.tokenizer
    texts = [f"Question: {q['question']}\nAnswer: {c}" for q in questions for c in q["choices"]]
    wanted = {tuple(begin + plain(text, add_special_tokens=False)["input_ids"][:-1]) for text in texts}
    # lm-eval reads all but the last token, pads behind, and puts choices of one token into one pass.
    assert all(any(tuple(row[: len(ids)]) == ids for ids in wanted) for row in seen)


@pytest.mark.parametrize(("template", "bos", "eos"), kinds())
def test_rolling_log_likelihood_has_one_bos_and_no_eos(
    bigram: LoadedModel, chances: np.ndarray[Any, Any], tmp_path: Path, template: str, bos: str | None, eos: str | None
) -> None:
    from lm_eval.api.instance import Instance

    loaded = of_kind(bigram, tmp_path, template, bos, eos)
    text = " ".join(WORDS)
    ids = bigram.tokenizer(text, add_special_tokens=False)["input_ids"]
    seen, handle = read_by(loaded)
    lm = task._wrapped(loaded, 64)
    [total] = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    handle.remove()
    first = bigram.tokenizer("\n", add_special_tokens=False)["input_ids"][0] if eos is None else 0 if bos else 1
    assert seen == [[first, *ids[:-1]]]
    assert total == pytest.approx(sum(math.log(chances[a, b]) for a, b in itertools.pairwise([first, *ids])), rel=1e-4)


@pytest.mark.parametrize(("template", "bos", "eos"), kinds())
def test_answers_are_written_behind_a_text_and_not_behind_an_eos(
    bigram: LoadedModel, tmp_path: Path, template: str, bos: str | None, eos: str | None
) -> None:
    lm = task._wrapped(of_kind(bigram, tmp_path, template, bos, eos), 64)
    ids, mask = lm.tok_batch_encode(["the sky", "the sky is blue"])
    begin = [0] if template.startswith("<s>") else []
    for row, kept, text in zip(ids, mask, ("the sky", "the sky is blue"), strict=True):
        expected = begin + bigram.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row[kept == 1].tolist() == row[len(row) - len(expected) :].tolist() == expected
    assert lm.tok_batch_encode(["the sky is blue"], left_truncate_len=2)[0].shape == (1, 2)


def test_finished_benchmarks_are_not_measured_again(bigram: LoadedModel, tmp_path: Path) -> None:
    path, out = written(tmp_path / "quiz.jsonl", questions_of(4)), tmp_path / "results.jsonl"
    rows, passes = run(bigram, out, config_of(path))
    assert passes > 0
    assert run(bigram, out, config_of(path)) == (rows, 0)
    fewer, _ = run(bigram, out, config_of(path, limit=2))
    shown, _ = run(bigram, out, config_of(path, fewshot=2))
    assert [(row.n, row.limit, row.fewshot) for row in (*fewer, *shown)] == [(2, 2, 0)] * 2 + [(4, None, 2)] * 2
    written(tmp_path / "quiz.jsonl", questions_of(4, seed=1))
    assert run(bigram, out, config_of(path))[1] > 0
    assert len(read(out)) == 8


def test_a_prompt_beyond_the_window_is_whole_and_flagged(bigram: LoadedModel, tmp_path: Path) -> None:
    long = {"question": "word " * 60, "choices": ["a", "b"], "answer": 0}
    rows, _ = run(bigram, tmp_path / "r.jsonl", config_of(written(tmp_path / "long.jsonl", [long])))
    lengths: list[int] = []
    handle = bigram.model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, output: lengths.append((args[0] if args else kwargs["input_ids"]).shape[1]),
        with_kwargs=True,
    )
    run(bigram, tmp_path / "again.jsonl", config_of(written(tmp_path / "long.jsonl", [long])))
    handle.remove()
    prompt = len(bigram.tokenizer(f"Question: {long['question']}\nAnswer:")["input_ids"])
    assert prompt > bigram.window
    assert max(lengths) >= prompt
    assert {row.beyond_window for row in rows} == {True}


def test_a_local_folder_of_tasks(bigram: LoadedModel, tmp_path: Path) -> None:
    data = written(
        tmp_path / "data.jsonl", [{"ask": f"{i} and", "say": [" one", " two"], "right": i % 2} for i in range(6)]
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {data}}}\n  cache_dir: {tmp_path}/c\n"
        "test_split: test\nfewshot_split: test\noutput_type: multiple_choice\nnum_fewshot: 1\n"
        "doc_to_text: ask\ndoc_to_choice: say\ndoc_to_target: right\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc}]\nmetadata: {version: 3.0}\n",
        encoding="utf-8",
    )
    rows, _ = run(bigram, tmp_path / "r.jsonl", config_of(str(tmp_path / "tasks"), limit=4))
    told = [(row.variant, row.metric, row.n, row.fewshot, row.benchmark_version) for row in rows]
    assert told == [("mine", "acc", 4, 1, "3.0")]
    # The seed draws the examples before a question, so it is another measurement.
    other = config_of(str(tmp_path / "tasks"), limit=4).model_copy(update={"seed": 1})
    assert run(bigram, tmp_path / "r.jsonl", other)[1] > 0
    (tmp_path / "tasks/mine.yaml").write_text("group: x\ntask: []\n", encoding="utf-8")
    with pytest.raises(SkipwiseError, match=r"holds no task file of lm-eval"):
        task.load_benchmarks(bigram, config_of(str(tmp_path / "tasks")))


def test_the_papers_benchmarks_by_name() -> None:
    assert config_of().model_copy(update={"harness": EvaluationConfig().harness}).harness.tasks == list(task.FEWSHOT)
    known = Path(lm_eval.__file__).parent / "tasks"
    names = {"boolq": "super_glue/boolq", "arc_challenge": "arc", "truthfulqa_mc2": "truthfulqa"}
    for name in task.FEWSHOT:
        texts = [path.read_text(encoding="utf-8") for path in (known / names.get(name, name)).glob("*.yaml")]
        assert any(f"task: {name}\n" in text for text in texts), name


def test_what_is_wrong_is_one_line(bigram: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SkipwiseError, match="nothing/here: no such file or folder"):
        task.load_benchmarks(bigram, config_of("nothing/here"))
    with pytest.raises(SkipwiseError, match=r"evaluation\.harness\.tasks is empty"):
        task.load_benchmarks(bigram, config_of())
    path = written(tmp_path / "quiz.jsonl", questions_of(2))
    with pytest.raises(SkipwiseError, match="two benchmarks are called 'quiz'"):
        task.load_benchmarks(bigram, config_of(path, path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "far.yaml").write_text("task: far\ndataset_path: someone/nothing\ntest_split: test\n", encoding="utf-8")
    with pytest.raises(SkipwiseError, match=r"needs data from the hub, .* go online, or name a local task folder"):
        task.load_benchmarks(bigram, config_of(str(tmp_path / "far.yaml")))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(SkipwiseError, match=r"harness needs lm-eval: pip install 'skipwise\[harness\]'"):
        task.load_benchmarks(bigram, config_of(path))


def test_intervals_of_values_that_are_no_mean() -> None:
    head = Row(task="harness", metric="bleu", n=2, seed=0)
    ends = {"low": 12 - 0.5 * student(1), "high": 12 + 0.5 * student(1)}
    expected = head.replace(value=12.0, **ends, interval="Student t 95%, lm-eval's standard error")
    assert task._result(head, 12.0, 0.5, [3.0, 30.0]) == expected
    assert task._result(head, 12.0, "N/A", []).low is None
    shares = task._result(head, 0.5, 0.1, [0.25, 0.75])
    assert (shares.value, shares.interval, shares.scores) == (0.5, "Gaffke, at least 95%", [0.25, 0.75])


def test_intervals_of_lm_evals_perplexities() -> None:
    # 8 nats over 4 words and 2 over 4: 5/4 nats a word, residuals ±3/8 of it, one degree of freedom.
    scores, mean, half = [(-8.0, 4), (-2.0, 4)], 1.25, student(1) * 0.75
    words = task._result(Row(task="harness", metric="word_perplexity", n=2), math.exp(mean), 0.1, scores)
    assert (words.low, words.high) == pytest.approx((math.exp(mean - half), math.exp(mean + half)), rel=1e-3)
    assert words.interval == "Student t 95%"
    bits = task._result(Row(task="harness", metric="bits_per_byte", n=2), mean / math.log(2), 0.1, scores)
    assert (bits.low, bits.high) == pytest.approx(((mean - half) / math.log(2), (mean + half) / math.log(2)), rel=1e-3)
    other = task._result(Row(task="harness", metric="x", n=2), 3.0, 0.5, scores)
    assert other.interval == "Student t 95%, lm-eval's standard error"


def rolling(loaded: LoadedModel, text: str, window: int) -> float:
    """lm-eval's log-likelihood of a text in disjoint windows, nats."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, max_length=window, batch_size=1)
    assert lm.prefix_token_id == loaded.tokenizer.bos_token_id
    [found] = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    return float(found)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_llama(tmp_path_factory.mktemp("llama") / "m", window=128)
    return load(ModelConfig(path=str(folder), precision="float32", device="cpu"))


def ours(loaded: LoadedModel, tokens: list[int], length: int, variant: PerplexityVariant) -> Row:
    documents = [("text", np.array(tokens, dtype=np.uint16))]
    [row] = perplexity.measure(loaded, Reader(loaded.model), documents, [(0, length)], variant)
    return row


@pytest.mark.parametrize("windows", [1, 2, 5])
def test_sliding_perplexity_is_lm_evals_rolling_one_where_windows_are_disjoint(
    llama: LoadedModel, windows: int
) -> None:
    # lm-eval puts one BOS before the text alone; a later window begins with the last token of the one before, which is
    # not scored again. Ours is the same with that BOS as the text's first token and none for each window, where a
    # window of n tokens moves by n - 1, the tokens that it scores.
    tokenizer = AutoTokenizer.from_pretrained(llama.path)
    tokens = tokenizer(" ".join(WORDS * 6))["input_ids"][:120]
    text = tokenizer.decode(tokens)
    assert tokenizer(text)["input_ids"] == tokens
    window = len(tokens) // windows
    bos = tokenizer.bos_token_id
    row = ours(llama, [bos, *tokens], window + 1, PerplexityVariant("sliding", stride=window, span=len(tokens) + 1))
    assert row.tokens == len(tokens)
    assert row.value == pytest.approx(math.exp(-rolling(llama, text, window) / len(tokens)), rel=1e-5)
    # A BOS before every window is another thing, but for a single one.
    each = ours(
        llama, tokens, window + 1, PerplexityVariant("sliding", stride=window, span=len(tokens) + 1, bos_id=bos)
    )
    assert each.tokens == len(tokens)
    assert (each.value == pytest.approx(row.value, rel=1e-5)) is (windows == 1)
