"""Needles that share no word with their question, and twins of them that do.

The idea is NoLiMa's (arXiv 2502.05167): a model that finds a needle by its words finds nothing where question and
needle have none in common, and has to know that who does not eat meat is a vegetarian. None of its items, names or
texts is used: its licence does not allow that. Ours are below.

Two variants ask the same question with the same answer about the same text, but for one sentence: `associated` has a
needle that shares no word with the question, `literal` one that repeats its words. Four sentences about other persons
stand in the text, so that a name alone is no answer. A third row has the difference, paired over the items.
"""

import re
from typing import NamedTuple

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import filler, intervals, paired_change
from skipwise.evals.filler import Haystack
from skipwise.evals.longest_prompt import fit
from skipwise.evals.rows import Row, digest
from skipwise.evals.task import Cell, Inputs, Question, Task, check_depths, depth_grid

ANSWER_TOKENS = 16
SETTING = "evaluation.non_literal.filler"
VARIANTS = ("literal", "associated")
OTHERS = 4
"""Sentences about other persons."""
DESCRIPTION = (
    "Sentences about different persons stand in the following text. Read it. "
    "A question about one of these persons follows the text."
)
ASK = "Question: {question} Answer with a name."
LEAD = "\nAnswer:"
NAMES = (
    *("Agnes", "Boris", "Carla", "Dmitri", "Edith", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Lionel"),
    *("Martha", "Nadia", "Oscar", "Petra", "Quentin", "Rosa", "Stefan", "Ursula"),
)
_NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")


class Item(NamedTuple):
    """A question and what tells its answer: `{name} needle` without a common word, `{name} literal` with them."""

    question: str
    needle: str
    literal: str


ITEMS = (
    Item(
        "Who plays a stringed instrument?", "takes the cello out of its case at dusk.", "plays a stringed instrument."
    ),
    Item("Who is a vegetarian?", "has not eaten meat since childhood.", "is a vegetarian."),
    Item("Who is a nurse?", "spends the night shift with the sick on ward seven.", "is a nurse."),
    Item("Who has been to France?", "saw the sun set behind the Eiffel Tower.", "has been to France."),
    Item("Who comes from Norway?", "grew up among the fjords near Bergen.", "comes from Norway."),
    Item("Who is a dentist?", "pulls aching teeth for a living.", "is a dentist."),
    Item("Who is a baker?", "heats the ovens at three so that the village has its rolls.", "is a baker."),
    Item("Who is colour-blind?", "cannot tell a red traffic light from a green one.", "is colour-blind."),
    Item("Who is unable to swim?", "goes under wherever the water is deep.", "is unable to swim."),
    Item("Who has an allergy?", "breaks out in a rash after a single peanut.", "has an allergy."),
    Item("Who celebrated a birthday?", "blew out seventy candles last week.", "celebrated a birthday."),
    Item("Who is the parent of twins?", "pushes a pram with two small passengers.", "is the parent of twins."),
    Item("Who likes to watch birds?", "counts herons through binoculars.", "likes to watch birds."),
    Item("Who is deaf?", "reads lips and talks with both hands.", "is deaf."),
    Item("Who ran a marathon?", "crossed the finishing line after twenty-six miles.", "ran a marathon."),
    Item("Who got married?", "said yes in front of the priest and put on the ring.", "got married."),
    Item("Who is a poet?", "wrote a verse that rhymes for each page of the calendar.", "is a poet."),
    Item("Who is a pilot?", "steers a jet across the Atlantic twice a week.", "is a pilot."),
    Item("Who is a lawyer?", "defends the accused in front of the jury.", "is a lawyer."),
    Item("Who is a farmer?", "milks forty cows before dawn.", "is a farmer."),
    Item("Who is good at chess?", "moves rooks and bishops until the opponent gives up.", "is good at chess."),
    Item("Who is a smoker?", "lights one cigarette with the end of another.", "is a smoker."),
    Item("Who is homeless?", "sleeps in a doorway and owns what two bags hold.", "is homeless."),
    Item("Who speaks Portuguese?", "talks with relatives in Lisbon in their mother tongue.", "speaks Portuguese."),
    Item("Who owns a telescope?", "looks at the rings of Saturn from the garden shed.", "owns a telescope."),
    Item("Who was at the beach?", "returned with a suntan and sand in both shoes.", "was at the beach."),
)


class Draw(NamedTuple):
    """What one prompt tells: an item, its person, and sentences about others at shares of the text."""

    item: int
    name: str
    others: list[tuple[float, str]]


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: There are no depths, or the prose is missing.
    """
    check_depths(settings)
    filler.check(settings.non_literal.filler, SETTING)


def haystack(inputs: Inputs) -> Haystack:
    """The prose that the settings name."""
    return filler.haystack(inputs, inputs.settings.non_literal.filler, SETTING)


def draw(inputs: Inputs, cell: Cell, trial: int) -> Draw:
    """Draw an item, a name that the prose does not hold, and the other sentences; the same for both variants.

    The items are taken in an order drawn by the seed, so that one comes again only when all were asked.

    Raises:
        SkipwiseError: The prose holds too many of the names.
    """
    seed, depth = inputs.settings.seed, cell.depth_index or 0
    names = inputs.once(
        ("non_literal names", *inputs.settings.non_literal.filler),
        lambda: [name for name in NAMES if name not in haystack(inputs).text],
    )
    if len(names) <= OTHERS:
        raise SkipwiseError(
            f"the prose of {SETTING} holds {len(NAMES) - len(names)} of the {len(NAMES)} names that non_literal asks "
            f"for; name other prose"
        )
    order = np.random.default_rng([seed, cell.length]).permutation(len(ITEMS))
    generator = np.random.default_rng([seed, cell.length, depth, trial])
    item = int(order[(depth * cell.n + trial) % len(ITEMS)])
    others = generator.choice([i for i in range(len(ITEMS)) if i != item], OTHERS, replace=False)
    persons = [names[i] for i in generator.choice(len(names), OTHERS + 1, replace=False)]
    places = generator.random(OTHERS)
    sentences = [f"{person} {ITEMS[i].needle}" for person, i in zip(persons[1:], others, strict=True)]
    return Draw(item, persons[0], list(zip(places.tolist(), sentences, strict=True)))


def prompt(inputs: Inputs, drawn: Draw, variant: str, depth: float, sentences: int) -> list[int]:
    """The prompt with so many sentences of filler, as token ids.

    Args:
        inputs: What prompts are made from.
        drawn: What it tells.
        variant: `associated` or `literal`.
        depth: Share of the filler's characters before the needle, 0 to 1.
        sentences: Sentences of filler.
    """
    hay, item = haystack(inputs), ITEMS[drawn.item]
    needle = f"{drawn.name} {item.needle if variant == 'associated' else item.literal}"
    pieces = [(int(place * (sentences + 1)), sentence) for place, sentence in drawn.others]
    pieces.append((hay.border(sentences, depth), needle))
    text = filler.insert(hay, sentences, sorted(pieces, key=lambda piece: piece[0]))
    return inputs.encode(f"{DESCRIPTION}\n\n{text}\n\n{ASK.format(question=item.question)}", LEAD)


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each variant and depth."""
    settings = inputs.settings
    check(settings)
    trials = [Cell(length, settings.trials, ANSWER_TOKENS, depth, i) for i, depth in enumerate(settings.depths)]
    drawn = [draw(inputs, cell, trial) for cell in trials for trial in range(cell.n)]
    least = max(len(prompt(inputs, one, variant, 0.0, 0)) for one in drawn for variant in VARIANTS) + ANSWER_TOKENS
    grid = depth_grid(settings, "non_literal", length, least, ANSWER_TOKENS)
    return [cell._replace(variant=variant) for variant in VARIANTS for cell in grid]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The longest prompt that leaves room for the answer: one sentence of filler more would be too long.

    Both variants have as much filler as the longer of their two prompts leaves room for.
    """
    drawn, depth, hay = draw(inputs, cell, trial), cell.depth or 0.0, haystack(inputs)
    room = cell.length - cell.answer_tokens

    def longer(sentences: int) -> list[int]:
        return max((prompt(inputs, drawn, variant, depth, sentences) for variant in VARIANTS), key=len)

    def fitted() -> int:
        hint = hay.sentences((room - len(longer(0))) * hay.characters)
        return fit(longer, room, hint)[0]

    sentences = inputs.once(("non_literal", cell.length, cell.depth_index, trial), fitted)
    return Question(
        prompt(inputs, drawn, str(cell.variant), depth, sentences),
        inputs.draft(LEAD, f" {drawn.name}."),
        [drawn.name, ITEMS[drawn.item].question],
        unit=f"item {drawn.item}",
        chance=1 / (OTHERS + 1),
    )


def score(answer: str, question: Question) -> float:
    """1 where the first of the task's names in an answer is the right one."""
    named = _NAME.search(answer)
    return float(named is not None and named[0] == question.truth[0])


def ended(answer: str, question: Question) -> bool:
    """Whether a name is complete: something follows it."""
    named = _NAME.search(answer)
    return named is not None and named.end() < len(answer)


def summarise(inputs: Inputs, rows: list[Row]) -> list[Row]:
    """The difference of the variants at each length: associated - literal, paired over the items."""
    further = []
    for length in sorted({row.length or 0 for row in rows}):
        both = {row.variant: row for row in rows if row.length == length and row.depth is None}
        literal, associated = (both[variant] for variant in VARIANTS)
        means = [intervals.by_unit(row.scores, row.units) for row in (literal, associated)]
        change = paired_change.score_difference(*means)
        further.append(
            associated.replace(
                variant="difference",
                metric="difference",
                data=digest([literal, associated]),
                tasks=list(VARIANTS),
                value=change.value,
                low=change.low,
                high=change.high,
                interval=f"{change.interval} over {change.n} items",
                chance=None,
                scores=[],
                units=[],
            )
        )
    return further


TASK = Task(
    name="non_literal",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=ended,
    summarise=summarise,
    check=check,
)
