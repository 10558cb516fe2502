"""Measure how often what the statistics say is right: assurance of choices, coverage of intervals, controls.

    python benchmarks/assurance.py                  # all parts; docs/statistics.md has what they gave
    python benchmarks/assurance.py selection looks --runs 2000

Each part has known truths and fixed seeds; "±" is one standard error of the share before it.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from batchcube.results import controls as control_variates
from batchcube.results import frontier, long_run, statistics
from batchcube.results.precision import level, schedule
from batchcube.results.selection import CANNOT_TELL, FAILS, HOLDS, looks, select
from batchcube.sweeps.planning.defaults import INDIFFERENCE
from batchcube.sweeps.workloads.resampling import resample
from batchcube.sweeps.workloads.traces import RecordedTrace, Resampling

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int, int], Floats]


def main() -> None:
    """Run the parts that are named, all without any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs of each case (%(default)s)")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        print(f"\n# {part}: {(PARTS[part].__doc__ or '').splitlines()[0]}")
        PARTS[part](given.runs)


def share(hits: int, of: int) -> str:
    """Return a share with its standard error, in percent."""
    p = hits / of
    return f"{100 * p:.1f} ± {100 * (max(p * (1 - p), 1 / of**2) / of) ** 0.5:.1f} %"


def skewed(skew: float | None, cv: float) -> Noise:
    """Return what draws (system, replication) of mean 1 that systems share half of: normal, or lognormal."""

    def draw(rng: np.random.Generator, systems: int, count: int) -> Floats:
        z = np.sqrt(0.5) * (rng.normal(size=count) + rng.normal(size=(systems, count)))
        return np.asarray(1.0 + cv * z if skew is None else np.exp(skew * z - skew**2 / 2))

    return draw


KINDS: dict[str, Noise] = {
    "normal, cv 0.05": skewed(None, 0.05),
    "lognormal, cv 0.31, skewness 0.95": skewed(0.3, 0.0),
    "lognormal, cv 0.53, skewness 1.75": skewed(0.5, 0.0),
}
SETTINGS = {
    "all others worse by 2.1 %": [1.0, 1.021, 1.021, 1.021, 1.021],
    "six spread out": [1.05, 1.3, 1.0, 1.2, 1.1, 1.025],
    "five equal": [1.0] * 5,
}


def selection(runs: int) -> None:
    """How often the choice is wrong (5 % are promised), and how many replications it takes."""
    planned = looks(8, 512)
    for kind, draw in KINDS.items():
        for name, means in SETTINGS.items():
            wrong = decided = used = 0
            for run in range(runs):
                values = np.array(means)[:, None] * draw(np.random.default_rng([run, 1]), len(means), planned[-1])
                found = select(values, np.empty((0, *values.shape)), planned, indifference=INDIFFERENCE)
                decided += found.is_decided
                wrong += found.is_decided and found.best is not None and means[found.best] > 1.02 * min(means)
                used += int(found.replications.sum())
            print(
                f"{kind:34s} {name:26s} wrong {share(wrong, runs)}, decided {100 * decided / runs:.0f} %, "
                f"{used / runs:.0f} replications of {len(means) * planned[-1]}"
            )


def limits(runs: int) -> None:
    """How often a verdict on a limit is wrong, or an interval misses, over systems and looks (2.5 % are promised)."""
    planned = looks(8, 512)
    for kind, draw in KINDS.items():
        for name, means in (
            ("0.8 0.9 0.95 1.05 1.1 1.2", [0.8, 0.9, 0.95, 1.05, 1.1, 1.2]),
            ("six at 1.001", [1.001] * 6),
        ):
            truth = np.array(means)
            wrong = missed = open_ = 0
            for run in range(runs):
                ratios = truth[:, None] * draw(np.random.default_rng([run, 2]), len(means), planned[-1])
                # The same objective for all: what is asked is the limits alone.
                found = select(np.ones_like(ratios), ratios[None], planned, indifference=INDIFFERENCE)
                says = found.verdicts[0]
                wrong += bool(np.where(truth <= 1.0, says == FAILS, says == HOLDS).any())
                missed += not ((found.ratios.low[0] <= truth) & (truth <= found.ratios.high[0])).all()
                open_ += int((says == CANNOT_TELL).sum())
            print(
                f"{kind:34s} {name:26s} wrong {share(wrong, runs)}, missed {share(missed, runs)}, "
                f"cannot tell {100 * open_ / runs / len(means):.0f} %"
            )


