"""Commands killed at random moments and given again: is the answer the same, and does nothing stay behind?

    python benchmarks/killed.py run --kills 50
    python benchmarks/killed.py extend --kills 40 --signal INT

Each trial gives the command again and again, and kills it after a random part of the time that it takes undisturbed,
beside what else the machine does, until one comes to its end; then what it wrote is compared with what was written
undisturbed, and the folder is looked at. Trials are made until there were so many kills. Whoever is interrupted
(`--signal INT`, `--twice` by who is impatient) must end by itself, soon.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batchcube.results.cube import read_cube
from batchcube.results.differences import EXACT, compare_cubes
from batchcube.results.disk import CUBES

PATIENCE = 1.02
"""By how much a kill makes those after it later: else none would come to its end where other work has begun since."""
SECONDS_TO_END = 120.0
"""After Ctrl-C: a kernel that is being compiled comes to its end."""
ENDS = {signal.SIGKILL: (0, -signal.SIGKILL), signal.SIGINT: (0, 130, -signal.SIGINT)}
"""The exit status of what was stopped by a signal; it may have been at its end."""
_SWEEP = ("multi-bin-fig8", "-o", "out.nc", "--set", "workload.requests=20000")
COMMANDS = {
    "run": ("run", *_SWEEP, "-n", "30"),
    "extend": ("extend", "out.nc", "--set", "axes.error_probability.values=[0.05,0.15]", "-n", "12"),
    "zarr": ("run", *_SWEEP, "-o", "out.zarr", "-n", "30"),
    "capacity": (
        *("capacity", "multi-bin-fig8", "-o", "out.nc", "-n", "8", "--slo", "latency_mean_s=600"),
        *("--set", "workload.requests=8000", "--set", "axes.error_probability.values=[0.1,0.3]"),
    ),
    "plan": (
        *("plan", "continuous-rate", "-o", "out.nc", "--rate", "6", "--slo", "ttft_p99_s=5", "--slo"),
        *("tpot_mean_s=0.1", "--vary", "policy.largest_batch=16,32,64,128", "--set", "workload.requests=1500"),
    ),
    "multi-bin": ("reproduce", "multi-bin", "-o", ".", "--quick", "-n", "3"),
    "modes": ("reproduce", "modes", "-o", ".", "--quick", "-n", "3"),
    "dynamic": ("reproduce", "dynamic", "-o", ".", "--quick", "-n", "3"),
    "log": ("calibrate", "log", "log.jsonl", "-o", "out.json", "--max-num-seqs", "128"),
    "table": ("calibrate", "table", "table.csv", "-o", "out.json", "--figures", "."),
    "transformers": (
        *("calibrate", "transformers", "--model", "qwen3-tiny", "--dummy-weights", "-o", "out.nc"),
        *("--batch-sizes", "1,2,4", "--prompt-tokens", "16,64", "--output-tokens", "4,8"),
    ),
}
BEFORE = {
    "extend": ("run", *_SWEEP, "-n", "10", "--set", "axes.error_probability.values=[0.1,0.2]"),
    "zarr": ("run", *_SWEEP, "-o", "out.zarr", "-n", "10"),
}
"""What makes the file that a command changes."""
MEASURED = ("transformers",)
"""Whose numbers are never the same."""
ONCE = ("log", "table", "transformers")
"""Which refuse to write again what is there: killed as they ended, they are not given again."""


def given(words: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    """Start a command in a folder."""
    quiet = () if words[1] == "table" else ("-q",)
    command = [sys.executable, "-m", "batchcube", *words, *quiet]
    says_where = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(command, cwd=folder, env=says_where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def names_in(folder: Path) -> list[str]:
    """Return all that is in a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def differs(folder: Path, undisturbed: Path) -> list[str]:
    """Return what is not the same in two folders."""
    wrong = []
    for before in sorted(undisturbed.iterdir()):
        after = folder / before.name
        if not after.exists():
            continue  # which is said of the folder
        if before.suffix in CUBES and not before.name.endswith(".fit.nc"):
            rows = compare_cubes(read_cube(before), read_cube(after))
            wrong += [f"{before.name}: {name} differs" for name in rows[rows["status"] != EXACT]["name"]]
        elif before.suffix == ".json":
            one, other = (json.loads(file.read_text(encoding="utf-8")) for file in (before, after))
            wrong += [f"{before.name}: {key} differs" for key in one if one[key] != other.get(key)]
        elif before.suffix in (".csv", ".png", ".pdf") and before.read_bytes() != after.read_bytes():
            wrong.append(f"{before.name} differs")
    return wrong


