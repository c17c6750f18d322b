"""Summaries of long documents, scored with ROUGE-1, -2 and -L against summaries that people wrote.

Prompt and budget are Position Interpolation's (arXiv 2306.15595, section 3.5): a document cut to what the length leaves
(there 15,000 tokens) between two lines of instruction, a summary of at most 1,000 tokens. Two things differ: decoding
is greedy, where the paper samples (temperature 0.5, top-p 0.95), and the model is taken as it is, where the paper
fine-tunes it on the task. Scores are F measures of Google's `rouge-score`, without stemming, for Latin script and
digits only. One answer is scored three ways, each in a separate row.
"""

import functools
import re
from typing import Any

from skipwise.config import EvaluationConfig
from skipwise.data import text_sources
from skipwise.data.documents import documents
from skipwise.errors import SkipwiseError
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.utils.text import length_text

MEASURES = ("rouge1", "rouge2", "rougeL")

DESCRIPTION = "Read the following article and then summarize it."
ASK = "Now summarize the above article."
LEAD = "\nSummary:"

SAMPLE = 20_000  # characters from which the tokens of a word are estimated


def pairs(inputs: Inputs) -> list[tuple[str, str]]:
    """(document, summary) of the first `summarize.documents` rows that have both."""
    return inputs.once("summarize", lambda: _read(inputs))


def check(settings: EvaluationConfig) -> list[list[text_sources.TextSource]]:
    """Sources of the documents and of the summaries.

    Raises:
        SkipwiseError: rouge-score is missing, no data are named, or they are not there or plain text.
    """
    scorer()
    wanted = settings.summarize
    if not wanted.data:
        raise SkipwiseError(
            "summarize needs documents with reference summaries: name a .jsonl file in evaluation.summarize.data"
        )
    columns = []
    plain_paths = [text_sources.split_field(path)[0] for path in wanted.data]  # path::field names the document's
    for name, paths in ((wanted.document_field, wanted.data), (wanted.summary_field, plain_paths)):
        columns.append(text_sources.sources(paths, field=name, split=wanted.split))
        if plain := [source.name for source in columns[-1] if source.kind == "text"]:
            raise SkipwiseError(f"summarize: {plain[0]} is plain text; expected .jsonl, .parquet or a datasets id")
    return columns


def _read(inputs: Inputs) -> list[tuple[str, str]]:
    settings = inputs.settings.summarize
    columns = [{document.name: document.text for document in documents(sources)} for sources in check(inputs.settings)]
    rows = [(text, columns[1][name]) for name, text in columns[0].items() if name in columns[1]]
    if not rows:
        raise SkipwiseError(f"summarize: no row of {', '.join(settings.data)} has both a document and a summary")
    return rows[: settings.documents]


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each measure. The three ask the same prompts."""
    tokens = inputs.settings.summarize.output_tokens
    fixed = len(inputs.encode(prompt_text(""), LEAD))
    if length < fixed + tokens + 1:
        raise TooShortError(
            f"summarize at {length_text(length)} tokens: the rest of the prompt takes {length_text(fixed)} and the "
            f"summary up to {length_text(tokens)}; give longer evaluation.retrieval_lengths, or "
            "fewer evaluation.summarize.output_tokens"
        )
    return [Cell(length, len(pairs(inputs)), tokens, variant=measure) for measure in MEASURES]


def prompt_text(document: str) -> str:
    """The prompt without the word that leads the summary."""
    return f"{DESCRIPTION}\n{document}\n{ASK}"


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """A document, cut after the last word that fits where it is too long."""
    ids = inputs.once(("summarize", cell.length, trial), lambda: _prompt_ids(inputs, cell, trial))
    return Question(ids, [], [pairs(inputs)[trial][1]], cell.variant)


def _prompt_ids(inputs: Inputs, cell: Cell, trial: int) -> list[int]:
    text = pairs(inputs)[trial][0].strip()
    words = re.findall(r"\s*\S+", text)
    each = max(inputs.count(text[:SAMPLE]), 1) / len(re.findall(r"\S+", text[:SAMPLE]))
    room = cell.length - cell.answer_tokens
    if limit := inputs.settings.summarize.document_tokens:
        room = min(room, len(inputs.encode(prompt_text(""), LEAD)) + limit)
    _, ids = fit(
        lambda n: inputs.encode(prompt_text("".join(words[:n])), LEAD), room, int(room / each), most=len(words)
    )
    return ids


@functools.cache
def scorer() -> Any:
    """Google's ROUGE. Errors: SkipwiseError with the command that installs it."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise SkipwiseError("summarize needs rouge-score: pip install 'skipwise[summarize]'") from error
    return RougeScorer(list(MEASURES), use_stemmer=False)


def score(answer: str, question: Question) -> float:
    """F measure between 0 and 1."""
    return float(scorer().score(question.truth[0], answer)[question.variant].fmeasure)


TASK = Task(name="summarize", version=1, metric="rouge F1", cells=cells, question=question, score=score, check=check)
