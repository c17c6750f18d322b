"""A second, slow implementation of the samplers: Python integers and loops only, written from their definitions."""

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


def layout(name, length, target, chunks, text, seed, epoch, index, n_doc):
    """Positions, text offsets and seams of one example, as three lists."""
    stream = words(0, seed, epoch, index)
    if name == "pose":
        return pose(stream, length, target, chunks, text, n_doc)
    if name == "randpos":
        positions = [0, *sorted(value + 1 for value in subset(stream, target - 1, length - 1))]
    elif name == "full":
        positions = list(range(target))
    else:
        positions = list(range(length))
    return positions, list(range(len(positions))), [False] * len(positions)


def pose(stream, length, target, chunks, text, n_doc):
    lengths = []
    for later in range(chunks - 1, 0, -1):
        lengths.append(uniform(next(stream), 1, length - sum(lengths) - later))
    lengths.append(length - sum(lengths))
    skips = [0]
    for _ in range(1, chunks):
        skips.append(uniform(next(stream), skips[-1], target - length))
    if text == "skip":
        text_skips = [uniform(next(stream), 0, n_doc - length)]
        for _ in range(1, chunks):
            text_skips.append(uniform(next(stream), text_skips[-1], n_doc - length))
    elif text == "aligned":
        text_skips = skips
    else:
        text_skips = [0] * chunks
    positions, offsets, seams = [], [], []
    plain = 0
    for chunk in range(chunks):
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
