"""Compile, call, collect: replications keep to themselves, programs compile once, chunks and devices change nothing."""

import os
import pickle
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batchcube.engine import INFINITE, Shape, describe, jobs_at_once, simulate, simulate_many
from batchcube.engine.batches.jax import driver
from batchcube.engine.batches.jax.program import key_of, roomy, sized, stack
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.service import formula
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.statistics import BATCHES
from batchcube.engine.ticks import NEVER
from helpers.batches import make_control, make_job, run_all, shape_of
from helpers.programs import SHAPE, Dynamic, Static, bursty_job, disagreements, draw

DYNAMIC = Dynamic(True, True, True, True, True, False, False, 4)
STATIC = Static(True, True, False, False, True, 4)
SIMPLE = Static(False, False, False, False, True, 1)


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(driver, "_fitting", {})


@pytest.fixture
def traced(monkeypatch):
    """How often each program is traced during a test."""
    found = Counter()
    monkeypatch.setattr(driver, "compilations", found)
    return found


def long_and_short(options, count):
    """Draw jobs of all lengths, the first of them so long that any with it need the same room."""
    drawn = [draw(options, number) for number in range(2000, 2000 + 40 * count)]
    long = [job for job in drawn if len(job.trace.arrival) > 56]
    short = [job for job in drawn if len(job.trace.arrival) < 50]
    return [*long[:2], *short[: count - 2]]


def results(jobs, shape=SHAPE, backend="jax"):
    """Return everything that a backend says of each job, as bytes."""
    tally, records = run_all(jobs, shape, backend)
    return [
        b"".join(np.ascontiguousarray(part).tobytes() for part in [*(part[k] for part in tally), *records[k]])
        for k in range(len(jobs))
    ]


# Replications.


@pytest.mark.usefixtures("unoptimised_programs")
def test_a_replication_does_not_feel_its_neighbours():
    """17 jobs make 18 replications, one of them idle; each gives the same in every place, beside others, and alone."""
    jobs = long_and_short(DYNAMIC, 40)
    first, others = jobs[0], jobs[2:]
    alone = results([first])
    assert results([first, *others[:16]])[0] == alone[0]
    assert results([*others[22:38], first])[16] == alone[0]
    mixed = [others[3], *others[:7], first, *others[8:15], others[3]]
    found = results(mixed)
    assert found[8] == alone[0]
    assert found[0] == found[3 + 1] == found[16]
    assert found[1:8] == results([first, *others[:16]])[1:8]
    assert len(set(found)) == 15


@pytest.mark.usefixtures("unoptimised_programs")
def test_a_replication_of_static_batches_does_not_feel_its_neighbours():
    jobs = long_and_short(STATIC, 19)
    first, others = jobs[0], jobs[2:]
    forward, backward = results([first, *others[:16]]), results([*others[15::-1], first])
    assert forward == backward[::-1]
    assert len(set(forward)) == 17


@pytest.mark.usefixtures("unoptimised_programs")
def test_callers_keep_their_32_bits_and_get_64():
    job = long_and_short(DYNAMIC, 4)[0]
    job = job._replace(setup=job.setup._replace(reporting=job.setup.reporting._replace(windows=7)))
    by_numba, by_jax = (simulate(job, backend=backend) for backend in ("numba", "jax"))
    assert jnp.zeros(1).dtype == jnp.float32
    assert jnp.arange(3).dtype == jnp.int32
    assert not jax.config.jax_enable_x64
    assert {column.dtype for column in by_jax.records} == {np.dtype(np.int64)}
    for name, value in by_numba.report.items():
        found = by_jax.report[name]
        np.testing.assert_array_equal(found, value, err_msg=name)
        assert np.asarray(found).dtype == np.asarray(value).dtype


# Programs.


@pytest.mark.usefixtures("unoptimised_programs")
def test_programs_are_compiled_once_for_each_structure_and_number_of_replications(traced):
    driver.program.cache_clear()
    jobs = [job for part in range(4) for job in long_and_short(SIMPLE, 40 + part)[part::4][:6]]
    jobs = [job for job in jobs if len(job.trace.arrival) < 57]
    batches = {sized(key_of(job, SHAPE, records=False), [job]).batches for job in jobs}
    assert len(batches) > 1  # what each alone needs differs; together they need the same
    biggest = max(jobs, key=lambda job: sized(key_of(job, SHAPE, records=False), [job]).batches)
    for part in range(3):
        chunk = [biggest, *jobs[part * 5 : part * 5 + 5]]
        report, wanted = (simulate_many(chunk, SHAPE, backend) for backend in ("jax", "numba"))
        for name in wanted:
            np.testing.assert_array_equal(report[name], wanted[name], err_msg=name)
    ((key, replications),) = traced
    assert traced == {(key, 6): 1}
    assert replications == 6
    assert key.batches == max(batches)


