"""What commands need of a cube that is larger than memory: seconds, and the most memory that their process had.

    python benchmarks/large_cube.py                     # 20 GB of values, about 2 GB on disk while it runs
    python benchmarks/large_cube.py --gigabytes 1 --keep large.nc

The preset continuous-rate is run with few requests, and what comes out is repeated over more rates and replications
until it is as many bytes as wanted: values that a sweep has, written as any cube is. Every command is a process of its
own, as users start it, and what it prints is thrown away.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import batchcube as bc
from batchcube.results.cube import write_cube
from batchcube.results.pieces import read_later
from batchcube.results.variables import REPLICATION

RATE, RATES = "arrival_rate_per_s", 500
_GIGABYTE = 1e9
# Runs a command and prints the most memory, in KiB, that it had.
_WATCHED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def repeated(cube: xr.Dataset, sizes: dict[str, int]) -> xr.Dataset:
    """Return a cube with so many values on some dimensions, which repeats those of a small one; it takes no memory."""

    def of(variable: xr.Variable) -> xr.Variable:
        values = variable.values
        shape = tuple(sizes.get(str(dim), size) for dim, size in variable.sizes.items())

        def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
            places = [np.arange(size)[at] % small for at, size, small in zip(key, shape, values.shape, strict=True)]
            found: NDArray[Any] = values[np.ix_(*map(np.atleast_1d, places))]
            return found.reshape([place.size for place in places if np.ndim(place)])

        return read_later(xr.Variable(variable.dims, np.broadcast_to(values.flat[0], shape), variable.attrs), read)

    coords = {name: coordinate.variable for name, coordinate in cube.coords.items()}
    for name, size in sizes.items():
        coords[name] = xr.Variable(name, coords[name].values[0] + np.arange(size), coords[name].attrs)
    return xr.Dataset({name: of(array.variable) for name, array in cube.data_vars.items()}, coords, cube.attrs)


def make(path: Path, gigabytes: float) -> None:
    """Write a cube of so many bytes of values, and say what that took."""
    small = bc.run(bc.load_spec("continuous-rate", {"workload.requests": 1000, "replications": 5}), quiet=True)
    each = repeated(small, {RATE: RATES, REPLICATION: 1000}).nbytes / 1000
    cube = repeated(small, {RATE: RATES, REPLICATION: max(1, round(gigabytes * _GIGABYTE / each))})
    before, started = _most_memory(), time.perf_counter()
    write_cube(cube, path)
    seconds, after = time.perf_counter() - started, _most_memory()
    sizes = ", ".join(f"{name} {size}" for name, size in cube.sizes.items())
    print(f"{cube.nbytes / _GIGABYTE:.1f} GB of values, {path.stat().st_size / _GIGABYTE:.2f} GB on disk: {sizes}")
    print(f"{'write_cube':10} {seconds:7.1f} s {after:6.2f} GB ({before:.2f} before)")


def _most_memory() -> float:
    """Return the most memory that this process had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIGABYTE


def measure(name: str, *arguments: str) -> None:
    """Run a command of batchcube, and say how long it took and how much memory."""
    command = [sys.executable, "-m", "batchcube", name, *arguments]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _WATCHED, *command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"batchcube {name}: {done.stderr}")
    print(f"{name:10} {seconds:7.1f} s {int(done.stdout) * 1024 / _GIGABYTE:6.2f} GB", flush=True)


def main() -> None:
    """Make the cube, and print a line for each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of values in the cube")
    parser.add_argument("--keep", type=Path, help="where to leave the cube, and find it again; else it is removed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.keep or Path(folder) / "large.nc"
        if not path.exists():
            make(path, given.gigabytes)
        measure("show", str(path))
        measure("figure", "lines", str(path), f"x={RATE}", "y=latency_p99_s", "-o", f"{folder}/lines.png")
        measure("report", str(path), "-o", f"{folder}/report.html")


if __name__ == "__main__":
    main()
