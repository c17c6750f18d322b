"""Run evaluations: a loaded model and documents flow in, rows flow out, each appended to results.jsonl when finished.

A finished row is not measured again: its header (model, task, version, settings, seed, digest of the text) is compared
with that of the row asked for, so that rows of another model, seed or text never stand in for it.
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skipwise import corpus, progress
from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import passkey, perplexity
from skipwise.files import append_jsonl, read_jsonl
from skipwise.model import LoadedModel, check_memory
from skipwise.tokens import tokenise

Row = dict[str, Any]


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
    sources = corpus.sources(paths, exclude=list(exclude), field=field, split=split)

    def read() -> Iterator[perplexity.Document]:
        with progress.bar("reading evaluation documents", total=None, unit="doc") as bar:
            for document in corpus.documents(sources):
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
    chosen = _perplexity_plan(loaded, config, documents, lengths) if "perplexity" in config.tasks else None
    retrieval = _passkey_lengths(loaded, config, lengths) if "passkey" in config.tasks else []
    check_memory(loaded.model, max([*(lengths if chosen else []), *retrieval], default=0))

    finished = {}
    for row in read_jsonl(out):
        finished[_identity(row)] = row
    rows: list[Row] = []
    if chosen:
        rows += _perplexity(loaded, columns, *chosen, lengths, finished, out)
    if retrieval:
        rows += _passkey(loaded, columns, config, retrieval, finished, out)
    return rows


def _model_columns(loaded: LoadedModel, label: str) -> Row:
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


# What is known of a row before it is measured; everything else in a row is a result.
_HEADER = (
    *("model", "fingerprint", "window", "original_length", "scaling", "quantised_from", "dtype"),
    *("task", "task_version", "protocol", "length", "depth", "depth_index", "metric", "n", "seed"),
    *("bos", "data", "stride", "span", "depths"),
)


def _identity(row: Row) -> str:
    """The header of a row as text, to look finished rows up by."""
    return json.dumps([row.get(key) for key in _HEADER])


def _perplexity_plan(
    loaded: LoadedModel, config: EvaluationConfig, documents: list[perplexity.Document], lengths: list[int]
) -> tuple[list[perplexity.Document], perplexity.Protocol]:
    bos = perplexity.bos_id(loaded.tokenizer, config.bos)
    protocol = perplexity.Protocol(config.protocol, config.stride, max(lengths), bos, config.seed)
    return perplexity.select(documents, lengths, protocol, config.documents), protocol


def _perplexity(
    loaded: LoadedModel,
    columns: Row,
    documents: list[perplexity.Document],
    protocol: perplexity.Protocol,
    lengths: list[int],
    finished: dict[str, Row],
    out: Path,
) -> list[Row]:
    headers = {length: columns | perplexity.header(documents, length, protocol) for length in lengths}
    rows = {length: finished[key] for length in lengths if (key := _identity(headers[length])) in finished}
    missing = [length for length in lengths if length not in rows]
    if missing:
        total = perplexity.total_tokens(documents, missing, loaded.model, protocol)
        with progress.bar(f"{columns['model']}: perplexity", total=total, unit="tok") as bar:
            for result in perplexity.measure(loaded, documents, missing, protocol, bar.advance):
                rows[result["length"]] = row = columns | result
                append_jsonl(out, row)
                bar.note(f"{row['value']:.2f} at {row['length']}")
    return [rows[length] for length in lengths]


def _passkey_lengths(loaded: LoadedModel, config: EvaluationConfig, lengths: list[int]) -> list[int]:
    """Lengths of the passkey task. Of lengths not given for this task, those too short for a prompt are left out."""
    if not config.depths:
        raise SkipwiseError("evaluation.depths is empty: expected shares such as [0, 0.5, 1]")
    minimum = passkey.minimum_length(loaded.tokenizer)
    wanted = sorted(set(config.passkey_lengths or lengths))
    short = [length for length in wanted if length < minimum]
    if short and (config.passkey_lengths or len(short) == len(wanted)):
        raise SkipwiseError(
            f"a passkey prompt of {short[0]} tokens is too short: with this tokenizer the fixed parts and the answer "
            f"take {minimum}; give longer evaluation.passkey_lengths"
        )
    if short:
        progress.say(f"passkey: left out at {', '.join(map(str, short))} tokens, a prompt takes at least {minimum}")
    return wanted[len(short) :]


def _passkey(
    loaded: LoadedModel, columns: Row, config: EvaluationConfig, lengths: list[int], finished: dict[str, Row], out: Path
) -> list[Row]:
    answer = passkey.model_answer(loaded.model, loaded.tokenizer)
    rows = []
    total = len(lengths) * len(config.depths) * config.trials
    with progress.bar(f"{columns['model']}: passkey", total=total, unit="prompt") as bar:
        for grid in passkey.cells(lengths, config.depths, config.trials, config.seed):
            cell_rows = []
            for cell in grid:
                row = finished.get(_identity(columns | passkey.header(cell)))
                if row is None:
                    row = columns | passkey.measure(answer, loaded.tokenizer, cell, bar.advance)
                    row["beyond_window"] = cell.length > loaded.window
                    append_jsonl(out, row)
                else:
                    bar.advance(cell.trials)
                cell_rows.append(row)
            over_all = passkey.overall(cell_rows)
            if _identity(over_all) not in finished:
                append_jsonl(out, over_all)
            rows += [*cell_rows, over_all]
            bar.note(f"{over_all['value']:.0%} at {over_all['length']}")
    return rows


def summary_table(rows: Sequence[Row]) -> str:
    """Perplexity and passkey accuracy (all depths together) by length as text, models side by side.

    One part a task and protocol, each value with its interval and n. A value beyond the window that its model is
    configured for has a `*`. Where a model has several rows for one place, the last one counts.
    """
    parts: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        if row["depth"] is None:
            parts.setdefault((row["task"], row["protocol"]), []).append(row)
    tables = [_table(part) for part in parts.values()]
    note = "* beyond the window that the model is configured for"
    return "\n\n".join([*tables, *([note] if any(row.get("beyond_window") for row in rows) else [])])


def _table(rows: list[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["length"], row["model"]): _cell(row) for row in rows}
    lines = [["length", *models]]
    for length in sorted({row["length"] for row in rows}):
        lines.append([str(length), *(cells.get((length, model), "-") for model in models)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in lines]
    intervals = " or ".join(dict.fromkeys(row["interval"] for row in rows))
    kind = rows[0]["protocol"] or rows[0]["metric"]
    unit = "documents" if rows[0]["task"] == "perplexity" else "prompts"
    return "\n".join([f"{rows[0]['task']} ({kind}), value [{intervals}], n {unit}", *padded])


def _cell(row: Row) -> str:
    shown = "{:.0%}" if row["metric"] == "accuracy" else "{:.2f}"
    value, low, high = (shown.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}] n={row['n']}{'*' if row.get('beyond_window') else ' '}"
