"""Each sampler against its definition: exact laws, hand-worked layouts, and layouts that must never change."""

import dataclasses
import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from skipwise.config.sampler_names import sampler_names
from skipwise.positions.coverage import examples_counted, examples_showing
from skipwise.positions.sampler import Sampler, describe, example_order
from skipwise.positions.samplers import method, stratified
from support import slow_positions

# SHA-256 of layouts over lengths, chunks, seeds, epochs and indices, made before each sampler had a file of its own.
DIGESTS = {
    "pose skip": "295b888a0dea0c9a6539c7836d1e8f395bf47826f04cc945f5ef4e31d435edc4",
    "pose contiguous": "455c54aac4af75bdb853da013f8786397f402438212743a668a36062234e7e56",
    "pose aligned": "edd638876914e6ee5af86421e7ce8fa4cd91b8c1e3f43aa0d2f22a14fde8006a",
    "randpos skip": "d552cff4c353a4717bea409768b9c84fa0a9978fb53eaec804241974e34892f7",
    "full skip": "7e5090b1f0b058d0f0467c3d6abc490ab74d333d55f9b406aae877ed0692c4d1",
    "original skip": "33df079dcb32ca363b3afa685f6ffc505dcb14bfd8b78e02ccb76886b5631ea8",
}
LENGTHS = [(1, 1), (2, 3), (8, 64), (33, 33), (64, 1000), (256, 4096)]


@pytest.mark.parametrize("key", DIGESTS)
def test_layouts_did_not_change_when_samplers_got_files(key):
    name, text = key.split()
    digest = hashlib.sha256()
    for (length, target), chunks, seed in itertools.product(LENGTHS, [1, 2, 3, 7], [0, 7, 2**64 - 1]):
        if chunks > length or (name != "pose" and chunks != 2):
            continue
        sampler = Sampler(name, length, target, chunks=chunks, text=text, seed=seed)
        index = np.array([0, 1, 2, 3, 4, 5, 6, 1000, 10**12])
        for epoch in (0, 3):
            for part in sampler.draw(epoch, index, sampler.document_length + 10 * index % 5000):
                digest.update(np.ascontiguousarray(part).tobytes())
    assert digest.hexdigest() == DIGESTS[key]


def test_the_order_of_examples_did_not_change():
    digest = hashlib.sha256()
    for seed, epoch, n in itertools.product([0, 7], [0, 1], [1, 50]):
        digest.update(example_order(seed, epoch, n).tobytes())
    assert digest.hexdigest() == "8bdaf5a9293d5e2caef74733309d15bcc490dfdd4d90e8d168d10d5976b5267c"


def test_new_layouts_stay_the_same_from_version_to_version():
    def positions(name, **more):
        return Sampler(name, 9, 64, seed=7, **more).draw(0, np.array([0, 5]), 1000).position_ids.tolist()

    assert positions("pose_reference") == [[0, 1, 2, 3, 4, 45, 46, 47, 48], [0, 1, 10, 11, 12, 13, 14, 15, 16]]
    assert positions("cream") == [[0, 1, 2, 15, 16, 17, 61, 62, 63], [0, 1, 2, 8, 9, 10, 61, 62, 63]]
    assert positions("endprompt") == [[0, 1, 2, 3, 4, 5, 6, 7, 63]] * 2
    assert positions("stratified", chunks=3) == [[0, 1, 17, 18, 19, 20, 21, 35, 36], [0, 1, 2, 3, 4, 5, 27, 40, 41]]
    assert positions("curriculum", growth=8) == [[0, 1, 2, 3, 4, 5, 6, 7, 10], [0, 1, 6, 7, 8, 9, 10, 11, 12]]


@pytest.mark.parametrize("name", sampler_names())
def test_a_sampler_is_complete(name):
    """Its file explains it, and a target of the train length gives plain positions."""
    declared = method(name)
    module = __import__(f"skipwise.positions.samplers.{name}", fromlist=["METHOD"])
    assert module.__doc__.startswith(f"`{name}`: "), "the docstring begins with the name"
    assert declared.uses <= {"chunks", "text", "base", "growth"}
    sampler = Sampler(name, 9, 9, chunks=3, growth=4)
    assert sampler.draw(0, [0, 3], 9).position_ids.tolist() == [list(range(9))] * 2
    assert describe(name, "pose", 3, "skip") == sampler.describe()


# --- laws ------------------------------------------------------------------------------------------------------------