def chunked(jobs, traced):
    """Simulate jobs; return their reports, and how often which number of replications was compiled."""
    traced.clear()
    found = simulate_many(jobs, SHAPE, "jax")
    return found, {replications: times for (_, replications), times in traced.items()}


@pytest.mark.usefixtures("unoptimised_programs")
@pytest.mark.parametrize("limit", ["replications", "memory", "what was found too many"])
def test_chunks_change_nothing_and_equal_chunks_share_a_program(limit, traced, monkeypatch):
    jobs = long_and_short(SIMPLE, 40)
    jobs = [jobs[0], *jobs[2:7], jobs[1], *jobs[7:12], jobs[0], *jobs[12:17]]
    key = sized(key_of(jobs[0], SHAPE, records=False), jobs)
    wanted = simulate_many(jobs, SHAPE, "numba")
    driver.program.cache_clear()
    if limit == "replications":
        monkeypatch.setattr(driver, "MOST_REPLICATIONS", 6)
    elif limit == "memory":
        if jax.devices()[0].memory_stats():
            pytest.skip("the device says how much memory it has")
        monkeypatch.setattr(driver, "CPU_BYTES", 7 * driver.bytes_of_replication(key) - 1)
    else:
        call = driver._call

        def call_if_it_fits(jobs, key, replications, rows):
            if replications > 6:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return call(jobs, key, replications, rows)

        monkeypatch.setattr(driver, "_call", call_if_it_fits)
    found, compiled = chunked(jobs, traced)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert compiled == ({4: 1} if limit == "what was found too many" else {6: 1})


def test_another_error_of_the_device_is_not_dynamic_for_a_lack_of_memory(monkeypatch):
    def fail(jobs, key, replications, rows):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(driver, "_call", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: broken"):
        simulate_many(long_and_short(SIMPLE, 4), SHAPE, "jax")


def test_memory_decides_how_many_run_at_once(monkeypatch):
    job = draw(SIMPLE, 0)
    key = sized(key_of(job, SHAPE, records=False), [job])
    devices = len(jax.devices())
    monkeypatch.setattr(
        driver.jax, "devices", lambda: [SimpleNamespace(memory_stats=lambda: {"bytes_limit": room})] * 2
    )
    room = int(100.5 * driver.bytes_of_replication(key) / driver.SHARE)
    assert jobs_at_once(job, SHAPE, "jax") == 2 * 100
    room = 1
    assert jobs_at_once(job, SHAPE, "jax") == 2
    room = 2**60
    assert jobs_at_once(job, SHAPE, "jax") == 2 * driver.MOST_REPLICATIONS
    monkeypatch.undo()
    assert jobs_at_once(job, SHAPE, "jax") % devices == 0


@pytest.mark.usefixtures("unoptimised_programs")
def test_more_batches_in_service_than_slots_are_simulated_again_with_more(traced):
    """With service of 2 s and arrivals every 20 ms, 100 servers are busy; programs provide for 64 at first."""
    crowd, few = (
        make_job(
            np.arange(150) * gap,
            np.full(150, 2.0) + np.arange(150) % 7 * 0.001,
            mode="dynamic_only",
            servers=INFINITE,
            windows=7,
            control=make_control(1, 1, sla=sla_search("paper", "latency", 1.0, 0.1)),
        )
        for gap in (0.02, 0.05)
    )
    jobs = [few, crowd, few]
    records = simulate(crowd).records
    busy = [(records.start <= t).sum() - (records.completion <= t).sum() for t in records.start]
    assert 64 < max(busy) <= 128
    assert disagreements(jobs, shape_of(crowd), "numba", "jax") == []
    assert sorted((key.servers, replications) for key, replications in traced) == [(64, 3), (128, 1)]


def realistic(options):
    control = make_control(
        1, 64, sla=sla_search("paper", "latency", 1.5, 0.2), memory=memory_bound("exact", 20_000.0), bins=4, mean=400.0
    )
    law = formula(0.05, 0.002, "linear", 0.1, largest_batch=64)
    return bursty_job(1, requests=5000, bins=4, batch_size=64, law=law, control=control, **options)


@pytest.mark.usefixtures("unoptimised_programs")
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "multi_bin_only", "max_wait_s": 4.0, "service_order": "shortest_first", "completion": "own"},
        {"mode": "multi_bin_dynamic", "servers": 4, "completion": "own"},
    ],
    ids=["static", "dynamic"],
)
def test_a_replication_takes_no_more_memory_than_is_reckoned(options):
    job, replications = realistic(options), 16
    key = sized(key_of(job, Shape(4, 64, 50), records=False), [job])
    # Each replication brings its own requests and its own setup, as when nothing is shared.
    own = [
        job._replace(
            trace=type(job.trace)(*(column.copy() for column in job.trace)),
            bins=type(job.bins)(*(column.copy() for column in job.bins)),
            setup=job.setup._replace(reporting=job.setup.reporting._replace(warmup=replication)),
        )
        for replication in range(replications)
    ]
    with jax.enable_x64(True):
        stacked = stack(own, key, replications)
        assert len(stacked.arrival) == len(stacked.setups.policy.servers) == replications
        compiled = driver.program(key, tuple(jax.devices()[:1])).lower(stacked).compile().memory_analysis()
    dynamic = compiled.temp_size_in_bytes + compiled.argument_size_in_bytes + compiled.output_size_in_bytes
    print(dynamic / replications, driver.bytes_of_replication(key), compiled)
    assert 0.1 * driver.bytes_of_replication(key) < dynamic / replications <= driver.bytes_of_replication(key)


