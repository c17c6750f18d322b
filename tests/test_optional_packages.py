"""Training and evaluation do without packages that only some inputs or outputs need."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MISSING = ["gguf", "datasets", "zstandard", "liger_kernel", "shtab", "bitsandbytes", "deepspeed", "lm_eval"]
BLOCK = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {MISSING!r} else find(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
"""


def run(code: str, folder: Path) -> None:
    """Run code without the packages, in all processes that it starts."""
    (folder / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    paths = [str(folder), str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_jobs_are_imported_without_them(tmp_path: Path) -> None:
    run(
        "import skipwise.jobs.extend, skipwise.jobs.evaluate, skipwise.jobs.search, skipwise.cli.main\n"
        "import skipwise.planning.plan\n"
        "try:\n    import gguf\nexcept ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit('not blocked')",
        tmp_path,
    )


def test_the_gpu_benchmark_runs_without_them(tmp_path: Path) -> None:
    words = ["gpu.py", "--device", "cpu", "--small", "--only", "headline", "--out", str(tmp_path / "out")]
    run(f"import sys, gpu; gpu.__file__ = {str(BENCHMARKS / 'gpu.py')!r}; sys.argv = {words!r}; gpu.main()", tmp_path)
    text = (tmp_path / "out" / "gpu.txt").read_text(encoding="utf-8")
    assert "failed" not in text
    assert "of PoSE at 64 / of full length" in text