def assert_law(values, law):
    """χ² of observed values against exact chances {value: chance}; the seed is fixed, so a pass stays a pass."""
    assert math.isclose(float(sum(law.values())), 1)
    values = list(values)
    counts = {value: values.count(value) for value in set(values)}
    assert set(counts) <= {value for value, chance in law.items() if chance}
    common = [value for value, chance in law.items() if float(chance) * len(values) > 5]
    rest = [value for value in law if value not in set(common)]
    observed = [counts.get(value, 0) for value in common] + [sum(counts.get(value, 0) for value in rest)]
    expected = [float(law[value]) * len(values) for value in common] + [sum(float(law[v]) for v in rest) * len(values)]
    if expected[-1] < 1e-9:
        observed, expected = observed[:-1], expected[:-1]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def flat(low, high):
    return {value: Fraction(1, high - low + 1) for value in range(low, high + 1)}


@pytest.mark.parametrize("n_doc", [31, 500])
def test_pose_reference_follows_the_published_code(n_doc):
    length, target = 12, 40
    layouts = Sampler("pose_reference", length, target, seed=3).draw(1, np.arange(8000), n_doc)
    skip = layouts.position_ids[:, -1] - (length - 1)
    text_skip = layouts.text_offsets[:, -1] - (length - 1)
    assert_law(skip.tolist(), flat(0, target - length))
    assert_law(text_skip.tolist(), flat(0, min(n_doc, 5 * length) - length))
    border = 1 + np.argmax(np.diff(layouts.position_ids[skip > 0], axis=1) != 1, axis=1)
    assert_law(border.tolist(), flat(1, 6))
    assert (layouts.text_offsets[:, 0] == 0).all(), "the first chunk is the start of the document"


def test_cream_follows_its_definition():
    length, target = 24, 96
    rows = Sampler("cream", length, target, seed=5).draw(0, np.arange(20_000), 200).position_ids
    last_head = np.argmax(np.diff(rows, axis=1) != 1, axis=1)
    assert (rows[:, -1] == target - 1).all()
    # floor(24 / 3) and 4 · 4 = 16, cut to 8: both kinds of ends have 8 tokens here, and the middle has 8.
    moved = last_head == 7
    law = {}
    normal = stats.norm(5, 3)  # 1 + T / L
    for r in range(2, 9):
        below = 0 if r == 2 else normal.cdf(r)
        chance = (1 if r == 8 else normal.cdf(r + 1)) - below
        low, high = 8 + 7 * r // 2, 12 * r - 8 - 1
        for end in range(low, high + 1):
            law[end] = law.get(end, 0) + chance / (high - low + 1)
    assert_law(rows[:, 15].tolist(), law)
    assert moved[rows[:, 15] > 15].all()


def test_cream_takes_both_kinds_of_ends_alike():
    rows = Sampler("cream", 60, 120, seed=5).draw(0, np.arange(8000), 60).position_ids
    tail = rows.shape[1] - 1 - np.array([np.flatnonzero(row != np.arange(60, 120))[-1] for row in rows])
    # 60 / 3 = 20 tokens, or 4 · 2 = 8; those whose middle touches the tail cannot be told apart.
    apart = rows[:, 60 - 20 - 1] < 60
    assert_law(np.where(tail >= 20, 20, 8)[apart & np.isin(tail, [8, 20])].tolist(), {8: 0.5, 20: 0.5})


def test_endprompt_worked_out_by_hand():
    # 64 tokens: a closing part of 64 // 32 = 2 ends the target, and the text goes on.
    layouts = Sampler("endprompt", 64, 1000).draw(3, [7], 64)
    assert layouts.position_ids[0].tolist() == [*range(62), 998, 999]
    assert layouts.text_offsets[0].tolist() == list(range(64))
    assert not layouts.seams.any()


def test_curriculum_grows_by_equal_factors():
    # 2^(s / 8 · 8): from 16 tokens the eight targets are 32, 64 … 4096.
    sampler = Sampler("curriculum", 16, 4096, base="stratified", growth=80, seed=2)
    rows = sampler.draw(0, np.arange(200), 100).position_ids
    for stage in range(8):
        target = 16 * 2 ** (stage + 1)
        at_stage = Sampler("stratified", 16, target, seed=2).draw(0, np.arange(10 * stage, 10 * stage + 10), 100)
        np.testing.assert_array_equal(rows[10 * stage : 10 * stage + 10], at_stage.position_ids)
    plain = Sampler("stratified", 16, 4096, seed=2)
    np.testing.assert_array_equal(rows[80:], plain.draw(0, np.arange(80, 200), 100).position_ids)
    np.testing.assert_array_equal(
        sampler.draw(1, np.arange(9), 100).position_ids, plain.draw(1, np.arange(9), 100).position_ids
    )
    assert dataclasses.replace(sampler.final, base="pose") == plain
    assert sampler.describe() == "curriculum of stratified, 2 chunks, skip text"


