"""What `import batchcube` offers."""

import os
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from .errors import InputError, suggestion

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from batchcube.engine.policies import Controller, Order
    from batchcube.sweeps.planning.answer import Answer
    from batchcube.sweeps.run.executors import Executor
    from batchcube.sweeps.run.single import Replication
    from batchcube.sweeps.spec.document import Sweep


class Tables(TypedDict, total=False):
    """The tables of a specification; `batchcube specs NAME` prints examples, `batchcube schema` has every setting."""

    name: str
    title: str
    description: str
    seed: int
    replications: int
    workload: Mapping[str, Any]
    policy: Mapping[str, Any]
    server: Mapping[str, Any]
    report: Mapping[str, Any]
    axes: Mapping[str, Any]


class Asked(TypedDict, total=False):
    """What else a plan may be asked."""

    goodput: float
    gpu_price: float
    replicas_max: int
    objective: str
    confidence: float
    indifference: float
    budget: str | float
    model: str
    gpu: str
    tensor_parallel: int
    coefficients: str | os.PathLike[str]
    lengths: str | os.PathLike[str]
    trace: str | os.PathLike[str]


class Searched(TypedDict, total=False):
    """What else a search for capacities may be asked."""

    tolerance: float
    growth: float


def sweep(**tables: Unpack[Tables]) -> "Sweep":
    """Build a sweep: the tables of a specification as keyword arguments, its settings as nested dictionaries.

    Values may be NumPy's, ranges and paths. In `axes` the dotted path of a setting may stand for a name, and its values
    for a table: ``{"policy.bins": [1, 2, 4]}`` is ``{"bins": {"path": "policy.bins", "values": [1, 2, 4]}}``.
    Raises InputError with one line for each mistake.

    >>> sweep = bc.sweep(
    ...     name="bins",
    ...     replications=4,
    ...     workload={
    ...         "requests": 2000,
    ...         "arrivals": {"process": "poisson", "rate_per_s": 12.0},
    ...         "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
    ...     },
    ...     policy={"mode": "multi_bin_only", "batch_size": 64},
    ...     server={"service": {"law": "given"}},
    ...     axes={"policy.bins": [1, 2, 4]},
    ... )
    >>> sweep.grid.shape
    (3,)
    """
    return _build(tables)


def load_spec(spec: str | os.PathLike[str], settings: Mapping[str, Any] | None = None) -> "Sweep":
    """Read a sweep from a TOML file, or a preset by its name, with settings by their dotted paths laid over it.

    Raises InputError with one line for each mistake.

    >>> sweep = bc.load_spec("multi-bin-fig8", {"workload.requests": 4000, "replications": 3})
    >>> sweep.replications
    3
    """
    from batchcube.sweeps.spec.document import Sweep

    return Sweep.from_toml(spec, _settings(settings))


def register(policy: "Controller | Order") -> None:
    """Make a policy of your own known by its name, in this process; `docs/policies.md` shows how to write one.

    Installed packages may offer theirs without it. Raises InputError for what is no policy, for a name that is taken
    by batchcube, and for settings that are not numbers.

    >>> from typing import NamedTuple
    >>> from batchcube.engine.policies import Order
    >>> class Settings(NamedTuple):
    ...     weight: float = 1.0
    >>> def key(candidate, settings):
    ...     "Serve batches of many short requests first."
    ...     return candidate.predicted - settings.weight * candidate.size
    >>> bc.register(Order("many_short_first", Settings, key))
    >>> order = {"policy.service_order": {"name": "many_short_first", "weight": 0.5}}
    >>> bc.load_spec("multi-bin-fig3", order).grid.points[0].policy.service_order.weight
    0.5
    """
    from batchcube.engine.policies import register as make_known

    make_known(policy)


