"""Read question-answering files as RULER does: documents and questions from SQuAD's or HotpotQA's JSON."""

import functools
import json
from pathlib import Path
from typing import Any

from skipwise.errors import SkipwiseError
from skipwise.evals.tasks.ruler.prompts import Documents, QuestionAndDocuments


@functools.lru_cache(maxsize=2)
def squad(path: str) -> Documents:
    """SQuAD 2.0: every paragraph is a document; questions that have no answer are left out.

    A question needs the paragraph that it is about; the other paragraphs of its article come next.

    Raises:
        SkipwiseError: The file cannot be read, or has another form.
    """
    try:
        articles = _read(path)["data"]
        texts = sorted({part["context"] for article in articles for part in article["paragraphs"]})
        place = {text: i for i, text in enumerate(texts)}
        questions = [
            QuestionAndDocuments(
                asked["question"],
                [answer["text"] for answer in asked["answers"]],
                [place[part["context"]]],
                [place[other["context"]] for other in article["paragraphs"] if other["context"] != part["context"]],
            )
            for article in articles
            for part in article["paragraphs"]
            for asked in part["qas"]
            if not asked.get("is_impossible") and asked["answers"]
        ]
    except (KeyError, TypeError) as error:
        raise SkipwiseError(f"{path} (evaluation.ruler.squad) is not SQuAD's JSON: {error!r}") from error
    return Documents(texts, questions)


@functools.lru_cache(maxsize=2)
def hotpotqa(path: str) -> Documents:
    """HotpotQA, distractor setting: a question needs all paragraphs of its context.

    Raises:
        SkipwiseError: The file cannot be read, or has another form.
    """
    try:
        entries = _read(path)
        contexts = [[f"{title}\n{''.join(sentences)}" for title, sentences in entry["context"]] for entry in entries]
        texts = sorted({text for context in contexts for text in context})
        place = {text: i for i, text in enumerate(texts)}
        questions = [
            QuestionAndDocuments(entry["question"], [entry["answer"]], [place[text] for text in context], [])
            for entry, context in zip(entries, contexts, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SkipwiseError(f"{path} (evaluation.ruler.hotpotqa) is not HotpotQA's JSON: {error!r}") from error
    return Documents(texts, questions)


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SkipwiseError(f"cannot read the questions in {path}: {error}") from error
