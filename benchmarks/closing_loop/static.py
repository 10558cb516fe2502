"""Close the loop: calibrate an engine by micro-benchmarks alone, serve requests on it for real, and predict them."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchcube.calibration.coefficients import BatchLaws
from batchcube.calibration.measuring.bench import Engine, Grid
from batchcube.engine import (
    Bins,
    Job,
    Records,
    Setup,
    Trace,
    make_policy,
    make_reporting,
    make_trace,
    simulate,
    sort_into_bins,
)
from batchcube.engine.policies.bins import assign_bins, equal_mass_edges
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import no_memory_bound
from batchcube.engine.policies.service import Service, formula, measured
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.policies.target import Control, fixed_target
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.sweeps.calibrate.fit import fit_measurement
from batchcube.sweeps.calibrate.measure import measure_engine
from batchcube.sweeps.files import write_text
from batchcube.sweeps.seeds import stream

from .live import Serve, serve_live

Floats = NDArray[np.float64]

PROMPT_TOKENS = 32
LARGEST_BATCH = 16
BATCH_SIZE = 8
BINS = 3
SHORTEST, LONGEST = 4, 96
GRID = Grid((1, 2, 4, 8, 12, 16), (PROMPT_TOKENS,), (4, 16, 48, 96), 5, 1)
# Of what batches of BATCH_SIZE can serve: a queue that comes and goes, and one that shows what can be served at most.
UTILISATIONS = {"steady": 0.7, "overloaded": 2.0}
MODES = ("multi_bin_only", "dynamic_only")
QUANTITIES = ("latency_mean_s", "latency_p90_s", "throughput_requests_per_s", "batch_size_mean")


class Comparison(NamedTuple):
    """One quantity of one run, served and simulated."""

    run: int
    load: str
    mode: str
    law: str
    quantity: str
    served: float
    simulated: float

    @property
    def error(self) -> float:
        """Relative error of the simulation."""
        return self.simulated / self.served - 1


Key = tuple[int, str, str, str]
"""Run, load, mode and law."""
Generate = Callable[[NDArray[np.int64], int], object]
"""Generate so many tokens for prompts (batch, token)."""


def close_loop(
    engine: Engine,
    generate: Generate,
    vocabulary: int,
    folder: Path,
    *,
    requests: int,
    runs: int,
    seed: int,
    quiet: bool,
) -> pd.DataFrame:
    """Calibrate, serve and predict; write measurement, coefficients and every request to a folder.

    Returns one row for each run, load, mode, law and quantity. In every run requests arrive in a Poisson stream at
    one of `UTILISATIONS`; prompts are all of one length, that of the calibration, and outputs lognormal. Nothing of
    what is served goes into the calibration.
    """
    raw = folder / "measurement.nc"
    measure_engine(lambda: engine, GRID, raw, overwrite=True, quiet=quiet)
    known, _ = fit_measurement(raw, "loop")
    write_text(folder / "coefficients.json", known.text())
    laws = known.at_prompt(None)
    services: dict[str, Service] = {laws.chosen: _formula(laws)}
    if laws.table is not None:
        services["table"] = _table(laws)
    rows: list[Comparison] = []
    every: list[pd.DataFrame] = []
    for run, (load, utilisation), mode in product(range(runs), UTILISATIONS.items(), MODES):
        output, arrival = draw_requests(laws, requests, utilisation, seed, run)
        trace, bins, setup = prepare(mode, arrival, output, services[laws.chosen], laws)
        prompts = stream(seed, run, "prompts").integers(2, vocabulary, (requests, PROMPT_TOKENS))
        served = serve_live(trace, bins, setup, _server(generate, prompts, output))
        for law, service in services.items():
            records = simulate(Job(trace, bins, setup._replace(service=service))).records
            rows += compare((run, load, mode, law), trace, served, records)
            every.append(_requests((run, load, mode, law), trace, served, records))
    write_text(folder / "requests.csv", pd.concat(every).to_csv(index=False))
    table = pd.DataFrame([(*row, row.error) for row in rows], columns=[*Comparison._fields, "error"])
    write_text(folder / "comparison.csv", table.to_csv(index=False))
    return table


def _server(generate: Generate, prompts: NDArray[np.int64], output: NDArray[np.int64]) -> Serve:
    def serve(members: Sequence[int]) -> None:
        generate(prompts[list(members)], int(output[list(members)].max()))

    return serve


def draw_requests(
    laws: BatchLaws, requests: int, utilisation: float, seed: int, run: int
) -> tuple[NDArray[np.int64], Floats]:
    """Draw output lengths and Poisson arrivals (request,) at the rate that the calibrated law says can be served."""
    law = laws.laws[laws.chosen]
    lengths = stream(seed, run, "lengths").lognormal(np.log(24.0), 0.8, requests)
    output = np.clip(np.ceil(lengths), SHORTEST, LONGEST).astype(np.int64)
    service = _formula(laws)
    # One queue, batches of BATCH_SIZE, each as long as its longest.
    whole = output[: requests - requests % BATCH_SIZE].reshape(-1, BATCH_SIZE).max(axis=1)
    per_batch = law.a0_s + float(service.slope[BATCH_SIZE, 0]) / TICKS_PER_S * float(whole.mean())
    rate = utilisation * BATCH_SIZE / per_batch
    return output, np.cumsum(stream(seed, run, "arrivals").exponential(1 / rate, requests))


def prepare(
    mode: str, arrival: Floats, output: NDArray[np.int64], service: Service, laws: BatchLaws
) -> tuple[Trace, Bins, Setup]:
    """Return trace, bins and setup of one mode; the scheduler knows the output lengths.

    The latency controller of ``dynamic_only`` steers to the time per token that the calibration says batches of
    `BATCH_SIZE` take, so that it has to act.
    """
    trace = make_trace(arrival, output_tokens=output, prompt_tokens=np.full(len(output), PROMPT_TOKENS))
    bins = BINS if mode == "multi_bin_only" else 1
    of = assign_bins(output, equal_mass_edges(output, bins)) if bins > 1 else np.zeros(len(output), np.int32)
    total = (output + PROMPT_TOKENS).astype(np.float64)
    mean, square = np.full(bins, total.mean()), np.full(bins, np.square(total).mean())
    largest = LARGEST_BATCH
    control: Control = fixed_target(largest, largest, mean, square)
    if mode == "dynamic_only":
        law, longest = laws.laws[laws.chosen], float(output.mean()) * 2
        target = law.a0_s / longest + float(service.slope[BATCH_SIZE, 0]) / TICKS_PER_S
        search = sla_search("paper", "tbt", target, 0.05 * target, 4, 2)
        control = Control(1.0, float(largest), search, no_memory_bound(), smoothing("ema", 0.2, 20), mean, square)
    policy = make_policy(mode, batch_size=BATCH_SIZE if mode == "multi_bin_only" else largest)
    reporting = make_reporting(horizon_s=float(arrival[-1]), windows=10)
    return trace, sort_into_bins(of, bins), Setup(policy, service, control, reporting)


def compare(key: Key, trace: Trace, served: Records, simulated: Records) -> list[Comparison]:
    """Return mean and p90 latency, throughput and mean batch size, served and simulated."""
    pairs = zip(_figures(trace, served), _figures(trace, simulated), strict=True)
    return [Comparison(*key, name, *pair) for name, pair in zip(QUANTITIES, pairs, strict=True)]


def _figures(trace: Trace, records: Records) -> tuple[float, float, float, float]:
    latency = (records.completion - trace.arrival) / TICKS_PER_S
    makespan = float(records.completion.max() - trace.arrival[0]) / TICKS_PER_S
    batches = len(np.unique(records.batch))
    return (
        float(latency.mean()),
        float(np.quantile(latency, 0.9)),
        len(latency) / makespan,
        len(latency) / batches,
    )


def _requests(key: Key, trace: Trace, served: Records, simulated: Records) -> pd.DataFrame:
    columns: dict[str, object] = dict(zip(("run", "load", "mode", "law"), key, strict=True))
    columns |= {"arrival_s": trace.arrival / TICKS_PER_S, "output_tokens": trace.output}
    for name, records in (("served", served), ("simulated", simulated)):
        columns |= {
            f"{name}_start_s": records.start / TICKS_PER_S,
            f"{name}_completion_s": records.completion / TICKS_PER_S,
        }
        columns |= {f"{name}_batch": records.batch}
    return pd.DataFrame(columns)


def _formula(laws: BatchLaws) -> Service:
    law = laws.laws[laws.chosen]
    return formula(law.a0_s, law.a1_s_per_token, law.h, law.gamma, largest_batch=LARGEST_BATCH)


def _table(laws: BatchLaws) -> Service:
    table = laws.table
    assert table is not None
    grid = np.array(table.batch_sizes), np.array(table.output_tokens), np.array(table.seconds)
    return measured(*grid, _formula(laws))
