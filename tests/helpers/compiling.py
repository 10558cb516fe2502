"""Programs that share a folder of compiled kernels."""

import os
import subprocess
import sys


def in_another_process(kept, program, *arguments):
    """Return what a program prints."""
    environment = {**os.environ, "BATCHCUBE_CACHE": str(kept.parents[1])}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
