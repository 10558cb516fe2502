"""Cubes, mutated: read, shown, compared, drawn and taken up again, or refused in one line.

Structures are mutated in memory: attributes and variables dropped, renamed, retyped, reshaped and given other values.
Bytes of files are mutated in child processes, because what reads HDF5 may crash or hang on them: that is the fault of a
library, is counted by itself, and printed. Either way what passes `read_cube` must serve every command.
"""

import io
import json
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.errors import InputError
from batchcube.figures import registry
from batchcube.results.axes import axis_names
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.differences import compare_cubes
from batchcube.results.joining import extend_cube
from batchcube.results.provenance import parse_made_from
from batchcube.results.summary import print_summary
from batchcube.sweeps.cli.capacity import print_capacity
from batchcube.sweeps.run.capacity import asked_of, find_capacity
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep, remade
from batchcube.sweeps.spec.service import require_unchanged
from helpers.cubes import check_cube
from helpers.mutation import NASTY, SECONDS, count, limited, mutants, mutate_bytes, mutate_tree

TINY = ["replications=2", "workload.requests=40", "report.windows=4"]
SWEEPS = {
    "multi-bin-fig3": ["policy.batch_size=4", "axes.bins.values=[1, 2]", "axes.arrival_rate_per_s.values=[4, 16]"],
    "modes-poisson": ["axes.arrival_rate_per_s.values=[1, 3]"],
    "continuous-rate": ["axes.arrival_rate_per_s.values=[4, 18]"],
    "controller-step": [],
}
SEARCHED = {
    "name": "searched",
    "replications": 2,
    "workload": {
        "requests": 40,
        "arrivals": {"process": "poisson", "rate_per_s": 1.0},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 0.1, "high": 1.0},
    },
    "policy": {"mode": "multi_bin_only", "batch_size": 4},
    "server": {"service": {"law": "given"}},
    "axes": {"bins": {"path": "policy.bins", "values": [1, 2]}},
}
FIGURES = [known.name for known in registry.names() if not known.name.startswith(("calibration", "simulated"))]
LARGEST = 8 * 2**30
"""Bytes of memory that a child may take: a damaged size must not take the machine's."""
NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1.0, 5e-324, 1e-300, 1e300, 1.7e308, 2.0**53)
PATHS = (
    "policy.bins",
    "policy.mode",
    "workload.arrivals.rate_per_s",
    "server.servers",
    "policy.largest_batch",
    "a,b",
    "",
)


def good_cubes() -> list[xr.Dataset]:
    """Return a cube of each kind: bins over rates, modes, continuous batching, a controller, and a search."""
    cubes = [run_sweep(Sweep.from_toml(name, [*TINY, *settings])) for name, settings in SWEEPS.items()]
    return [*cubes, find_capacity(Sweep.model_validate(SEARCHED, "searched"), ["latency_p95_s=10"], tolerance=0.1)]


# Structures ---------------------------------------------------------------------------------------------------------


