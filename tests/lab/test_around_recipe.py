"""Variants of the packaged recipe, at equal tokens, and how they are compared."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.around_recipe import TAUGHT, UNTAUGHT, Figures, compared, kept, measures, recipe
from lab.bench import Bench, Settings
from lab.findings import Effect, no_worse
from lab.recipe_space import PACKAGED, packaged
from lab.reproductions import ablation, samplers
from lab.reproductions import packaged as against_full_length
from skipwise.config import RunConfig, validate
from skipwise.evals.rows import Row

BENCH = Bench(Path("unused"), quick=False, seeds=3)
VARIANTS = {**ablation.CHANGES, **samplers.KNOWN, "taught": TAUGHT, "untaught": UNTAUGHT}


def perplexities(*values: float) -> list[Row]:
    columns = {"model": "m", "window": 256, "original_length": 256, "task": "perplexity", "n": 4, "length": 256}
    return [Row.model_validate({**columns, "metric": "perplexity", "value": value}) for value in values]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_all_variants_read_equal_tokens_and_differ_in_what_they_name(name: str) -> None:
    config = BENCH.config(recipe(BENCH, 16, VARIANTS[name]), 0)
    tokens = config.training.batch_size * config.training.train_length
    base = BENCH.config(recipe(BENCH, 16), 0)
    assert (tokens, config.training.steps) == (8 * 256, base.training.steps)
    assert config.target_length == 4096
    same = all(packaged().get(key) == value for key, value in VARIANTS[name].items())
    assert (config.out == base.out) == same


def test_a_setting_that_the_sampler_does_not_use_is_left_out() -> None:
    assert recipe(BENCH, 16)["positions.chunks"] == packaged()["positions.chunks"]
    other = recipe(BENCH, 16, {"positions.sampler": "randpos"})
    assert not {"positions.chunks", "positions.text"} & set(other)
    assert recipe(BENCH, 16, {"positions.sampler": "curriculum"})["positions.text"] == "contiguous"


def test_training_at_full_length_reads_the_named_multiple_of_the_tokens() -> None:
    def tokens(settings: Settings) -> int:
        training = BENCH.config(settings, 0).training
        assert training.train_length is not None
        return training.steps * training.batch_size * training.gradient_accumulation * training.train_length

    ours, full = recipe(BENCH, 16), against_full_length.full(BENCH, 16, 8, 8, 1e-3)
    assert tokens(full) == 8 * tokens(ours)
    assert tokens(against_full_length.full(BENCH, 16, 1, 1, 1e-3)) == tokens(ours)
    assert full["scaling.method"] == ours["scaling.method"]


def test_the_whole_recipe_trains_what_its_file_trains() -> None:
    def trained(config: RunConfig) -> dict[str, Any]:
        apart = {"training": {"save_every", "validate_every"}, "out": True, "evaluation": True}
        return config.model_dump(exclude=apart)

    shipped = validate(RunConfig, yaml.safe_load(PACKAGED.read_text(encoding="utf-8")))
    assert trained(BENCH.config(against_full_length.whole(BENCH, 16), 0)) == trained(shipped)


def test_worse_by_at_most_a_margin_has_one_side() -> None:
    """A perplexity that halves is no loss; one of 1 to 4 % may or may not be above 2 %."""
    verdicts = [Effect(middle, low, high, True, "").at_most(0.02) for middle, low, high in [
        (0.5, 0.4, 0.6), (1.01, 1.0, 1.02), (1.02, 1.01, 1.04), (1.1, 1.05, 1.2),
    ]]  # fmt: skip
    assert verdicts == ["yes", "yes", "undecided", "no"]
    shares = [(0.1, 0.0, 0.2), (-0.03, -0.06, 0.0), (-0.2, -0.3, -0.1)]
    assert [Effect(*each, False, "").at_most(0.05) for each in shares] == ["yes", "undecided", "no"]
    claim = no_worse("a", perplexities(9, 9, 9), "b", perplexities(10, 10, 10), "code", 0.02)
    assert (claim.statement, claim.verdict) == ("a loses at most 2 % to b in code", "yes")


def test_variants_are_compared_with_their_base_by_every_measure() -> None:
    """Perplexities of 10 and 11 for all three seeds: a ratio of 1.1 with a width of nothing."""
    base, other = (
        Figures({measure: perplexities(value, value, value) for measure in measures(16)}) for value in (10.0, 11.0)
    )
    figures, effects = compared({"base": base, "other": other}, "base", 16, "title")
    assert figures.columns[1:] == effects.columns[1:] == list(measures(16))
    assert figures.values == {"base": [[10.0] * 3] * 5, "other": [[11.0] * 3] * 5}
    assert figures.rows == [["base", *["10.00 ± 0"] * 5], ["other", *["11.00 ± 0"] * 5]]
    assert effects.rows == [["other", *["×1.100 [1.100, 1.100]"] * 5]]
    assert [claim.verdict for claim in kept("other", other, base, 16)] == ["no", "no"]
    assert [claim.verdict for claim in kept("base", base, other, 16)] == ["yes", "yes"]
