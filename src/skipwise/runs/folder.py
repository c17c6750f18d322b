"""The folder of a run: opened once, and checked when a run is resumed."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from skipwise.config import RunConfig, dump_yaml, read_yaml, validate
from skipwise.errors import SkipwiseError


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold the run folder. Errors: SkipwiseError when another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SkipwiseError(f"another process is working in {folder}; wait for it or give another --out") from None
        yield


def model_of_run(path: str) -> Path | None:
    """Return the folder of the model that a run made, or None where `path` is no run folder.

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
    """Write config.yaml, or check that it says the same. Errors: SkipwiseError for a folder that is taken."""
    written = folder / "config.yaml"
    if not written.exists():
        strangers = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if strangers:
            raise SkipwiseError(f"{folder} is not empty ({strangers[0]} …) and holds no run; give another --out")
        return dump_yaml(config, written)
    if not resume:
        raise SkipwiseError(f"{folder} already holds a run; add --resume to go on with it, or give another --out")
    before = validate(RunConfig, read_yaml(written), str(written))
    for stage in RunConfig.model_fields:
        if getattr(before, stage) != getattr(config, stage):
            raise SkipwiseError(
                f"{folder} holds a run with another {stage!r}: {getattr(before, stage)} there, "
                f"{getattr(config, stage)} now; give another --out, or the same settings"
            )
