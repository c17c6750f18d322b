"""Run evaluations: a loaded model and documents flow in, rows flow out, each appended to results.jsonl when finished.

A finished row is not measured again: its header (model, task, version, settings, seed, digest of the text) is compared
with that of the row asked for, so that rows of another model, seed or text never stand in for it.
"""

import functools
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipwise.config import EvaluationConfig
from skipwise.data import text_sources
from skipwise.data.token_store import tokenise
from skipwise.errors import SkipwiseError
from skipwise.evals import rows as rows_module
from skipwise.evals import speculative_decoding
from skipwise.evals.rows import Row
from skipwise.evals.speculative_decoding import Prompt
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError, header, measure, overall
from skipwise.evals.tasks import document_qa, k_max, key_value, needle, passkey, perplexity, summarize
from skipwise.evals.tasks.harness import task as harness
from skipwise.evals.tasks.ruler import task as ruler
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel
from skipwise.models.memory import check_memory, chunk_tokens
from skipwise.rope import hf_config
from skipwise.utils import progress


def default_lengths(original_length: int, target_length: int) -> list[int]:
    """From a quarter of the original window to the target, doubling; the target itself is always the last."""
    length, lengths = max(original_length // 4, 2), []
    while length < target_length:
        lengths.append(length)
        length *= 2
    return [*lengths, target_length]


def load_documents(
    paths: list[str],
    tokenizer: Any,
    *,
    minimum: int,
    limit: int,
    exclude: Sequence[str] = (),
    field: str = "text",
    split: str = "train",
) -> list[perplexity.Document]:
    """The `limit` longest documents of `paths` that have at least `minimum` tokens, longest first.

    Tokens without BOS. Only the documents that may be returned are held. Errors: SkipwiseError for what cannot be read,
    and when no document is long enough, naming the longest.
    """
    sources = text_sources.sources(paths, exclude=list(exclude), field=field, split=split)

    def read() -> Iterator[perplexity.Document]:
        with progress.bar("reading evaluation documents", total=None, unit="doc") as bar:
            for document in text_sources.documents(sources):
                yield document.name, tokenise(tokenizer, document.text)
                bar.advance()

    longest = heapq.nlargest(limit, read(), key=lambda document: len(document[1]))
    if not longest:
        raise SkipwiseError(f"no documents in {', '.join(paths)}: expected at least one with {minimum} tokens")
    found = [document for document in longest if len(document[1]) >= minimum]
    if not found:
        name, tokens = longest[0]
        raise SkipwiseError(
            f"no document in {', '.join(paths)} has {minimum} tokens, the longest is {name!r} with {len(tokens)}; "
            f"give longer documents (evaluation.data) or lengths up to {len(tokens)} (evaluation.lengths)"
        )
    return found


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(passkey.TASK, k_max.TASK, key_value.TASK, needle.TASK),
        *(document_qa.TASK, summarize.TASK, ruler.TASK),
    )
}
"""The retrieval tasks by name; perplexity is measured otherwise."""


def evaluate(
    loaded: LoadedModel,
    config: EvaluationConfig,
    documents: list[perplexity.Document],
    *,
    label: str,
    out: Path,
    lengths: list[int],
) -> list[Row]:
    """All rows of `config.tasks` for one model: those found finished in `out`, and the others, measured and appended.

    `documents` are (name, tokens without BOS), the best ones first; `lengths` are in tokens. `label` names the model in
    the rows. Everything that can be wrong with the lengths, the documents or the memory is an error (SkipwiseError)
    before anything is measured.
    """
    if not lengths:
        raise SkipwiseError("evaluation.lengths is empty: expected tokens such as [2k, 4k, 8k]")
    columns = _model_columns(loaded, label)
    lengths = sorted(set(lengths))
    inputs = Inputs(loaded.tokenizer, config)
    chosen = _perplexity_plan(loaded, config, documents, lengths) if "perplexity" in config.tasks else None
    grids = {name: _grid(TASKS[name], inputs, lengths) for name in config.tasks if name in TASKS}
    benchmarks = harness.load(loaded, config) if "harness" in config.tasks else []
    longest = max([*(lengths if chosen else []), *(length for grid in grids.values() for length in grid)], default=0)
    longest = max([longest, *(benchmark.longest for benchmark in benchmarks)])
    whole = hf_config.changes_with_length(loaded.model.config)
    check_memory(loaded.model, longest, chunk=None if whole else chunk_tokens(loaded.model))

    finished = {row.identity: row for row in rows_module.read(out)}
    run = _Run(loaded, inputs, columns, finished, out)
    rows = _perplexity(run, *chosen, lengths) if chosen else []
    for name, grid in grids.items():
        rows += _retrieval(run, TASKS[name], grid)
    for benchmark in benchmarks:
        rows += _benchmark(run, benchmark)
    return rows


