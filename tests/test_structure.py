"""The shape of the project: packages import in one direction, light things stay light, and it speaks of itself only."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_packages_import_in_the_direction_of_the_data_flow() -> None:
    """The layers stand in pyproject.toml; import-linter reads every import, also those inside functions."""
    done = subprocess.run(
        [shutil.which("lint-imports", path=Path(sys.executable).parent) or "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_and_help_do_not_load_torch() -> None:
    code = (
        "import sys, skipwise, skipwise.cli.main\n"
        "try: skipwise.cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'yaml', 'rich', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
