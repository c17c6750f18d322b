"""Where a model is read from: the folder, hub id or GGUF file that a configured path names."""

import contextlib
import difflib
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.assets import catalogue
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError, is_out_of_memory
from skipwise.models import adapter_files, gguf_reading
from skipwise.models.library_messages import one_line, quiet
from skipwise.models.weight_files import check_folder

PACKAGED = ("bundled", "smollm2")

EQUIVALENTS = {"gptj": "phi", "baichuan": "llama"}
"""Model types that are read as another one (`equivalents`)."""


HUB_SECONDS = 10.0
"""Longest wait for the hub's first answer."""


class Source(NamedTuple):
    """Where a model is read from: `place` is a folder or a hub id, `gguf` the name of a file in it."""

    name: str
    place: str
    gguf: str | None
    options: dict[str, Any]
    base: "Source | None" = None
    """Of an adapter, whose folder is `place`: what it is merged into."""

    @property
    def root(self) -> "Source":
        """The model that holds whole weights: this one, or the base of an adapter, and of adapters on adapters."""
        return self.base.root if self.base else self

    @property
    def file(self) -> Path:
        """The GGUF file, or the folder."""
        return Path(self.place) / (self.gguf or "")

    @property
    def given(self) -> str:
        """What to call it in a message: the GGUF file, the folder or the hub id."""
        return str(self.file) if self.gguf else self.place


def find(config: ModelConfig, *, weights: bool = True) -> Source:
    """What `config.path` names.

    Args:
        config: Path, revision and whether code of the repository may run.
        weights: Whether weights are needed; without them a folder that has none and a bare config.json will do.

    Raises:
        SkipwiseError: The path is not a model.
    """
    path = Path(catalogue.get(config.path) if config.path in PACKAGED else config.path).expanduser()
    options = {"trust_remote_code": config.trust_remote_code}
    if path.is_file():
        if path.suffix == ".json" and not weights:
            return Source(path.resolve().parent.name, str(path), None, options)
        if path.suffix != ".gguf":
            hint = f"; give its folder, {path.parent}" if (path.parent / "config.json").is_file() else ""
            raise SkipwiseError(f"{config.path} is not a model: expected a folder, a hub id or a .gguf file{hint}")
        return Source(config.path if config.path in PACKAGED else path.stem, str(path.parent), path.name, options)
    if path.is_dir():
        name = config.path if config.path in PACKAGED else path.resolve().name
        if adapter_files.is_adapter(path) and (weights or not (path / "config.json").is_file()):
            return _adapter(name, path, config, weights)
        if (path / "config.json").is_file():
            if weights:
                _check_files(path)
            return Source(name, str(path), None, options)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Source(name, str(path), files[0].name, options)
        models = files or sorted(each.parent for each in path.glob("*/config.json"))
        choice = f"; give one of these: {', '.join(map(str, models[:5]))}" if models else ""
        raise SkipwiseError(f"{config.path} is not a model folder: no config.json and {len(files)} .gguf files{choice}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", config.path):
        raise SkipwiseError(f"model {config.path!r}: no such file or folder")
    _check_hub(config.path, config.revision or "main")
    return Source(config.path, config.path, None, {**options, "revision": config.revision or "main"})


def _adapter(name: str, folder: Path, config: ModelConfig, weights: bool) -> Source:
    """The folder of an adapter with its base. Raises SkipwiseError, also where the base is not there."""
    base = adapter_files.base_of(folder)
    if weights:
        adapter_files.check_weights(folder)
    described = f"{folder} holds an adapter of {base.path!r}"
    if adapter_files.leads_back(folder):
        raise SkipwiseError(
            f"{described}, which is the same folder or leads back to it; write the base model's folder or hub id as "
            "base_model_name_or_path in adapter_config.json"
        )
    wanted = config.model_copy(update={"path": base.path, "revision": base.revision})
    try:
        base_source = find(wanted, weights=weights)
    except SkipwiseError as error:
        remedy = "write its folder or hub id as base_model_name_or_path in adapter_config.json"
        raise SkipwiseError(f"{described}, and that base cannot be read ({error}); {remedy}") from error
    return Source(name, str(folder), None, {"trust_remote_code": config.trust_remote_code}, base_source)


@functools.cache
def _check_hub(name: str, revision: str) -> None:
    """Refuse a hub id that is not in the cache while the hub does not answer: its client would ask for half a minute.

    What the hub answers, be it an error, is left to the client.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache  # here: heavy
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return
    except Exception as error:  # the hub's client raises what its HTTP library raises
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SkipwiseError(
            f"model {_taken_as_id(name)}: the hub at {constants.ENDPOINT} does not answer ({reason}), and the cache "
            "holds no copy; check the path, or the network"
        ) from error


def _taken_as_id(name: str) -> str:
    """A hub id with the words that say how it was read, and the packaged model that it resembles."""
    near = difflib.get_close_matches(name, PACKAGED, n=1)
    hint = f"; did you mean the packaged model {near[0]!r}?" if near else ""
    return f"{name} (no folder of this name is here, so it was taken as a hub id{hint})"


def _check_files(folder: Path) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    foreign = re.search(rf'"model_type":\s*"({"|".join(EQUIVALENTS)})"', text)
    check_folder(folder, pickled=bool(foreign))


def call(source: Source, what: str, from_pretrained: Callable[..., Any], **options: Any) -> Any:
    """Call a `from_pretrained` for a source.

    Args:
        source: Where to read from.
        what: What is read, for the error, e.g. `configuration`.
        from_pretrained: Of a class of transformers.
        options: Further arguments of it.

    Raises:
        SkipwiseError: In one line, whatever the library raised.
    """
    silent: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    shared: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if source.gguf:
        options["gguf_file"] = source.gguf
        silent = contextlib.redirect_stderr(io.StringIO())  # a bar of transformers that no setting turns off
        shared = gguf_reading.remembered()
    try:
        with quiet(), silent, shared:
            return from_pretrained(source.place, **source.options, **options)
    except (KeyboardInterrupt, SkipwiseError):
        raise
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, TypeError …
        if is_out_of_memory(error):
            raise
        where = source.given
        if source.gguf and (problem := gguf_reading.damage(source.file)):
            raise SkipwiseError(f"{where} is no whole GGUF file ({problem}); download or copy it again") from error
        if not Path(source.place).exists():
            where = _taken_as_id(where)
        raise SkipwiseError(f"cannot read the {what} of {where}: {one_line(error)}") from error
