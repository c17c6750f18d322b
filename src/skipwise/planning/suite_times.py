"""How long a suite of evaluation tasks takes, from how often each task reads a text of full length."""

from collections.abc import Callable
from dataclasses import dataclass

from skipwise.config import EvaluationConfig
from skipwise.config.presets import SUITES
from skipwise.evals.runner import default_lengths


@dataclass(frozen=True)
class SuiteTime:
    """What one suite costs for one model. Answers that are right are read in the same pass; wrong ones come on top."""

    name: str
    tasks: list[str]
    tokens: int
    """That are read, what prompts share once."""
    seconds: float


LARGEST_ONLY = ("perplexity", "longppl", "k_max")
"""Tasks that read at the largest length alone."""

PLACED = 24
"""Questions that come with `placed`."""


def readings(settings: EvaluationConfig, task: str) -> float:
    """How many texts of full length a task reads at one length.

    Prompts that ask for something at a depth share the text before it with those that ask deeper.
    """
    trials = settings.trials
    tail = trials * sum(1 - depth for depth in settings.depths) + 1
    mrcr = settings.mrcr
    counts = {
        "perplexity": settings.documents,
        "passkey": tail,
        "needle": tail,
        "key_value": min(settings.key_value.lists, trials) * len(settings.key_value.protocols),
        "k_max": settings.k_max.trials + 1,
        "document_qa": settings.document_qa.documents,
        "ruler": settings.ruler.samples * 11,
        # Every prompt has names of its own, so that prompts share little.
        "non_literal": 0.83 * 2 * trials * len(settings.depths),
        "babilong": settings.babilong.samples * len(settings.babilong.kinds),
        "mrcr": min(mrcr.conversations, mrcr.samples) * len(mrcr.needles),
        "placed": PLACED * len(settings.placed.depths),
        # Once whole, and in short contexts that overlap fourfold.
        "longppl": 6 * settings.documents,
    }
    return counts[task]


def suite_times(original: int, target: int, seconds: Callable[[int], float]) -> list[SuiteTime]:
    """The cost of every suite.

    Args:
        original: Tokens of the window that the model was pre-trained with.
        target: Tokens of the longest length.
        seconds: Time to read a text of some tokens.
    """
    lengths = default_lengths(original, target)
    times = []
    for name in SUITES:
        settings = EvaluationConfig.model_validate({"suite": name})
        tokens = spent = 0.0
        for task in settings.tasks:
            count = readings(settings, task)
            for length in lengths[-1:] if task in LARGEST_ONLY else lengths:
                tokens += count * length
                spent += count * seconds(length)
        times.append(SuiteTime(name, list(settings.tasks), round(tokens), spent))
    return times
