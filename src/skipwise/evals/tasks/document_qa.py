"""Questions about the start of a long document, asked at its end: what is its title, who wrote it, how does it begin.

After h2oGPT's long-context test, which asks for the title of a paper below its text. Any folder of documents will do:
the right answers are read from each document itself. The document is cut at the end of a line or sentence so that the
prompt fills its length, and the first line of the answer must contain the right one, letters and digits compared.

What could be answered without looking back is not asked: a fact that stands again beyond the first quarter of the
document, a title or first line that several documents share. What a model has learnt by heart cannot be
recognised: use documents that it has not seen.
"""

import re
from collections import Counter
from pathlib import PurePath

import numpy as np

from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.utils.text import length_text

ANSWER_TOKENS = 64

QUESTIONS = {
    "title": "What is the title of this document?",
    "author": "Who wrote this document?",
    "first_line": "What is the first line of this document?",
}
DESCRIPTION = "You are given a document. Read it carefully and answer the question that follows it."
LEAD = "\nAnswer:"

HEAD = 8000  # characters at the start of a document in which its title and author are looked for
TITLE_WORDS = 20
FIRST_WORDS = 12
"""How much of a first line is asked for."""
LEAST_WORDS = 5
"""A first line with fewer tells too little."""
ALONE = 0.25
"""Facts must not stand again beyond this share of the document."""
SAMPLE = 20_000  # characters from which the tokens of a piece are estimated


