"""Position layouts: invariants, the distributions of their definitions, and equality with a slow implementation."""

import itertools
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skipwise.config import PositionsConfig
from skipwise.config.sampler_names import sampler_names
from skipwise.errors import SkipwiseError
from skipwise.positions import layouts as layouts_module
from skipwise.positions.sampler import Sampler, example_order, sampler_from_config
from skipwise.positions.samplers import method
from support import slow_positions

WORD = st.integers(0, 2**64 - 1)


@st.composite
def shapes(draw, longest=200):
    """A sampler, an epoch, example indices and document lengths that belong together."""
    name = draw(st.sampled_from(["pose", "pose", *sampler_names()]))
    base = draw(st.sampled_from([other for other in sampler_names() if other not in ("full", "curriculum")]))
    length = draw(st.integers(3, longest) | st.just(method(base if name == "curriculum" else name).least_length))
    sampler = Sampler(
        name,
        train_length=length,
        target_length=length + draw(st.sampled_from([0, 1, 7, length, 3000])),
        chunks=draw(st.integers(1, length) | st.integers(1, min(3, length))),
        text=draw(st.sampled_from(["skip", "contiguous", "aligned"])),
        seed=draw(WORD),
        base=base,
        growth=draw(st.integers(0, 150)),
    )
    epoch = draw(st.integers(0, 50) | WORD)
    index = draw(st.lists(st.integers(0, 100) | st.integers(0, 2**63 - 1), min_size=1, max_size=4))
    extra = draw(st.lists(st.sampled_from([0, 1, 50, 2**31]), min_size=len(index), max_size=len(index)))
    return sampler, epoch, np.array(index), sampler.document_length + np.array(extra)


@settings(max_examples=1500, deadline=None)
@given(shapes())
def test_invariants_hold(shape):
    sampler, epoch, index, n_doc = shape
    layouts = sampler.draw(epoch, index, n_doc)
    position_ids, offsets, seams = layouts
    size = (len(index), sampler.example_length)
    assert position_ids.shape == offsets.shape == seams.shape == size
    assert (position_ids.dtype, offsets.dtype, seams.dtype) == (np.int64, np.int64, np.bool_)
    assert (position_ids[:, 0] == 0).all()
    steps = np.diff(position_ids, axis=1)
    assert (steps >= 1).all()
    assert (position_ids < sampler.target_length).all()
    assert (offsets >= 0).all()
    assert (offsets < n_doc[:, None]).all()
    text_steps = np.diff(offsets, axis=1)
    assert (text_steps >= 1).all()
    np.testing.assert_array_equal(seams[:, 1:], text_steps != 1)
    assert not seams[:, 0].any()
    if sampler.name in ("pose", "stratified"):
        # Inside a chunk positions and text step by 1, so there are at most N - 1 other steps.
        assert (((steps != 1) | (text_steps != 1)).sum(axis=1) <= sampler.chunks - 1).all()
        if sampler.text == "aligned":
            np.testing.assert_array_equal(offsets, position_ids)
    fixed = "text" not in sampler.final.method.uses and sampler.final.name != "pose_reference"
    if fixed or ("text" in sampler.final.method.uses and sampler.text == "contiguous"):
        np.testing.assert_array_equal(offsets, np.broadcast_to(np.arange(size[1]), size))
    one_chunk = "chunks" in sampler.final.method.uses and sampler.chunks == 1
    plain_positions = sampler.final.name in ("full", "original") or one_chunk
    if plain_positions or sampler.target_length == sampler.train_length:
        np.testing.assert_array_equal(position_ids, np.broadcast_to(np.arange(size[1]), size))


@settings(max_examples=400, deadline=None)
@given(shapes(longest=60))
def test_equals_the_slow_implementation(shape):
    sampler, epoch, index, n_doc = shape
    layouts = sampler.draw(epoch, index, n_doc)
    for row in range(len(index)):
        expected = slow_positions.layout(
            *(sampler.name, sampler.train_length, sampler.target_length, sampler.chunks, sampler.text, sampler.seed),
            *(epoch, int(index[row]), int(n_doc[row]), sampler.base, sampler.growth),
        )
        assert tuple(part[row].tolist() for part in layouts) == expected


@pytest.mark.parametrize(("length", "target"), [(9, 17), (2, 3), (16, 17), (300, 4000)])
def test_randpos_equals_the_slow_implementation_when_draws_repeat(length, target):
    # Half of the range makes repeats most common; so many examples also reach the second, longer try.
    sampler = Sampler("randpos", length, target, seed=3)
    rows = sampler.draw(0, np.arange(400), length).position_ids
    for index, row in enumerate(rows):
        assert row.tolist() == slow_positions.layout("randpos", length, target, 2, "skip", 3, 0, index, length)[0]