def run(
    sweep: "Sweep | str | os.PathLike[str] | Mapping[str, Any]",
    output: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    backend: str = "numba",
    executor: "Executor | str | None" = None,
    overwrite: bool = False,
    quiet: bool = False,
    precision: str | Iterable[str] | Mapping[str, float | str] | None = None,
    max_replications: int | None = None,
) -> "xr.Dataset":
    """Simulate every point and replication of a sweep and return the cube; with `output`, also write it there.

    `sweep` may be what `load_spec` reads, or its tables. With `output`, a run that was stopped goes on where it was,
    and a cube of the same sweep with fewer replications is extended, unless `overwrite` begins afresh. `workers` are
    threads, all cores when left out; `backend` is "numba", "jax" (GPUs) or "reference" (plain Python), with the same
    numbers. `executor` simulates instead of threads: one of `concurrent.futures` or what is like one (loky,
    mpi4py.futures), a client of Dask, or a name as of the command, ``"dask://HOST:PORT"``. Progress and notes are shown
    unless `quiet`. With `precision`, ``"2%"`` or ``{"latency_mean_s": "1%"}``, replications are added until half the
    width of every 95 % interval is at most that part of its mean (points, of shares), or there are `max_replications`;
    those of the sweep are what the first look is at.

    >>> cube = bc.run(bc.load_spec("multi-bin-fig8", {"workload.requests": 1000, "replications": 2}), quiet=True)
    >>> dict(cube["latency_mean_s"].sizes)
    {'bins': 4, 'error_probability': 11, 'replication': 2}
    """
    from batchcube.results.precision import asked
    from batchcube.sweeps.progress import shown, tell_notes
    from batchcube.sweeps.run.execution import run_sweep
    from batchcube.sweeps.run.executors import connected

    _require_counts(workers=workers, max_replications=max_replications)
    texts = [] if precision is None else _texts("precision", precision, "'2%'", {"ttft_p99_s": "1%"})
    with connected(executor, workers) as where, shown(quiet=quiet) as progress:
        cube = run_sweep(
            _sweep(sweep),
            output,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
            backend=backend,
            executor=where,
            precision=asked(texts, max_replications),
        )
    if not quiet:
        tell_notes(cube)
    return cube


def capacity(
    sweep: "Sweep | str | os.PathLike[str] | Mapping[str, Any]",
    slo: Mapping[str, float] | Iterable[str],
    output: str | os.PathLike[str] | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    workers: int | None = None,
    backend: str = "numba",
    executor: "Executor | str | None" = None,
    overwrite: bool = False,
    quiet: bool = False,
    **search: Unpack[Searched],
) -> "xr.Dataset":
    """Search the largest arrival rate at which every limit holds, at each point and replication, and return the cube.

    `slo` names the limits as the command does, ``{"latency_p95_s": 10.0}`` or ``["latency_p95_s=10"]``. The search
    stays between the rates `low` and `high`, or starts from that of the sweep; an axis of rates is left out. `search`
    may set `tolerance`, the relative width to narrow the answer down to, and `growth`, how much of the arrivals a
    backlog may keep. The rest is as for `run`.

    >>> settings = {"workload.requests": 2000, "replications": 2, "policy.batch_size": 16}
    >>> settings |= {"axes.bins.values": [1, 4], "axes.error_probability.values": [0.1]}
    >>> cube = bc.capacity(bc.load_spec("multi-bin-fig8", settings), {"latency_mean_s": 60.0}, quiet=True)
    >>> bool((cube["capacity_requests_per_s"] > 0.5).all())
    True
    """
    from batchcube.sweeps.progress import print_lines, shown, tell_notes
    from batchcube.sweeps.run.capacity import find_capacity, without_rates
    from batchcube.sweeps.run.executors import connected

    _require_known(search, Searched.__annotations__)
    _require_numbers(**search, **{name: end for name, end in (("low", low), ("high", high)) if end is not None})
    _require_counts(workers=workers)
    criteria = _limits(slo)
    one_rate, said = without_rates(_sweep(sweep))
    if said:
        print_lines(quiet=quiet)(said)
    with connected(executor, workers) as where, shown(quiet=quiet) as progress:
        cube = find_capacity(
            one_rate,
            criteria,
            low,
            high,
            output=output,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
            backend=backend,
            executor=where,
            **search,
        )
    if not quiet:
        tell_notes(cube)
    return cube


