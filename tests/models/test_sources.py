"""A hub that does not answer is asked once."""

import os
import subprocess
import sys
from pathlib import Path

READ = """
import time
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models import sources

started = time.perf_counter()
try:
    sources.find(ModelConfig(path="bundle"))
except SkipwiseError as error:
    print(error)
print(time.perf_counter() - started)
"""


def test_a_mistyped_path_without_a_network_takes_no_retries(tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, env=environment, check=True)
    line, seconds = done.stdout.splitlines()
    assert line.startswith(
        "model bundle (no folder of this name is here, so it was taken as a hub id; did you mean the packaged model "
        "'bundled'?): the hub at http://127.0.0.1:9 does not answer ("
    )
    assert line.endswith("), and the cache holds no copy; check the path, or the network")
    assert float(seconds) < 10  # its client would wait 1, 2, 4, 8 and 8 seconds
    assert "asking again" not in done.stderr
