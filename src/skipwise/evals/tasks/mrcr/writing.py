"""Short pieces of writing, composed from templates: each is of its form and about its subject."""

import random

FORMS = ("poem", "short story", "letter", "diary entry", "news report", "speech", "review", "riddle")
SUBJECTS = (
    *("tapirs", "lighthouses", "rivers", "clocks", "umbrellas", "bicycles", "volcanoes", "owls", "islands", "bridges"),
    *("trains", "mirrors", "snowstorms", "libraries", "carpets", "kites", "orchards", "pianos", "candles", "foxes"),
)
_OPENINGS = {
    "poem": ("O {s}, you {a} ones,", "I sing of {s} {t}:", "{s} came {t}, {a} and {b},"),
    "short story": ("Once there were {s} near {p}.", "It began with {a} {s} {t}.", "Nobody at {p} believed in {s}."),
    "letter": ("Dear {w}, I write to you about {s}.", "My dear {w}, the {s} are {a}.", "To {w}: {s} came {t}."),
    "diary entry": ("{t} I saw {s} near {p}.", "A {a} day, because of the {s}.", "{w} and I talked of {s} {t}."),
    "news report": ("{s} were seen near {p} {t}.", "From {p}: {a} {s} surprise {w}.", "{w} counts {n} {s} at {p}."),
    "speech": ("Friends, {s} brought us to {p}.", "{w}, let me speak of {s}.", "We need {a} {s} more than ever."),
    "review": ("{n} stars for the {s} of {p}.", "I expected {a} {s}.", "{w} sent me to see {s} {t}."),
    "riddle": ("What do {s} hide at {p}?", "{n} {s} stood {t}, and one was {a}.", "Guess why {w} keeps {s}."),
}
_SENTENCES = (
    "{w} carried {o} to {p} {t}.",
    "Never was {o} as {a} as that one.",
    "They left {o} behind, and {w} kept it.",
    "{t} the road to {p} turned {a}.",
    "Only {w} knew of the {n} steps to {p}.",
    "Somebody had painted {o} in a {a} colour.",
    "It took {n} days until {w} laughed.",
    "At {p} the wind smelled of {o}.",
    "A {a} voice called {w} {t}.",
    "We traded {o} for {n} {b} stories.",
    "The {b} roof of {p} let in the rain.",
    "{w} swore that {o} could sing.",
    "Under {o} lay a map of {p}.",
    "So {a} was the hour that {w} slept.",
    "{n} lamps were lit at {p} {t}.",
    "Nothing is as {b} as {o} {t}.",
)
_WORDS = {
    "a": "amber brave calm distant eager faint gentle hollow idle jagged keen lonely mellow patient quiet".split(),
    "b": "rusty silent tender upright velvet weary crooked dusty early fragile golden hasty icy lively odd".split(),
    "p": [f"the {place}" for place in "harbour mill chapel quarry market meadow tower station well ferry".split()],
    "o": [f"a {thing}" for thing in "kettle ladder violin lantern basket saddle compass hammer ribbon barrel".split()],
    "w": [f"the {who}" for who in "miller captain tailor widow pedlar judge gardener smith painter clerk".split()],
    "t": ["at dawn", "in June", "by night", "after supper", "on Monday", "in winter", "at noon", "before Easter"],
    "n": "three four five six seven nine eleven twelve twenty thirty forty sixty".split(),
}


def compose(rng: random.Random, form: str, subject: str, sentences: int) -> str:
    """Write one piece.

    Args:
        rng: Draws it.
        form: One of `FORMS`.
        subject: One of `SUBJECTS`.
        sentences: Sentences after the opening.
    """
    templates = [rng.choice(_OPENINGS[form]), *rng.sample(_SENTENCES, sentences)]
    parts = []
    for template in templates:
        words = {slot: rng.choice(choices) for slot, choices in _WORDS.items()}
        text = template.format(s=subject, **words)
        parts.append(text[0].upper() + text[1:])
    return ("\n" if form == "poem" else " ").join(parts)