@dataclass
class _Run:
    """What every task of one model's evaluation needs."""

    loaded: LoadedModel
    inputs: Inputs
    columns: dict[str, Any]
    """Which model: the same columns in every row."""
    finished: dict[str, Row]
    out: Path

    @functools.cached_property
    def reader(self) -> Reader:
        return Reader(self.loaded.model)

    def answer(
        self, questions: Sequence[Question], limit: int, ended: Callable[[int, list[int]], bool], advance: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """Greedy answers, which also end with the text."""
        ends = _end_ids(self.loaded)
        prompts = [Prompt(question.ids, question.draft) for question in questions]
        return speculative_decoding.answer(
            self.reader, prompts, limit, lambda i, new: new[-1] in ends or ended(i, new), advance
        )

    def of_model(self, row: Row) -> Row:
        """A row with the columns of the model."""
        return row.replace(**self.columns)

    def append(self, row: Row) -> Row:
        """Write a row that is finished."""
        rows_module.append(self.out, row)
        self.finished[row.identity] = row
        return row

    def once(self, row: Row) -> Row:
        """The finished row of this identity; `row` itself, written, where there is none."""
        return self.finished.get(row.identity) or self.append(row)


def _model_columns(loaded: LoadedModel, label: str) -> dict[str, Any]:
    return {
        "model": label,
        "path": loaded.path,
        "fingerprint": loaded.fingerprint,
        "window": loaded.window,
        "original_length": loaded.original_length,
        "scaling": loaded.scaling,
        "quantised_from": loaded.quantised_from,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }


def _perplexity_plan(
    loaded: LoadedModel, config: EvaluationConfig, documents: list[perplexity.Document], lengths: list[int]
) -> tuple[list[perplexity.Document], perplexity.Protocol]:
    bos = perplexity.bos_id(loaded.tokenizer, config.bos)
    protocol = perplexity.Protocol(config.protocol, config.stride, 0, bos, config.seed)
    chosen = perplexity.select(documents, lengths, protocol, config.documents)
    span = config.span or max(len(tokens) for _, tokens in chosen) + (bos is not None)
    if config.protocol == "sliding" and span < max(lengths):
        raise SkipwiseError(f"evaluation.span = {span} is shorter than the longest window, {max(lengths)} tokens")
    return chosen, protocol._replace(span=span)


def _perplexity(
    run: _Run, documents: list[perplexity.Document], protocol: perplexity.Protocol, lengths: list[int]
) -> list[Row]:
    parts = perplexity.parts(lengths, run.loaded.model, protocol)
    headers = {part: run.of_model(perplexity.header(documents, *part, protocol)) for part in parts}
    rows = {part: run.finished[key] for part in parts if (key := headers[part].identity) in run.finished}
    missing = [part for part in parts if part not in rows]
    if missing:
        ends = sorted({length for _, length in missing})
        total = perplexity.total_tokens(documents, ends, run.loaded.model, protocol)
        with progress.bar(f"{run.columns['model']}: perplexity", total=total, unit="tok") as bar:
            for result in perplexity.measure(run.loaded, run.reader, documents, missing, protocol, bar.advance):
                row = run.append(run.of_model(result))
                rows[row.start or 0, row.length or 0] = row
                bar.note(f"{row.value:.2f} at {row.length}")
    return [rows[part] for part in parts]


def _grid(task: Task, inputs: Inputs, lengths: list[int]) -> dict[int, list[Cell]]:
    """The cells of each length. Of lengths not given for retrieval, those too short for a prompt are left out."""
    given = inputs.settings.retrieval_lengths
    grid, short = {}, []
    for length in sorted(set(given or lengths))[-1 if task.largest_only else 0 :]:
        try:
            grid[length] = task.cells(inputs, length)
        except TooShortError:
            if given or length == max(lengths):
                raise
            short.append(str(length))
    if short:
        progress.say(f"{task.name}: left out at {', '.join(short)} tokens, which cannot hold a prompt")
    return grid


def _retrieval(run: _Run, task: Task, grid: dict[int, list[Cell]]) -> list[Row]:
    """Rows of one task: at each length its cells, then all depths together; at the end what the task makes of all."""
    rows: list[Row] = []
    for length, cells in grid.items():
        # Variants that share no text are measured apart, so that the prompts of one at a time are held.
        variants = [list(part) for _, part in itertools.groupby(cells, lambda cell: cell.variant)]
        at_length = [row for part in (variants if task.apart else [cells]) for row in _cells(run, task, part)]
        rows += at_length
        for row in overall(at_length):
            rows.append(run.once(row))
        progress.say(f"{run.columns['model']}: {task.name} at {length:,}: {_shown(at_length)}")
    for extra in task.summarise(run.inputs, rows) if task.summarise else []:
        rows.append(run.once(run.of_model(extra)))
    return rows


def _cells(run: _Run, task: Task, cells: list[Cell]) -> list[Row]:
    """The rows of the cells of one length, in their order; those that are missing are measured together."""
    rows: list[Row | None] = []
    missing = []
    for place, cell in enumerate(cells):
        questions = [task.question(run.inputs, cell, trial) for trial in range(cell.n)]
        head = run.of_model(header(task, run.inputs, cell, questions))
        rows.append(run.finished.get(head.identity))
        if rows[-1] is None:
            missing.append((place, (cell, head, questions)))
    if missing:
        prompts = [Prompt(q.ids, q.draft) for _, (_, _, questions) in missing for q in questions]
        total = speculative_decoding.tokens_to_read(run.reader, prompts)
        with progress.bar(f"{run.columns['model']}: {task.name} at {cells[0].length}", total=total, unit="tok") as bar:
            for i, row in measure(task, run.inputs, [part for _, part in missing], run.answer, bar.advance):
                cell, _, questions = missing[i][1]
                needed = max(len(question.ids) for question in questions) + cell.answer_tokens
                rows[missing[i][0]] = run.append(row.replace(beyond_window=needed > run.loaded.window))
    return [row for row in rows if row is not None]


def _benchmark(run: _Run, benchmark: harness.Benchmark) -> list[Row]:
    """The rows of one short benchmark, one for each metric; measured when one of them is missing."""
    settings = run.inputs.settings
    keys = [run.of_model(harness.header(benchmark, metric, settings)).identity for metric in benchmark.metrics]
    if any(key not in run.finished for key in keys):
        progress.say(f"{run.columns['model']}: harness {benchmark.name}: {benchmark.n} questions …")
        for row in harness.measure(run.loaded, benchmark, settings):
            run.append(run.of_model(row))
    return [run.finished[key] for key in keys]


def _end_ids(loaded: LoadedModel) -> set[int]:
    """Tokens that end a text: the tokenizer's EOS and those of the model's generation settings."""
    settings = getattr(loaded.model.generation_config, "eos_token_id", None)
    listed = settings if isinstance(settings, list) else [settings]
    return {token for token in [*listed, loaded.tokenizer.eos_token_id] if token is not None}


def _shown(rows: Sequence[Row]) -> str:
    total = sum(row.n for row in rows)
    return f"{sum(row.value * row.n for row in rows) / total:.0%} of {total}"