def test_words_are_those_of_split_mix_64():
    # Published outputs of SplitMix64 for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert layouts_module.words(np.array([1234567], dtype=np.uint64), 4)[0].tolist() == published
    assert [slow_positions.split_mix_output(1234567, number) for number in range(4)] == published


@given(WORD, st.integers(1, 2**32 - 1) | st.integers(2**32 - 9, 2**32 - 1), st.integers(0, 2**33))
def test_uniform_takes_the_upper_half_of_the_whole_product(word, span, low):
    drawn = layouts_module.uniform(np.array([word], dtype=np.uint64), low, low + span - 1)
    assert drawn.tolist() == [slow_positions.uniform(word, low, low + span - 1)]


def test_a_layout_worked_out_by_hand():
    # Five tokens in chunks of 3 and 2; the positions skip 4; the text starts at 1 and skips to 6.
    one = layouts_module.lay_out(np.array([[3, 2]]), np.array([[0, 4]]), np.array([[1, 6]]), 5)
    assert one.position_ids.tolist() == [[0, 1, 2, 7, 8]]
    assert one.text_offsets.tolist() == [[1, 2, 3, 9, 10]]
    assert one.seams.tolist() == [[False, False, False, True, False]]
    # Positions that skip over text that does not leave nothing to mask.
    assert not layouts_module.lay_out(np.array([[3, 2]]), np.array([[0, 4]]), np.array([[6, 6]]), 5).seams.any()


def test_a_draw_worked_out_by_hand():
    # The word of one half (2^63) takes the middle of every range: floor(range / 2) above its low end.
    middle = np.full((1, 3), 2**63, dtype=np.uint64)
    # l_0 from {1..8}: 1 + 8 / 2 = 5; l_1 from {1..4}: 3; l_2 takes the last 2.
    assert layouts_module.chunk_lengths(middle[:, :2], 10).tolist() == [[5, 3, 2]]
    # {0..100}: floor(101 / 2) = 50; {50..100}: 50 + 25; {75..100}: 75 + 13.
    assert layouts_module.ascending(middle, np.array([100])).tolist() == [[50, 75, 88]]
    largest = np.full((1, 2), 2**64 - 1, dtype=np.uint64)
    assert layouts_module.chunk_lengths(largest, 10).tolist() == [[8, 1, 1]]
    assert layouts_module.ascending(largest, np.array([2**32 - 2])).tolist() == [[2**32 - 2] * 2]


def test_layouts_stay_the_same_from_version_to_version():
    layouts = Sampler("pose", 8, 64, chunks=3, seed=7).draw(2, np.array([0, 10**12]), 1000)
    assert layouts.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 42, 59], [0, 14, 15, 55, 56, 57, 58, 59]]
    assert layouts.text_offsets.tolist() == [
        [214, 215, 216, 217, 218, 219, 731, 759],
        [733, 873, 874, 907, 908, 909, 910, 911],
    ]
    assert Sampler("randpos", 5, 64, seed=7).draw(2, [3], 5).position_ids.tolist() == [[0, 23, 33, 38, 61]]
    assert example_order(7, 2, 8).tolist() == [3, 2, 1, 4, 6, 5, 7, 0]


# --- distributions -------------------------------------------------------------------------------------------------

EXAMPLES = 16000


