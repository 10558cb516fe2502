"""What batchcube costs, as ratios measured in one run.

    pip install -e '.[bench]'
    python benchmarks/run.py                      # everything, a few minutes
    python benchmarks/run.py kernel simpy         # some sections
    python benchmarks/run.py --quick              # everything, fewer requests and repetitions

Each line sets ours beside a peer; both are timed in turn, repetition by repetition, and the ratio is the median over
the repetitions with the middle half of them. Where a peer computes the same thing, the line says how far the means are
apart.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import yardstick
from batchcube import engine
from batchcube.engine.policies.memory import memory_bound, no_memory_bound
from batchcube.engine.policies.service import formula, given
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.policies.target import fixed_target
from batchcube.sweeps.run.execution import run_sweep
from measure import Row, Seconds, interleave, nanoseconds, number, peak_memory, ratio, show
from peers import Means

REQUESTS = 128_000
LOW_S, HIGH_S = 1.0, 20.0
SERVERS_RATE = 15.0
"""Arrivals per second at B = 128 in the rows against C: more than one server can do, as in [MB] Fig. 3's right half."""


class Options(NamedTuple):
    quick: bool
    repetitions: int
    yardstick: yardstick.Yardstick | None

    def requests(self, full: int) -> int:
        return full // 8 if self.quick else full


class Drawn(NamedTuple):
    """One trace of [MB]'s model, as the peers want it."""

    arrival_s: NDArray[np.float64]
    service_s: NDArray[np.float64]
    bins: NDArray[np.int32]


def draw(requests: int, bins: int, rate: float, seed: int) -> Drawn:
    """Draw Poisson arrivals and U(1, 20) service times, in whole microseconds, and sort them into equal-mass bins."""
    source = np.random.default_rng(seed)
    arrival = np.round(np.cumsum(source.standard_exponential(requests)) / rate, 6)
    unit = source.random(requests)
    return Drawn(arrival, np.round(LOW_S + (HIGH_S - LOW_S) * unit, 6), (unit * bins).astype(np.int32))


def simulate(jobs: Sequence[engine.Job]) -> dict[str, Any]:
    """Simulate replications of one shape; return their whole reports."""
    policy, reporting = jobs[0].setup.policy, jobs[0].setup.reporting
    return engine.simulate_many(jobs, engine.Shape(len(jobs[0].bins.start) - 1, policy.batch_size, reporting.windows))


def static_job(drawn: Drawn, bins: int, batch: int) -> engine.Job:
    """Set up `multi_bin_only` with everything that a report can hold."""
    setup = engine.Setup(
        engine.make_policy("multi_bin_only", batch_size=batch, tail="drop"),
        given(largest_batch=batch),
        fixed_target(1, batch, np.ones(bins), np.ones(bins)),
        engine.make_reporting(horizon_s=float(drawn.arrival_s[-1]), windows=50, request_sla_s=60.0),
    )
    trace = engine.make_trace(drawn.arrival_s, service_s=drawn.service_s)
    return engine.Job(trace, engine.sort_into_bins(drawn.bins, bins), setup)


A0_S, A1_S, GAMMA = 0.05, 0.02, 0.02
TARGET_S, TOLERANCE_S, ALPHA, DELTA, LARGEST = 0.06, 0.002, 16.0, 4.0, 256


