"""Parts of the programs alone: one step, one batch, servers, sets and searches, each against its plain meaning."""

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.engine.batches.jax.dynamic import begin, queue_of, step
from batchcube.engine.batches.jax.program import key_of, stack
from batchcube.engine.batches.jax.ranked import first_of, nothing, put
from batchcube.engine.batches.jax.replication import each_replication, first_after, replication_of
from batchcube.engine.batches.jax.static import form_full, form_late, reached, serve_many, serve_one
from batchcube.engine.batches.numba.static import next_formed
from batchcube.engine.batches.reference import System
from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.estimates import WINDOW, Observation
from batchcube.engine.policies.steering import Means
from batchcube.engine.ticks import NEVER
from helpers.programs import SHAPE, Dynamic, Static, draw

FEW = 24


def stacked(options):
    """Draw a few jobs; return them, their key and a function that turns their stack into replications."""
    jobs = [draw(options, 1000 + number) for number in range(FEW)]
    (key,) = {key_of(job, SHAPE, records=False) for job in jobs}
    key = key._replace(batches=key.requests)

    def replications(rows):
        return jax.vmap(lambda row, requests: replication_of(rows, row, requests, key))(rows.rows, rows.requests)

    return jobs, key, stack(jobs, key, FEW), replications


# Dynamic batches: the state after each instant.


def states_of(options, steps):
    """Return jobs, key, where bins start, and all states after each step: (step, replication, ...)."""
    jobs, key, rows, replications_of = stacked(options)

    def walk(rows):
        replications = replications_of(rows)
        queues = each_replication(queue_of, key)(replications)

        def one(state, _):
            state = each_replication(step, key)(replications, queues, state)
            return state, state._replace(log=None)

        return jax.lax.scan(one, each_replication(begin, key)(replications), None, length=steps)[1]

    with jax.enable_x64(True):
        return jobs, key, jax.tree.map(np.asarray, jax.jit(walk)(rows))


def replication_state(states, at, replication, job):
    """Read what a replication knows after a step, in plain Python."""
    bins, policy, smoothing = len(job.bins.start) - 1, job.setup.policy, job.setup.control.smoothing
    controllers = bins if policy.per_bin else 1

    def pick(part):
        return part[at, replication]

    completion, number, j = (pick(part) for part in states.running[:3])
    running = sorted(zip(number.tolist(), completion.tolist(), j.tolist(), strict=True))
    targets = jax.tree.map(lambda part: pick(part).tolist(), states.targets)
    held = pick(states.history).tolist()
    observed = pick(states.observed).tolist()[:controllers]
    return {
        "heads": pick(states.head).tolist()[:bins],
        "running": [row for row in running if row[1] < NEVER],
        "targets": [jax.tree.map(lambda part, k=k: part[k], targets, is_leaf=is_list) for k in range(controllers)],
        "observed": observed,
        "history": [
            [Observation(*held[k][i % smoothing.observations]) for i in last_of(observed[k], smoothing)]
            for k in range(controllers)
        ],
        "previous": int(pick(states.previous)),
        "taken": int(pick(states.taken)),
        "number": int(pick(states.number)),
        "crowded": bool(pick(states.crowded)),
    }


def is_list(part):
    return isinstance(part, list)


def last_of(observed, smoothing):
    """Return the numbers of the observations that a window still holds; none for other means."""
    return range(max(observed - smoothing.observations, 0), observed) if smoothing.kind == WINDOW else range(0)


class Remembered(Means):
    """Running means, and all that they were made of."""

    def __init__(self, settings):
        super().__init__(settings)
        self.history = []

    def take(self, new):
        self.history.append(new)
        super().take(new)


def reference_states(job):
    """Return what the specification knows after each instant, by instant."""
    found, replication = {}, System(*job)
    start, smoothing = job.bins.start.tolist(), job.setup.control.smoothing
    replication.means = [Remembered(smoothing) for _ in replication.means]
    while (instant := replication.next_instant()) < NEVER:
        replication.now = instant
        replication.complete()
        replication.enqueue()
        replication.dispatch()
        arrived = np.bincount(job.bins.of[: replication.next_request], minlength=len(start) - 1)
        waiting = [len(queue) for queue in replication.waiting]
        histories = [means.history for means in replication.means]
        observed = [len(history) for history in histories]
        found[instant] = {
            "heads": [start[j] + int(arrived[j]) - waiting[j] for j in range(len(start) - 1)],
            "running": sorted((batch.number, batch.completion, batch.bin) for batch in replication.running),
            "targets": list(replication.targets),
            "observed": observed,
            "history": [
                [history[i] for i in last_of(count, smoothing)]
                for history, count in zip(histories, observed, strict=True)
            ],
            "previous": replication.last_bin,
            "taken": replication.next_request - sum(waiting),
            "number": replication.started,
            "crowded": False,
        }
    return found