def plain(text: str) -> str:
    """Words in lower case with single spaces, nothing but letters and digits: what answers are compared by."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def document_facts(name: str, text: str) -> dict[str, str]:
    r"""Read the title and the author of a document from its start, or its first line if it shows no title.

    Lines that are read: `title:` and `author:` (front matter, Gutenberg's header), `\title{}` and `\author{}`, a
    Markdown heading, an underlined line, a short line that stands alone at the very start, and a line "by …" soon
    after it.

    Args:
        name: Name of the document, whose suffix tells source code and Markdown.
        text: The document.

    Returns:
        Any of `title`, `author` and `first_line`.
    """
    lines = [line.strip() for line in text[:HEAD].split("\n")[:200]]
    shown = [(i, line) for i, line in enumerate(lines) if line]
    if not shown:
        return {}
    facts = _named(lines)
    suffix = PurePath(name).suffix.lower()
    if suffix not in text_sources.CODE:
        if "title" not in facts and (title := _heading(lines, shown[0][0], suffix)):
            facts["title"] = title
        if "author" not in facts and (author := _byline([line for _, line in shown[1:12]])):
            facts["author"] = author
    words = shown[0][1].split()
    if "title" not in facts and len(plain(shown[0][1]).split()) >= LEAST_WORDS:
        facts["first_line"] = " ".join(words[:FIRST_WORDS])
    return {key: value for key, value in facts.items() if plain(value)}


def _named(lines: list[str]) -> dict[str, str]:
    """Title and author in lines that call them so, the first of each."""
    facts: dict[str, str] = {}
    for line in lines:
        match = re.match(r"(title|author)s?\s*:\s*(\S.*)", line, re.IGNORECASE)
        match = match or re.match(r"\\(title|author)\{([^{}]+)\}", line)
        if match and len(match[2].split()) <= TITLE_WORDS:
            facts.setdefault(match[1].lower(), match[2].strip().strip("\"'"))
    return facts


def _heading(lines: list[str], first: int, suffix: str) -> str | None:
    """The title that stands at the start: a heading, or a short line with nothing but a gap or a by-line below it."""
    if suffix in (".md", ".markdown") and (heading := next((line for line in lines if line.startswith("# ")), None)):
        return heading.strip("# ")
    line, below = lines[first], lines[first + 1] if first + 1 < len(lines) else ""
    if re.fullmatch(r"([=\-~*#^])\1{2,}", line) and below:  # reStructuredText, a line above and below
        return below
    underlined = re.fullmatch(r"([=\-~*#^])\1{2,}", below) is not None
    short = len(plain(line).split()) <= TITLE_WORDS and not re.search(r"[.,;:>]$|^[\W_]*$|^[\"'#<{\[(/*%]", line)
    return line if short and (underlined or not below or _byline([below])) else None


def _byline(lines: list[str]) -> str | None:
    """The name in a line "by NAME", or in the line after a line "by"."""
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        match = re.match(r"(?:written )?by\b[\s:]*(.*)", line, re.IGNORECASE)
        name = (match[1] or below).strip() if match else ""
        if name and len(name.split()) <= 6 and not re.search(r"[,;:]$", name):
            return name.rstrip(".")
    return None


def prompt_text(document: str, ask: str) -> str:
    """The prompt without the word that leads the answer."""
    return f"{DESCRIPTION}\n\n=== BEGIN ===\n\n{document.rstrip()}\n\n=== END ===\n\nQuestion: {ask}"


def pieces(text: str) -> list[str]:
    """Lines, and sentences of lines that are long: the places where a document may be cut."""
    parts: list[str] = []
    for line in text.splitlines(keepends=True):
        parts += re.split(r"(?<=[.!?] )(?=\S)", line) if len(line) > 400 else [line]
    return parts


def questions(inputs: Inputs, length: int) -> dict[str, list[Question]]:
    """The prompts of one length by what they ask, from documents that fill it; drawn by the seed."""
    return inputs.once(("document_qa", length), lambda: _questions(inputs, length))


def _questions(inputs: Inputs, length: int) -> dict[str, list[Question]]:
    settings = inputs.settings.document_qa
    documents = inputs.texts(settings.data)
    known = inputs.once("document_qa", lambda: [document_facts(*document) for document in documents])
    shared = Counter(plain(fact) for one in known for kind, fact in one.items() if kind != "author")
    prompts: dict[str, list[Question]] = {kind: [] for kind in QUESTIONS}
    used, room = 0, length - ANSWER_TOKENS
    for place in np.random.default_rng([inputs.settings.seed]).permutation(len(documents)).tolist():
        text = documents[place][1]
        asked = {
            kind: fact
            for kind, fact in known[place].items()
            if kind in settings.questions and (kind == "author" or shared[plain(fact)] < 2)
        }
        if len(text) < room or not asked:  # a token has at least a character, nearly always
            continue
        new = {kind: one for kind, fact in asked.items() if (one := _question(inputs, text, kind, fact, room))}
        for kind, one in new.items():
            prompts[kind].append(one)
        used += bool(new)
        if used == settings.documents:
            break
    return {kind: asked for kind, asked in prompts.items() if asked}


def _question(inputs: Inputs, text: str, kind: str, fact: str, room: int) -> Question | None:
    """The prompt with as much of the document as fits; None where all of it does, or where it says the fact again."""
    parts = pieces(text[: 20 * room])  # far more characters than tokens fit
    sample = parts[: max(sum(1 for _ in parts) * SAMPLE // max(len(text[: 20 * room]), 1), 1)]
    each = max(inputs.count("".join(sample)), 1) / len(sample)
    n, ids = fit(
        lambda n: inputs.encode(prompt_text("".join(parts[:n]), QUESTIONS[kind]), LEAD),
        room,
        int(room / each),
        most=len(parts),
    )
    words = plain("".join(parts[:n]))
    place = words.rfind(plain(fact))
    if n in (-1, len(parts)) or not 0 <= place <= ALONE * len(words):
        return None
    return Question(ids, inputs.draft(LEAD, f" {fact}\n"), [fact])


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each kind of question that the documents allow."""
    fixed = max(len(inputs.encode(prompt_text("", ask), LEAD)) for ask in QUESTIONS.values())
    if length <= fixed + ANSWER_TOKENS:
        raise TooShortError(
            f"document_qa at {length_text(length)} tokens: the prompt without a document takes "
            f"{length_text(fixed)} and the answer up to {ANSWER_TOKENS}; give longer evaluation.retrieval_lengths"
        )
    prompts = questions(inputs, length)
    if not prompts:
        data = ", ".join(inputs.settings.document_qa.data)
        raise SkipwiseError(
            f"document_qa: no document of {data} fills {length_text(length)} tokens and says at its start, and only "
            "there, what can be asked; give longer documents (evaluation.document_qa.data) or shorter "
            "evaluation.retrieval_lengths"
        )
    return [Cell(length, len(asked), ANSWER_TOKENS, variant=kind) for kind, asked in prompts.items()]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt of one document; `cell.variant` says what is asked."""
    return questions(inputs, cell.length)[cell.variant or ""][trial]


def score(answer: str, question: Question) -> float:
    """1 where the first line of the answer contains the right one."""
    first = next((line for line in answer.split("\n") if line.strip()), "")
    return float(f" {plain(question.truth[0])} " in f" {plain(first)} ")


TASK = Task(
    name="document_qa",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=lambda answer, question: "\n" in answer.lstrip(),
    check=lambda settings: text_sources.sources(settings.document_qa.data),
)
