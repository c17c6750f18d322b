"""The folder of a run: held by one process, begun once, and checked when the run is resumed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipwise.config import RunConfig, dump_yaml, read_yaml, validate
from skipwise.errors import SkipwiseError
from skipwise.utils.locks import locked
from skipwise.utils.os_errors import check_writable, path_error

CONFIG = "config.yaml"
LOCK = ".lock"
WITHOUT_EFFECT = {"out", "data.cache"}
"""Settings that change no figure of a run: it may be moved, and so may the cache of tokenised text."""


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder in which a run cannot begin or be resumed.

    It reads names only, so call it before anything slow.

    Args:
        folder: The folder of the run. It need not exist.
        resume: Whether a run in the folder shall be resumed.

    Raises:
        SkipwiseError: The folder holds a run and `resume` is off, holds other things, or is not a folder.
    """
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise path_error(error, folder, "use") from error
    if os.path.lexists(folder) and not folder.is_dir():
        raise SkipwiseError(f"{folder} is not a folder; give another --out")
    check_writable(folder)
    if CONFIG in names:
        if not resume:
            raise SkipwiseError(f"{folder} already holds a run; add --resume to go on with it, or give another --out")
    elif others := [name for name in names if name != LOCK]:
        raise SkipwiseError(f"{folder} is not empty ({others[0]} …) and holds no run; give another --out")


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, which is made if need be. A block that ends before the run has begun leaves no trace.

    Raises:
        SkipwiseError: Another process holds it, or it cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with locked(folder / LOCK, wait=False) as held:
        if not held:
            raise SkipwiseError(f"another process is working in {folder}; wait for it or give another --out")
        try:
            yield
        except BaseException:
            if not (folder / CONFIG).exists():
                (folder / LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    for path in created:
                        path.rmdir()
            raise


def model_of_run(path: str) -> Path | None:
    """Return the folder of the model that a run made, or None if `path` is not a run folder.

    Raises:
        SkipwiseError: The run has no model yet.
    """
    folder = Path(path).expanduser()
    if not (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return None
    if not (folder / "model").is_dir():
        raise SkipwiseError(f"{path} is a run that has no model yet; finish it with: skipwise extend --resume")
    return folder / "model"


def open_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    """Begin a run by writing its config.yaml, or check that the run to resume has the same settings.

    Args:
        config: Settings of the run.
        folder: Its folder.
        resume: Whether a run in the folder shall be resumed.

    Raises:
        SkipwiseError: As `check_folder`, and if the run in the folder has other settings. The message names one.
    """
    check_folder(folder, resume)
    path = folder / CONFIG
    if not path.exists():
        dump_yaml(config, path)
        return
    before = validate(RunConfig, read_yaml(path), str(path))
    there, now = _settings(before), _settings(config)
    differing = [key for key in now if there.get(key) != now[key]]
    if differing:
        key, more = differing[0], len(differing) - 1
        others = f" ({more} more settings differ)" if more else ""
        raise SkipwiseError(
            f"{folder} holds a run with another {key.partition('.')[0]!r}: {key} is {there.get(key)} there and "
            f"{now[key]} now{others}; give another --out, or the same settings"
        )
    if before.out != config.out:
        dump_yaml(before.model_copy(update={"out": config.out}), path)


def _settings(config: RunConfig) -> dict[str, Any]:
    """All settings that matter by their dotted names, with one spelling for every path."""
    flat: dict[str, Any] = {}

    def add(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict):
                add(value, f"{key}.")
            elif key not in WITHOUT_EFFECT:
                flat[key] = _one_spelling(value)

    add(config.model_dump(), "")
    return flat


def _one_spelling(value: Any) -> Any:
    """A path that exists is the same file however it is written; `path::field` names a field of it."""
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    if not isinstance(value, str):
        return value
    path, mark, field = value.partition("::")
    path = os.path.expanduser(path)  # noqa: PTH111
    return f"{os.path.realpath(path)}{mark}{field}" if os.path.exists(path) else value  # noqa: PTH110
