"""Every setting has a name, a type, a default and help, from the one place that holds them."""

import re

import pytest

from skipwise.config import settings
from skipwise.errors import SkipwiseError


def test_every_setting_says_what_it_is() -> None:
    listed = settings.settings()
    assert len({setting.key for setting in listed}) == len(listed) > 90
    for setting in listed:
        assert setting.type, setting.key
        assert setting.default, setting.key
        assert setting.help.endswith((".", "…")), setting.key
        for named in re.findall(r"`((?:training|evaluation|model|data)\.[a-z_.]+)`", setting.help):
            assert settings.select(named), f"{setting.key} names {named}"
    assert all(group.help for group in settings.groups())


def test_types_and_defaults_in_words() -> None:
    words = {setting.key: (setting.type, setting.default) for setting in settings.settings()}
    assert words["target_length"] == ("tokens", "required")
    assert words["training.steps"] == ("whole number, 0 or more", "400")
    assert words["training.batch_size"] == ("whole number from 1 to 4,096", "2")
    assert words["data.validation"] == ("number, above 0, below 0.5", "0.02")
    assert words["evaluation.depths"] == ("list of numbers from 0 to 1", "[0.0, 0.25, 0.5, 0.75, 1.0]")
    assert words["evaluation.lengths"] == ("list of tokens, or null", "null")
    assert words["scaling.factors"] == ("list of numbers, or null", "null")
    assert words["model.trust_remote_code"] == ("true | false", "false")
    assert words["search.fitness"] == ("perplexity | answers", "perplexity")


def test_select_by_key_section_and_last_part() -> None:
    def keys(key: str) -> list[str]:
        return [setting.key for group in settings.select(key) for setting in group.settings]

    assert keys("training.steps") == keys("steps") == ["training.steps"]
    assert keys("seed") == ["training.seed", "evaluation.seed", "search.seed"]
    assert "evaluation.ruler.squad" in keys("evaluation")
    assert all(key.startswith("evaluation.ruler.") for key in keys("evaluation.ruler"))


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("training.stepps", "did you mean 'training.steps'?"),
        ("trainig", "did you mean 'training'?"),
        ("populatin", "did you mean 'search.population'?"),
        ("zzz", "skipwise settings lists all"),
    ],
)
def test_an_unknown_setting_names_the_nearest(key: str, advice: str) -> None:
    with pytest.raises(SkipwiseError) as error:
        settings.select(key)
    assert advice in str(error.value)
