"""Read a configuration from YAML files and `--set` options, merge, validate and write it."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import write_text

T = TypeVar("T", bound=BaseModel)


def _valid_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a pydantic error in one line, with the nearest valid key for an unknown one."""
    problem = error.errors()[0]
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"{source}: unknown key {path!r}; {hint}"
    if problem["type"] == "missing":
        return f"{source}: {path!r} is missing"
    return f"{source}: {path} = {problem['input']!r}: {problem['msg']}"


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key at every depth; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file. Errors: SkipwiseError for a missing file, bad YAML, or anything but a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SkipwiseError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SkipwiseError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SkipwiseError(f"{path} must hold a mapping such as 'target_length: 32k', not {type(values).__name__}")
    return values


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """`["training.steps=200"]` → `{"training": {"steps": 200}}`; the values are read as YAML."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise SkipwiseError(f"--set {setting!r}: expected key=value, e.g. --set training.steps=200")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SkipwiseError(f"--set {setting!r}: the value is not valid YAML") from error
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def validate(model: type[T], values: dict[str, Any], source: str = "configuration") -> T:
    """`values` as `model`. Errors: SkipwiseError in one line, naming the nearest key for an unknown one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SkipwiseError(_explain(error, model, source)) from error


def dump_yaml(config: BaseModel, path: Path) -> None:
    """Write the resolved configuration atomically."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