def stopped(process: subprocess.Popen[bytes], number: signal.Signals, again_after: float | None) -> str:
    """Stop a process, perhaps once more after some seconds, and return what is wrong with how it ended."""
    process.send_signal(number)
    begun = time.monotonic()
    if again_after is not None:
        time.sleep(again_after)
        process.send_signal(number)
    try:
        _, told = process.communicate(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        _, told = process.communicate()
        return f"did not end within {SECONDS_TO_END:g} s of {number.name}, but was at\n{told.decode()}"
    if process.returncode not in ENDS[number]:
        return f"exit status {process.returncode} of {number.name}: {told.decode().splitlines()[-1:]}"
    if (took := time.monotonic() - begun) > SECONDS_TO_END / 4:
        return f"took {took:.0f} s to end"
    return ""


def main() -> int:
    """Kill a command until there were enough kills, and count what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", choices=("KILL", "INT"), default="KILL")
    parser.add_argument("--twice", action="store_true", help="the signal comes again within half a second")
    parser.add_argument("--input", type=Path, help="of calibrate log, its log; of calibrate table, its table")
    asked = parser.parse_args()
    words, luck = COMMANDS[asked.command], random.Random(asked.seed)
    number = signal.Signals[f"SIG{asked.signal}"]
    # In the background of a shell it is ignored, and what is begun here would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as name:
        start = Path(name, "start")
        start.mkdir()
        if asked.input is not None:
            shutil.copy(asked.input, start / words[2])
        if asked.command in BEFORE and given(BEFORE[asked.command], start).wait():
            return 1
        undisturbed = Path(name, "undisturbed")
        for _ in range(2):  # the second time compiled kernels are there
            shutil.rmtree(undisturbed, ignore_errors=True)
            shutil.copytree(start, undisturbed)
            begun = time.monotonic()
            process = given(words, undisturbed)
            _, told = process.communicate()
            if process.returncode:
                print(told.decode(), file=sys.stderr)
                return 1
            takes = first = time.monotonic() - begun
        expected = names_in(undisturbed)
        kills = trials = wrong = 0
        while kills < asked.kills:
            trials += 1
            folder = Path(name, f"{trials}")
            shutil.copytree(start, folder)
            problems, killed_before = [], kills
            begun = time.monotonic()
            process = given(words, folder)
            while kills < asked.kills:
                try:
                    process.communicate(timeout=luck.uniform(0.1, 1.1) * takes)
                    if kills == killed_before:
                        takes = time.monotonic() - begun  # there may be less other work now
                    break
                except subprocess.TimeoutExpired:
                    problem = stopped(process, number, luck.uniform(0.0, 0.5) if asked.twice else None)
                    problems += [problem] if problem else []
                    kills += process.returncode != 0
                    takes *= PATIENCE
                    if process.returncode == 0 or (asked.command in ONCE and names_in(folder) == expected):
                        break
                    process = given(words, folder)
            _, told = process.communicate()
            if process.returncode not in ENDS[number]:
                problems.append(f"exit status {process.returncode}: {told.decode().splitlines()[-1:]}")
            elif asked.command not in MEASURED:
                problems += differs(folder, undisturbed)
            there = names_in(folder)
            if there != expected:
                missing, more = sorted({*expected} - {*there}), sorted({*there} - {*expected})
                problems.append(f"missing: {', '.join(missing)}; left behind: {', '.join(more)}")
            for problem in problems:
                print(f"trial {trials}: {problem}", flush=True)
            print(f"trial {trials}: {kills} kills so far", file=sys.stderr, flush=True)
            wrong += bool(problems)
            shutil.rmtree(folder)
    print(
        f"{asked.command}: {first:.1f} s undisturbed, load {os.getloadavg()[0]:.1f}; {kills} times {number.name} in "
        f"{trials} trials, {wrong} of them went wrong"
    )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
