"""Run short benchmarks through lm-eval: a row for each metric of each benchmark.

They show what an extension cost inside the old window. Prompts, choices and scores are lm-eval's. Skipwise adds where
benchmarks come from (names that lm-eval knows, a local folder or file of its tasks, a file of multiple-choice
questions), intervals, and rows that are not measured twice. A prompt is never cut: lm-eval gets a window that holds
the longest one. lm-eval is an optional dependency and imported where it is used.
"""

import copy
import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.division import Piece
from skipwise.evals.intervals import Interval, ratio_of_sums, student
from skipwise.evals.rows import Row
from skipwise.evals.session import Session
from skipwise.evals.task import CustomTask, scored, special_prefix
from skipwise.evals.tasks.harness.questions import Choice, read_questions
from skipwise.models.load import LoadedModel
from skipwise.utils import progress

VERSION = 2
SEED = 1234
"""lm-eval's seed of the few-shot examples. Ours is added to it, so seed 0 gives the examples that lm-eval draws."""
BOOTSTRAPS = 1000
FEWSHOT = {"boolq": 0, "piqa": 0, "winogrande": 0, "truthfulqa_mc2": 0, "arc_challenge": 25, "hellaswag": 10}
"""The benchmarks of the PoSE paper, and how many examples stand before a question there."""


class Benchmark(NamedTuple):
    """A task of lm-eval, its requests built."""

    task: Any
    name: str
    n: int
    fewshot: int
    longest: int
    """Tokens of the longest request, its answer included."""
    data: str
    """Digest of all prompts and answers."""

    @property
    def metrics(self) -> list[str]:
        """`acc`, or `exact_match,strict-match` where the answers are read in several ways."""
        filters = [one.name for one in self.task._filters]
        return [_metric(metric, name) for metric in self.task.aggregation() for name in filters]


def load_benchmarks(loaded: LoadedModel, settings: EvaluationConfig) -> list[Benchmark]:
    """Load the benchmarks of the settings and build their prompts.

    Raises:
        SkipwiseError: A benchmark is missing, or needs data that cannot be fetched; or two have one name.
    """
    check(settings)
    lm = _wrapped(loaded)
    benchmarks = {}
    for entry in settings.harness.tasks:
        for task in _tasks(entry, settings):
            if task.task_name in benchmarks:
                raise SkipwiseError(f"harness: two benchmarks are called {task.task_name!r}; give one of them alone")
            benchmarks[task.task_name] = _built(task, lm, settings)
    return list(benchmarks.values())


GENERATED = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names under which a task may set the most tokens of an answer."""


def header(benchmark: Benchmark, metric: str, settings: EvaluationConfig) -> Row:
    """Make a row without figures. It has no length, because the questions have different ones."""
    return Row(
        task="harness",
        task_version=VERSION,
        variant=benchmark.name,
        benchmark_version=str(benchmark.task.VERSION),
        fewshot=benchmark.fewshot,
        limit=settings.harness.limit,
        metric=metric,
        n=benchmark.n,
        seed=settings.seed,
        chat=settings.chat,
        data=benchmark.data,
    )


def measure(loaded: LoadedModel, benchmark: Benchmark, settings: EvaluationConfig) -> Iterator[Row]:
    """Run one benchmark.

    Scores between 0 and 1 whose mean is lm-eval's value get the intervals of the other tasks, and so do perplexities.
    Any other value gets Student's t with lm-eval's standard error, or no interval if lm-eval gives none.

    Args:
        loaded: The model.
        benchmark: With its requests.
        settings: Settings of the evaluation.

    Yields:
        A row for each metric, without the model's columns.
    """
    from lm_eval.evaluator import evaluate

    started = time.monotonic()
    lm = _wrapped(loaded, max(loaded.window, benchmark.longest), settings.harness.batch_size)
    benchmark.task.set_fewshot_seed(SEED + settings.seed)
    results: Any = evaluate(
        lm=lm,
        task_dict={"tasks": {benchmark.name: benchmark.task}, "groups": {}, "group_map": {}},
        limit=settings.harness.limit,
        bootstrap_iters=BOOTSTRAPS,
        apply_chat_template=settings.chat,
        fewshot_as_multiturn=settings.chat,
    )
    assert _digest(benchmark.task) == benchmark.data, "lm-eval built other prompts the second time"
    seconds = time.monotonic() - started
    samples, values = results["samples"][benchmark.name], results["results"][benchmark.name]
    for metric, name in [(m, f.name) for m in benchmark.task.aggregation() for f in benchmark.task._filters]:
        scores = [sample.get(metric) for sample in samples if sample["filter"] == name]
        head = header(benchmark, _metric(metric, name), settings).replace(
            tokens=benchmark.longest,
            seconds=round(seconds, 3),
            beyond_window=benchmark.longest > loaded.window,
        )
        yield _result(head, values[f"{metric},{name}"], values.get(f"{metric}_stderr,{name}"), scores)


def _result(head: Row, value: float, stderr: Any, scores: list[Any]) -> Row:
    plain = [float(score) for score in scores if isinstance(score, bool | int | float) or hasattr(score, "item")]
    if plain and len(plain) == len(scores) and min(plain) >= 0 and max(plain) <= 1:
        row = scored(head, plain)
        if abs(row.value - value) < 1e-9:
            return row
    if interval := _perplexity_interval(value, scores):
        return head.replace(value=float(value), low=interval.low, high=interval.high, interval=interval.name)
    if not isinstance(stderr, int | float) or len(scores) < 2:
        return head.replace(value=float(value))
    half = student(len(scores) - 1) * stderr
    name = "Student t 95%, lm-eval's standard error"
    return head.replace(value=float(value), low=float(value - half), high=float(value + half), interval=name)


def _perplexity_interval(value: float, scores: list[Any]) -> Interval | None:
    """Interval of a perplexity or of bits a byte; None for other scores.

    Its scores are (log-likelihood, words or bytes) of each text.
    """
    if not scores or not all(isinstance(score, tuple | list) and len(score) == 2 for score in scores):
        return None
    losses, weights = -np.array(scores, dtype=np.float64).T[0], np.array(scores, dtype=np.float64).T[1]
    mean, half = ratio_of_sums(losses, weights)
    bits = math.isclose(value, mean / math.log(2), rel_tol=1e-9)
    if not math.isfinite(half) or not (bits or math.isclose(value, math.exp(mean), rel_tol=1e-9)):
        return None
    low, high = (end / math.log(2) if bits else math.exp(end) for end in (mean - half, mean + half))
    return Interval(low, high, "Student t 95%")


def _metric(metric: str, filter_name: str) -> str:
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def _lm_eval_model() -> Any:
    """lm-eval's class of models. Errors: SkipwiseError with the command that installs lm-eval."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise SkipwiseError("harness needs lm-eval: pip install 'skipwise[harness]'") from error
    return HFLM