# Rows that replications share.


def test_what_replications_share_is_stored_once():
    drawn = [draw(STATIC, number) for number in range(3000, 3007)]
    jobs = [trace._replace(setup=other.setup) for other in drawn for trace in drawn[:3]]
    (key,) = {key_of(job, SHAPE, records=False) for job in jobs}
    rows = stack(jobs, key, 24)
    assert [len(part) for part in rows[:5]] == [4, 4, 4, 4, 4]  # three, and room for a fourth
    assert rows.setups.reporting.warmup.shape == (8,)
    assert rows.setups.service.base.shape == (8, 9, 1)
    assert rows.rows[:21].tolist() == [[k % 3] * 4 + [k // 3] for k in range(21)]
    for replication, job in enumerate(jobs):
        count, (arrival, asked, predicted, order, setup) = len(job.trace.arrival), rows.rows[replication]
        assert rows.requests[replication] == count
        np.testing.assert_array_equal(rows.arrival[arrival, :count], job.trace.arrival)
        assert (rows.arrival[arrival, count:] == NEVER).all()
        np.testing.assert_array_equal(rows.asked[asked, :, :count], job.trace[1:4])
        np.testing.assert_array_equal(rows.predicted[predicted, :count], job.trace.predicted)
        np.testing.assert_array_equal(rows.order[order, :count], job.bins.order)
        assert sorted(rows.order[order]) == list(range(key.requests))
        assert rows.setups.policy.max_wait[setup] == job.setup.policy.max_wait
    assert rows.requests[21:].tolist() == [0, 0, 0]


def test_two_devices_get_a_part_of_the_rows_each():
    drawn = [draw(STATIC, number) for number in range(3000, 3005)]
    key = key_of(drawn[0], SHAPE, records=False)
    one, two = drawn[0], drawn[4]
    rows = stack([one, one, one, one, two, two._replace(trace=one.trace, bins=one.bins)], key, 8, devices=2)
    assert rows.rows.tolist() == [[0] * 5] * 4 + [[0] * 5, [1, 1, 1, 1, 0], [0] * 5, [0] * 5]
    assert [len(part) for part in rows[:5]] == [4] * 5
    assert len(rows.setups.policy.servers) == 2
    for row, job in enumerate((one, one, two, one)):
        np.testing.assert_array_equal(rows.arrival[row, : len(job.trace.arrival)], job.trace.arrival)
    assert rows.setups.policy.max_wait.tolist() == [one.setup.policy.max_wait, two.setup.policy.max_wait]


def test_service_orders_that_predict_nothing_send_no_predictions():
    job = draw(SIMPLE, 1)
    rows = stack([job], key_of(job, SHAPE, records=False), 1)
    assert not rows.predicted.any()


@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 33, 1000, 4097])
def test_sizes_are_rounded_up_by_an_eighth_at_most(count):
    assert count <= roomy(count) <= count * 9 / 8
    assert roomy(roomy(count)) == roomy(count)


