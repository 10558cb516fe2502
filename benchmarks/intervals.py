"""Do intervals of predictions hold? Fit the logs of simulated servers, and predict what they serve then.

    python benchmarks/intervals.py -o docs/calibration/intervals.csv

Servers are as far off a prior as fits take it to be, or follow no law that a fit knows: their decode steps grow with
the square root of the batch. Each serves a log, to whose first requests a law is fitted; then the rest of it is
predicted, and another run, faster or slower all along by as much as a speed drifts, with other requests, as many or
half as many again per second. Written is how often an interval of `validate` holds what was measured.
"""

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchcube.calibration.coefficients import Coefficients, DecodeNodes, Raw, StepCoefficients
from batchcube.calibration.drawing import shifted
from batchcube.calibration.fitting import fit_log
from batchcube.calibration.laws import law_of
from batchcube.calibration.logs import Log
from batchcube.calibration.opening import opened
from batchcube.calibration.prediction import Server, Times, predicted, replay, scattered, times_of_log, times_of_records
from batchcube.calibration.scatter import Scatter, draw_time
from batchcube.calibration.stating import stated
from batchcube.engine.continuous import make_fleet, make_replica
from batchcube.sweeps.calibrate.trust import INTERVAL, interval
from batchcube.sweeps.spec.service import load

Floats = NDArray[np.float64]

PRIOR = "llama-3.1-8b-h100-vllm-tables"
REQUESTS, PER_S, MOST_RUNNING, TOKEN_BUDGET = 160, 6.0, 32, 2048
STATISTICS = {
    "TTFT mean": ("ttft_s", None),
    "TTFT p99": ("ttft_s", 0.99),
    "TPOT mean": ("tpot_s", None),
    "TPOT p99": ("tpot_s", 0.99),
    "E2E mean": ("e2e_s", None),
}
JUDGED = ("the rest", "another run", "a heavier run")
DRAWS = 60


class Case(NamedTuple):
    """Servers of one kind, and how they are fitted."""

    truth: str
    """`as the prior` or `square root`."""
    fitted_to: int
    with_prior: bool
    drift: float
    """Of the speed, as a fraction."""


CASES = (
    Case("as the prior", 30, True, 0.01),
    Case("square root", 30, True, 0.01),
    Case("as the prior", 100, False, 0.01),
    Case("square root", 100, False, 0.01),
    Case("as the prior", 100, False, 0.0),
)


class Held(NamedTuple):
    """One prediction of one server."""

    judged: str
    statistic: str
    error: float
    """Relative, of the prediction."""
    low: float
    """Ends of the interval, relative errors too."""
    high: float

    @property
    def held(self) -> bool:
        """Whether the truth is in the interval."""
        return self.low <= 0.0 <= self.high


def requests(rng: np.random.Generator, per_s: float, sha256: str) -> Log:
    """Return requests that nobody has served yet."""
    came = np.cumsum(rng.exponential(1.0 / per_s, REQUESTS))
    nothing = np.zeros(REQUESTS)
    prompt, output = (
        np.clip(rng.lognormal(np.log(median), 0.8, REQUESTS), 8, 2000).astype(np.int64) for median in (300, 120)
    )
    return Log(came - came[0], nothing, nothing, nothing, prompt, output, sha256)


def served(log: Log, server: Server, law: StepCoefficients, scatter: Scatter, rng: np.random.Generator) -> Log:
    """Return the log of a server whose steps scatter around a law."""
    records = replay(log, server, law_of(law))
    alone = times_of_records(log, records)
    ends_s = 2.0 * float(np.max(log.queued_s + alone.e2e_s))
    times = scattered(log, server, law_of(law), draw_time(scatter, ends_s, rng))
    first, last = log.queued_s + times.ttft_s, log.queued_s + times.e2e_s
    return log._replace(scheduled_s=np.full(REQUESTS, np.nan), first_token_s=first, last_token_s=last)


