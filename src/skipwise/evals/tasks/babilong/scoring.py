"""BABILong's verdict on an answer: it names the right label, and no other that the question does not name.

The published rule is `compare_answers` in `babilong/metrics.py` of https://github.com/booydar/babilong. Two things
differ, both where the published code does not do what it means to:

- It looks for labels as parts of the text, and finds `one` in `none`, so that "none" is never right. Here a label that
  stands only inside a longer one does not count.
- It makes the answer small letters and then cuts it at `Question`, which never cuts. Here it is cut at `question`.
"""

import re

HOUSE = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
LABELS: dict[int, tuple[str, ...]] = {
    **dict.fromkeys((1, 2, 3, 4), HOUSE),
    5: ("bill", "fred", "jeff", "mary", "apple", "football", "milk"),
    6: ("no", "yes"),
    7: ("none", "one", "three", "two"),
    8: ("apple", "football", "milk", "nothing"),
    9: ("no", "yes"),
    10: ("maybe", "no", "yes"),
}
"""Labels of each kind, as published."""
_END = re.compile(r"\.|<context>|<example>|question")


def is_right(kind: int, answer: str, truth: str, question: str) -> bool:
    """Judge an answer.

    Args:
        kind: bAbI's number.
        answer: What the model wrote.
        truth: The right answer; labels with commas between them for a list.
        question: Labels in it are no answer.
    """
    named = mentions(first_part(answer), kind) - mentions(question.lower(), kind)
    return named == set(truth.lower().split(","))


def first_part(answer: str) -> str:
    """The answer up to its first full stop, or to where the model goes on with an example or a question."""
    return _END.split(answer.lower(), maxsplit=1)[0]


def ended(answer: str) -> bool:
    """Whether nothing that follows is judged."""
    return _END.search(answer.lower()) is not None


def mentions(text: str, kind: int) -> set[str]:
    """The labels that a text names, those inside a longer label left out."""
    named = set()
    for label in sorted(LABELS[kind], key=len, reverse=True):
        if label in text:
            named.add(label)
            text = text.replace(label, " ")
    return named
