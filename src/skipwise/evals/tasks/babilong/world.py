"""A small world of persons, places and objects that writes down what happens in it, as bAbI's stories do.

An action changes the state and adds one fact. Answers are read from the state, never from the text.
"""

import random
from collections.abc import Callable, Sequence

MOVES = ("moved", "went", "went back", "journeyed", "travelled")
TAKES = ("got", "grabbed", "picked up", "took")
DROPS = ("discarded", "dropped", "left", "put down")
GIVES = ("gave", "handed", "passed")


class World:
    """Who is where, who holds what, and what happened.

    Args:
        rng: Draws the actions.
        people: Persons.
        places: Places.
        objects: Objects; where each is at first is not known until somebody takes it.
    """

    def __init__(
        self, rng: random.Random, people: Sequence[str], places: Sequence[str], objects: Sequence[str] = ()
    ) -> None:
        self.rng, self.people, self.places, self.objects = rng, people, places, objects
        self.facts: list[str] = []
        self.possible: dict[str, frozenset[str]] = {}
        """Places where each person may be, for those that a fact was about."""
        self.holder: dict[str, str] = {}
        """Who holds an object, for those that are held, in the order of taking."""
        self.trail: dict[str, list[str]] = {}
        """Places where each object was, in order, from the first time that it was taken."""
        self.gifts: list[tuple[str, str, str]] = []
        """(giver, object, receiver)."""

    def place_of(self, person: str) -> str | None:
        """Where a person is; None where that is not known."""
        possible = self.possible.get(person, frozenset())
        return next(iter(possible)) if len(possible) == 1 else None

    def held_by(self, person: str) -> list[str]:
        """What a person holds, in the order of taking."""
        return [thing for thing, holder in self.holder.items() if holder == person]

    def run(self, facts: int, actions: Sequence[Callable[["World"], bool]]) -> None:
        """Take actions, drawn evenly from those that can be taken, until so many facts are written."""
        while len(self.facts) < facts:
            self.rng.choice(actions)(self)

    def move(self) -> bool:
        """Somebody goes to another place, with what they hold."""
        person = self.rng.choice(self.people)
        place = self.rng.choice([place for place in self.places if place != self.place_of(person)])
        self.possible[person] = frozenset([place])
        for thing in self.held_by(person):
            self.trail[thing].append(place)
        return self._write(f"{person} {self.rng.choice(MOVES)} to the {place}.")

    def take(self) -> bool:
        """Somebody takes an object that nobody holds and that is at their place or was not seen before."""
        free = [
            (person, thing)
            for person in self.people
            for thing in self.objects
            if (place := self.place_of(person)) and thing not in self.holder and self._may_be_at(thing, place)
        ]
        if not free:
            return False
        person, thing = self.rng.choice(free)
        self.holder[thing] = person
        self.trail.setdefault(thing, [str(self.place_of(person))])
        return self._write(f"{person} {self.rng.choice(TAKES)} the {thing} there.")

    def drop(self) -> bool:
        """Somebody leaves an object where they are."""
        if not self.holder:
            return False
        thing = self.rng.choice(list(self.holder))
        person = self.holder.pop(thing)
        return self._write(f"{person} {self.rng.choice(DROPS)} the {thing}{self.rng.choice((' there', ''))}.")

    def give(self) -> bool:
        """Somebody gives an object to another person at the same place."""
        pairs = [
            (thing, giver, person)
            for thing, giver in self.holder.items()
            for person in self.people
            if person != giver and self.place_of(person) == self.place_of(giver)
        ]
        if not pairs:
            return False
        thing, giver, receiver = self.rng.choice(pairs)
        del self.holder[thing]
        self.holder[thing] = receiver
        self.gifts.append((giver, thing, receiver))
        return self._write(f"{giver} {self.rng.choice(GIVES)} the {thing} to {receiver}.")

    def state(self) -> bool:
        """A fact tells where somebody is."""
        person, place = self.rng.choice(self.people), self.rng.choice(self.places)
        self.possible[person] = frozenset([place])
        return self._write(f"{person} is in the {place}.")

    def deny(self) -> bool:
        """A fact tells that somebody is not at a place; of one whose place is known, that they left it."""
        person = self.rng.choice(self.people)
        known = self.place_of(person)
        place = known or self.rng.choice(self.places)
        before = frozenset(self.places) if known else self.possible.get(person, frozenset(self.places))
        if len(before - {place}) < 2:  # only one place would be left, which a reader has to find by exclusion
            return False
        self.possible[person] = before - {place}
        return self._write(f"{person} is {'no longer' if known else 'not'} in the {place}.")

    def either(self) -> bool:
        """A fact names two places of which one is right."""
        person = self.rng.choice(self.people)
        first, second = self.rng.sample(list(self.places), 2)
        self.possible[person] = frozenset([first, second])
        return self._write(f"{person} is either in the {first} or the {second}.")

    def _may_be_at(self, thing: str, place: str) -> bool:
        return thing not in self.trail or self.trail[thing][-1] == place

    def _write(self, fact: str) -> bool:
        self.facts.append(fact)
        return True
