"""Reading a configuration: every slip is one line that names the value, what was expected, and the nearest key."""

from pathlib import Path
from typing import Any

import pytest

from skipwise.config import RunConfig, SearchConfig, dump_yaml, merge, parse_settings, read_length, read_yaml, validate
from skipwise.config.settings import Setting, settings
from skipwise.errors import SkipwiseError

RECIPES = Path(__file__).parents[2] / "recipes"


def set_to(*options: str) -> RunConfig:
    return validate(RunConfig, merge({"target_length": "32k"}, parse_settings(list(options))))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("training.lora=1", "unknown key 'training.lora'; did you mean adapter.method=lora?"),
        ("training.zebra=1", "unknown key 'training.zebra'; valid keys: train_length, steps, batch_size"),
        ("training.stepps=3", "unknown key 'training.stepps'; did you mean 'steps'?"),
        ("training.log=3", "did you mean 'log_every'?"),
        ("steps=3", "unknown key 'steps'; did you mean 'training.steps'?"),
        ("seed=3", "did you mean 'training.seed' or 'evaluation.seed'?"),
        ("training.target_length=3", "did you mean 'target_length'?"),
        ("lr=3", "valid keys: target_length, out, model, scaling"),
        ("training=5", "training = 5: expected a mapping"),
        ("training.steps=true", "training.steps = True: expected a whole number, 0 or more"),
        ("evaluation.lengths=[true]", "expected a number of tokens"),
        ("model.trust_remote_code=1", "model.trust_remote_code = 1: expected true or false"),
        ("training.learning_rate=.inf", "training.learning_rate = inf: expected a number, above 0, at most 1"),
        ("training.learning_rate=1e30", "at most 1"),
        ("scaling.attention_factor=.nan", "scaling.attention_factor = nan: expected a number"),
        ("evaluation.depths=[.nan]", "evaluation.depths = nan: expected a list of numbers from 0 to 1"),
        ("evaluation.lengths=[]", "evaluation.lengths = []: expected one item or more"),
        ("evaluation.seed=-1", "evaluation.seed = -1: expected a whole number, 0 or more"),
        ("target_length=1e12", "expected at most 16M tokens"),
        ("target_length=-32k", "expected 1 token or more"),
        ("target_length=lots", "target_length = 'lots': expected a number of tokens, e.g. 32k or 32768"),
        ("evaluation.stride=1e300", "expected at most 16M tokens"),
        ("training.batch_size=100000", "training.batch_size = 100000: expected a whole number from 1 to 4,096"),
        ("training.steps=10000000", "expected at most 1,000,000"),
        ("training.steps=1.5", "expected a whole number"),
        ("positions.sampler=posse", "pose_reference, randpos, skipalign or stratified; did you mean 'pose'?"),
        ("out=''", "out = '': it is empty; was a shell variable not set?"),
        ("out=", "the value is empty; null stands for none"),
        ('out="a\\0b"', "NUL"),
        ("data.paths=['books', '']", "it is empty"),
        (
            "data={paths: [a, b], mix: [1]}",
            "data.mix = [1]: expected one weight for each source, and there are 1 for 2",
        ),
        ("data={paths: a, mix: [1, 2]}", "data.mix = [1, 2]: expected one weight for each source"),
        ("data={paths: [a, b], mix: [0, 0]}", "data.mix = [0, 0]: the weights sum to nothing"),
        ("data={paths: [a, b], mix: [1, -1]}", "data.mix = -1: expected a list of numbers, 0 or more"),
        ("data={paths: [a, b], mix: [1, .inf]}", "data.mix = inf: expected a list of numbers, 0 or more"),
        ("data={recall: 0.8, plain: 0.5}", "data.plain = 0.5: with data.recall 0.8 that is more than all examples"),
        ("data.plain=2", "data.plain = 2: expected a number from 0 to 1"),
        ("model.path=5", "model.path = 5: expected a text; put it in quotes"),
        ("=1", "expected key=value, e.g. --set training.steps=200"),
        ("a..b=1", "expected key=value"),
        (".".join("a" * 3000) + "=1", "expected key=value"),
        ("out=2024-13-45", "not valid YAML: month must be in 1..12"),
        ("out=!!python/object/apply:os.getcwd []", "YAML tags (!name) are not read"),
        ("out=!!bool maybe", "a value does not fit its tag"),
        ("out=" + "[" * 50_000, "values are nested too deeply"),
        ("out=&a [*a]", "more than 100,000 values"),
        ("training={steps: 1, steps: 2}", "the key 'steps' is there twice"),
        ("training={<<: {steps: 1}}", "merge keys (<<) are not read"),
        ("training={[a]: 1}", "a key must be a text"),
        ("training.steps=0x" + "f" * 5000, "training.steps = a very large number"),
        ("training.steps=" + "9" * 5000, "a number has too many digits"),
    ],
)
def test_a_bad_setting_is_one_line(option: str, reason: str) -> None:
    with pytest.raises(SkipwiseError) as error:
        set_to(option)
    line = str(error.value)
    assert reason in line
    assert "\n" not in line
    assert len(line) < 450


