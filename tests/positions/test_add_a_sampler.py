"""The example of docs/add_a_sampler.md: one new file, and every part of Skipwise takes it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import skipwise

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add_a_sampler.md"


def test_the_example_needs_its_file_only(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(code.splitlines()) < 60
    skip = shutil.ignore_patterns("bundled", "__pycache__")
    shutil.copytree(Path(skipwise.__file__).parent, tmp_path / "skipwise", ignore=skip)
    (tmp_path / "skipwise/positions/samplers/two_ends.py").write_text(code, encoding="utf-8")

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
        done = subprocess.run([sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = re.findall(r"```sh\nskipwise (.*?)\n```", PAGE.read_text(encoding="utf-8"), re.S)[0]
    table = run("-m", "skipwise", *command.split())
    assert re.search(r"^two_ends +sampled", table, re.M)
    assert "two_ends" in run("-m", "skipwise", "settings", "positions.sampler")
    layout = (
        "from skipwise.data.skipped_positions import SkippedPositions\n"
        "data = SkippedPositions([list(range(99))], sampler='two_ends', target_length=400, train_length=8, seed=1)\n"
        "positions = data[0]['position_ids'].tolist()\n"
        "assert positions[:4] == [0, 1, 2, 3] and positions[4] >= 298, positions\n"
        "plain = SkippedPositions([list(range(99))], sampler='two_ends', target_length=8, train_length=8)\n"
        "assert plain[0]['position_ids'].tolist() == list(range(8))\n"
    )
    run("-c", layout)
    settings = "{'positions.sampler': 'two_ends', 'positions.chunks': 3}"
    run("-c", f"from lab.reproductions.samplers import added; assert added() == {{'two_ends': {settings}}}, added()")