# --- stratified ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("varied", ["seed", "epoch"])
def test_one_stratified_example_has_the_law_of_its_definition(varied):
    length, target = 12, 40
    keys = [(k, 1) if varied == "seed" else (3, k) for k in range(6000)]
    rows = np.concatenate(
        [Sampler("stratified", length, target, seed=s).draw(e, [17], 99).position_ids for s, e in keys]
    )
    skip = rows[:, -1] - (length - 1)
    law = dict.fromkeys(range(target - length), Fraction(1, target - 1))
    law[target - length] = Fraction(length - 1, target - 1)  # w = 28..38
    assert_law(skip.tolist(), law)
    border = 1 + np.argmax(np.diff(rows[skip > 0], axis=1) != 1, axis=1)
    assert_law(border.tolist(), flat(1, length - 1))


BORDERS = [np.array(places, dtype=np.int64) for places in ([3, 9, 17, 20], [1], [], [19])]


@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
def test_skipalign_equals_the_slow_implementation_at_turn_borders(chunks):
    for name in ("skipalign", "curriculum"):
        sampler = Sampler(name, 24, 500, chunks=chunks, seed=5, base="skipalign")
        layouts = sampler.draw(2, np.arange(4) + 7, 24, BORDERS)
        for row, borders in enumerate(BORDERS):
            stream = slow_positions.words(0, 5, 2, row + 7)
            expected = slow_positions.skipalign(stream, 24, 500, chunks, borders.tolist())
            assert tuple(part[row].tolist() for part in layouts) == expected


def test_skipalign_skips_at_borders_only_and_every_set_of_them_alike():
    borders, count = np.array([3, 9, 17, 20]), 12_000
    rows = Sampler("skipalign", 24, 40, chunks=3).draw(0, np.arange(count), 24, [borders] * count).position_ids
    jumps = np.diff(rows, axis=1) > 1  # (count, 23): at token 1 …
    assert set((1 + np.flatnonzero(jumps.any(axis=0))).tolist()) == set(borders.tolist())
    both = jumps[jumps.sum(axis=1) == 2]
    sets = [tuple((1 + np.flatnonzero(row)).tolist()) for row in both]
    assert_law(sets, dict.fromkeys(itertools.combinations(borders.tolist(), 2), Fraction(1, 6)))
    last = (rows[:, -1] - 23).tolist()  # u_1 ~ U{0..16}, u_2 ~ U{u_1..16}
    law = {u: sum(Fraction(1, 17 * (17 - first)) for first in range(u + 1)) for u in range(17)}
    assert_law(last, law)


def test_skipalign_without_borders_is_pose_over_contiguous_text():
    rows, pose = (
        Sampler(name, 24, 500, chunks=3, text="contiguous").draw(1, np.arange(9), 99) for name in ("skipalign", "pose")
    )
    assert all(np.array_equal(a, b) for a, b in zip(rows, pose, strict=True))


def test_stratified_steps_are_those_of_richtmyer():
    steps = stratified._steps(6) / 2.0**64
    expected = [(math.sqrt(5) - 1) / 2, *(math.sqrt(prime) % 1 for prime in (2, 3, 7, 11, 13))]
    np.testing.assert_allclose(steps, expected, rtol=1e-12)


@pytest.mark.parametrize(("length", "factor"), [(64, 16), (256, 16), (256, 64), (1000, 8)])
def test_stratified_needs_few_examples(length, factor):
    """At most twice the fewest that any sampler of two chunks needs; PoSE needs hundreds of times as many."""
    target = length * factor
    fewest = math.ceil((target - length) / (length - 1))  # each example shows at most L - 1 distances beyond the chunks
    for seed in range(10):
        (n,) = examples_counted(Sampler("stratified", length, target, seed=seed), [1.0], most=4 * fewest)
        assert n is not None
        assert fewest <= n <= 2 * fewest
    if factor == 16:
        (pose,) = examples_counted(Sampler("pose", length, target), [1.0], most=10 * fewest)
        assert pose is None


@pytest.mark.parametrize("examples", [100, 1000])
def test_stratified_shows_distances_alike(examples):
    length, target = 128, 2048
    times = examples_showing(Sampler("stratified", length, target), examples=examples)[length:]
    even = examples * (length - 1) / (target - 1)
    assert times.min() >= even - 2, "no distance is seen less often than its even share"
    assert times.max() <= 2 * even + 2
    assert examples_showing(Sampler("pose", length, target), examples=examples)[length:].min() <= 1


@pytest.mark.parametrize("name", ["pose", "stratified"])
def test_runs_are_as_long_as_those_of_pose(name):
    rows = Sampler(name, 128, 2048).draw(0, np.arange(2000), 128).position_ids
    longest = [max(map(len, np.split(row, 1 + np.flatnonzero(np.diff(row) != 1)))) for row in rows]
    assert min(longest) >= 64
    assert np.mean(longest) == pytest.approx(96, abs=1.5)