def test_good_settings_are_read_as_before() -> None:
    config = set_to(
        *("training.learning_rate=1e-3", "evaluation.lengths=[2k, 4096, '8k']", "model.trust_remote_code=true"),
        *("model.revision=null", "out='2024'", "evaluation.depths=[0, 1]", "training.steps=1_000"),
    )
    assert config.training.learning_rate == 1e-3
    assert config.evaluation.lengths == [2048, 4096, 8192]
    assert config.model.trust_remote_code
    assert (config.out, config.training.steps) == ("2024", 1000)


NOT_ALONE = ("scaling.factors", "data.mix")  # a number for each dimension, a weight for each path
LISTS = [setting for setting in settings() if setting.type.startswith("list of") and setting.key not in NOT_ALONE]


@pytest.mark.parametrize("setting", LISTS, ids=lambda setting: setting.key)
def test_one_word_is_a_list_of_one(setting: Setting) -> None:
    first = setting.default.strip("[]").split(", ")[0]
    empty = "norms" if setting.key == "adapter.also_train" else "books"
    word = {"": empty, "null": "vt" if "tasks" in setting.key else "64"}.get(first, first)
    value: Any = set_to(f"{setting.key}={word}")
    for part in setting.key.split("."):
        value = getattr(value, part)
    assert isinstance(value, list)
    assert [str(one) for one in value] == [word]


def test_a_file_of_factors_is_no_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "factors").write_text("1 2 4")
    assert set_to(f"scaling.factors={tmp_path / 'factors'}").scaling.factors == [1, 2, 4]


def test_advice_for_a_section_that_a_command_reads_alone() -> None:
    with pytest.raises(SkipwiseError, match=r"^search: unknown key 'populations'; did you mean 'population'"):
        validate(SearchConfig, {"populations": 3}, "search")
    with pytest.raises(SkipwiseError, match=r"^search\.step = 0: expected a number, above 0$"):
        validate(SearchConfig, {"step": 0}, "search")


BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must hold a mapping such as 'target_length: 32k', not nothing"),
        (b"- a\n- b\n", "not a list"),
        (b"just words\n", "not a str"),
        (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice (first in line 1)"),
        (b"training:\n  steps: 1\n  steps: 2\n", "line 3: the key 'steps' is there twice"),
        (b"a: [1\nb: 2\n", "is not valid YAML: line 2: "),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"\xff\xfe\0\0", "not UTF-8"),
        (b"a: \0", "not valid YAML"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: {" * 5_000, "nested too deeply"),
        (BILLION.encode(), "more than 100,000 values"),
        (b"#" * 300_000, "is not a recipe: it has more than 262,144 bytes"),
    ],
)
def test_a_bad_recipe_is_one_line_with_its_path(content: bytes, reason: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(content)
    with pytest.raises(SkipwiseError) as error:
        read_yaml(recipe)
    line = str(error.value)
    assert reason in line
    assert str(recipe) in line
    assert "\n" not in line


def test_missing_and_odd_files(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SkipwiseError, match=reason):
            read_yaml(path)
    with pytest.raises(SkipwiseError, match="more than"):
        read_yaml(Path("/dev/zero"))


def test_aliases_of_ordinary_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("\ufefflengths: &l [1, 2]\nagain: *l\n", encoding="utf-8")
    assert read_yaml(tmp_path / "recipe.yaml") == {"lengths": [1, 2], "again": [1, 2]}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_read_and_survive_writing(recipe: Path, tmp_path: Path) -> None:
    config = validate(RunConfig, read_yaml(recipe))
    dump_yaml(config, tmp_path / "config.yaml")
    assert validate(RunConfig, read_yaml(tmp_path / "config.yaml")) == config


def test_read_length() -> None:
    assert read_length("32k", "--target") == read_length(32768, "--target") == 32768
    assert read_length("16m", "--target") == 2**24
    for value in ("17m", "0", -1, True, 1.5, "1e400", "nan", None, "", []):
        with pytest.raises(SkipwiseError, match=r"^--target "):
            read_length(value, "--target")
