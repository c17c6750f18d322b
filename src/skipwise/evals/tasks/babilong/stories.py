"""Stories of bAbI's first ten kinds: facts, a question and its answer, from a simulated world.

Where a kind has few answers (yes and no, counts, lists), the answer is drawn first, each with the same chance, and
worlds are drawn until one has it. Where answers are places or persons, no name is special, so all are as likely.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from skipwise.evals.tasks.babilong.world import World

FOUR = ("Daniel", "John", "Mary", "Sandra")
FRIENDS = ("Bill", "Fred", "Jeff", "Mary")
HOUSE = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
TOWN = ("bedroom", "cinema", "kitchen", "office", "park", "school")
THINGS = ("apple", "football", "milk")
NUMBERS = ("none", "one", "two", "three")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Asked(NamedTuple):
    """A question about a world."""

    question: str
    answer: str
    sentence: str
    """The answer in the form that the prompt asks for."""
    chance: float
    """Share of right guesses among the answers that the question leaves open."""


class Story(NamedTuple):
    """Facts in order, and one question about them."""

    facts: list[str]
    asked: Asked


class StoryKind(NamedTuple):
    """How the stories of one kind are made."""

    world: Callable[[random.Random], World]
    ask: Callable[[World], Iterator[Asked]]
    """All questions about a world that have one answer."""
    answers: tuple[str, ...] = ()
    """Answers that are drawn first, each with the same chance."""


def draw(kind: int, rng: random.Random) -> Story:
    """Draw a story.

    Args:
        kind: bAbI's number, 1 to 10.
        rng: Draws it.
    """
    rules = KINDS[kind]
    wanted = rng.choice(rules.answers) if rules.answers else None
    while True:
        world = rules.world(rng)
        asked = [one for one in rules.ask(world) if wanted in (None, one.answer)]
        if asked:
            return Story(world.facts, rng.choice(asked))


def _moves(rng: random.Random) -> World:
    world = World(rng, FOUR, HOUSE)
    world.run(rng.randint(2, 8), [World.move])
    return world


def _carrying(least: int, most: int) -> Callable[[random.Random], World]:
    def make(rng: random.Random) -> World:
        world = World(rng, FOUR, HOUSE, THINGS)
        world.run(rng.randint(least, most), [World.move, World.move, World.take, World.drop])
        return world

    return make


def _giving(people: tuple[str, ...]) -> Callable[[random.Random], World]:
    """Three places only, so that persons meet."""

    def make(rng: random.Random) -> World:
        world = World(rng, people, rng.sample(HOUSE, 3), THINGS)
        world.run(rng.randint(4, 12), [World.move, World.take, World.take, World.give, World.give, World.drop])
        return world

    return make


def _negation(rng: random.Random) -> World:
    world = World(rng, FOUR, HOUSE)
    world.run(rng.randint(2, 8), [World.move, World.state, World.deny])
    return world


def _indefinite(rng: random.Random) -> World:
    world = World(rng, ("Bill", "Fred", "Julie", "Mary"), TOWN)
    world.run(rng.randint(2, 8), [World.move, World.state, World.either])
    return world


def _compass(rng: random.Random) -> World:
    """Three places in a line, told by two facts from either side."""
    first, middle, last = rng.sample(HOUSE, 3)
    world = World(rng, (), (first, middle, last))
    direction = rng.choice(list(OPPOSITE))
    for near, far in ((first, middle), (middle, last)):
        fact = (near, direction, far) if rng.random() < 0.5 else (far, OPPOSITE[direction], near)
        world.facts.append("The {} is {} of the {}.".format(*fact))
    rng.shuffle(world.facts)
    world.trail = {direction: [first, middle, last]}
    return world


def _ask_person(world: World) -> Iterator[Asked]:
    for person in world.possible:
        place = str(world.place_of(person))
        yield Asked(f"Where is {person}?", place, f"The most recent location of {person} is {place}.", 1 / 6)


def _ask_object(world: World) -> Iterator[Asked]:
    for thing, trail in world.trail.items():
        yield Asked(f"Where is the {thing}?", trail[-1], f"The {thing} is in {trail[-1]}.", 1 / 6)


def _ask_before(world: World) -> Iterator[Asked]:
    """About a place where the object was once only."""
    for thing, trail in world.trail.items():
        for before, place in itertools.pairwise(trail):
            if trail.count(place) == 1:
                sentence = f"Before the {place} the {thing} was in the {before}."
                yield Asked(f"Where was the {thing} before the {place}?", before, sentence, 1 / 5)


def _ask_direction(world: World) -> Iterator[Asked]:
    ((direction, (first, middle, last)),) = world.trail.items()
    opposite = OPPOSITE[direction]
    yield Asked(f"What is {direction} of the {middle}?", first, first, 1 / 5)
    yield Asked(f"What is {opposite} of the {middle}?", last, last, 1 / 5)
    yield Asked(f"What is the {middle} {direction} of?", last, last, 1 / 5)
    yield Asked(f"What is the {middle} {opposite} of?", first, first, 1 / 5)


def _ask_gift(world: World) -> Iterator[Asked]:
    """BAbI's five questions, of each those that one gift answers; a kind of question has the same weight."""
    asked: dict[str, dict[str, list[str]]] = {}
    chances = {"what": 1 / 3, "from": 1 / 3, "to": 1 / 3, "giver": 1 / 4, "receiver": 1 / 4}
    for giver, thing, receiver in world.gifts:
        for form, question, answer in (
            ("what", f"What did {giver} give to {receiver}?", thing),
            ("from", f"Who gave the {thing} to {receiver}?", giver),
            ("to", f"Who did {giver} give the {thing} to?", receiver),
            ("giver", f"Who gave the {thing}?", giver),
            ("receiver", f"Who received the {thing}?", receiver),
        ):
            asked.setdefault(form, {}).setdefault(question, []).append(answer)
    forms = [form for form in chances if any(len(answers) == 1 for answers in asked.get(form, {}).values())]
    if forms:
        form = world.rng.choice(forms)
        for question, answers in asked[form].items():
            if len(answers) == 1:
                yield Asked(question, answers[0], answers[0], chances[form])