def plan(
    spec: str | os.PathLike[str] | None = None,
    slo: Mapping[str, float] | Iterable[str] = (),
    output: str | os.PathLike[str] | None = None,
    *,
    rate: float | None = None,
    vary: Mapping[str, Iterable[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    backend: str = "numba",
    executor: "Executor | str | None" = None,
    overwrite: bool = False,
    quiet: bool = False,
    **question: Unpack[Asked],
) -> "Answer":
    """Decide which configuration holds all limits on the fewest GPUs, and say how sure that is.

    `spec` is what `load_spec` reads; without one, `rate` is needed, and `model` and `gpu` or `coefficients`. `slo`
    names the limits as the command does, `vary` has the values of settings by their dotted paths, `settings` are laid
    over the specification. `question` may set `goodput`, `gpu_price`, `replicas_max`, `objective`, `confidence`,
    `indifference`, `budget`, and without a specification `model`, `gpu`, `tensor_parallel`, `coefficients`, `lengths`
    and `trace`. The answer prints in words; it has `best`, `fewer`, `runner_up` and more, `as_dict()`, and its `cube`.
    With `output` a plan that was stopped goes on.

    >>> limits = {"ttft_p99_s": 5.0, "tpot_mean_s": 0.1}
    >>> few = {"workload.requests": 300}
    >>> answer = bc.plan("continuous-rate", limits, rate=4.0, vary={"policy.bins": [1]}, settings=few, quiet=True)
    >>> answer.found, answer.best.replicas
    (True, 1)
    """
    from batchcube.sweeps.planning.decide import decide
    from batchcube.sweeps.planning.question import ask
    from batchcube.sweeps.progress import print_lines
    from batchcube.sweeps.run.executors import connected

    if not isinstance(spec, str | os.PathLike | None):
        raise InputError("must be a TOML file or the name of a preset; `settings` change it", path="`spec`")
    _require_known(question, Asked.__annotations__)
    _require_counts(workers=workers)
    given: dict[str, Any] = _plain({"rate": rate, "vary": vary or {}, "settings": _settings(settings), **question})
    asked = ask(spec, slo=_limits(slo), **given)
    say = print_lines(quiet=quiet)
    with connected(executor, workers) as where:
        return decide(asked, output, workers=workers, overwrite=overwrite, backend=backend, executor=where, say=say)


def simulate(
    sweep: "Sweep | str | os.PathLike[str] | Mapping[str, Any]",
    at: Mapping[str, object] | None = None,
    *,
    requests: Mapping[str, Any] | None = None,
    replication: int = 0,
    backend: str = "numba",
) -> "Replication":
    """Simulate one replication of one point of a sweep, and say what became of each request.

    `at` chooses the point, {axis: value}; axes that it leaves out must have one value. `requests`, a table with columns
    ``arrival_s``, ``prompt_tokens``, ``output_tokens`` and, if you like, ``predicted_tokens``, takes the place of the
    sweep's workload: then `sweep` may be the other tables alone, none of its axes may be of the workload, and its
    predictor predicts unless ``predicted_tokens`` do. The result has `requests`, a table with a row for each request,
    its times on the clock of those given, and `report`, the variables of a cube, whose windows begin with the first
    request. Replication `replication` of a cube has the same numbers.

    >>> spec = bc.load_spec("multi-bin-fig8", {"workload.requests": 1000})
    >>> one = bc.simulate(spec, {"bins": 4, "error_probability": 0.1})
    >>> served = one.requests.dropna()
    >>> bool((served["completion_s"] > served["start_s"]).all())
    True
    >>> tables = {
    ...     "policy": {"mode": "fifo_greedy", "batch_size": 2},
    ...     "server": {"service": {"law": "constant", "a0_s": 1.0, "a1_s_per_token": 0.5}},
    ... }
    >>> mine = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [8, 8, 8], "output_tokens": [2, 4, 6]}
    >>> bc.simulate(tables, requests=mine).requests["completion_s"].tolist()
    [2.0, 6.0, 6.0]
    """
    from batchcube.sweeps.run.single import simulate_one, simulate_requests

    _require_numbers(replication=replication)
    if at is not None and not isinstance(at, Mapping):
        raise InputError("must have values by the names of axes, {'bins': 4}", path="`at`", value=at)
    if requests is None:
        return simulate_one(_sweep(sweep), at or {}, replication, backend)
    tables = _tables(sweep) if isinstance(sweep, Mapping) else _sweep(sweep).document
    return simulate_requests(tables, requests, at or {}, replication, backend)


def extend(
    cube: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    *,
    replications: int | None = None,
    workers: int | None = None,
    backend: str = "numba",
    quiet: bool = False,
    trust_paths: bool = False,
) -> "xr.Dataset":
    """Simulate what the cube of a file lacks, write all of it there, and return it.

    `settings` are more values or points of its axes, ``{"axes.bins.values": [16]}``; `replications` are as many as it
    is to have. What it holds stays as it is, what is new is what a run of the whole would have found, and a cube that
    holds all of it already is returned as it is. What was stopped goes on when it is asked for again. A cube names the
    files it was made from; those outside its folder are read with `trust_paths` only. `workers`, `backend` and `quiet`
    are those of `run`. Raises InputError for settings of anything but its axes, and for cubes that no run made.

    >>> few = {"workload.requests": 1000, "replications": 2, "axes.error_probability.values": [0.1]}
    >>> cube = bc.run(bc.load_spec("multi-bin-fig8", few), "fig8.nc", quiet=True)
    >>> more = bc.extend("fig8.nc", {"axes.bins.values": [16]}, replications=3, quiet=True)
    >>> dict(more["latency_mean_s"].sizes)
    {'bins': 5, 'error_probability': 1, 'replication': 3}
    """
    from pathlib import Path

    from batchcube.sweeps.progress import shown, tell_notes
    from batchcube.sweeps.run import growing

    _require_counts(workers=workers, replications=replications)
    with shown(quiet=quiet) as progress:
        grown = growing.extend(
            Path(cube),
            _settings(settings),
            replications=replications,
            workers=workers,
            progress=progress,
            backend=backend,
            trust_paths=trust_paths,
        )
    found = open(cube) if grown is None else grown
    if not quiet:
        tell_notes(found)
    return found


def join(
    cubes: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> "xr.Dataset":
    """Write the cube of several files, which differ in the values of axes or in replications only, and return it.

    Its specification has the values of all, so that `run` and `extend` go on from it. Where cubes have the same points
    they must be equal, and together they must have every point and all replications from 0 on. Notes are shown unless
    `quiet`. Raises InputError, which names the file and what differs, for cubes of other sweeps, versions or seeds, and
    for an output that is there already, unless `overwrite`.

    >>> few = {"workload.requests": 1000, "replications": 2, "axes.error_probability.values": [0.1]}
    >>> for name, bins in (("few.nc", [1, 2]), ("many.nc", [4, 8])):
    ...     part = bc.run(bc.load_spec("multi-bin-fig8", {**few, "axes.bins.values": bins}), name, quiet=True)
    >>> bc.join(["few.nc", "many.nc"], "all.nc", quiet=True)["bins"].values.tolist()
    [1, 2, 4, 8]
    """
    from pathlib import Path

    from batchcube.errors import InputError
    from batchcube.sweeps.progress import tell_notes
    from batchcube.sweeps.run import growing

    # A name has letters, and a cube has variables: neither is a list of files.
    is_list = isinstance(cubes, Iterable) and not isinstance(cubes, str | os.PathLike | Mapping)
    named: list[Any] = list(cubes) if is_list else [None]
    if not all(isinstance(one, str | os.PathLike) for one in named):
        raise InputError("must be a list of the files of cubes", path="`cubes`")
    cube = growing.join([Path(one) for one in named], Path(output), overwrite=overwrite)
    if not quiet:
        tell_notes(cube)
    return cube


def merge(output: str | os.PathLike[str], *, allow_missing: bool = False, quiet: bool = False) -> "xr.Dataset | Answer":
    """Write what `run`, `capacity` or `plan` would have written, of the shards of an output, and return what these do.

    Shards are made by the commands, ``batchcube run sweep.toml -o out.nc --shard 3/64``, on any machines that share the
    folder; what is merged is the same as of one machine, bit for bit. With `allow_missing` the cube of a run lacks the
    replications that are not there at all points. Nothing is simulated, but for the end of a plan. Progress and notes
    are shown unless `quiet`. Raises InputError for shards of something else, and where there are none; with the command
    that makes them MissingShardsError where some are missing and NextRoundError where results call for another round,
    both InputErrors of `batchcube.sweeps.run.shards`.

    >>> import subprocess, sys
    >>> command = [sys.executable, "-m", "batchcube", "run", "multi-bin-fig8", "--set", "workload.requests=1000"]
    >>> for shard in ("2/2", "1/2"):
    ...     made = subprocess.run([*command, "-n", "2", "-o", "fig8.nc", "-q", "--shard", shard], check=True)
    >>> dict(bc.merge("fig8.nc", quiet=True)["latency_mean_s"].sizes)
    {'bins': 4, 'error_probability': 11, 'replication': 2}
    """
    from batchcube.sweeps import merging
    from batchcube.sweeps.planning.answer import Answer
    from batchcube.sweeps.progress import shown, tell_notes

    with shown(quiet=quiet) as progress:
        found = merging.merge(output, progress=progress, allow_missing=allow_missing)
    if not quiet and not isinstance(found, Answer):
        tell_notes(found)
    return found


def open(path: str | os.PathLike[str]) -> "xr.Dataset":
    """Read a cube; one that was changed after it was written is read with a warning.

    One of more than 256 MB is read piece by piece, where somebody asks for values; close it after use (`with`).

    >>> cube = bc.run(bc.load_spec("multi-bin-fig8", {"workload.requests": 1000}), "fig8.nc", quiet=True)
    >>> bc.open("fig8.nc").equals(cube)
    True
    """
    from batchcube.results.cube import read_cube

    return read_cube(path, lambda doubt: warnings.warn(f"{os.fspath(path)}: {doubt}", stacklevel=2))


def interval(
    cube: "xr.Dataset | str | os.PathLike[str]",
    variable: str,
    *,
    ratio_to: Mapping[str, object] | None = None,
    difference_to: Mapping[str, object] | None = None,
    confidence: float = 0.95,
    controls: bool = False,
) -> "xr.Dataset":
    """Return a variable's mean over replications at every point of a cube, or of its file: mean, low, high and n.

    `low` and `high` are the ends of its interval. `variable` is a name (`batchcube variables`), or one quantile of a
    variable, ``latency_quantile_s[0.95]``. `ratio_to` or `difference_to`, {axis: value}, compares with the points at
    that value instead, paired by replication. With `controls`, of 20 replications or more, a mean or a difference is
    without what the luck of arrivals and lengths explains, and `narrowed` says how wide its interval is of the plain
    one.

    >>> cube = bc.run(bc.load_spec("multi-bin-fig8", {"workload.requests": 1000, "replications": 4}), quiet=True)
    >>> found = bc.interval(cube, "latency_quantile_s[0.95]").sel(bins=4, error_probability=0.1)
    >>> bool(found["low"] < found["mean"] < found["high"])
    True
    >>> list(bc.interval(cube, "throughput_requests_per_s", ratio_to={"bins": 1}).data_vars)
    ['ratio', 'low', 'high', 'n']
    """
    from batchcube.results.summary import interval as found

    how: dict[str, Any] = {"ratio_to": ratio_to, "difference_to": difference_to}
    how |= {"confidence": confidence, "controls": controls}
    if isinstance(cube, str | os.PathLike):
        with open(cube) as opened:
            return found(opened, variable, **how)
    return found(cube, variable, **how)


def plot(
    cube: "xr.Dataset | str | os.PathLike[str]",
    figure: str,
    output: str | os.PathLike[str] | None = None,
    **options: Any,
) -> "Figure":
    """Draw a figure from a cube, or from its file, and return it, a Matplotlib figure that a notebook shows by itself.

    `batchcube figures` lists the figures, what each needs, and its options; all take `select`, {axis: value or values},
    `width_mm`, and `paper`, 1 or 2 columns. With `output` it is also written there: .png, .pdf or .svg.

    >>> cube = bc.run(bc.load_spec("multi-bin-fig8", {"workload.requests": 1000, "replications": 4}), quiet=True)
    >>> figure = bc.plot(cube, "throughput-vs-predictor-error", "fig8.png", select={"bins": [1, 4]})
    >>> len(figure.axes)
    1
    """
    from batchcube.figures import registry

    loaded = registry.read(figure, cube) if isinstance(cube, str | os.PathLike) else cube
    drawn = registry.draw(figure, loaded, **options)
    if output is not None:
        registry.save(drawn, loaded, output)
    return drawn


def _build(tables: Mapping[str, Any]) -> "Sweep":
    from batchcube.sweeps.spec.document import Sweep

    return Sweep.model_validate(_tables(tables))


def _tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a specification as a file would give them."""
    document: dict[str, Any] = _plain(tables)
    if isinstance(document.get("axes"), dict):
        document["axes"] = dict(_axis(name, table) for name, table in document["axes"].items())
    return document


def _require_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keywords that there are none of."""
    for name in given:
        if name not in known:
            raise InputError(f"no such argument; {suggestion(name, known)}", path=f"`{name}`")


def _require_numbers(**given: Any) -> None:
    """Refuse arguments that are no numbers."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InputError("must be a number", path=f"`{name}`", value=repr(value))


def _require_counts(**given: Any) -> None:
    """Refuse arguments that count something and are no counts; None is one that was left out."""
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise InputError("must be a whole number >= 1", path=f"`{name}`", value=repr(value))


def _limits(slo: Mapping[str, float] | Iterable[str]) -> list[str]:
    """Return limits as the command takes them."""
    return _texts("slo", slo, "'ttft_p99_s=2'", {"ttft_p99_s": 2.0})


def _texts(name: str, given: Any, text: str, table: dict[str, Any]) -> list[str]:
    """Return what is said in texts, or by name, as the command takes it; a text and a table are examples."""
    if isinstance(given, Mapping):
        return [f"{key}={value}" for key, value in given.items()]
    texts: list[Any] = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(one, str) for one in texts):
        raise InputError(f"must be text, {text}, a list of texts, or {table}", path=f"`{name}`", value=repr(given))
    return texts


def _settings(settings: Mapping[str, Any] | None) -> Any:
    """Return settings as a TOML file would give them."""
    if settings is not None and not isinstance(settings, Mapping):
        problem = "must have values by the paths of settings, {'policy.bins': 4}"
        raise InputError(problem, path="`settings`", value=repr(settings))
    return _plain(settings or {})


def _sweep(sweep: "Sweep | str | os.PathLike[str] | Mapping[str, Any]") -> "Sweep":
    from batchcube.sweeps.spec.document import Sweep

    if isinstance(sweep, Mapping):
        return _build(sweep)
    if isinstance(sweep, str | os.PathLike):
        return load_spec(sweep)
    if isinstance(sweep, Sweep):
        return sweep
    problem = "must be a sweep, its tables, a file or the name of a preset"
    raise InputError(problem, path="`sweep`", value=type(sweep).__name__)


def _plain(value: Any) -> Any:
    """Return nested values as a TOML file would give them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Arrays and scalars of NumPy, and what follows their manners.
    return value.tolist() if hasattr(value, "tolist") else value


def _axis(name: str, table: Any) -> tuple[str, Any]:
    """Return an axis under a name of its own, where the path of its setting stands for it."""
    short, values = name.rpartition(".")[2], table if isinstance(table, dict) else {"values": table}
    return (short, {"path": name, **values}) if short != name else (name, table)