# Devices.

ON_TWO = """
import pickle, sys
import jax
import numpy as np
from batchcube.engine import batches, describe
from batchcube.engine.batches.jax import driver
from batchcube.engine.batches.jax.program import key_of, sized, stack
from batchcube.engine.statistics import BATCHES
from batchcube.engine.tally import new_tally

shape, blocks = pickle.load(open(sys.argv[1], "rb"))
tallies = []
for jobs in blocks:
    tallies.append(new_tally(BATCHES, len(jobs), shape))
    batches.fill(jobs, shape, tallies[-1], (), "jax")
with jax.enable_x64(True):
    key = sized(key_of(blocks[0][0], shape, records=False), blocks[0])
    devices = tuple(jax.devices())
    counts, _, _ = driver.program(key, devices)(stack(blocks[0], key, driver.whole_replications(len(blocks[0])), 2))
at = BATCHES.at("completed")
served = [(shard.device.id, np.asarray(shard.data)[:, at].tolist()) for shard in counts.totals.addressable_shards]
pickle.dump((len(devices), describe("jax").device, tallies, served), open(sys.argv[2], "wb"))
"""


@pytest.mark.usefixtures("unoptimised_programs")
def test_two_devices_share_the_replications_and_change_nothing(tmp_path):
    jobs = long_and_short(SIMPLE, 7)
    blocks = [jobs, jobs[:1]]  # four and three; one, and an idle replication
    (tmp_path / "jobs").write_bytes(pickle.dumps((SHAPE, blocks)))
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO, tmp_path / "jobs", tmp_path / "out"],
        env={**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    devices, name, tallies, served = pickle.loads((tmp_path / "out").read_bytes())
    assert devices == 2
    assert name.startswith("2 x ")
    for block, tally in zip(blocks, tallies, strict=True):
        on_one, _ = run_all(block, SHAPE, "jax")
        for field, here in zip(on_one, tally, strict=True):
            np.testing.assert_array_equal(field, here)
    completed = tallies[0].totals[:, BATCHES.at("completed")].tolist()
    assert sorted(served) == [(0, completed[:4]), (1, [*completed[4:], 0])]
    assert min(completed) > 0


@pytest.fixture
def unprepared():
    driver.prepare.cache_clear()
    yield
    driver.prepare.cache_clear()


@pytest.mark.parametrize("word", ["sqrt", "round"])
@pytest.mark.usefixtures("unprepared")
def test_a_device_with_other_floats_is_refused(word, monkeypatch):
    def coarse(x):
        return getattr(jnp, word)(x) * (1.0 + 2.0**-52)

    other = SimpleNamespace(sqrt=jnp.sqrt, round=jnp.round, int64=jnp.int64)
    setattr(other, word, coarse)
    monkeypatch.setattr(driver, "jnp", other)
    with pytest.raises(RuntimeError, match="its 64-bit floats do not round as IEEE 754 says"):
        describe("jax")
    with pytest.raises(RuntimeError, match="its 64-bit floats do not round as IEEE 754 says"):
        simulate_many([draw(SIMPLE, 0)], SHAPE, "jax")


@pytest.mark.usefixtures("unprepared")
def test_this_device_is_not_refused():
    assert describe("jax").device == driver.device_name()
    assert describe("jax").versions.startswith("jax ")


def test_options_that_a_version_of_xla_does_not_know_are_left_out(monkeypatch):
    driver.compiler_options.cache_clear()
    assert driver.compiler_options("cuda") == {}
    compiled = jax.jit

    def unknown(function, **given):
        return compiled(
            function, compiler_options={f"no_{name}": value for name, value in given["compiler_options"].items()}
        )

    monkeypatch.setattr(jax, "jit", unknown)
    assert driver.compiler_options("cpu") == {}
    driver.compiler_options.cache_clear()