def _ask_whether(world: World) -> Iterator[Asked]:
    for person, possible in world.possible.items():
        for place in world.places:
            answer = "no" if place not in possible else "yes" if len(possible) == 1 else "maybe"
            yield Asked(f"Is {person} in the {place}?", answer, answer, 1 / 2)


def _ask_whether_known(world: World) -> Iterator[Asked]:
    return (asked for asked in _ask_whether(world) if asked.answer != "maybe")


def _ask_whether_perhaps(world: World) -> Iterator[Asked]:
    return (asked._replace(chance=1 / 3) for asked in _ask_whether(world))


def _ask_count(world: World) -> Iterator[Asked]:
    for person in world.possible:
        number = NUMBERS[len(world.held_by(person))]
        yield Asked(f"How many objects is {person} carrying?", number, number, 1 / 4)


def _ask_list(world: World) -> Iterator[Asked]:
    """The order of the names is no part of the answer, but one order is drawn with the answer."""
    for person in world.possible:
        held = ",".join(sorted(world.held_by(person))) or "nothing"
        yield Asked(f"What is {person} carrying?", held, held, 1 / 7)


_LISTS = ("nothing", *THINGS, *(f"{a},{b}" for a, b in itertools.combinations(THINGS, 2)))

KINDS = {
    1: StoryKind(_moves, _ask_person),
    2: StoryKind(_carrying(4, 12), _ask_object),
    3: StoryKind(_carrying(8, 20), _ask_before),
    4: StoryKind(_compass, _ask_direction),
    5: StoryKind(_giving(FRIENDS), _ask_gift),
    6: StoryKind(_moves, _ask_whether, ("yes", "no")),
    7: StoryKind(_giving(FOUR), _ask_count, NUMBERS),
    8: StoryKind(_giving(FOUR), _ask_list, _LISTS),
    9: StoryKind(_negation, _ask_whether_known, ("yes", "no")),
    10: StoryKind(_indefinite, _ask_whether_perhaps, ("yes", "no", "maybe")),
}
"""bAbI's kinds by number."""
