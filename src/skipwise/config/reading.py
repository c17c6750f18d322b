"""Read a configuration from YAML files and `--set` options, merge, validate and write it."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from skipwise.config.run_settings import RunConfig, SearchConfig
from skipwise.config.settings import PREFIX, hint, settings
from skipwise.config.values import MOST, merge
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import write_text

T = TypeVar("T", bound=BaseModel)

LARGEST_FILE = 2**18
"""Bytes of YAML that are read. The longest recipe has some thousands, so anything larger is another file."""
MOST_VALUES = 100_000
"""Values of a YAML document, aliases counted each time: a few nested aliases can stand for billions."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which duplicate keys, keys that are not text and merge keys are errors."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Reject merge keys and duplicate keys, instead of letting the last one win."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise SkipwiseError(f"line {line}: a key must be a text")
            if key.tag == "tag:yaml.org,2002:merge":
                raise SkipwiseError(f"line {line}: merge keys (<<) are not read; write the settings out")
            if key.value in seen:
                raise SkipwiseError(
                    f"line {line}: the key {key.value!r} is there twice (first in line {seen[key.value]})"
                )
            seen[key.value] = line

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Keys are texts, whatever YAML would make of them: `on`, `1`, `null`."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _load(text: str) -> Any:
    """Read one YAML document. Raise SkipwiseError in one line, which names the line of the text where it is known."""
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except SkipwiseError:
        raise
    except RecursionError:
        raise SkipwiseError("values are nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        tagged = "constructor for the tag" in str(error.problem)
        if tagged:
            raise SkipwiseError(f"{where}YAML tags (!name) are not read") from error
        raise SkipwiseError(f"not valid YAML: {where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = "a number has too many digits" if "integer string conversion" in str(error) else str(error)
        raise SkipwiseError(f"not valid YAML: {' '.join(reason.split())}") from error
    except (TypeError, AttributeError, LookupError) as error:  # PyYAML's own, from a tag such as `!!bool maybe`
        raise SkipwiseError("not valid YAML: a value does not fit its tag") from error
    waiting, count = [value], 0
    while waiting:
        part = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise SkipwiseError(f"more than {MOST_VALUES:,} values; write aliases (*name) out")
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list | set | tuple) else []
    return value


def shown(value: object) -> str:
    """A value for an error: its repr in one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a very large number"
    return text if len(text) <= 80 else f"{text[:70]}…{text[-5:]}"


def _explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a pydantic error in one line, with the nearest valid key for an unknown one."""
    problem = error.errors()[0]
    place = tuple(str(part) for part in problem["loc"])
    prefix = PREFIX.get(model, "")
    known = model is RunConfig or bool(prefix)
    path = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {shown(path)}; {_advice(prefix + path, place, model, known)}"
    if problem["type"] == "missing":
        return f"{source}: {path!r} is missing"
    where = "" if known and source in ("configuration", prefix.rstrip(".")) else f"{source}: "
    path = prefix + ".".join(part for part in place if not (known and part.isdecimal()))
    return f"{where}{path} = {shown(problem['input'])}: {_expected(problem, path)}"


def _advice(path: str, place: tuple[str, ...], model: type[BaseModel], known: bool) -> str:
    """What to write for an unknown key: the same key of another section, a near one, or one of the valid keys."""
    part: Any = model
    for name in place[:-1]:
        field = part.model_fields.get(name) if hasattr(part, "model_fields") else None
        part = field.annotation if field else None
    siblings = list(part.model_fields) if hasattr(part, "model_fields") else []
    near = hint(place[-1], siblings)
    if known:
        values = [each.key for each in settings() if place[-1] in each.type.split(" | ")]
        # The name of a method given as a key, unless it is a key of this section that is not written to its end.
        if values and not any(name.startswith(place[-1]) for name in siblings):
            return f"did you mean {values[0]}={place[-1]}?"
        keys = [each.key for each in settings() if each.key.startswith("search.") == (model is SearchConfig)]
        elsewhere = [key for key in keys if key.rpartition(".")[2] == place[-1]]
        near = hint(path, elsewhere) or near or hint(path, keys)
    return near or f"valid keys: {', '.join(siblings)}"


_NUMBERS = "int_type int_parsing int_from_float int_parsing_size float_type float_parsing finite_number bool_given"


def _expected(problem: Any, path: str) -> str:
    """What a value should have been, in words, from the problem that pydantic reports."""
    kind, context = problem["type"], problem.get("ctx", {})
    types = {setting.key: setting.type for setting in settings()}
    takes = types.get(path, "")
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = context["expected"].replace("'", "")
        near = difflib.get_close_matches(str(problem["input"]), names.replace(" or ", ", ").split(", "), n=1)
        return f"expected {names}" + (f"; did you mean {near[0]!r}?" if near else "")
    if kind == "less_than_equal" and context["le"] == MOST:
        return f"expected at most {MOST:,}"
    if takes and (kind in _NUMBERS.split() or kind.startswith(("greater_than", "less_than"))):
        tokens = takes.startswith(("tokens", "list of tokens"))
        return "expected a number of tokens, e.g. 32k or 32768" if tokens else f"expected a {takes}"
    expected = {
        "string_type": "a text; put it in quotes",
        "list_type": "a list, e.g. [A, B]",
        "too_short": "one item or more",
        **dict.fromkeys(("model_type", "dict_type"), f"a mapping; on the command line --set {path}.KEY=VALUE"),
    }
    return f"expected {expected[kind]}" if kind in expected else str(problem["msg"])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Raises:
        SkipwiseError: The file is missing, too large, not valid YAML or not a mapping; or a key stands twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise SkipwiseError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SkipwiseError(f"{path} is not YAML: it is not UTF-8 text") from error
    if len(content) > LARGEST_FILE:
        raise SkipwiseError(f"{path} is not a recipe: it has more than {LARGEST_FILE:,} bytes")
    try:
        values = _load(text)
    except SkipwiseError as error:
        joint = " is " if str(error).startswith("not valid") else ": "
        raise SkipwiseError(f"{path}{joint}{error}") from error.__cause__
    if not isinstance(values, dict):
        given = "nothing" if values is None else f"a {type(values).__name__}"
        raise SkipwiseError(f"{path} must hold a mapping such as 'target_length: 32k', not {given}")
    return values


def parse_settings(options: list[str]) -> dict[str, Any]:
    """Read `["training.steps=200"]` as `{"training": {"steps": 200}}`. The values are YAML.

    Raises:
        SkipwiseError: A setting is not of the form KEY=VALUE, or its value is empty or not valid YAML.
    """
    values: dict[str, Any] = {}
    for setting in options:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > 4:
            raise SkipwiseError(f"--set {shown(setting)}: expected key=value, e.g. --set training.steps=200")
        if not text.strip():
            raise SkipwiseError(f"--set {shown(setting)}: the value is empty; null stands for none")
        try:
            value: Any = _load(text)
        except SkipwiseError as error:
            raise SkipwiseError(f"--set {shown(setting)}: {str(error).replace('line 1: ', '')}") from error.__cause__
        for part in reversed(parts):
            value = {part: value}
        values = merge(values, value)
    return values


def validate(model: type[T], values: dict[str, Any], source: str = "configuration") -> T:
    """Convert `values` to `model`.

    Args:
        model: A section of the configuration, or any pydantic model.
        values: What was read.
        source: Where the values came from, for the error: a file, or nothing for the command line.

    Raises:
        SkipwiseError: In one line, for the first value that does not fit; for an unknown key it names the nearest.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SkipwiseError(_explain(error, model, source)) from error


def dump_yaml(config: BaseModel, path: Path) -> None:
    """Write the resolved configuration atomically."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
