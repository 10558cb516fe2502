"""Static batches: the specification, the compiled kernels and JAX leave the same records and tallies."""

from itertools import product

import numpy as np
import pytest

from batchcube.engine import INFINITE, Shape
from batchcube.engine.batches.jax.program import ProgramKey, key_of
from batchcube.engine.policies.memory import RULES
from batchcube.engine.policies.order import CHOICES, NAMED
from batchcube.engine.policies.service import formula
from batchcube.engine.policies.sla import BATCH_SIGNALS, VARIANTS
from batchcube.engine.ticks import NEVER
from helpers.programs import (
    CHOSEN,
    MANY,
    SHAPE,
    Dynamic,
    Static,
    all_options,
    bursty_job,
    disagreements,
    jobs_with,
    keys_of,
    options_of,
    pairs,
)

# Every field of a key is either a size or an option that the chosen keys vary.
SIZES = {"requests", "batches", "bins", "largest_batch", "windows"}
OPTIONS = {
    Static: {"waits", "ranked", "own_completion", "timed", "pieces", "servers"},
    Dynamic: {"sla", "memory", "observations", "counted", "own_completion", "timed", "pieces", "servers"},
}


@pytest.mark.parametrize("options", CHOSEN[Static], ids=str)
def test_random_jobs_agree_request_by_request(options):
    assert disagreements(jobs_with(options), SHAPE, "reference", "numba", "jax") == []


@pytest.mark.parametrize("kind", [Static, Dynamic])
def test_the_chosen_forms_cover_every_pair_of_options(kind):
    keys = [keys_of(options) for options in CHOSEN[kind]]
    assert [len(found) for found in keys] == [1] * len(keys)
    met = [options_of(key) for (key,) in keys]
    assert met == list(CHOSEN[kind])
    assert pairs(met) == pairs(all_options(kind))


@pytest.mark.parametrize("kind", [Static, Dynamic])
def test_every_field_of_a_form_is_a_size_or_a_covered_option(kind):
    keys = [key for options in CHOSEN[kind] for key in keys_of(options)]
    assert set(ProgramKey._fields) == SIZES | OPTIONS[Static] | OPTIONS[Dynamic] | {
        "static",
        "records",
        "further",
        "order",
    }
    varied = {name for name in ProgramKey._fields if len({getattr(key, name) for key in keys}) > 1}
    assert varied == OPTIONS[kind]


def test_random_jobs_meet_every_value_that_is_no_option_of_a_form():
    static = [job.setup for options in CHOSEN[Static] for job in jobs_with(options)]
    dynamic = [job.setup for options in CHOSEN[Dynamic] for job in jobs_with(options)]
    assert {setup.policy.drop_tail for setup in static} == {False, True}
    assert {setup.policy.max_wait == 0 for setup in static} == {False, True}
    assert {NAMED[setup.policy.bin_choice.which] for setup in dynamic} == set(CHOICES)
    assert {setup.policy.per_bin for setup in dynamic} == {False, True}
    searches = {(setup.control.sla.variant, setup.control.sla.signal) for setup in dynamic if setup.control.sla.enabled}
    assert searches == set(product(range(len(VARIANTS)), range(len(BATCH_SIGNALS))))
    assert {setup.control.memory.rule for setup in dynamic if setup.control.memory.enabled} == set(range(len(RULES)))
    for setups in (static, dynamic):
        servers = {setup.policy.servers for setup in setups}
        assert servers == {1, 2, 3, INFINITE}
        assert {setup.reporting.windows for setup in setups} == {1, 7}
        assert {setup.reporting.warmup > 0 for setup in setups} == {False, True}
        assert {setup.reporting.request_sla < NEVER for setup in setups} == {False, True}
        assert {bool(np.isfinite(setup.reporting.token_sla)) for setup in setups} == {False, True}


LARGE = {
    "one bin, one server": {"mode": "fifo_fixed", "bins": 1, "servers": 1},
    "late batches, three servers, the shortest first": {
        "bins": 6,
        "servers": 3,
        "max_wait_s": 4.0,
        "service_order": "shortest_first",
        "completion": "own",
        "tail": "drop",
    },
}


@pytest.mark.parametrize("options", LARGE.values(), ids=LARGE)
def test_thousands_of_requests_in_bursts_agree(options):
    jobs = [
        bursty_job(seed, batch_size=size, law=formula(0.05, 0.002, "linear", 0.1, largest_batch=size), **options)
        for seed, size in enumerate((64, 50, 7))
    ]
    shape = Shape(options["bins"], 64, 50)
    assert len({key_of(job, shape, records=True) for job in jobs}) == 1
    assert max(len(np.unique(job.trace.arrival)) for job in jobs) < MANY // 5
    assert disagreements(jobs, shape, "numba", "jax") == []