class Recorded:
    """Replay values to a procedure of sim-tools, which asks for one at a time."""

    def __init__(self, values: Floats) -> None:
        self.values, self.asked = values, np.zeros(len(values), dtype=np.int64)

    def register_observer(self, observer: Any) -> None:
        """Remember who is to be told."""
        self.observer = observer

    def simulate(self, design: int) -> None:
        """Tell the next value of a system."""
        self.observer.feedback(self, design, self.values[design, self.asked[design]])
        self.asked[design] += 1


def kim_nelson(runs: int) -> None:
    """Replications until the choice, ours and those of KN (sim-tools, first look of 8), and how often both agree."""
    from sim_tools.ovs.indifference_zone import KN  # type: ignore[import-untyped]

    draw = KINDS["normal, cv 0.05"]
    planned = looks(8, 512)
    for means in ([1.05, 1.0], [1.0, 1.03], [1.2, 1.05, 1.0, 1.1], [1.0, *np.linspace(1.03, 2.0, 19)]):
        ours = theirs = same = 0
        for run in range(runs // 10):
            values = np.array(means)[:, None] * draw(np.random.default_rng([run, 3]), len(means), 20_000)
            recorded = Recorded(values)
            chosen = KN(recorded, len(means), delta=0.02, alpha=0.05, n_0=8, obj="min").solve()
            found = select(
                values[:, : planned[-1]], np.empty((0, len(means), planned[-1])), planned, indifference=INDIFFERENCE
            )
            ours, theirs = ours + int(found.replications.sum()), theirs + int(recorded.asked.sum())
            same += found.best == chosen[0]
        count = runs // 10
        print(f"{len(means):2d} systems: {ours / count:6.0f} against {theirs / count:6.0f}; same {share(same, count)}")


def frontiers(runs: int) -> None:
    """How often any statement on the frontier of two objectives is wrong (5 % are promised)."""
    means = np.array([[1.0, 2.0, 2.1, 3.0, 3.1], [3.0, 2.0, 2.1, 1.0, 3.1]])
    beaten = np.array([False, False, True, False, True])
    for cv in (0.01, 0.05, 0.2):
        wrong = said = 0
        for run in range(runs):
            rng = np.random.default_rng([run, 4])
            z = cv * (rng.normal(size=20) + rng.normal(size=(2, 5, 20)))
            states = frontier.of_arrays(means[..., None] * (1.0 + z)).states
            wrong += bool(np.where(beaten, states == frontier.SURELY, states == frontier.NOT).any())
            said += int((states != frontier.POSSIBLY).sum())
        print(f"cv {cv:4.2f}: wrong {share(wrong, runs)}, told {100 * said / runs / 5:.0f} % of the points")


def drawn_from(pool: Floats) -> Callable[[int, int], Floats]:
    """Return what draws from values that are there, (run, value)."""
    return lambda begin, end: pool[:, begin:end]


def stopped(first: int, width: float, draw: Callable[[int, int], Floats], at: float, truth: float) -> tuple[float, int]:
    """Return the share of runs whose interval at a level holds the truth where it is narrow enough, and the last look.

    `draw` returns the values of all runs from one replication on to another, (run, value).
    """
    values: Floats = draw(0, 0)
    held = np.zeros(len(values), dtype=bool)
    waiting = np.arange(len(values))
    last = 0
    for count in schedule(first, 1000):
        values = np.concatenate([values, draw(values.shape[1], count)[waiting]], axis=1)
        found = statistics.mean_interval(values, confidence=at)
        ends = (found.high - found.estimate <= width * np.abs(found.estimate)) | (count == 1000)
        held[waiting[ends]] = ((found.low <= truth) & (truth <= found.high))[ends]
        waiting, values, last = waiting[~ends], values[~ends], count
        if not len(waiting):
            break
    return float(held.mean()), last


def values_of(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return values of mean 1 and standard deviation 0.1."""
    if name == "normal":
        return rng.normal(1.0, 0.1, shape)
    if name == "skewness 1":
        return 0.8 + 0.2 * rng.gamma(4.0, 0.25, shape)
    return 0.9 + 0.1 * rng.exponential(1.0, shape)


def stopping(runs: int) -> None:
    """Coverage at the moment at which looks stop (95 %), and that of plain intervals stopped so: 30 times the runs."""
    widths, seeds = (0.2, 0.1, 0.07, 0.05, 0.03, 0.02), range(5, 11)
    for first in (8, 20):
        for name in ("normal", "skewness 1", "skewness 2"):
            for label, at in (("looks", level(first)), ("plain", 0.95)):
                held = np.zeros(len(widths))
                for seed in seeds:
                    pool = values_of(name, np.random.default_rng([first, seed]), (5 * runs, 1000))
                    held += [stopped(first, width, drawn_from(pool), at, 1.0)[0] for width in widths]
                shown = " ".join(f"{100 * share_held:5.1f}" for share_held in held / len(seeds))
                print(f"first look {first:2d}, {name:10s} {label} ({at:.4f}): {shown}   widths {widths}")


def sweep(runs: int) -> None:
    """Coverage at the moment of stopping of what a sweep gives: means, quantiles and maxima of replications."""
    import batchcube as bc

    count = 20 * runs
    cube = bc.run(
        bc.sweep(
            name="narrow",
            replications=count,
            workload={
                "requests": 200,
                "arrivals": {"process": "poisson", "rate_per_s": 0.1},
                "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
            },
            policy={"mode": "multi_bin_only", "batch_size": 4, "bins": 2},
            server={"service": {"law": "given"}},
            report={"histograms": False, "windows": 1},
        ),
        quiet=True,
    )
    for name, at, width in (
        ("latency_mean_s", {}, 0.03),
        ("latency_quantile_s", {"quantile": 0.99}, 0.05),
        ("latency_max_s", {}, 0.08),
        ("throughput_requests_per_s", {}, 0.03),
    ):
        values = cube[name].sel(at).values.astype(np.float64)
        blocks = values[: len(values) // 60 * 60].reshape(-1, 60)
        held, _ = stopped(8, width, drawn_from(blocks), level(8), float(values.mean()))
        third = ((values - values.mean()) ** 3).mean() / values.std() ** 3
        print(
            f"{name:28s} ± {100 * width:.0f} %: {share(round(held * len(blocks)), len(blocks))}, skewness {third:.1f}"
        )


def series(runs: int) -> None:
    """Coverage of batch means of one long run (95 %): AR(1), and waits of M/M/1."""
    for name, make, truth in (
        ("AR(1), 0.5", lambda rng: signal.lfilter([1.0], [1.0, -0.5], rng.normal(size=10_000)), 0.0),
        ("AR(1), 0.9", lambda rng: signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=10_000)), 0.0),
        ("M/M/1 at 0.5, 20,000", lambda rng: waits(rng, 20_000, 0.5), 1.0),
        ("M/M/1 at 0.8, 20,000", lambda rng: waits(rng, 20_000, 0.8), 4.0),
        ("M/M/1 at 0.8, 100,000", lambda rng: waits(rng, 100_000, 0.8), 4.0),
        ("M/M/1 at 0.9, 100,000", lambda rng: waits(rng, 100_000, 0.9), 9.0),
    ):
        held = 0
        for run in range(runs):
            found = long_run.batch_means(make(np.random.default_rng([run, 6])))
            held += bool(found.low <= truth <= found.high)
        print(f"{name:24s} {share(held, runs)}")


def waits(rng: np.random.Generator, count: int, load: float) -> Floats:
    """Return the waits of an M/M/1 queue with services of mean 1, begun in steady state (Lindley)."""
    begun = rng.exponential(1 / (1 - load)) if rng.random() < load else 0.0
    steps = np.concatenate([[begun], rng.exponential(1.0, count - 1) - rng.exponential(1 / load, count - 1)])
    walk = np.cumsum(steps)
    return np.asarray(walk - np.minimum(np.minimum.accumulate(walk), 0.0))


def resampling(runs: int) -> None:
    """Coverage of intervals of one recorded trace (95 %), of what other hours of the same traffic have."""
    size, part = 20_000, 2_000
    ways: dict[str, tuple[Resampling, int, int]] = {
        "parts, 10 of 2,000": ("parts", part, 10),
        "circular, 20 of 5,000": ("circular", 5_000, 20),
        "circular, 20 of 2,000": ("circular", part, 20),
        "blocks of 141, 20 of 5,000": ("blocks", 5_000, 20),
    }
    for name, spread in (("steady Poisson arrivals", 0.0), ("a rate that wanders, for 500 requests", 0.3)):
        # Means of replications, (run, replication), and of windows of as many requests that no two traces share.
        found: dict[str, list[Floats]] = {way: [] for way in ways}
        other: dict[int, list[float]] = {part: [], 5_000: []}
        for run in range(runs):
            rng = np.random.default_rng([run, 7])
            kept = 500 / 501
            logarithm = signal.lfilter([spread * (1 - kept**2) ** 0.5], [1.0, -kept], rng.normal(size=size + 5_000))
            gaps = rng.exponential(1.0, size) * np.exp(-logarithm[5_000:] - spread**2 / 2)
            # What a request brings goes into its prompt, in thousandths.
            work = rng.exponential(700.0, size).astype(np.int64)
            nothing = np.zeros(size, np.int64)
            trace = RecordedTrace(np.cumsum(gaps), work, nothing, None, "", size, 0, {})
            for count, means in other.items():
                means.append(wait_of(resample(trace, rng, method="none", requests=count)))
            for way, (method, count, replications) in ways.items():
                cut = (resample(trace, rng, method=method, requests=count, replication=r) for r in range(replications))
                found[way].append(np.array([wait_of(window) for window in cut]))
        for way, (_, count, _) in ways.items():
            interval = statistics.mean_interval(np.array(found[way]))
            held = (interval.low <= np.mean(other[count])) & (np.mean(other[count]) <= interval.high)
            narrow = 1.96 * interval.estimate.std() / ((interval.high - interval.low).mean() / 2)
            print(f"{name:38s} {way:28s} {share(int(held.sum()), runs)}, {narrow:.1f} times too narrow")


def wait_of(trace: RecordedTrace) -> float:
    """Return the mean wait of requests for one server that begins empty."""
    steps = trace.prompt_tokens[:-1] / 1000.0 - np.diff(trace.arrival_s)
    walk = np.concatenate([[0.0], np.cumsum(steps)])
    return float((walk - np.minimum.accumulate(walk)).mean())


def queue(rng: np.random.Generator, load: float, cv: float, shape: tuple[int, int]) -> tuple[Floats, list[Floats]]:
    """Draw latencies (replication, request) of M/G/1 begun empty, and what each replication drew, less its mean.

    Services have mean 1 and are exponential, of another cv lognormal.
    """
    gaps = rng.exponential(1 / load, shape)
    variance = np.log1p(cv**2)
    services = rng.exponential(1.0, shape) if cv == 1 else rng.lognormal(-variance / 2, variance**0.5, shape)
    steps = np.concatenate([np.zeros((shape[0], 1)), services[:, :-1] - gaps[:, 1:]], axis=1)
    walk = np.cumsum(steps, axis=1)
    latency = walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0.0) + services
    return latency, [gaps[:, 1:].mean(axis=1) * load - 1.0, services.mean(axis=1) - 1.0]


def quantiles(runs: int) -> None:
    """Coverage of Woodruff's interval of a pooled quantile (95 %), and how many of these are closed above."""
    edges = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 800)])
    lower, upper = edges[:-1], edges[1:]
    for load in (0.5, 0.8):
        latency, _ = queue(np.random.default_rng(5), load, 1, (10 * runs, 1000))
        places = np.searchsorted(upper, latency)
        counts = np.stack([np.bincount(row, minlength=len(upper)) for row in places])
        for q in (0.5, 0.9, 0.95, 0.99):
            truth, said = float(np.quantile(latency, q)), []
            for n in (2, 3, 5, 10, 30):
                groups = counts[: len(counts) // n * n].reshape(-1, n, len(upper))[:runs]
                found = statistics.pooled_quantile(groups, (lower + upper) / 2, lower, upper, q)
                held, closed = (found.low <= truth) & (truth <= found.high), np.isfinite(found.high)
                said.append(f"{n}: {share(int(held.sum()), len(groups))} ({100 * closed.mean():.0f} % closed)")
            print(f"M/M/1 at {load}, 1000 requests, p{100 * q:g}  {';  '.join(said)}")


def controls(runs: int) -> None:
    """Coverage of intervals with control variates (95 %), and how wide they are of plain ones."""
    import batchcube as bc

    for load, cv, requests in ((0.5, 1, 500), (0.8, 1, 500), (0.8, 1, 5000), (0.7, 2, 2000)):
        count = 60 * runs
        each = [queue(np.random.default_rng([k, 7]), load, cv, (runs, requests)) for k in range(60)]
        found = {
            "mean": np.concatenate([latency.mean(axis=1) for latency, _ in each]),
            "p99": np.concatenate([np.quantile(latency, 0.99, axis=1) for latency, _ in each]),
        }
        drawn = [np.concatenate([beside[k] for _, beside in each]) for k in range(2)]
        for name, values in found.items():
            # Of so many replications together the mean is the truth, to a part of an interval's width.
            truth = float(values.mean())
            said = []
            for n in (20, 40, 100):
                blocks, *beside = (of[: count // n * n].reshape(-1, n) for of in (values, *drawn))
                plain = statistics.mean_interval(blocks)
                narrow = control_variates.mean_interval(blocks, *beside)
                held = [100 * float(((of.low <= truth) & (truth <= of.high)).mean()) for of in (plain, narrow)]
                said.append(f"{n}: {held[0]:.1f} {held[1]:.1f} x {narrow.narrowed.mean():.2f}")
            print(f"M/G/1 at {load}, cv {cv}, {requests:5d} requests, {name:4s} {';  '.join(said)}")
    for spec, points in (("continuous-rate", (0, 1, 3)), ("modes-poisson", (0, 8, 9))):
        planned = bc.load_spec(spec, {"replications": runs // 10, "workload.requests": 2000})
        cube = bc.run(planned, quiet=True)
        for point in points:
            place = np.unravel_index(point, planned.grid.shape)
            at = {axis.name: int(i) for axis, i in zip(planned.grid.axes, place, strict=True)}
            print(f"{spec}, " + ", ".join(f"{axis.name} = {axis.labels[at[axis.name]]}" for axis in planned.grid.axes))
            for name in (
                *("latency_mean_s", "ttft_mean_s", "tpot_mean_s", "throughput_requests_per_s", "utilisation"),
                "latency_quantile_s[0.99]",
            ):
                if name.partition("[")[0] in cube:
                    narrowed = float(bc.interval(cube, name, controls=True)["narrowed"].isel(at))
                    print(f"    {name:28s} width x {narrowed:.2f}")


PARTS: dict[str, Callable[[int], None]] = {
    "selection": selection,
    "limits": limits,
    "kim-nelson": kim_nelson,
    "frontier": frontiers,
    "looks": stopping,
    "sweep": sweep,
    "series": series,
    "resampling": resampling,
    "quantiles": quantiles,
    "controls": controls,
}

if __name__ == "__main__":
    main()