def _wrapped(loaded: LoadedModel, window: int | None = None, batch_size: int = 1) -> Any:
    """The model as lm-eval calls it, with a copy of the tokenizer, because lm-eval may give that a padding token.

    lm-eval encodes a text with all special tokens of the tokenizer and takes them for text: it scores the EOS that some
    put behind a text in place of the last token, scores a second BOS in rolling log-likelihoods, and needs a BOS or an
    EOS to begin with. Here a text is what `Inputs.encode` gives, rolling windows hold plain text behind one BOS, and
    without BOS and EOS a text begins after a line break.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    before = special_prefix(tokenizer)

    class Model(_lm_eval_model()):  # type: ignore[misc]
        rolling = False

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **ignored: Any,
        ) -> list[int]:
            ids: list[int] = tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
            wanted = not self.rolling if add_special_tokens is None else add_special_tokens
            if wanted and ids[: len(before)] != before:  # a chat template may have written them already
                ids = before + ids
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def tok_batch_encode(
            self,
            strings: list[str],
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            rows = [self.tok_encode(text, left_truncate_len=left_truncate_len) for text in strings]
            ids = torch.full((len(rows), max(map(len, rows))), self.prefix_token_id)  # (B, T)
            mask = torch.zeros_like(ids)
            for i, row in enumerate(rows):
                place = slice(ids.shape[1] - len(row), None) if padding_side == "left" else slice(len(row))
                ids[i, place], mask[i, place] = torch.tensor(row), 1
            return ids, mask

        def loglikelihood_rolling(self, *args: Any, **kwargs: Any) -> Any:
            self.rolling = True
            try:
                return super().loglikelihood_rolling(*args, **kwargs)
            finally:
                self.rolling = False

    first = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    prefix = next((token for token in first if token is not None), None)
    if prefix is None:
        prefix = tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    shared = {"tokenizer": tokenizer, "backend": "causal", "prefix_token_id": prefix}
    return Model(pretrained=loaded.model, max_length=window, batch_size=batch_size, **shared)


def _built(task: Any, lm: Any, settings: EvaluationConfig) -> Benchmark:
    """A task with its requests, few-shot examples drawn by the seed."""
    known = task.get_config("num_fewshot")
    wanted = settings.harness.fewshot if settings.harness.fewshot is not None else FEWSHOT.get(task.task_name)
    # lm-eval's rule: a task that sets 0 has its examples in its prompt.
    fewshot = known if known == 0 or wanted is None else wanted
    task.set_config(key="num_fewshot", value=fewshot or 0)
    task.set_fewshot_seed(SEED + settings.seed)
    limit = settings.harness.limit
    chat = {"apply_chat_template": True, "chat_template": lm.apply_chat_template, "fewshot_as_multiturn": True}
    task.build_all_requests(limit=limit, rank=0, world_size=1, **(chat if settings.chat else {}))
    requests = task.instances
    if not requests:
        raise SkipwiseError(f"harness: {task.task_name} has no questions")
    texts = ["".join(part for part in request.args if isinstance(part, str)) for request in requests]
    longest = max(len(lm.tok_encode(text)) for text in texts) + 1
    if task.OUTPUT_TYPE == "generate_until":
        asked = [value for request in requests for key, value in request.args[1].items() if key in GENERATED]
        longest += max(map(int, asked), default=lm.max_gen_toks)
    n = len({request.doc_id for request in requests})
    return Benchmark(task, task.task_name, n, fewshot or 0, longest, _digest(task))


def _digest(task: Any) -> str:
    asked = [[request.doc_id, request.args, task.doc_to_target(request.doc)] for request in task.instances]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _tasks(entry: str, settings: EvaluationConfig) -> list[Any]:
    """lm-eval's tasks behind a name, a folder, a task file or a file of questions."""
    from lm_eval.tasks import TaskManager

    path = Path(entry).expanduser()
    if path.is_dir():
        manager = TaskManager(include_path=str(path), include_defaults=False)
        if not manager.all_subtasks:
            raise SkipwiseError(f"harness: the folder {entry} holds no task file of lm-eval (.yaml with `task:`)")
        return _loaded(manager, list(manager.all_subtasks), entry)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _loaded(TaskManager(include_defaults=False), [str(path)], entry)
    if path.is_file():
        questions = read_questions(path, settings.harness)
        return _loaded(TaskManager(include_defaults=False), [_multiple_choice(path, questions)], entry)
    manager = TaskManager()
    if entry not in manager.all_tasks:
        raise SkipwiseError(
            f"evaluation.harness.tasks: lm-eval has no task {entry!r}, and there is no such file; "
            "`lm-eval ls tasks` lists what it has"
        )
    return _loaded(manager, [entry], entry)


