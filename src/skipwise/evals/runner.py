"""Run evaluations: all rows of a loaded model, each appended to results.jsonl as soon as it is finished.

A finished row is not measured again. Its identity (model, task, version, settings, seed, digest of the text) is
compared with that of the row asked for, so rows of another model, seed or text never stand in for it.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise.config import EvaluationConfig
from skipwise.config.task_names import READS_DOCUMENTS
from skipwise.data import text_sources
from skipwise.data.documents import documents as read_documents
from skipwise.data.tokenising import tokenise
from skipwise.errors import SkipwiseError
from skipwise.evals import division, tasks
from skipwise.evals.prompted import PromptedPlan
from skipwise.evals.rows import Row
from skipwise.evals.served.deployment import Deployment
from skipwise.evals.served.perplexity import EXTRA_TOKENS, PromptLosses, ServedPerplexity
from skipwise.evals.served.server_tokenizer import ServerTokenizer
from skipwise.evals.served.session import ServedSession
from skipwise.evals.session import Session
from skipwise.evals.task import CustomTask, Inputs, LocalPlan, Task, TaskPlan
from skipwise.models.load import LoadedModel
from skipwise.models.memory import check_memory, chunk_tokens
from skipwise.rope import hf_config
from skipwise.utils import progress
from skipwise.utils.text import length_text

if TYPE_CHECKING:
    from skipwise.training.processes import Team

Document = tuple[str, Any]
"""(name, tokens without BOS)."""


def default_lengths(original_length: int, target_length: int) -> list[int]:
    """Double from a quarter of the original window to the target, which is always the last length.

    Args:
        original_length: Window that the model was pre-trained with, tokens.
        target_length: Window that it shall have, tokens.
    """
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
) -> list[Document]:
    """Read the longest documents of some sources, longest first. Only those that may be returned are held in memory.

    Args:
        paths: Files, folders, `datasets` ids or packaged names.
        tokenizer: Makes the token ids, without BOS.
        minimum: Tokens that a document must have.
        limit: Most documents.
        exclude: Patterns of files to leave out.
        field: Field or column with the text.
        split: Split of a dataset.

    Raises:
        SkipwiseError: A source cannot be read, or no document is long enough. The message names the longest.
    """
    sources = text_sources.sources(paths, exclude=list(exclude), field=field, split=split)

    shortest: list[int] = []
    """Tokens of the longest documents so far, as a heap."""

    def read() -> Iterator[Document]:
        with progress.bar("reading evaluation documents", total=None, unit="doc") as bar:
            for document in read_documents(sources):
                bar.advance()
                size = len(document.text.encode(errors="surrogatepass"))
                if len(shortest) == limit and size < shortest[0]:  # a token is one byte at least
                    continue
                ids = tokenise(tokenizer, document.text)
                (heapq.heappushpop if len(shortest) == limit else heapq.heappush)(shortest, len(ids))
                yield document.name, ids

    longest = heapq.nlargest(limit, read(), key=lambda document: len(document[1]))
    if not longest:
        raise SkipwiseError(
            f"no documents in {', '.join(paths)}: expected at least one with {length_text(minimum)} tokens"
        )
    enough = [document for document in longest if len(document[1]) >= minimum]
    if not enough:
        name, tokens = longest[0]
        raise SkipwiseError(
            f"no document in {', '.join(paths)} has {length_text(minimum)} tokens, the longest is {name!r} with "
            f"{length_text(len(tokens))}; give longer documents (evaluation.data) or lengths up to "
            f"{length_text(len(tokens))} (evaluation.lengths)"
        )
    return enough


def check(settings: EvaluationConfig) -> None:
    """Refuse what can be refused without a model: no lengths, a missing package, a file that is not there.

    Raises:
        SkipwiseError: for the first task that cannot run.
    """
    if settings.lengths is not None and not settings.lengths:
        raise SkipwiseError("evaluation.lengths is empty: expected tokens such as [2k, 4k, 8k]")
    for name in settings.tasks:
        tasks.task(name).check(settings)


def evaluate(
    loaded: LoadedModel,
    settings: EvaluationConfig,
    documents: Sequence[Document],
    *,
    label: str,
    out: Path,
    lengths: list[int],
    inputs: Inputs | None = None,
    team: "Team | None" = None,
    overlaps: Mapping[str, float] | None = None,
) -> list[Row]:
    """Measure all tasks of `settings.tasks` for one model.

    Args:
        loaded: The model.
        settings: Settings of the evaluation.
        documents: (name, tokens without BOS), the best ones first.
        label: Name of the model in the rows.
        out: File of rows. Rows that it holds finished are not measured again; the others are appended.
        lengths: Tokens.
        inputs: What prompts are made from, where some were made with it already; new when absent.
        team: Processes that call this with the same arguments, and divide the measurements.
        overlaps: By task, the share of its texts' passages that the model was trained on, for the rows.

    Returns:
        All rows, the finished ones among them. None in a process of `team` that is not the first.

    Raises:
        SkipwiseError: before anything is measured, for lengths, documents or memory that cannot work.
        Ended: Another process of `team` ended with an error.
    """
    if not lengths:
        raise SkipwiseError("evaluation.lengths is empty: expected tokens such as [2k, 4k, 8k]")
    lengths = sorted(set(lengths))
    session = Session(loaded, settings, label=label, out=out, documents=documents, inputs=inputs)
    session.overlaps = overlaps or {}
    plans = [_plan(name, session, lengths) for name in dict.fromkeys(settings.tasks)]
    whole = hf_config.changes_with_length(loaded.model.config)
    longest = max([0, *(plan.longest for plan in plans)])
    check_memory(loaded.model, longest, chunk=None if whole else chunk_tokens(loaded.model))
    with division.divided(session, plans, out, team) as mine:
        return [row for plan in plans for row in plan.rows()] if mine else []


def evaluate_served(session: ServedSession, settings: EvaluationConfig, lengths: list[int]) -> list[Row]:
    """Measure all tasks of `settings.tasks` for one served model.

    Args:
        session: The server and the file of rows. Finished rows are not asked again.
        settings: Settings of the evaluation.
        lengths: Tokens.

    Returns:
        All rows, the finished ones among them.

    Raises:
        SkipwiseError: For a task or a length that the server cannot do, before anything is measured; for requests that
            fail in the end. Rows that were finished before are in the file.
    """
    lengths = sorted(set(lengths))
    plans = [_served_plan(name, session, lengths) for name in dict.fromkeys(settings.tasks)]
    check_admitted(session.deployment, max([0, *(plan.longest for plan in plans)]))
    return [row for plan in plans for row in plan.rows()]


def check_admitted(deployment: Deployment, longest: int, extra: int = 0) -> None:
    """Refuse prompts that a server does not admit.

    Args:
        deployment: The served model.
        longest: Tokens of the longest prompt with its answer.
        extra: How many of them the length that a user gives does not count.

    Raises:
        SkipwiseError: With what is admitted.
    """
    if deployment.admitted is not None and longest > deployment.admitted:
        admitted, most = length_text(deployment.admitted), length_text(deployment.admitted - extra)
        raise SkipwiseError(
            f"{deployment.address} admits {admitted} tokens and {length_text(longest)} are asked for; serve the model "
            f"with a longer window (vLLM: --max-model-len {longest}, llama.cpp: -c {longest}), or give --lengths up to "
            f"{most}"
        )


def check_served(name: str, session: ServedSession, lengths: Sequence[int]) -> None:
    """Refuse a task that cannot be asked through a server.

    Args:
        name: Of the task.
        session: The served model.
        lengths: Tokens.

    Raises:
        SkipwiseError: For one that needs the weights; for one that reads documents where no tokenizer is at hand, or
            where the server gives no log-probabilities, or does not admit the token that it has to generate.
    """
    task = tasks.task(name)
    if name != "perplexity" and isinstance(task, CustomTask) and task.served is None:
        raise SkipwiseError(
            f"{name} needs the weights of the model, which a server does not give; leave it out of --tasks"
        )
    if name in READS_DOCUMENTS and isinstance(session.deployment.tokenizer, ServerTokenizer):
        raise SkipwiseError(f"{name} of a served model needs its tokenizer; give --tokenizer PATH_OR_ID")
    if name in READS_DOCUMENTS:
        check_admitted(session.deployment, max(lengths) + EXTRA_TOKENS, EXTRA_TOKENS)
        session.inputs.once("log-probabilities", PromptLosses(session, ()).way)


def _served_plan(name: str, session: ServedSession, lengths: list[int]) -> TaskPlan:
    check_served(name, session, lengths)
    task = tasks.task(name)
    if isinstance(task, Task):
        return PromptedPlan(task.served or task, session, lengths)
    return task.served(session, lengths) if task.served else ServedPerplexity(session, lengths)


def _plan(name: str, session: Session, lengths: list[int]) -> LocalPlan:
    task = tasks.task(name)
    return PromptedPlan(task, session, lengths) if isinstance(task, Task) else task.plan(session, lengths)