def keys(varied, count=EXAMPLES):
    """(seed, epoch, indices) of batches in which one part of the key counts up."""
    if varied == "index":
        return [(5, 1, np.arange(count))]
    # Many batches of a few examples, so that the seed or the epoch makes most of the difference.
    few = np.arange(40)
    return [(5 + k, 1, few) if varied == "seed" else (5, 1 + k, few) for k in range(count // len(few))]


def draws(varied, name="pose", **settings):
    n_doc = settings.pop("n_doc", 1000)
    parts = [Sampler(name, seed=s, **settings).draw(epoch, index, n_doc) for s, epoch, index in keys(varied)]
    return layouts_module.Layouts(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def assert_distribution(values, probabilities):
    """χ² of observed values against exact chances {value: chance}; a fixed seed, so a pass stays a pass."""
    assert sum(probabilities.values()) == 1
    counts = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    assert set(counts) <= set(probabilities)
    observed = [counts.get(value, 0) for value in probabilities]
    expected = [float(chance) * len(values) for chance in probabilities.values()]
    assert min(expected) > 5, "too few examples for the test to mean anything"
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def flat(low, high):
    return {value: Fraction(1, high - low + 1) for value in range(low, high + 1)}


def ascending(high):
    """Chances of x_1 where x_0 ~ U{0..high} and x_1 ~ U{x_0..high}."""
    return {x: sum(Fraction(1, (high + 1) * (high - r + 1)) for r in range(x + 1)) for x in range(high + 1)}


@pytest.mark.parametrize("varied", ["index", "epoch", "seed"])
def test_two_chunks_follow_their_definition(varied):
    length, target, n_doc = 12, 40, 31
    layouts = draws(varied, train_length=length, target_length=target, n_doc=n_doc)
    first = layouts.text_offsets[:, 0]
    skip = layouts.position_ids[:, -1] - (length - 1)
    text_skip = layouts.text_offsets[:, -1] - (length - 1)
    assert_distribution(skip.tolist(), flat(0, target - length))
    assert_distribution(first.tolist(), flat(0, n_doc - length))
    assert_distribution(text_skip.tolist(), ascending(n_doc - length))
    # The place of the border is visible where positions skip, which does not depend on where it is.
    skipped = layouts.position_ids[skip > 0]
    border = 1 + np.argmax(np.diff(skipped, axis=1) != 1, axis=1)
    assert_distribution(border.tolist(), flat(1, length - 1))


@pytest.mark.parametrize("varied", ["index", "epoch", "seed"])
def test_three_chunks_follow_their_definition(varied):
    length, target = 7, 9
    layouts = draws(varied, train_length=length, target_length=target, chunks=3)
    last_skip = layouts.position_ids[:, -1] - (length - 1)
    assert_distribution(last_skip.tolist(), ascending(target - length))
    # A long document makes equal text skips rare, so that both borders are seams.
    layouts = draws(varied, train_length=length, target_length=target, chunks=3, n_doc=2**31)
    borders = [tuple(np.flatnonzero(row).tolist()) for row in layouts.seams]
    lengths = [(b[0], b[1] - b[0], length - b[1]) for b in borders if len(b) == 2]
    assert len(lengths) > 0.999 * EXAMPLES
    chances = {}
    for first in range(1, length - 1):
        for second in range(1, length - first):
            chances[first, second, length - first - second] = Fraction(1, (length - 2) * (length - first - 1))
    assert_distribution(lengths, chances)


@pytest.mark.parametrize(
    ("varied", "length", "target"),
    [("index", 3, 8), ("index", 4, 7), ("index", 6, 8), ("epoch", 4, 7), ("seed", 6, 8)],
)
def test_randpos_draws_every_subset_alike(varied, length, target):
    layouts = draws(varied, "randpos", train_length=length, target_length=target)
    subsets = [(0, *rest) for rest in itertools.combinations(range(1, target), length - 1)]
    chances = dict.fromkeys(subsets, Fraction(1, len(subsets)))
    assert_distribution([tuple(row) for row in layouts.position_ids.tolist()], chances)


@pytest.mark.parametrize("varied", ["index", "epoch", "seed"])
def test_neighbouring_keys_are_independent(varied):
    # Every draw of an example against every draw of the example whose key is one higher.
    def fields(shift):
        rows = np.arange(EXAMPLES)
        key = {"seed": 9, "epoch": 4, "index": rows, varied: rows + shift}
        states = layouts_module.keyed(0, key["seed"], key["epoch"], key["index"])
        return layouts_module.uniform(layouts_module.words(np.broadcast_to(states, EXAMPLES), 4), 0, 7)

    here, there = fields(0), fields(1)
    for a, b in itertools.product(range(4), repeat=2):
        table = np.bincount(8 * here[:, a] + there[:, b], minlength=64)
        assert stats.chisquare(table).pvalue > 1e-4
    for a, b in itertools.combinations(range(4), 2):
        table = np.bincount(8 * here[:, a] + here[:, b], minlength=64)
        assert stats.chisquare(table).pvalue > 1e-4


def test_every_order_of_examples_is_alike():
    orders = [tuple(example_order(seed, epoch, 4).tolist()) for seed in range(50) for epoch in range(100)]
    chances = {order: Fraction(1, 24) for order in itertools.permutations(range(4))}
    assert_distribution(orders, chances)


# --- reproducibility -----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(shapes(longest=40), st.randoms(use_true_random=False))
def test_a_layout_does_not_depend_on_its_batch(shape, random):
    sampler, epoch, index, n_doc = shape
    whole = sampler.draw(epoch, index, n_doc)
    order = random.sample(range(len(index)), random.randint(1, len(index)))
    part = sampler.draw(epoch, index[order], n_doc[order])
    for field, of_part in zip(whole, part, strict=True):
        np.testing.assert_array_equal(field[order], of_part)


def test_another_process_draws_the_same_and_no_global_state_is_used():
    program = (
        "import numpy as np; from skipwise.positions.sampler import Sampler, example_order; "
        "print(Sampler('pose', 16, 256, seed=3).draw(2, np.arange(5), 500).position_ids.tolist(), "
        "example_order(3, 2, 9).tolist())"
    )
    before = str(np.random.get_state())
    here = (
        Sampler("pose", 16, 256, seed=3).draw(2, np.arange(5), 500).position_ids.tolist(),
        example_order(3, 2, 9).tolist(),
    )
    assert str(np.random.get_state()) == before
    np.random.seed(1)
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.split() == " ".join(map(str, here)).split()


def test_seed_epoch_and_index_each_make_a_difference():
    def drawn(seed, epoch, index):
        return Sampler("pose", 64, 10**6, seed=seed).draw(epoch, [index], 10**6).position_ids.tobytes()

    keys = list(itertools.product([0, 1, 2, 2**63, 2**64 - 1], [0, 1, 2], [0, 1, 2]))
    assert len({drawn(*key) for key in keys}) == len(keys)


def test_the_text_choice_does_not_change_positions():
    first, *others = (
        Sampler("pose", 32, 512, chunks=4, text=text).draw(0, np.arange(9), n_doc).position_ids
        for text, n_doc in [("skip", 5000), ("skip", 32), ("contiguous", 32), ("aligned", 512)]
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_fields_do_not_share_memory():
    for name in sampler_names():
        layouts = Sampler(name, 8, 16, text="aligned").draw(0, [0, 1], 16)
        assert not np.shares_memory(layouts.position_ids, layouts.text_offsets)


@settings(max_examples=100, deadline=None)
@given(WORD, WORD, st.integers(0, 60))
def test_example_order_is_a_permutation_and_equals_the_slow_one(seed, epoch, n):
    order = example_order(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == slow_positions.example_order(seed, epoch, n)


def test_example_orders_differ():
    assert len({example_order(seed, epoch, 100).tobytes() for seed in range(5) for epoch in range(5)}) == 25


def test_an_empty_batch_has_no_rows():
    for name in sampler_names():
        assert Sampler(name, 8, 16).draw(0, [], []).position_ids.shape == (0, 16 if name == "full" else 8)


def test_sampler_from_config_takes_every_field():
    config = PositionsConfig(sampler="curriculum", chunks=3, text="aligned", base="stratified", growth=0.25)
    sampler = sampler_from_config(config, train_length=64, target_length=256, seed=11, examples=80)
    expected = Sampler("curriculum", 64, 256, chunks=3, text="aligned", seed=11, base="stratified", growth=20)
    assert sampler == expected


# --- what a user can do wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_length": 4}, "target_length 4 is shorter than train_length 8"),
        ({"train_length": 0}, "train_length 0"),
        ({"chunks": 9}, r"chunks 9: expected 1 to train_length \(8\)"),
        ({"chunks": 0}, "chunks 0"),
        ({"name": "pos"}, "unknown sampler 'pos'.* did you mean 'pose'"),
        ({"name": "zzz"}, "unknown sampler 'zzz': expected one of cream, curriculum, endprompt, full, original, "),
        ({"text": "align"}, "unknown text 'align'.* did you mean 'aligned'"),
        ({"seed": -1}, "seed -1"),
        ({"growth": -1}, "growth -1: expected 0 or more"),
        ({"name": "curriculum", "base": "full"}, "unknown base 'full': expected one of cream, endprompt, original"),
        ({"name": "curriculum", "base": "poze"}, "unknown base 'poze'.* did you mean 'pose'"),
        ({"name": "cream", "train_length": 2}, "train_length 2: sampler 'cream' needs at least 3 tokens"),
        ({"name": "curriculum", "base": "endprompt", "train_length": 1}, "'endprompt' needs at least 2 tokens"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(SkipwiseError, match=message) as error:
        Sampler(**{"name": "pose", "train_length": 8, "target_length": 16, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "n_doc", "message"),
    [
        ("pose", "skip", 7, "a document of 7 tokens: expected train_length 8 or more"),
        ("original", "skip", 7, "a document of 7 tokens: expected train_length 8 or more"),
        ("pose", "aligned", 15, "a document of 15 tokens: text 'aligned' takes target_length 16 or more"),
        ("full", "skip", 15, "a document of 15 tokens: sampler 'full' takes target_length 16 or more"),
    ],
)
def test_short_documents_are_refused(name, text, n_doc, message):
    sampler = Sampler(name, 8, 16, text=text)
    with pytest.raises(SkipwiseError, match=message):
        sampler.draw(0, [0, 1], [100, n_doc])
    sampler.draw(0, [0, 1], [100, n_doc + 1])


@pytest.mark.parametrize(("epoch", "index"), [(-1, 0), (0, -1)])
def test_negative_keys_are_refused(epoch, index):
    with pytest.raises(SkipwiseError, match=r"epoch .*, index .*: expected 0 or more"):
        Sampler("pose", 8, 16).draw(epoch, [3, index], 100)
