"""The samplers of positions by name, from the folder that holds them.

A sampler is one file in `positions/samplers/`. Its name is that of the file, so a configuration can be checked without
importing a sampler, and with it NumPy.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

FOLDER = Path(__file__).parent.parent / "positions" / "samplers"


def sampler_names() -> tuple[str, ...]:
    """Names of all samplers, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_")))


if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[sampler_names()]
