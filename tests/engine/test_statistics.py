"""The catalogue of statistics: what holds for every entry, whoever adds one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.simulation import Shape
from batchcube.engine.statistics import (
    BATCHES,
    BINS,
    CONTINUOUS,
    LARGEST,
    LOST,
    MEASURED,
    MEASURED_STEP,
    SERVED,
    STEP,
    SUM,
    TOTALS,
    WIDE,
    WINDOWS,
    WORK,
    Catalogue,
    Count,
    Limits,
    Lost,
    Request,
    Steps,
    Together,
    Work,
    latency,
    wait,
)
from batchcube.engine.tally import Counter, Tally, new_tally, row_of
from batchcube.results.variables import CONTROLS, REGISTRY

CATALOGUES = (BATCHES, CONTINUOUS)
SEARCHED = {name for name in REGISTRY if name.startswith(("theory_", "capacity_", "plan_"))}
OF_CLASSES = {name for name in REGISTRY if name.startswith("class_")}  # engine/continuous/test_classes.py
FROM_THE_SPECIFICATION = {"effective_bins", "unmeasured_costs", "bin_lower_edge", "bin_upper_edge", *CONTROLS}
LIMITS = Limits(
    warmup=3,
    since=40,
    until=10_000,
    half=5,
    half_arrived=60,
    all_arrived=100,
    request_sla=30,
    token_sla=4.0,
    capacity=50.0,
    tokens=True,
    unit=1,
    window=25,
    windows=4,
)


def test_the_registry_describes_what_the_catalogues_make_and_nothing_else() -> None:
    assert BATCHES.variables | CONTINUOUS.variables == REGISTRY.keys() - SEARCHED - OF_CLASSES - FROM_THE_SPECIFICATION


@pytest.mark.parametrize("catalogue", CATALOGUES)
@pytest.mark.parametrize("into", [TOTALS, BINS, WINDOWS])
def test_every_count_has_columns_of_its_own(catalogue: Catalogue, into: str) -> None:
    taken = [at for place in catalogue.columns(into).values() for at in range(place.start, place.stop)]
    assert taken == list(range(catalogue.width(into)))
    for count in catalogue.counts:
        assert count.into != into or catalogue.reducers(into)[count.name] == count.reducer


def test_what_has_no_bin_or_instant_is_not_counted_by_it() -> None:
    for count in (Count("work", WORK, lambda w, k: 1, WINDOWS), Count("steps", STEP, lambda s, k: 1, BINS)):
        with pytest.raises(TypeError, match=r"nothing says which of the"):
            Catalogue(BATCHES.clock, (), (count,), (), {}, {}, {})


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), min_size=1, max_size=8),
    st.integers(0, 20),
    st.integers(1, 40),
)
def test_closed_forms_over_requests_are_sums_over_them(asked, later, service) -> None:
    arrivals = sorted(arrival for arrival, _ in asked)
    start = arrivals[-1] + later
    pace = service / 9
    requests = [
        Request(i, arrival, start, start + 1, start + service, 7, output, pace, arrival)
        for i, (arrival, (_, output)) in enumerate(zip(arrivals, asked, strict=True))
    ]
    together = Together(
        requests=len(requests),
        start=start,
        completion=start + service,
        outputs=sum(request.output for request in requests),
        late=sum(latency(request) > LIMITS.request_sla for request in requests),
        pace=pace,
        waits=sum(map(wait, requests)),
        latencies=sum(map(latency, requests)),
    )
    closed = [c for c in BATCHES.counts if c.over in (SERVED, MEASURED) and c.together is not None]
    assert closed
    for count in closed:
        assert count.reducer in (SUM, WIDE)
        assert count.together(together, LIMITS) == sum(count.of(request, LIMITS) for request in requests), count.name


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 5), st.integers(0, 6), st.integers(0, 3))
def test_closed_forms_over_steps_are_sums_over_them(steps, first, growing, decoding, where) -> None:
    lasts = [first + growing * k for k in range(steps)]
    # The last alone ends within the makespan, all do, the last alone goes on, or all begin after it.
    begin = (
        LIMITS.since + 1 - sum(lasts),
        LIMITS.since + 3,
        LIMITS.until - 1 - sum(lasts[:-1]),
        LIMITS.until + 2,
    )[where]
    each = [
        Steps(1, begin + sum(lasts[:k]), lasts[k], decoding + 1, decoding, 0, 2, 10 + k, 20 + decoding * (k + 1), 9)
        for k in range(steps)
    ]
    kv_tokens = sum(step.kv_tokens for step in each)
    whole = Steps(steps, begin, sum(lasts), decoding + 1, decoding, 0, 2, each[-1].blocks, kv_tokens, 9 * steps)
    closed = [c for c in CONTINUOUS.counts if c.over in (STEP, MEASURED_STEP) and c.together is not None]
    assert closed
    for count in closed:
        if count.over == MEASURED_STEP and where not in (1, 2):
            continue
        add_up: Callable = max if count.reducer == LARGEST else sum
        assert count.together(whole, LIMITS) == add_up(count.of(step, LIMITS) for step in each), count.name


@given(st.integers(0, 100), st.integers(1, 50), st.integers(0, 1000))
def test_closed_forms_over_work_hold_within_the_makespan(later, ticks, outputs) -> None:
    work = Work(LIMITS.since + later, ticks, outputs)
    for count in BATCHES.over(WORK):
        assert count.together is not None
        assert count.together(work, LIMITS) == count.of(work, LIMITS)


def test_wide_sums_have_one_form_whatever_came_first() -> None:
    def add_all(values: list[int]) -> Tally:
        tally = row_of(new_tally(CONTINUOUS, 1, Shape(1, 1, 4)), 0)
        counter = Counter(CONTINUOUS, LIMITS, tally)
        for value in values:
            counter.add(MEASURED, Request(9, 0, value, value, value, 1, 1, 0.0, 0))
        counter.close()
        return tally

    numbers = [2**40 - 1, 5, 2**33, 2**32 - 1]
    place = CONTINUOUS.columns(BINS)["wait"]
    low, high = add_all(numbers).bins[0, place].tolist()
    assert low + (high << 32) == sum(numbers)
    assert [low, high] == add_all(numbers[::-1]).bins[0, place].tolist()
    assert low < 2**32


def test_lost_requests_of_the_warm_up_are_not_missed() -> None:
    (missed,) = (count for count in BATCHES.over(LOST) if count.name == "missed")
    assert not missed.of(Lost(2, 1, 1), LIMITS)
    assert missed.of(Lost(3, 1, 1), LIMITS)


WITHOUT_CLOSED_FORMS = """
import dataclasses, sys
import numpy as np
from batchcube.engine import statistics

def plain(catalogue):
    counts = tuple(count._replace(together=None) for count in catalogue.counts)
    times = tuple(time._replace(alike=statistics.EACH) for time in catalogue.times)
    return dataclasses.replace(catalogue, counts=counts, times=times)

statistics.BATCHES, statistics.CONTINUOUS = plain(statistics.BATCHES), plain(statistics.CONTINUOUS)
from helpers import batches, continuous
from batchcube.engine.moments import exact_sums

for seed in range(60):
    assert batches.differences(batches.random_job(np.random.default_rng(seed), mode=("multi_bin_only",))) == [], seed
for seed in range(60):
    job = continuous.draw_job(np.random.default_rng(seed))
    (_, one), (_, other) = (continuous.simulate_job(job, backend) for backend in ("reference", "numba"))
    for name, a, b in zip(one._fields, one, other):
        if name == "moments":
            a, b = list(map(exact_sums, a)), list(map(exact_sums, b))
        np.testing.assert_array_equal(a, b, err_msg=f"{name} {seed}")
"""


@pytest.mark.slow
def test_kernels_count_one_by_one_what_has_no_closed_form() -> None:
    """A statistic that somebody adds needs none: without any, kernels give what the reference gives."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLOSED_FORMS],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
