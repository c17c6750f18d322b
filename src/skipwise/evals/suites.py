"""Fit a suite of tasks to the models that it is asked of: what they cannot hold is left out, with the reason."""

from collections.abc import Sequence

from skipwise.config import EvaluationConfig
from skipwise.config.presets import SUITES
from skipwise.config.task_names import READS_DOCUMENTS
from skipwise.data import text_sources
from skipwise.data.documents import documents
from skipwise.errors import SkipwiseError
from skipwise.evals import prompted, runner, tasks
from skipwise.evals.served.session import ServedSession
from skipwise.evals.task import Inputs, Task
from skipwise.utils import progress
from skipwise.utils.text import length_text

TEXT = "stdlib"
"""Packaged texts for perplexity where the user names none: many documents, of which the longest are read."""
CHARACTERS = 6
"""Of a token, at most: a document with as many for each token is long enough, whatever the tokenizer."""


Candidate = tuple[Inputs, ServedSession | None]


def fitted(
    settings: EvaluationConfig, lengths: list[int], models: Sequence[Candidate], own_text: bool = False
) -> EvaluationConfig:
    """Leave out the tasks of `evaluation.suite` that one of the models cannot be asked.

    Args:
        settings: Settings of the evaluation.
        lengths: Lengths to measure at, tokens.
        models: (what prompts are made from, the server or None) of every model.
        own_text: Whether perplexity without `evaluation.data` has text of its own, as in a run.

    Returns:
        The settings, whose tasks are those that all models can be asked; unchanged without a suite. Tasks that are not
        of the suite stay, and are refused where they cannot be asked.

    Raises:
        SkipwiseError: No task is left.
    """
    suite = settings.suite
    if suite is None:
        return settings
    if READS_DOCUMENTS & set(settings.tasks) and not settings.data and not own_text:
        progress.say(f"perplexity is measured on {TEXT}; name other documents with --data")
        settings = settings.model_copy(update={"data": [TEXT]})
    of_suite, left = SUITES[suite]["tasks"], list[str]()
    for name in dict.fromkeys(settings.tasks):
        reason = _refusal(name, settings, lengths, models) if name in of_suite else None
        if reason is None:
            left.append(name)
        else:
            progress.say(f"{suite}: {name} is left out: {reason}")
    if not left:
        raise SkipwiseError(f"no task of the suite {suite} can be asked at these lengths; give longer ones")
    return settings.model_copy(update={"tasks": left})


def _refusal(name: str, settings: EvaluationConfig, lengths: list[int], models: Sequence[Candidate]) -> str | None:
    """Why one of the models cannot be asked a task; None where all can."""
    task = tasks.task(name)
    try:
        for inputs, session in models:
            if isinstance(task, Task):
                task.check(settings)
                prompted.grid((task.served if session else None) or task, inputs, lengths)
            elif session:
                runner.check_served(name, session, lengths)
        if name in READS_DOCUMENTS and settings.data == [TEXT]:
            sizes = [len(document.text) for document in documents(text_sources.sources([TEXT]))]
            if max(sizes) < CHARACTERS * max(lengths):
                raise SkipwiseError(f"no document of {TEXT} has {length_text(max(lengths))} tokens; give --data")
    except SkipwiseError as error:
        return str(error)
    return None