def mutate_cube(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    """Return a cube with one thing about it changed; what cannot be changed so is left as it is."""
    try:
        return chance.choice((_attribute, _attribute, _json, _values, _values, _type, _shape, _name, _coordinate))(
            chance, cube.copy(deep=True)
        )
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return cube


def _any(chance: random.Random, names: Any) -> Any:
    return chance.choice(list(names))


def _attribute(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    holder: Any = cube if chance.random() < 0.5 else cube[_any(chance, cube.variables)]
    name = _any(chance, holder.attrs)
    kind = chance.randrange(3)
    if kind == 0:
        del holder.attrs[name]
    elif name == "path" and kind == 1:
        holder.attrs[name] = chance.choice(PATHS)
    else:
        value = chance.choice((*NASTY, np.array([1, 2]), np.array([]), ["a", "b"], np.float32(1), "$\\sum", "1"))
        holder.attrs[name] = value
    return cube


def _json(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    name = _any(chance, [name for name in cube.attrs if str(cube.attrs[name]).startswith(("{", "["))])
    text = str(cube.attrs[name])
    if chance.random() < 0.3:
        cube.attrs[name] = mutate_bytes(chance, text.encode()).decode(errors="replace")
    else:
        with suppress(ValueError, RecursionError):  # an earlier mutation may have left no JSON
            cube.attrs[name] = json.dumps(mutate_tree(chance, json.loads(text)))
    return cube


def _values(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    found = cube[_any(chance, cube.data_vars)]
    values = found.values.copy()
    where = np.ones(values.shape, bool) if chance.random() < 0.3 else _somewhere(chance, values.shape)
    if values.dtype.kind == "f":
        values[where] = chance.choice(NUMBERS) if chance.random() < 0.7 else values[where] * chance.choice(NUMBERS)
    elif values.dtype.kind in "iu":
        values[where] = chance.choice((0, 1, np.iinfo(values.dtype).max, np.iinfo(values.dtype).min))
    else:
        values[where] = ~values[where]
    found.values = values
    return cube


def _somewhere(chance: random.Random, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(chance.randrange(2**32)).random(shape) < 0.3


def _type(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    name = _any(chance, cube.variables)
    dtype = chance.choice(("f4", "f8", "i1", "i8", "u8", "?", "U9", "O", "c16", "M8[ns]", "m8[ns]"))
    return cube.assign({name: cube[name].astype(dtype)})


def _shape(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    dim = _any(chance, cube.dims)
    kind = chance.randrange(6)
    size = cube.sizes[dim]
    if kind == 0:
        return cube.isel({dim: chance.randrange(size)}, drop=chance.random() < 0.5)
    if kind == 1:
        return cube.isel({dim: slice(None, None, chance.choice((-1, 2, size)))})
    if kind == 2:
        return cube.isel({dim: []})
    if kind == 3:
        longer = cube.isel({dim: list(range(size)) * chance.choice((2, 10))})
        return longer.assign_coords({dim: (dim, np.arange(longer.sizes[dim]), cube[dim].attrs)})
    if kind == 4:
        name = _any(chance, cube.data_vars)
        return cube.assign({name: cube[name].isel({dim: 0}) if dim in cube[name].dims else cube[name].expand_dims("x")})
    return cube.transpose(..., dim)


def _name(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    name = _any(chance, cube.variables)
    if chance.random() < 0.5:
        return cube.drop_vars(name)
    return cube.rename({name: chance.choice(("", "x", "../x", "$a$", "bin", "utilisation", f"{name}x", "bins\x1b"))})


def _coordinate(chance: random.Random, cube: xr.Dataset) -> xr.Dataset:
    dim = _any(chance, cube.dims)
    size = cube.sizes[dim]
    values: Any = chance.choice(
        (
            np.arange(size) - 1,
            np.arange(size) * 1e300,
            np.full(size, np.nan),
            np.linspace(-1, 1, size),
            np.arange(size)[::-1],
            np.append(np.arange(size - 1.0), np.inf),
            [f"$\\frac{{${number}" for number in range(size)],
            [f"\x1b[{number}m" for number in range(size)],
            ["x" * 3000 + str(number) for number in range(size)],
            ["fifo_fixed", "dynamic_only", *map(str, range(size))][:size],
            [str(value) for value in cube[dim].values],
        )
    )
    return cube.assign_coords({dim: (dim, values, cube[dim].attrs)})


# What must hold of every cube that passes ---------------------------------------------------------------------------


@contextmanager
def refused() -> Iterator[None]:
    """Let pass what the command line would tell in a line."""
    try:
        yield
    except InputError:
        pass
    except OSError as error:
        if "cannot be written" not in str(error):
            raise


def serves(chance: random.Random, cube: xr.Dataset, good: xr.Dataset, folder: Path) -> None:
    """Show, compare, extend, take up and sometimes draw a cube."""
    out = io.StringIO()
    with refused():
        print_summary(cube, Console(file=out, width=100))
        assert "\x1b" not in out.getvalue()
    with refused():
        compare_cubes(cube, good)
    with refused():
        extend_cube(cube, good)
    with refused():
        sweep, _ = remade(*parse_made_from(cube), "cube")
        sweep.identity()
        require_unchanged(str(cube.attrs.get("service_coefficients", "{}")))
    if "capacity_criteria" in cube.attrs:
        with refused():
            asked_of(cube)
            print_capacity(cube, Console(file=out, width=100))
    if chance.random() < 0.25:
        name = chance.choice(FIGURES)
        axes = axis_names(cube)
        kept = {axis: cube[axis].values[-1] for axis in axes if chance.random() < 0.4}
        with refused():
            figure = registry.draw(name, cube, select=kept)
            if chance.random() < 0.3:
                registry.save(figure, cube, folder / f"a{chance.choice(('.png', '.svg', '.pdf'))}")


def read_back(cube: xr.Dataset, path: Path) -> xr.Dataset | None:
    """Return a cube that was written by somebody else and read by us, or None where either cannot be."""
    path.unlink(missing_ok=True)
    try:
        cube.to_netcdf(path)
    except Exception:  # whatever the library makes of a mutant
        return None
    with refused():
        return read_cube(path)
    return None


@pytest.mark.slow
def test_mutated_cubes_serve_or_are_refused(tmp_path: Path) -> None:
    told: Counter[str] = Counter()
    goods = good_cubes()
    each = count() // len(goods)
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("ignore")  # numbers near the end of float64 overflow in drawing; that is no traceback
        for kind, good in enumerate(goods):
            for number, wrong in enumerate(islice(mutants(good, mutate_cube, kind), each)):
                chance = random.Random(f"{kind}/{number}")
                try:
                    with limited(2 * SECONDS):  # it is shown, compared, joined, and drawn
                        told[_judged(chance, wrong, good, tmp_path, through_a_file=number % 20 == 0)] += 1
                except Exception as error:
                    if "BATCHCUBE_FUZZ_GO_ON" not in os.environ:
                        raise AssertionError(f"mutant {number} of {good.attrs['title']}") from error
                    told[f"{type(error).__name__}"] += 1
                    sys.stderr.write(f"mutant {kind}/{number}\n{traceback.format_exc()}")
    print(dict(told))


def _judged(chance: random.Random, wrong: xr.Dataset, good: xr.Dataset, folder: Path, *, through_a_file: bool) -> str:
    if through_a_file:
        read = read_back(wrong, folder / "mutant.nc")
        if read is None:
            return "refused"
        wrong = read
    else:
        try:
            check_cube(wrong, "cube")
        except InputError as error:
            return _refused(error)
    serves(chance, wrong, good, folder)
    return "served"


def _refused(error: InputError) -> str:
    assert str(error).isprintable()
    return "refused"


# Bytes --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mutated_bytes_are_read_or_refused(tmp_path: Path) -> None:
    whole = run_sweep(Sweep.from_toml("multi-bin-fig3", [*TINY, *SWEEPS["multi-bin-fig3"]]))
    some = ["throughput_requests_per_s", "latency_mean_s", "latency_quantile_s", "requests", "utilisation"]
    cube = whole[some].assign_attrs(whole.attrs)
    # One with the checksums of HDF5 over its data, and one without.
    cube.to_netcdf(tmp_path / "plain.nc")
    goods = [write_cube(cube, tmp_path / "good.nc").read_bytes(), (tmp_path / "plain.nc").read_bytes()]
    told: Counter[str] = Counter()
    total = count() // len(goods)
    for good in goods:
        assert _said_of(good, tmp_path / "mutant.nc") == "served"
        first = 0
        while first < total:
            done, ended = _child(good, first, total, tmp_path / "mutant.nc")
            told.update(done)
            first += sum(done.values())
            if ended:  # the mutant at hand ended the child
                told[ended] += 1
                first += 1
    print(dict(told))
    assert not told["FAULT"], told
    assert told["served"] + told["refused"] > 0.9 * count()


def _child(good: bytes, first: int, total: int, path: Path) -> tuple[Counter[str], str]:
    """Judge mutants from `first` on in a child; return what was said of each, and what ended it before the last."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writing, "w", buffering=1) as say:
            os.dup2(os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # Python's own handler waits until a library returns
            warnings.simplefilter("ignore")
            np.seterr(all="warn")  # as in a user's program
            for wrong in islice(mutants(good, mutate_bytes, 1), first, total):
                signal.alarm(SECONDS)
                say.write(f"{_said_of(wrong, path)}\n")
            signal.alarm(0)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        done = Counter(said.read().split())
    _, status = os.waitpid(child, 0)
    return done, f"the library: {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else ""


def _said_of(wrong: bytes, path: Path) -> str:
    path.write_bytes(wrong)
    try:
        with refused():
            print_summary(read_cube(path), Console(file=io.StringIO(), width=100))
            return "served"
    except BaseException:
        traceback.print_exc()
        return "FAULT"
    return "refused"