@pytest.mark.parametrize(
    "options",
    [
        Dynamic(True, True, True, True, True, False, False, 4),
        Dynamic(True, True, False, False, False, True, False, 1),
    ],
    ids=["two or three servers", "one server"],
)
def test_every_step_leaves_the_state_of_the_specification(options):
    jobs, _, states = states_of(options, steps=140)
    for replication, job in enumerate(jobs):
        wanted = reference_states(job)
        now = states.now[:, replication].tolist()
        # An instant is over when the clock moves on; arrivals at busy servers only queue, and are passed over.
        over = [at for at in range(len(now) - 1) if now[at] != now[at + 1]]
        assert now == sorted(now)
        assert now[-1] == NEVER  # all is done, and time stands still
        passed_over = set(wanted) - set(now)
        assert passed_over <= set(job.trace.arrival.tolist())
        for at in over:
            assert replication_state(states, at, replication, job) == wanted[now[at]], (
                f"replication {replication} at {now[at]}"
            )
        assert states.taken[-1, replication] == len(job.trace.arrival)


def test_a_step_finishes_and_starts_one_batch_at_most():
    jobs, _, states = states_of(Dynamic(False, False, False, False, False, False, False, 4), steps=140)
    busy = (states.running.completion < NEVER).sum(axis=2)
    started = np.diff(states.number, axis=0)
    finished = started - np.diff(busy, axis=0)
    assert set(np.unique(started)) == set(np.unique(finished)) == {0, 1}
    assert (started + finished).max() == 2
    servers = np.array([job.setup.policy.servers for job in jobs])
    assert (busy.max(axis=0) == servers).any()
    assert (busy <= servers).all()


# Static batches: every batch, against the kernels' next one.


@jit
def batches_by_kernel(trace, bins, policy, rows):
    """Fill rows with bin, low, high, instant, cause, tie of each batch, bin by bin; return how many there are."""
    count = 0
    for j in range(len(bins.start) - 1):
        head, end = bins.start[j], bins.start[j + 1]
        while head < end:
            instant, cause, tie, high = next_formed(j, head, end, trace, bins.order, policy)
            if instant == NEVER:
                break
            row = rows[count]
            row[0], row[1], row[2], row[3], row[4], row[5] = j, head, high, instant, cause, tie
            head, count = high, count + 1
    return count


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (Static(True, False, False, False, False, 1), form_late),
        (Static(False, False, False, False, False, 1), form_late),
        (Static(False, False, False, False, False, 1), form_full),
    ],
    ids=["max_wait", "no max_wait where some have it", "no max_wait"],
)
def test_bins_form_the_batches_that_the_kernels_form(options, make):
    jobs, key, rows, replications_of = stacked(options)
    key = key._replace(waits=make is form_late)
    with jax.enable_x64(True):
        formed, of = jax.tree.map(
            np.asarray, jax.jit(lambda rows: each_replication(make, key)(replications_of(rows)))(rows)
        )
    causes = set()
    for replication, job in enumerate(jobs):
        found = np.stack([part[replication] for part in formed], axis=1)
        at = np.flatnonzero(found[:, 1] * (found[:, 3] < NEVER))
        wanted = np.zeros((len(job.trace.arrival), 6), np.int64)
        wanted = wanted[: batches_by_kernel(job.trace, job.bins, job.setup.policy, wanted)]
        j, low, high, instant, cause, tie = wanted.T
        np.testing.assert_array_equal(
            found[at],
            np.stack([low, high - low, j, instant, (cause << 32) + tie], axis=1),
            err_msg=f"replication {replication}",
        )
        for number, first, end in zip(at, low, high, strict=True):
            assert (of[replication, first:end] == number).all()
        causes |= set(cause)
    assert causes == ({0, 1, 2} if options.waits else {0, 2})


# Servers.


def starts_by_a_loop(instant, service, servers):
    free, starts = [0] * servers, []
    for formed, duration in zip(instant, service, strict=True):
        server = free.index(min(free))
        starts.append(max(formed, free[server]))
        free[server] = starts[-1] + duration
    return starts


def static_at_last(rng):
    """Draw rows of formations in order, with ties and pauses, the last of them never, and how long service takes."""
    instant = np.sort(rng.integers(0, rng.choice([5, 60, 10**6, 2**50], (200, 1)), (200, 60)))
    service = rng.integers(0, 40, (200, 60)) * rng.choice([1, 1000, 2**40], (200, 1))
    instant[:, 53:], service[:, 53:] = NEVER, 0
    return instant, service


def serve(instant, service, servers, slots):
    """Run `serve_many` on many rows."""
    one = jax.vmap(lambda instant, service, servers: serve_many(instant, service, servers, slots))
    return np.asarray(jax.jit(one)(instant, service, servers))


