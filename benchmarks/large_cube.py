"""What commands need of a cube that is larger than memory: seconds, and the most memory that their process had.

    python benchmarks/large_cube.py                     # 20 GB of values, about 4 GB on disk while it runs
    python benchmarks/large_cube.py show report --gigabytes 1 --keep large.nc
    python benchmarks/large_cube.py merge --gigabytes 1.5

The preset continuous-rate is run at many rates with few requests, and what comes out is repeated over more replications
until it is as many bytes as wanted: values that a sweep has, written as any cube is. For `merge` the preset itself is
run in shards, with as many replications as make so many bytes. Every command is a process of its own, as users start
it, and what it prints is thrown away. Seconds are those of processors, and those that passed.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import batchcube as bc
from batchcube.results.cube import write_cube
from batchcube.results.pieces import read_later
from batchcube.results.variables import REPLICATION

PRESET, RATE, RATES, REQUESTS, SHARDS = "continuous-rate", "arrival_rate_per_s", 500, 1000, 4
COMMANDS: dict[str, tuple[str, ...]] = {
    "show": ("large.nc",),
    "figure": ("lines", "large.nc", f"x={RATE}", "y=latency_p99_s", "-o", "lines.png"),
    "report": ("large.nc", "-o", "report.html"),
    "compare": ("large.nc", "large.nc"),
    "join": ("large.nc", "more.nc", "-o", "joined.nc"),
    "extend": ("joined.nc",),
}
"""By name with their arguments, in the order in which they need each other."""
_GIGABYTE = 1e9
# Runs a command and prints the most memory, in KiB, that it had, and the seconds of processors that it took.
_WATCHED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(done.returncode)
"""


def small(replications: int, rates: int | None = None) -> xr.Dataset:
    """Run the preset with few requests, at so many rates or its own."""
    settings: dict[str, Any] = {"workload.requests": REQUESTS, "replications": replications}
    if rates is not None:
        settings[f"axes.{RATE}.values"] = np.linspace(4.0, 18.0, rates).tolist()
    return bc.run(bc.load_spec(PRESET, settings), quiet=True)


def repeated(cube: xr.Dataset, first: int, count: int) -> xr.Dataset:
    """Return a cube of so many replications from a number on, which repeats those of a small one as it is read."""

    def of(variable: xr.Variable) -> xr.Variable:
        if REPLICATION not in variable.dims:
            return variable
        axis, values = variable.dims.index(REPLICATION), variable.values
        shape = (*values.shape[:axis], count, *values.shape[axis + 1 :])

        def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
            numbers = np.arange(count)[key[axis]] % values.shape[axis]
            some = values[(*key[:axis], slice(None), *key[axis + 1 :])]
            found: NDArray[Any] = np.take(some, numbers, sum(isinstance(at, slice) for at in key[:axis]))
            return found

        return read_later(xr.Variable(variable.dims, np.broadcast_to(values.flat[0], shape), variable.attrs), read)

    number = xr.Variable(REPLICATION, np.arange(first, first + count), cube[REPLICATION].attrs)
    coords = {name: coordinate.variable for name, coordinate in cube.coords.items()} | {REPLICATION: number}
    return xr.Dataset({name: of(array.variable) for name, array in cube.data_vars.items()}, coords, cube.attrs)


def write(cube: xr.Dataset, path: Path) -> None:
    """Write a cube, and say what that took."""
    before, started = _most_memory(), (time.process_time(), time.perf_counter())
    write_cube(cube, path)
    seconds = time.process_time() - started[0], time.perf_counter() - started[1]
    sizes = ", ".join(f"{name} {size}" for name, size in cube.sizes.items())
    print(f"{cube.nbytes / _GIGABYTE:.1f} GB of values, {path.stat().st_size / _GIGABYTE:.2f} GB on disk: {sizes}")
    tell("write_cube", seconds, _most_memory(), f" ({before:.2f} before)")


def tell(name: str, seconds: tuple[float, float], gigabytes: float, more: str = "") -> None:
    """Print what was measured."""
    processors, passed = seconds
    print(f"{name:10} {processors:7.1f} s of processors, {passed:7.1f} s {gigabytes:6.2f} GB{more}", flush=True)


def _most_memory() -> float:
    """Return the most memory that this process had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIGABYTE


def measure(folder: Path, name: str, *arguments: str) -> None:
    """Run a command of batchcube in a folder, and say how long it took and how much memory."""
    command = [sys.executable, "-c", _WATCHED, sys.executable, "-m", "batchcube", name, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    passed = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"batchcube {name}: {done.stderr}")
    most, processors = done.stdout.split()
    tell(name, (float(processors), passed), int(most) * 1024 / _GIGABYTE)


def commands(folder: Path, names: Sequence[str], gigabytes: float, keep: Path | None) -> None:
    """Make a cube of so many bytes, and one of some more replications; print a line for each command."""
    few, large = small(5, RATES), folder / "large.nc"
    count = max(1, round(gigabytes * _GIGABYTE / (repeated(few, 0, 1000).nbytes / 1000)))
    if keep is None or not keep.exists():
        write(repeated(few, 0, count), keep or large)
    if keep is not None:
        large.symlink_to(keep.resolve())
    write_cube(repeated(few, count, 5), folder / "more.nc")
    for name in names:
        more = ("--replications", str(count + 6)) if name == "extend" else ()
        measure(folder, name, *COMMANDS[name], *more)


def merge(folder: Path, gigabytes: float) -> None:
    """Run shards, and print a line for each of them and for what merges them."""
    replications = round(gigabytes * _GIGABYTE / (small(2).nbytes / 2))
    asked = [PRESET, "--set", f"workload.requests={REQUESTS}", "--replications", str(replications), "-o", "cube.nc"]
    for number in range(1, SHARDS + 1):
        measure(folder, "run", *asked, "--shard", f"{number}/{SHARDS}")
    measure(folder, "merge", "cube.nc")
    with bc.open(folder / "cube.nc") as cube:
        print(f"{cube.nbytes / _GIGABYTE:.2f} GB of values: {replications} replications")


def main() -> None:
    """Do what is asked for, in a folder that is removed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="*", help=f"of {', '.join(COMMANDS)}, all when none is given; or merge alone")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of values in the cube")
    parser.add_argument("--keep", type=Path, help="where to leave the large cube, and find it again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if wrong := set(given.commands).difference(COMMANDS, ["merge"] if given.commands == ["merge"] else []):
            parser.error(f"no commands here: {', '.join(sorted(wrong))}")
        if given.commands == ["merge"]:
            merge(Path(name), given.gigabytes)
        else:
            commands(Path(name), given.commands or [*COMMANDS], given.gigabytes, given.keep)


if __name__ == "__main__":
    main()