def token_trace(requests: int, rate: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw Poisson arrivals and 1 to 300 output tokens."""
    source = np.random.default_rng(seed)
    arrival = np.round(np.cumsum(source.standard_exponential(requests)) / rate, 6)
    return arrival, source.integers(1, 301, requests)


def dynamic_job(mode: str, requests: int, rate: float, bins: int, seed: int) -> engine.Job:
    """Set up a dynamic mode with both bounds at work: Algorithm 1's exact rule and Algorithm 2 as printed."""
    arrival, output = token_trace(requests, rate, seed)
    fixed = fixed_target(1, LARGEST, np.full(bins, 150.0), np.full(bins, 30000.0))
    control = fixed._replace(
        sla=sla_search("paper", "tbt", TARGET_S, TOLERANCE_S, ALPHA, DELTA),
        memory=memory_bound("exact", 1e6, 0.05),
    )
    setup = engine.Setup(
        engine.make_policy(mode, batch_size=LARGEST),
        formula(A0_S, A1_S, "linear", GAMMA, largest_batch=LARGEST),
        control,
        engine.make_reporting(horizon_s=float(arrival[-1]), windows=50, request_sla_s=60.0, token_sla_s=0.1),
    )
    bin_of_request = ((output - 1) * bins // 300).astype(np.int32)
    return engine.Job(
        engine.make_trace(arrival, output_tokens=output), engine.sort_into_bins(bin_of_request, bins), setup
    )


def apart(ours: float, theirs: float) -> str:
    return f"{abs(ours / theirs - 1.0):.0e}"


def agreement(report: dict[str, Any], means: Means) -> str:
    """Say how far throughput and mean latency are from a peer's."""
    return (
        f"throughput {apart(report['throughput_requests_per_s'][0], means.throughput_requests_per_s)}, "
        f"latency {apart(report['latency_mean_s'][0], means.latency_mean_s)}"
    )


NO_COMPILER = "no C compiler was found (cc, gcc, clang): the rows against C are left out"


BLOCK = 4
"""Replications in one call, as in a sweep."""


def kernel(options: Options) -> None:
    """Full report of one replication on one thread, against C that keeps means only."""
    c = options.yardstick
    if c is None:
        return show("multi_bin_only against C", [], [NO_COMPILER])
    rows = [row for bins in (1, 8) for batch in (8, 128) for row in kernel_rows(c, bins, batch, options)]
    return show(
        f"multi_bin_only against C, one thread, per request of {BLOCK} x {REQUESTS:,}",
        rows,
        ["C draws its trace in the loop (first lines); ours reads a trace that a grid draws once: see `grid`."],
    )


def kernel_rows(c: yardstick.Yardstick, bins: int, batch: int, options: Options) -> list[Row]:
    rate = SERVERS_RATE * batch / 128
    drawn = [draw(REQUESTS, bins, rate, seed) for seed in range(BLOCK)]
    jobs = [static_job(one, bins, batch) for one in drawn]
    ours, loop, same = interleave(
        lambda r: simulate(jobs),
        lambda r: [c.drawn(REQUESTS, bins, batch, rate, LOW_S, HIGH_S, BLOCK * r + run) for run in range(BLOCK)],
        lambda r: [c.trace(*one, batch) for one in drawn],
        repetitions=options.repetitions,
    )
    each = nanoseconds(ours.processor, BLOCK * REQUESTS)
    return [
        Row(
            f"k={bins} B={batch}, full report; C: means only",
            each,
            nanoseconds(loop.processor, BLOCK * REQUESTS),
            str(ratio(ours.processor, loop.processor)),
            "<= 2",
            agreement(simulate(jobs), c.trace(*drawn[0], batch)),
        ),
        Row(
            "  C on the same arrays, nothing drawn",
            each,
            nanoseconds(same.processor, BLOCK * REQUESTS),
            str(ratio(ours.processor, same.processor)),
        ),
    ]


def dynamic(options: Options) -> None:
    """Dynamic modes with both bounds at work, against the static C of the same number of bins."""
    c = options.yardstick
    if c is None:
        return show("dynamic modes against C", [], [NO_COMPILER])
    rows = [
        dynamic_row(c, mode, bins, load, rate, options)
        for mode, bins in (("dynamic_only", 1), ("multi_bin_dynamic", 8))
        for load, rate in (("light", 2.0), ("heavy", 12.0))
    ]
    return show(
        f"dynamic modes against C's multi_bin_only (B=128), one thread, per request of {BLOCK} x {REQUESTS:,}", rows
    )


def dynamic_row(c: yardstick.Yardstick, mode: str, bins: int, load: str, rate: float, options: Options) -> Row:
    jobs = [dynamic_job(mode, REQUESTS, rate, bins, seed) for seed in range(BLOCK)]
    ours, loop = interleave(
        lambda r: simulate(jobs),
        lambda r: [c.drawn(REQUESTS, bins, 128, SERVERS_RATE, LOW_S, HIGH_S, BLOCK * r + run) for run in range(BLOCK)],
        repetitions=options.repetitions,
    )
    size = simulate(jobs)["batch_size_mean"][0]
    return Row(
        f"{mode} k={bins}, {load} load, mean batch {size:.1f}",
        nanoseconds(ours.processor, BLOCK * REQUESTS),
        nanoseconds(loop.processor, BLOCK * REQUESTS),
        str(ratio(ours.processor, loop.processor)),
        "<= 5",
    )


def run_figure_3(requests: int, rates: int, replications: int, workers: int) -> Any:
    """Run the preset of [MB] Fig. 3: five numbers of bins by `rates` arrival rates, and return the cube."""
    from batchcube.sweeps.spec.document import Sweep

    settings = (f"workload.requests={requests}", f"replications={replications}", f"axes.arrival_rate_per_s.num={rates}")
    return run_sweep(Sweep.from_toml("multi-bin-fig3", settings), workers=workers)


def run_points(requests: int, rates: int, repetition: int) -> Any:
    """Run a grid of 5 x `rates` points twice replicated, on one thread."""
    return run_figure_3(requests, rates, 2, 1)


def grid(options: Options) -> None:
    """[MB] Fig. 3 from specification to cube, traces drawn, on one thread and on two."""
    c = options.yardstick
    requests, replications = (32_000, 3) if options.quick else (REQUESTS, 10)
    total = 5 * 19 * replications * requests
    loops: list[Callable[[int], object]] = [
        lambda r: run_figure_3(requests, 19, replications, 1),
        lambda r: run_figure_3(requests, 19, replications, 2),
    ]
    if c is not None:
        loops.append(lambda r: draw_in_c(c, r))
    one, two, *loop = interleave(*loops, repetitions=3 if options.quick else 5)
    rows = [Row(f"whole grid, {total:,} requests, two threads", f"{statistics.median(two.wall):.2f} s", goal="a few s")]
    for drawn in loop:
        scale = 5 * IN_C / total
        per_request = nanoseconds(drawn.processor, 5 * IN_C)
        rows += [
            Row(
                "per request, one thread; C: one thread, own draws, means",
                nanoseconds(one.processor, total),
                per_request,
                str(ratio(one.processor, drawn.processor, scale)),
                "< 1",
            ),
            Row(
                "  two threads by the clock",
                nanoseconds(two.wall, total),
                per_request,
                str(ratio(two.wall, drawn.processor, scale)),
            ),
        ]
    show(
        "[MB] Fig. 3 as a sweep: specification read, traces drawn, cube built",
        rows,
        [NO_COMPILER] if c is None else [],
    )


IN_C = 4_000_000


def draw_in_c(c: yardstick.Yardstick, seed: int, bins: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
    """Run the yardstick once for each number of bins."""
    for k in bins:
        c.drawn(IN_C, k, 128, SERVERS_RATE, LOW_S, HIGH_S, seed + 1)


def threads(options: Options) -> None:
    """Two threads against one, for a sweep and for C, which shares nothing: what the machine has to give just now."""
    c = options.yardstick
    replications = 4 if options.quick else 10
    loops: list[Callable[[int], object]] = [
        lambda r: run_figure_3(REQUESTS, 19, replications, 1),
        lambda r: run_figure_3(REQUESTS, 19, replications, 2),
    ]
    with ThreadPoolExecutor(2) as pool:
        if c is not None:
            loops += [
                lambda r: draw_in_c(c, r, (1, 2) * 4),
                lambda r: list(pool.map(lambda k: draw_in_c(c, r, (k,) * 4), (1, 2))),
            ]
        one, two, *both = interleave(*loops, repetitions=5 if options.quick else 9)
    rows = [gain_row("[MB] Fig. 3", one, two, ">= 1.8")]
    if both:
        rows.append(gain_row("C, two copies", both[0], both[1]))
    heads = Row("what", "two threads", "one thread", "gain (middle half)", "goal", "largest gain")
    notes = ["Threads only gain what other programs leave of the cores: read the sweep's gain beside C's."]
    show(f"two threads against one, by the clock; {os.cpu_count()} cores", rows, notes, heads)


def gain_row(what: str, one: Seconds, two: Seconds, goal: str = "") -> Row:
    gain = ratio(one.wall, two.wall)
    largest = max(single / double for single, double in zip(one.wall, two.wall, strict=True))
    short, long = (f"{statistics.median(seconds.wall):.2f} s" for seconds in (two, one))
    return Row(what, short, long, str(gain), goal, number(largest))


MANY = BLOCK * REQUESTS


def against(what: str, ours: Seconds, theirs: Seconds, requests: int, goal: str = "", close: str = "") -> Row:
    """Compare `MANY` requests of ours with `requests` of a slower peer."""
    return Row(
        what,
        nanoseconds(ours.processor, MANY),
        nanoseconds(theirs.processor, requests),
        f"{ratio(theirs.processor, ours.processor, MANY / requests)} x",
        goal,
        close,
    )


def simpy(options: Options) -> None:
    """The same models in SimPy, on the same traces."""
    requests = options.requests(REQUESTS)
    rows = [row for shape in ((4, 8, 0.5), (5, 128, 9.0)) for row in simpy_static(requests, *shape, options)]
    rows += [simpy_dynamic(requests, load, rate, options) for load, rate in (("light", 2.0), ("heavy", 12.0))]
    show(
        f"SimPy {version('simpy')}, one thread, per request: {requests:,} there, {BLOCK} x {REQUESTS:,} here",
        rows,
        [
            "SimPy keeps means; ours fills the whole report. dynamic_only has no process for each request.",
            "Agreement is on one and the same trace.",
        ],
    )


def simpy_static(requests: int, bins: int, batch: int, rate: float, options: Options) -> list[Row]:
    from peers import simpy_model

    drawn = draw(requests, bins, rate, 0)
    arrival, service, own = (array.tolist() for array in drawn)
    block = [draw(REQUESTS, bins, rate, seed) for seed in range(BLOCK)]
    jobs = [static_job(one, bins, batch) for one in block]
    ours, theirs, lean, prepared = interleave(
        lambda r: simulate(jobs),
        lambda r: simpy_model.multi_bin_only(arrival, service, own, batch),
        lambda r: simpy_model.multi_bin_only_lean(arrival, service, own, batch),
        lambda r: simulate([static_job(one, bins, batch) for one in block]),
        repetitions=3 if options.quick else 5,
    )
    report = simulate([static_job(drawn, bins, batch)])
    full, means = (
        agreement(report, peer(arrival, service, own, batch))
        for peer in (simpy_model.multi_bin_only, simpy_model.multi_bin_only_lean)
    )
    return [
        against(f"multi_bin_only k={bins} B={batch}", ours, theirs, requests, ">= 1000", full),
        against("  SimPy without a process for each request", ours, lean, requests, "", means),
        against("  ours with the trace checked and sorted too", prepared, theirs, requests),
    ]


def simpy_dynamic(requests: int, load: str, rate: float, options: Options) -> Row:
    from peers import simpy_model

    arrival, output = (array.tolist() for array in token_trace(requests, rate, 0))

    def peer() -> Means:
        search = simpy_model.Search(TARGET_S, TOLERANCE_S, ALPHA, DELTA, 1, LARGEST)
        return simpy_model.dynamic_only(arrival, output, A0_S, A1_S, GAMMA, search)

    jobs = [without_memory_bound(dynamic_job("dynamic_only", REQUESTS, rate, 1, seed)) for seed in range(BLOCK)]
    ours, theirs = interleave(lambda r: simulate(jobs), lambda r: peer(), repetitions=3 if options.quick else 5)
    report = simulate([without_memory_bound(dynamic_job("dynamic_only", requests, rate, 1, 0))])
    what = f"dynamic_only, Algorithm 2, {load} load"
    return against(what, ours, theirs, requests, ">= 1000", agreement(report, peer()))


def without_memory_bound(job: engine.Job) -> engine.Job:
    """Leave Algorithm 2 alone at work, as in the peer."""
    control = job.setup.control._replace(memory=no_memory_bound())
    return job._replace(setup=job.setup._replace(control=control))


def ciw(options: Options) -> None:
    """What Ciw can express of `multi_bin_only`; see peers/ciw_model.py."""
    from peers import ciw_model

    requests = options.requests(40_000)
    bins, batch, rate = 4, 8, 0.5
    drawn = draw(requests, bins, rate, 0)
    arrival, service, own = (array.tolist() for array in drawn)
    jobs = [static_job(draw(REQUESTS, bins, rate, seed), bins, batch) for seed in range(BLOCK)]
    ours, per_request, per_batch = interleave(
        lambda r: simulate(jobs),
        lambda r: ciw_model.one_customer_per_request(arrival, service, own, batch),
        lambda r: ciw_model.one_customer_per_batch(requests, rate, LOW_S, HIGH_S, bins, batch, r),
        repetitions=3,
    )
    report = simulate([static_job(drawn, bins, batch)])
    each = agreement(report, ciw_model.one_customer_per_request(arrival, service, own, batch))
    whole = agreement(report, ciw_model.one_customer_per_batch(requests, rate, LOW_S, HIGH_S, bins, batch, 0))
    show(
        f"Ciw {version('ciw')}, one thread, per request: {requests:,} there, {BLOCK} x {REQUESTS:,} here",
        [
            against(f"k={bins} B={batch}, our node class, same trace", ours, per_request, requests, "", each),
            against("  a customer is a batch, own draws", ours, per_batch, requests, "", whole),
        ],
        ["Ciw has no batch service; what the two rows are is told in peers/ciw_model.py."],
    )


def child(*arguments: str, **environment: str) -> str:
    """Run Python in another process; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout


def scaling(options: Options) -> None:
    """Cost per request of longer replications, and per point of larger grids; memory beside the trace."""
    sizes = (10_000, 100_000, 1_000_000) if options.quick else (100_000, 1_000_000, 10_000_000)
    rows = []
    for mode in ("multi_bin_only", "dynamic_only", "multi_bin_dynamic"):
        first = 0.0
        for requests in sizes:
            found = json.loads(child("one_replication.py", mode, str(requests), "3"))
            each = found["s"] / requests
            first = first or each
            rows.append(
                Row(
                    f"{mode}, {requests:,} requests",
                    f"{number(1e9 * each)} ns",
                    f"{number(1e9 * first)} ns",
                    number(each / first),
                    "<= 1",
                    f"{megabytes(found['peak'])}: trace {megabytes(found['trace'])}, "
                    f"simulating added {megabytes(found['peak'] - found['before'])}",
                )
            )
    heads = Row("what", "time", "shortest", "ratio", "goal", "peak memory of the process")
    show("linear in requests: per request, one replication in its own process, one thread", rows, heads=heads)

    requests = options.requests(64_000)
    rates = (5, 10, 20, 40)
    seconds = interleave(*(partial(run_points, requests, count) for count in rates), repetitions=3)
    rows = [
        Row(
            f"{5 * count} points",
            f"{number(1e3 * statistics.median(own.processor) / (5 * count))} ms",
            f"{number(1e3 * statistics.median(seconds[0].processor) / (5 * rates[0]))} ms",
            str(ratio(own.processor, seconds[0].processor, rates[0] / count)),
            "<= 1",
        )
        for count, own in zip(rates, seconds, strict=True)
    ]
    heads = Row("what", "time", "smallest", "ratio (middle half)", "goal")
    title = f"linear in the grid: per point of 2 x {requests:,} requests, one thread, from specification to cube"
    show(title, rows, heads=heads)


def megabytes(size: float) -> str:
    return f"{number(size / 2**20)} MiB"


def run_mode(mode: str) -> Any:
    """Run a very small sweep of one mode."""
    from batchcube.sweeps.spec.document import Sweep

    bins = {"bins": 2} if mode.startswith("multi_bin") else {}
    size = {"batch_size": 8} if mode in ("multi_bin_only", "fifo_fixed", "fifo_greedy") else {"largest_batch": 8}
    return run_sweep(
        Sweep.model_validate(
            {
                "replications": 2,
                "workload": {
                    "requests": 200,
                    "arrivals": {"process": "poisson"},
                    "lengths": {"distribution": "uniform", "low": 1, "high": 300},
                },
                "policy": {"mode": mode, **bins, **size},
                "server": {"service": {"law": "constant", "a0_s": A0_S, "a1_s_per_token": A1_S}},
                "axes": {"arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [1.0, 2.0]}},
            }
        ),
        workers=1,
    )


FIRST_RESULT = """
import os, sys, time
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.progress import PlainLines

def show(self, text):
    print(time.time() - float(sys.argv[1]), time.process_time(), flush=True)
    os._exit(0)

PlainLines.show = show
main(["run", *sys.argv[2:]])
"""
SMALL_RUNS = (
    ("multi-bin-fig8", "--replications", "4", "--set", "workload.requests=4000"),
    ("continuous-rate", "--replications", "4", "--set", "workload.requests=1000"),
)


def first_result(run: Sequence[str], repetitions: int) -> Seconds:
    """Time a run from the start of its process to the first result that it shows, everything kept from runs before."""
    seconds = Seconds([], [])
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repetitions + 1):
            settings = (*run, "--output", f"{folder}/{repetition}.nc")
            # As Python is installed: with the byte code of modules kept.
            told = child("-c", FIRST_RESULT, str(time.time()), *settings, PYTHONDONTWRITEBYTECODE="")
            if repetition:
                wall, processor = map(float, told.split())
                seconds.wall.append(wall)
                seconds.processor.append(processor)
    return seconds


def start(options: Options) -> None:
    """Compile from nothing, start from the cache, show a first result, and print the help."""
    rows = []
    for what, modes in (("multi_bin_only", ("multi_bin_only",)), ("all five modes", engine.MODES)):
        program = f"from run import run_mode\nfor mode in {modes!r}: run_mode(mode)"
        with tempfile.TemporaryDirectory() as folder:
            times = []
            for _ in range(2 if options.quick else 4):
                begin = time.perf_counter()
                child("-c", program, BATCHCUBE_CACHE=folder)
                times.append(time.perf_counter() - begin)
        rows.append(Row(f"first run, {what}: compiled", f"{times[0]:.1f} s", goal="< 20 s"))
        rows.append(Row(f"next run, {what}: from the cache", f"{statistics.median(times[1:]):.2f} s", goal="< 2 s"))
    for run in SMALL_RUNS:
        seconds = first_result(run, 3 if options.quick else 9)
        rows.append(
            Row(
                f"batchcube run {run[0]}, {run[-1].partition('=')[2]} requests a point: first result",
                f"{statistics.median(seconds.wall):.2f} s, {statistics.median(seconds.processor):.2f} s of processor",
                goal="< 1 s",
            )
        )
    command = Path(sys.executable).with_name("batchcube")
    script = f"import sys; sys.argv = ['batchcube', '--help']; exec(open({str(command)!r}).read())"
    helps, bare = interleave(lambda r: child("-c", script), lambda r: child("-c", "pass"), repetitions=9)
    rows.append(
        Row(
            "batchcube --help; peer: Python that does nothing",
            f"{statistics.median(helps.wall):.2f} s",
            f"{statistics.median(bare.wall):.2f} s",
            goal="< 0.5 s",
        )
    )
    show("starting: a process from beginning to end", rows)


SECTIONS: dict[str, Callable[[Options], None]] = {
    "kernel": kernel,
    "dynamic": dynamic,
    "grid": grid,
    "threads": threads,
    "simpy": simpy,
    "ciw": ciw,
    "scaling": scaling,
    "start": start,
}
NEEDS = {"simpy": "simpy", "ciw": "ciw"}


def processor() -> str:
    """Name the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="What batchcube costs, as ratios measured in one run.")
    listed = ", ".join(SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {listed}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="fewer requests and repetitions")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: must be some of {listed}")

    c = yardstick.build()
    load = os.getloadavg()[0]
    print(f"{processor()}, {os.cpu_count()} cores, load {load:.1f} at the start; {platform.system()}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, numba {version('numba')}, ", end="")
    print(f"C by {c.compiler} -O3 -march=native" if c else NO_COMPILER)
    options = Options(arguments.quick, 5 if arguments.quick else 21, c)
    for name in arguments.sections or SECTIONS:
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            print(f"\n## {name}: left out, {NEEDS[name]} is not installed (pip install -e '.[bench]')")
            continue
        SECTIONS[name](options)
    print(f"peak memory of this process: {megabytes(peak_memory())}")


if __name__ == "__main__":
    main()
