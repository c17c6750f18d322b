"""Where a model is read from: the folder, hub id or GGUF file that a configured path names."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.assets import catalogue
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError, is_out_of_memory

PACKAGED = ("bundled", "smollm2")

EQUIVALENTS = {"gptj": "phi", "baichuan": "llama"}
"""Model types that are read as another one (`equivalents`)."""


class Source(NamedTuple):
    """Where a model is read from: `place` is a folder or a hub id, `gguf` the name of a file in it."""

    name: str
    place: str
    gguf: str | None
    options: dict[str, Any]

    @property
    def file(self) -> Path:
        """The GGUF file, or the folder."""
        return Path(self.place) / (self.gguf or "")


def find(config: ModelConfig, *, weights: bool = True) -> Source:
    """What `config.path` names.

    Args:
        config: Path, revision and whether code of the repository may run.
        weights: Whether weights are needed; without them a folder that has none and a bare config.json will do.

    Raises:
        SkipwiseError: The path is no model.
    """
    path = Path(catalogue.get(config.path) if config.path in PACKAGED else config.path).expanduser()
    options = {"trust_remote_code": config.trust_remote_code}
    if path.is_file():
        if path.suffix == ".json" and not weights:
            return Source(path.resolve().parent.name, str(path), None, options)
        if path.suffix != ".gguf":
            raise SkipwiseError(f"{config.path} is no model: expected a folder, a hub id or a .gguf file")
        return Source(config.path if config.path in PACKAGED else path.stem, str(path.parent), path.name, options)
    if path.is_dir():
        name = config.path if config.path in PACKAGED else path.resolve().name
        if (path / "config.json").is_file():
            if weights:
                _check_files(path)
            return Source(name, str(path), None, options)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Source(name, str(path), files[0].name, options)
        choice = f"; give one of {', '.join(file.name for file in files)}" if files else ""
        raise SkipwiseError(f"{config.path} is no model folder: no config.json and {len(files)} .gguf files{choice}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", config.path):
        raise SkipwiseError(f"model {config.path!r}: no such file or folder")
    return Source(config.path, config.path, None, {**options, "revision": config.revision or "main"})


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, or the pickled files of one that has none."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _check_files(folder: Path) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    foreign = re.search(rf'"model_type":\s*"({"|".join(EQUIVALENTS)})"', text)
    if not any(folder.glob("*.safetensors")) and not (foreign and weight_files(folder)):
        old = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        hint = "; only pickled ones, which can run code: convert them to safetensors first" if old else ""
        raise SkipwiseError(f"{folder} has no .safetensors weights{hint}")


def one_line(error: BaseException) -> str:
    """The first sentence or two of an error, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def reason(error: BaseException) -> str:
    """Why a library could not read a model, on one line and in words that lead a user of Skipwise on."""
    text = one_line(error)
    if "trust_remote_code" in text:
        return (
            "it needs Python code from its repository, which is not run unless asked for; if you trust that code, add "
            "--set model.trust_remote_code=true"
        )
    if "does not recognize this architecture" in text:
        name = re.search(r"model type `([^`]*)`", text)
        return (
            f"model type {name[1] if name else '?'!r} is not known to transformers {version('transformers')}; check "
            "model_type, or install a newer transformers"
        )
    if "Unrecognized model in" in text or ("model_type" in text and "Should have" in text):
        return 'it names no model_type; write e.g. "model_type": "llama"'
    field = re.search(r"Validation error for field '(\w+)': \w+: (.*)", text)
    if field:
        return f"{field[1]} is wrong: {field[2].removeprefix(f'Field {field[1]!r} ')}"
    several = re.search(r"Class validation error for validator '\w+': \w+: (.*)", text)
    if several:
        return several[1]
    if "above report" in text or "ignore_mismatched_sizes" in text:
        return (
            "its weights have other shapes than its config.json says; take both from the same model, or mend the "
            "sizes in config.json"
        )
    if isinstance(error, ZeroDivisionError):
        return "its configuration holds a 0 by which something is divided; compare it with the original config.json"
    return text


def call(source: Source, what: str, from_pretrained: Callable[..., Any], **options: Any) -> Any:
    """`from_pretrained` of a source.

    Raises:
        SkipwiseError: In one line, whatever the library raised.
    """
    if source.gguf:
        options["gguf_file"] = source.gguf
    try:
        return from_pretrained(source.place, **source.options, **options)
    except (KeyboardInterrupt, SkipwiseError):
        raise
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, TypeError …
        if is_out_of_memory(error):
            raise
        where = str(source.file) if source.gguf else source.place
        if not Path(source.place).exists():
            where += " (no folder of this name is here, so it was taken as a hub id)"
        raise SkipwiseError(f"cannot read the {what} of {where}: {reason(error)}") from error