def truth_of(kind: str, prior: StepCoefficients, base: Log, rng: np.random.Generator) -> StepCoefficients:
    """Draw the law of a server."""
    opening = opened(prior, base, base.first(REQUESTS))
    law = opening.at(np.maximum(rng.normal(0.0, opening.width), opening.low))
    if kind == "as the prior":
        return law
    assert law.decode is not None
    one, per_kv_token = law.decode.s[1], law.decode.s_per_kv_token[1]
    decodes = np.arange(MOST_RUNNING + 1)
    seconds = one + rng.uniform(0.2e-3, 1e-3) * np.sqrt(decodes)
    nodes = DecodeNodes(requests=decodes.tolist(), s=seconds.tolist(), s_per_kv_token=[per_kv_token] * len(decodes))
    return law.model_copy(update={"decode": nodes})


def predictions(case: Case, number: int) -> Iterator[Held]:
    """Fit the log of a server, the same whenever it is asked for by its number, and predict what it serves."""
    rng = np.random.default_rng([CASES.index(case), number])
    prior = load(PRIOR).step_law
    assert prior is not None
    replica = make_replica(law_of(prior), most_running=MOST_RUNNING, token_budget=TOKEN_BUDGET, capacity_tokens=10**6)
    server = Server(replica, make_fleet())
    base = requests(rng, PER_S, "0" * 64)
    truth = truth_of(case.truth, prior, base, rng)
    scatter = Scatter(rng.uniform(0.03, 0.15), case.drift, 1e-2, (3.0, 3.0), 0.0)
    log = served(base, server, truth, scatter, rng)
    found = fit_log(log, server, case.fitted_to, prior if case.with_prior else None, number)
    law, fitted = stated(found, log, PRIOR if case.with_prior else None)
    raw = Raw(file="log", sha256=log.sha256)
    known = Coefficients(name="log", label="measured", title="", source="", raw=raw, step_law=law, log=fitted)
    for judged in JUDGED:
        if judged == "the rest":
            measured, of = log, ~log.first(case.fitted_to)
        else:
            per_s = PER_S * (1.5 if judged == "a heavier run" else 1.0)
            other = shifted(truth, {"speed": rng.normal(0.0, case.drift)})
            measured = served(requests(rng, per_s, "1" * 64), server, other, scatter, rng)
            of = np.ones(REQUESTS, bool)
        point = times_of_records(measured, replay(measured, server, law_of(law)))
        draws = predicted(measured, server, known, DRAWS, number)
        for statistic in STATISTICS:
            seen = value(times_of_log(measured), statistic, of)
            low, high = interval([value(times, statistic, of) for times in draws])
            yield Held(judged, statistic, *(end / seen - 1.0 for end in (value(point, statistic, of), low, high)))


def value(times: Times, statistic: str, of: NDArray[np.bool_]) -> float:
    """Return a statistic of the times of some requests."""
    quantity, quantile = STATISTICS[statistic]
    values: Floats = getattr(times, quantity)[of]
    return float(np.nanmean(values) if quantile is None else np.nanquantile(values, quantile))


def _all(case: Case, number: int) -> list[dict[str, object]]:
    return [
        {**case._asdict(), **one._asdict(), "held": one.held, "width": (one.high - one.low) / 2.0}
        for one in predictions(case, number)
    ]


def main() -> None:
    """Fit and predict; write how often intervals hold, how wide they are and how far predictions are off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    parser.add_argument("--servers", type=int, default=60, metavar="N", help="of each kind, at most (60)")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="that it may take (60)")
    given = parser.parse_args()
    ends, rows = time.monotonic() + 60.0 * given.minutes, []
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 2)) as pool:
        found = [pool.submit(_all, case, number) for number, case in product(range(given.servers), CASES)]
        for one in as_completed(found):
            rows += one.result()
            if time.monotonic() > ends:
                pool.shutdown(cancel_futures=True)
                break
    table = pd.DataFrame(rows)
    table["error"] = table["error"].abs()
    keys = [*Case._fields, "judged", "statistic"]
    summary = table.groupby(keys, sort=False).agg(
        servers=("held", "size"), held=("held", "mean"), half_width=("width", "median"), error=("error", "median")
    )
    print(f"intervals of {100 * INTERVAL:.0f} %")
    print(summary.round(3).to_string())
    if given.output is not None:
        summary.round(4).to_csv(given.output)


if __name__ == "__main__":
    main()