def _loaded(manager: Any, specs: list[Any], entry: str) -> list[Any]:
    try:
        return list(manager.load(specs)["tasks"].values())
    except Exception as error:  # lm-eval and `datasets` raise what their many readers raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, ConnectionError | OSError):
            raise SkipwiseError(
                f"harness: {entry} needs data from the hub, which cannot be had here ({reason}); go online, or name a "
                "local task folder or a .jsonl file of questions in evaluation.harness.tasks"
            ) from error
        raise SkipwiseError(f"harness: lm-eval cannot load {entry}: {reason}") from error


def _multiple_choice(path: Path, questions: list[Choice]) -> dict[str, Any]:
    """A task of lm-eval over questions that are already read, with their prompts, `acc` and `acc_norm`."""
    from datasets import Dataset

    def dataset(**ignored: Any) -> dict[str, Any]:
        return {"test": Dataset.from_list([question._asdict() for question in questions])}

    return {
        "task": path.resolve().parent.name if path.suffix == ".json" else path.name.split(".")[0],
        "custom_dataset": dataset,
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
        "metadata": {"version": 1},
    }


def check(settings: EvaluationConfig) -> None:
    """Refuse, without a model, what cannot be measured: lm-eval is missing, no benchmark, a missing file.

    Raises:
        SkipwiseError: with the command that installs lm-eval, or the setting to change.
    """
    _lm_eval_model()
    if not settings.harness.tasks:
        raise SkipwiseError("evaluation.harness.tasks is empty: expected names such as [piqa, hellaswag], or files")
    for entry in settings.harness.tasks:
        path = Path(entry).expanduser()
        if (path.suffix or "/" in entry) and not path.exists():
            raise SkipwiseError(f"evaluation.harness.tasks: {entry}: no such file or folder")
        if path.is_file() and path.suffix not in (".yaml", ".yml"):
            read_questions(path, settings.harness)


class _HarnessPlan:
    """The benchmarks of one model, their prompts built."""

    def __init__(self, session: Session, lengths: list[int]) -> None:
        self._session = session
        self._benchmarks = load_benchmarks(session.loaded, session.inputs.settings)
        self.longest = max(benchmark.longest for benchmark in self._benchmarks)

    def rows(self) -> list[Row]:
        return [row for benchmark in self._benchmarks for row in self._rows(benchmark)]

    def pieces(self, processes: int) -> list[Piece]:
        """A piece for each benchmark."""
        return [Piece(one.n * one.longest, functools.partial(self._rows, one)) for one in self._benchmarks]

    def _rows(self, benchmark: Benchmark) -> list[Row]:
        """One row for each metric; measured when one of them is missing."""
        session, settings = self._session, self._session.inputs.settings
        heads = [session.of_model(header(benchmark, metric, settings)) for metric in benchmark.metrics]
        if not all(session.finished(head) for head in heads):
            progress.say(f"{session.label}: harness {benchmark.name}: {benchmark.n:,} questions …")
            for result in measure(session.loaded, benchmark, settings):
                session.append(session.of_model(result))
        return [row for head in heads if (row := session.finished(head))]


TASK = CustomTask(name="harness", plan=_HarnessPlan, check=check)
