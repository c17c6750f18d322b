"""What the models say: one question beyond the old window, with the answer of the original and of the extended model.

The question is chosen by its place alone: the longest length measured, the middle depth, the first prompt.
"""

from collections.abc import Callable, Sequence
from typing import Any

from skipwise.evals.paired_change import pairs
from skipwise.evals.rows import Row
from skipwise.report.wording import measure_name

MOST_CHARACTERS = 240
"""Of an answer; what is longer is cut."""
PREFERRED = ("needle", "key_value", "passkey", "document_qa", "k_max")
"""Tasks whose questions read well, the most natural text first; after them any other."""

QUESTION_IN_TRUTH = ("babilong", "mrcr", "non_literal", "placed")
"""Tasks whose rows hold the right answer and the question of each prompt."""


def example(first: Sequence[Row], later: Sequence[Row], original: int, target: int) -> dict[str, Any] | None:
    """A question with the answers of two models, as plain values.

    Args:
        first: Rows of the original model; may be empty.
        later: Rows of the extended model.
        original: Tokens of the old window.
        target: Tokens of the new one.

    Returns:
        None where no answer beyond the old window was kept.
    """
    beyond = [row for row in later if row.answers and row.length and original < row.length <= target]
    if not beyond:
        return None
    after = min(beyond, key=_place)
    before = next((row for row, other in pairs(first, [after]) if row.answers), None)
    truth, _ = after.answers[0]
    return {
        "task": measure_name(after),
        "length": after.length,
        "depth": after.depth,
        "question": _question(after, truth),
        "truth": _truth(after, truth),
        "answers": [
            {"model": model, **_answer(row)} for model, row in (("original", before), ("extended", after)) if row
        ],
    }


def _place(row: Row) -> tuple[float, ...]:
    task = PREFERRED.index(row.task) if row.task in PREFERRED else len(PREFERRED)
    return -(row.length or 0), task, abs((row.depth if row.depth is not None else 0.5) - 0.5)


def _answer(row: Row) -> dict[str, Any]:
    text = str(row.answers[0][1])
    score = row.scores[0] if row.scores else None
    return {"text": text[:MOST_CHARACTERS].rstrip(), "cut": len(text) > MOST_CHARACTERS, "score": score}


def _truth(row: Row, truth: Any) -> str:
    texts = [truth] if isinstance(truth, str) else list(truth)
    return (
        str(texts[0]) if row.task in ("key_value", *QUESTION_IN_TRUTH) else ", ".join(map(str, texts))[:MOST_CHARACTERS]
    )


def _question(row: Row, truth: Any) -> str | None:
    """The last words of the prompt, in the task's wording; None where a row does not hold them."""
    from skipwise.evals.tasks import document_qa, key_value, needle, passkey

    def pair_wording() -> str:
        protocol = key_value.VARIANTS[row.variant or ""]
        return (protocol.ask + protocol.lead).replace("{key}", str(truth[1])).strip()

    if row.task in QUESTION_IN_TRUTH:
        return str(truth[1])
    wordings: dict[str, Callable[[], str]] = {
        "passkey": lambda: passkey.ASK + passkey.LEAD,
        "k_max": lambda: passkey.ASK + passkey.LEAD,
        "key_value": pair_wording,
        "document_qa": lambda: document_qa.QUESTIONS[row.variant or ""] + document_qa.LEAD,
        "needle": lambda: (needle.ASK + needle.LEAD).replace("{city}", "…"),  # rows do not hold the city
    }
    try:
        return wordings[row.task]() if row.task in wordings else None
    except (LookupError, TypeError):  # a row of another version of the task
        return None
