"""Commands killed at random moments and given again: is the answer the same, and does nothing stay behind?

    python benchmarks/killed.py run --kills 50
    python benchmarks/killed.py capacity --kills 50
    python benchmarks/killed.py plan --kills 50

Each trial gives the command again and again, and kills it (SIGKILL) after a random part of the time that it takes
undisturbed, until one comes to its end; then what it wrote is compared with what was written undisturbed, and the
folder is looked at. Trials are made until there were so many kills.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchcube.results.compare import EXACT, compare_cubes
from batchcube.results.cube import read_cube

COMMANDS = {
    "run": ("run", "multi-bin-fig8", "-n", "30", "--set", "workload.requests=20000"),
    "capacity": (
        *("capacity", "multi-bin-fig8", "-n", "8", "--sla", "latency_mean_s=600"),
        *("--set", "workload.requests=8000", "--set", "axes.error_probability.values=[0.1,0.3]"),
    ),
    "plan": (
        *("plan", "continuous-rate", "--rate", "6", "--slo", "ttft_p99_s=5", "--slo", "tpot_mean_s=0.1"),
        *("--vary", "policy.largest_batch=16,32,64,128", "--set", "workload.requests=1500"),
    ),
}


def given(words: tuple[str, ...], output: Path) -> subprocess.Popen[bytes]:
    """Start a command that writes a cube."""
    return subprocess.Popen(
        [sys.executable, "-m", "batchcube", *words, "-o", str(output), "-q"], stdout=subprocess.DEVNULL
    )


def differs(output: Path, undisturbed: Path) -> list[str]:
    """Return what is not the same of two outputs."""
    rows = compare_cubes(read_cube(undisturbed), read_cube(output))
    wrong = [f"{name} differs" for name in rows[rows["status"] != EXACT]["name"]]
    answers = [file.with_suffix(".json") for file in (undisturbed, output)]
    if all(file.is_file() for file in answers):
        before, after = (json.loads(file.read_text(encoding="utf-8")) for file in answers)
        wrong += [f"{key} of the answer differs" for key in before if before[key] != after.get(key)]
    return wrong


def main() -> int:
    """Kill a command until there were enough kills, and count what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    words, luck = COMMANDS[asked.command], random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Path(name, "undisturbed", "out.nc")
        undisturbed.parent.mkdir()
        for _ in range(2):  # the second time compiled kernels are there
            for file in undisturbed.parent.iterdir():
                file.unlink()
            begun = time.monotonic()
            if given(words, undisturbed).wait():
                return 1
            takes = time.monotonic() - begun
        expected = sorted(file.name for file in undisturbed.parent.iterdir())
        kills = trials = wrong = 0
        while kills < asked.kills:
            trials += 1
            output = Path(name, f"{trials}", "out.nc")
            output.parent.mkdir()
            process = given(words, output)
            while kills < asked.kills:
                try:
                    process.wait(luck.uniform(0.1, 1.1) * takes)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                    process = given(words, output)
            status = process.wait()
            problems = [f"exit status {status}"] if status else differs(output, undisturbed)
            there = sorted(file.name for file in output.parent.iterdir())
            problems += [f"left behind: {', '.join(sorted({*there} - {*expected}))}"] if there != expected else []
            for problem in problems:
                print(f"trial {trials}, {kills} kills so far: {problem}")
            wrong += bool(problems)
    print(f"{asked.command}: {takes:.1f} s undisturbed; {kills} kills in {trials} trials, {wrong} of them went wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