def test_one_server_starts_batches_as_a_loop_does():
    rng = np.random.default_rng(1)
    instant, service = static_at_last(rng)
    ones = np.ones(200, np.int64)
    with jax.enable_x64(True):
        one = np.asarray(jax.jit(jax.vmap(serve_one))(instant, service))
        many, roomy = (serve(instant, service, ones, slots) for slots in (1, 4))
    wanted = [starts_by_a_loop(*columns, 1) for columns in zip(instant.tolist(), service.tolist(), strict=True)]
    there = instant < NEVER
    for found in (one, many, roomy):
        assert found[there].tolist() == np.array(wanted)[there].tolist()
    assert 0.1 < (one > instant)[there].mean() < 0.9


def test_several_servers_start_batches_as_a_loop_does():
    rng = np.random.default_rng(2)
    instant, service = static_at_last(rng)
    servers = rng.integers(1, 9, 200)
    with jax.enable_x64(True):
        found = serve(instant, service, servers, 8)
    for replication in range(200):
        wanted = starts_by_a_loop(
            instant[replication].tolist(), service[replication].tolist(), int(servers[replication])
        )
        there = instant[replication] < NEVER
        assert found[replication][there].tolist() == np.array(wanted)[there].tolist()


# A set of small integers.

OPERATIONS = 60


@cache
def leasts(count):
    """Return a function that puts and removes one after the other and says, each time, which member is the least."""

    def run(member, present, at_all):
        def one(members, operation):
            members = put(members, *operation)
            return members, first_of(members)

        return jax.lax.scan(one, nothing(count), (member, present, at_all))[1]

    return jax.jit(run)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 4096, 4097, 300_000])
@settings(max_examples=60)
@given(data=st.data())
def test_a_set_of_integers_gives_its_least(count, data):
    edges = [e for e in (0, 1, 62, 63, 64, 65, 127, 128, 4095, 4096, 4097, 262_143, 262_144, count - 1) if e < count]
    member = st.one_of(st.sampled_from(edges), st.integers(0, count - 1))
    operations = data.draw(st.lists(st.tuples(member, st.booleans(), st.booleans()), max_size=OPERATIONS))
    operations += [(0, False, False)] * (OPERATIONS - len(operations))
    with jax.enable_x64(True):
        found = np.asarray(leasts(count)(*(np.array(column) for column in zip(*operations, strict=True)))).tolist()
    members = set()
    for (member, present, at_all), least in zip(operations, found, strict=True):
        if at_all:
            (members.add if present else members.discard)(member)
        assert 0 <= least < -(-count // 64) * 64
        if members:
            assert least == min(members)


@pytest.mark.parametrize(("count", "levels"), [(1, [1]), (64, [1]), (65, [2, 1]), (4096, [64, 1]), (4097, [65, 2, 1])])
def test_a_set_has_a_bit_for_each_integer_and_words_above(count, levels):
    with jax.enable_x64(True):
        assert [len(words) for words in nothing(count)] == levels


# Searches.


def some_form(requests):
    return key_of(draw(Static(True, False, False, False, False, 1), 0), SHAPE, records=False)._replace(
        requests=requests
    )


@pytest.mark.parametrize("requests", [64, 72])
def test_what_is_reached_is_what_a_walk_reaches(requests):
    rng = np.random.default_rng(3)
    strides = rng.integers(1, rng.choice([2, 3, 9, 70], (300, 1)), (300, requests))
    following = np.minimum(np.arange(requests) + strides, requests - 1)
    key = some_form(requests)
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.vmap(lambda following: reached(following, key)))(following))
    for marked, row in zip(found, following.tolist(), strict=True):
        position, walk = 0, []
        while position not in walk:
            walk.append(position)
            position = row[position]
        assert np.flatnonzero(marked).tolist() == walk
    assert found[:, 1:].any()
    assert found.all(axis=1).any()


@pytest.mark.parametrize("requests", [64, 72])
def test_first_after_is_what_a_search_finds(requests):
    rng = np.random.default_rng(4)
    came = np.sort(rng.integers(0, rng.choice([4, 40, 2**50], (300, 1)), (300, requests)))
    bounds = np.sort(rng.integers(0, requests, (300, 2, 9)), axis=1)
    low, high = bounds[:, 0], bounds[:, 1]
    deadline = np.take_along_axis(came, rng.integers(0, requests, (300, 9)), axis=1) + rng.integers(-1, 2, (300, 9))
    deadline[:, 0] = NEVER
    key = some_form(requests)
    with jax.enable_x64(True):
        search = jax.jit(jax.vmap(lambda came, low, high, deadline: first_after(came, low, high, deadline, key)))
        found = np.asarray(search(came, low, high, deadline))
    for replication in range(300):
        for k in range(9):
            wanted = low[replication, k]
            while wanted < high[replication, k] and came[replication, wanted] <= deadline[replication, k]:
                wanted += 1
            assert found[replication, k] == wanted
    assert ((low < found) & (found < high)).sum() > 100
