"""A second, slow implementation of the samplers: Python integers and loops only, written from their definitions."""

import itertools
from decimal import Decimal, localcontext
from statistics import NormalDist

SIXTY_FOUR_BITS = 2**64 - 1


def split_mix_outputs(start):
    """The outputs of SplitMix64, whose state starts at `start`, one after the other."""
    state = start
    while True:
        state = (state + 0x9E3779B97F4A7C15) & SIXTY_FOUR_BITS
        word = state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & SIXTY_FOUR_BITS
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & SIXTY_FOUR_BITS
        yield word ^ (word >> 31)


def split_mix_output(start, number):
    """Output `number` (0 = first), reached by jumping the state ahead."""
    return next(split_mix_outputs((start + number * 0x9E3779B97F4A7C15) & SIXTY_FOUR_BITS))


def words(*key):
    """The stream of an example: every part of the key picks the output that starts the next stream."""
    start = 0
    for part in key:
        start = split_mix_output(start, part)
    return split_mix_outputs(start)


def uniform(word, low, high):
    return low + (word * (high - low + 1) >> 64)


def layout(name, length, target, chunks, text, seed, epoch, index, n_doc, base="pose", growth=0):
    """Positions, text offsets and seams of one example, as three lists."""
    stream = words(0, seed, epoch, index)
    if name == "curriculum":
        if epoch == 0 and index < growth:
            stage = 1 + index * 8 // growth
            target = round(length * (target / length) ** (stage / 8))
        return layout(base, length, target, chunks, text, seed, epoch, index, n_doc)
    if name == "pose":
        return pose(stream, length, target, chunks, text, n_doc)
    if name == "pose_reference":
        return pose_reference(stream, length, target, n_doc)
    if name == "cream":
        return cream(stream, length, target, text, n_doc)
    if name == "endprompt":
        closing = max(length // 32, 1)
        skips = [0, target - length]
        return spread([length - closing, closing], skips, [0, 0])
    if name == "skipalign":
        return skipalign(stream, length, target, chunks)
    if name == "stratified":
        return stratified(stream, length, target, chunks, text, seed, epoch, index, n_doc)
    if name == "randpos":
        positions = [0, *sorted(value + 1 for value in subset(stream, target - 1, length - 1))]
    elif name == "full":
        positions = list(range(target))
    else:
        positions = list(range(length))
    return positions, list(range(len(positions))), [False] * len(positions)


def pose_reference(stream, length, target, n_doc):
    first = uniform(next(stream), 1, (length + 1) // 2)
    skip = uniform(next(stream), 0, target - length)
    text_skip = uniform(next(stream), 0, min(n_doc, 5 * length) - length)
    return spread([first, length - first], [0, skip], [0, text_skip])


def cream(stream, length, target, text, n_doc):
    short = next(stream) >= 2**63
    ends = min(length // 3, 4 * target // length) if short else length // 3
    middle = length - 2 * ends
    chance = next(stream)
    normal = NormalDist(1 + target / length, 3)
    r = 2
    while r + 1 <= 2 * target // length and chance >= int(normal.cdf(r + 1) * 2**64):
        r += 1
    end = uniform(next(stream), ends + (middle - 1) * r // 2, length * r // 2 - ends - 1)
    skips = [0, end - (middle - 1) - ends, target - length]
    return spread([ends, middle, ends], skips, text_skips_of(stream, text, skips, length, n_doc))


def skipalign(stream, length, target, chunks, borders=None):
    if borders is None:
        return pose(stream, length, target, chunks, "contiguous", length)
    choices, words = ([next(stream) for _ in range(chunks - 1)] for _ in range(2))
    left, chosen = list(borders), []
    for word in choices[: len(borders)]:
        place = uniform(word, 0, len(left) - 1)
        chosen.append(left[place])
        left[place] = left[0]  # a shuffle moves the first of the others into the gap
        left = left[1:]
    ends = [0, *sorted(chosen), length]
    skips = [0]
    for word in words[: len(chosen)]:
        skips.append(uniform(word, skips[-1], target - length))
    lengths = [end - start for start, end in itertools.pairwise(ends)]
    return spread(lengths, skips, [0] * len(lengths))


def stratified(stream, length, target, chunks, text, seed, epoch, index, n_doc):
    shifts = words(2, seed, epoch)
    numbers = []
    with localcontext() as context:
        context.prec = 60
        for step in richtmyer_steps(2 * chunks - 2):
            numbers.append((next(shifts) + index * int(step * 2**64)) % 2**64)
    sequence = iter(numbers)
    skips = [0]
    if chunks > 1:
        last = min(uniform(next(sequence), 0, target - 2), target - length)
        skips = [0, *sorted(uniform(next(sequence), 0, last) for _ in range(chunks - 2)), last]
    lengths = lengths_of(sequence, length, chunks)
    return spread(lengths, skips, text_skips_of(stream, text, skips, length, n_doc))


def richtmyer_steps(count):
    """The golden section, then the parts behind the point of √2, √3, √7 …, as decimals."""
    steps, candidate = [(Decimal(5).sqrt() - 1) / 2], 2
    while len(steps) < count:
        if candidate != 5 and not any(candidate % divisor == 0 for divisor in range(2, candidate)):
            steps.append(Decimal(candidate).sqrt() % 1)
        candidate += 1
    return steps[:count]


def lengths_of(stream, length, chunks):
    lengths = []
    for later in range(chunks - 1, 0, -1):
        lengths.append(uniform(next(stream), 1, length - sum(lengths) - later))
    return [*lengths, length - sum(lengths)]


def text_skips_of(stream, text, skips, length, n_doc):
    if text == "aligned":
        return skips
    text_skips = []
    for _ in skips:
        low = text_skips[-1] if text_skips else 0
        text_skips.append(uniform(next(stream), low, n_doc - length) if text == "skip" else 0)
    return text_skips


def pose(stream, length, target, chunks, text, n_doc):
    lengths = lengths_of(stream, length, chunks)
    skips = [0]
    for _ in range(1, chunks):
        skips.append(uniform(next(stream), skips[-1], target - length))
    return spread(lengths, skips, text_skips_of(stream, text, skips, length, n_doc))


def spread(lengths, skips, text_skips):
    positions, offsets, seams = [], [], []
    plain = 0
    for chunk in range(len(lengths)):
        for token in range(lengths[chunk]):
            positions.append(skips[chunk] + plain)
            offsets.append(text_skips[chunk] + plain)
            seams.append(chunk > 0 and token == 0 and offsets[-1] != offsets[-2] + 1)
            plain += 1
    return positions, offsets, seams


def subset(stream, size, count):
    """The first `count` distinct draws; or all but the first size - count distinct ones, where that is fewer."""
    if count > size // 2:
        left_out = subset(stream, size, size - count)
        return {value for value in range(size) if value not in left_out}
    chosen = set()
    while len(chosen) < count:
        chosen.add(uniform(next(stream), 0, size - 1))
    return chosen


def example_order(seed, epoch, n):
    stream = words(1, seed, epoch)
    keys = [next(stream) for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)
