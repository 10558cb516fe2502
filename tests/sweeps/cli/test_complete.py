import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("batchcube capac", ["capacity"]),
        ("batchcube run multi-bin-fig1", ["multi-bin-fig11"]),
        ("batchcube capacity continuous-", ["continuous-bins", "continuous-rate"]),
        ("batchcube show cube.nc -v latency_quant", ["latency_quantile_s"]),
        ("batchcube run my-sweep", []),  # then the shell looks for files
    ],
)
def test_shells_complete(typed: str, completed: list[str]) -> None:
    asked = {"_BATCHCUBE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = [Path(sys.executable).parent / "batchcube"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed
