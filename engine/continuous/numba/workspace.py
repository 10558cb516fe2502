"""What the kernel works in: arrays of the requests, and of every replica."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiling.jit import inline
from ...histogram import bucket_edges
from ...policies.estimates import Observation, RunningMeans, update
from ...policies.target import has_further, is_steady, watches_steps
from ..fleet import LEAST_LOADED
from ..model import NOBODY, Job
from ..ticks import TICKS_PER_NANOSECOND
from .blocks import Cache, cache_of, make_cache

# Shortest gap, in ticks, that falls beyond each bucket: a gap is rounded down to a nanosecond before it is counted.
BUCKET_ENDS = np.ceil(bucket_edges()[1:]).astype(np.int64) * TICKS_PER_NANOSECOND
# Numbers that the parts of the kernel share and change, for each replica. The first are lengths: of the list of `lists`
# that has the same number.
(
    DECODING,  # decoding requests, in a heap: the one that is done first on top
    PREFILLING,  # running requests whose prefill has not ended, in the order of admission
    DONE,  # requests whose prefill ends in this step, and those that decode from the next on without: they lack the
    # token that they emitted last
    STAYING,  # requests that the step under way ends: no step has tokens for them any more, but they run
    FRESH,  # requests that decode, but whose latest token is not of the latest step with decodes
    ENDED,  # requests that the latest step completed
    NOW,  # when the next step is scheduled
    BEGINS,  # when it begins: later, if steps are scheduled ahead
    NEXT,  # how many of the requests that are sent here have arrived
    WAITING,
    RETURNED,  # the preempted request that is admitted next
    RUNNING,
    IN_STEP,  # requests that run in the latest step
    HEAD,  # the running request that was admitted first
    TAIL,  # the one admitted last
    STAYING_TOKENS,  # that those that stay have in the cache
    STAYED,  # requests that the step under way ends, and that were preempted since
    PREFILLED,  # prefills that end in this step, with a token
    MEASURED_DECODING,  # decoding requests past the warm-up
    GROWN,  # decode steps so far
    FULL,  # where those stand in `phase` whose blocks are full: -GROWN modulo the block
    OFFSETS,  # tokens that decoding requests have in the cache, less `GROWN` each
    TOKENS,  # in the cache
    USED,  # blocks
    DECODED,  # end of the latest step with decodes
    SERVING,  # bin that admission takes from
    TURN,  # how many more it may take in a row
    SEEN_STEPS,
    SEEN_FINISHED,
    WINDOW,
    FIELDS,
) = range(31)
LISTS = 6
# What is known of a request, in a row, so that it is found in one place: a line of the processor's cache.
(
    RESIDENT,  # tokens in the KV cache; less `GROWN` while the request decodes
    TO_PREFILL,
    GENERATED,  # tokens emitted, up to date while the request does not decode
    EMITTED,  # when it emitted its latest token, but for tokens of decode steps that ended later
    BEFORE,  # running requests in the order of admission, linked both ways
    AFTER,  # the same; of a waiting request, the one behind it
    PLACE,  # where in the heap it is
    GIVEN,  # tokens that a running request gets in the step that is being scheduled
    COLUMNS,
) = range(9)


class Workspace(NamedTuple):
    """Working memory of the fleet, and of one replica: the same without the leading axis replica."""

    request: NDArray[np.int64]
    """(request, COLUMNS)"""
    finish: NDArray[np.int64]
    """(request,) value of `GROWN` at which a decoding request is done; NOBODY while it does not decode. By itself: the
    heap goes through many."""
    state: NDArray[np.int64]
    """(replica, FIELDS)"""
    kept: NDArray[np.float64]
    """(replica, number) state of the controllers."""
    means: NDArray[np.int64]
    """(replica, 2, 5) running means of decode steps, and of finished requests."""
    coming: NDArray[np.int64]
    """(replica, 2, 4) what the step under way will show of both."""
    last: NDArray[np.int64]
    """(replica, 2, 4) what the latest step has shown of both, an `Observation` each; zeros where nothing."""
    lists: NDArray[np.int64]
    """(replica, LISTS, running) requests"""
    phase: NDArray[np.int64]
    """(replica, token of a block) decoding requests by their RESIDENT, modulo the block."""
    queue: NDArray[np.int64]
    """(replica, bin, 3) first and last waiting request of a bin, and how many."""
    seen: NDArray[np.int64]
    """(replica, 2, observation, 4) what the windows of the controllers still hold: decode steps, finished requests."""
    bucket_ends: NDArray[np.int64]
    """BUCKET_ENDS: as a global it would be part of the machine code, in every part of the kernel."""
    numbers: NDArray[np.int64]
    """(request,) 0, 1, ...: where views look up the first request of a queue."""
    cache: Cache
    """Blocks and what is in them; read where prefixes are cached."""
    caching: bool
    """Whether they are."""
    steady: bool
    """Whether the cap stays while nothing finishes and nobody comes."""
    watched: bool
    """Whether a controller is shown single steps."""
    further: bool
    """Whether there is a controller beside the papers'."""
    eager: bool
    """Whether whoever comes may change what is decided, or where they are sent, though there are others who wait."""
    followed: bool
    """Whether somebody may follow those that end: then steps wait to hear of it."""
    counts: NDArray[np.int64]
    """(replica, 3) what the front of the fleet knows: requests that wait, that run, blocks in use."""


FIRST, LAST, COUNT = range(3)


def make_workspace(job: Job, numbers: int) -> Workspace:
    """Make the arrays for one replication, for controllers whose state holds so many `numbers`."""
    requests, (replica, fleet, _) = job.requests, job.setup
    count, replicas = len(requests.arrival), fleet.replicas
    running = min(int(replica.control.largest), count) + 1
    state = np.zeros((replicas, FIELDS), np.int64)
    state[:, [RETURNED, HEAD, TAIL]] = NOBODY
    # Nothing was served before the first turn: it begins with a choice.
    state[:, SERVING] = NOBODY

    request = np.zeros((count, COLUMNS), np.int64)
    request[:, [BEFORE, AFTER]] = NOBODY
    return Workspace(
        request=request,
        finish=np.full(count, NOBODY, np.int64),
        state=state,
        kept=np.zeros((replicas, numbers), np.float64),
        means=np.zeros((replicas, 2, 5), np.int64),
        coming=np.zeros((replicas, 2, 4), np.int64),
        last=np.zeros((replicas, 2, 4), np.int64),
        lists=np.zeros((replicas, LISTS, running), np.int64),
        phase=np.zeros((replicas, replica.block_tokens), np.int64),
        queue=np.full((replicas, fleet.bins if fleet.by_bin else 1, 3), (NOBODY, NOBODY, 0), np.int64),
        seen=np.zeros((replicas, 2, replica.control.smoothing.observations, 4), np.int64),
        bucket_ends=BUCKET_ENDS,
        numbers=np.arange(count, dtype=np.int64),
        cache=make_cache(job),
        caching=replica.enable_prefix_caching,
        steady=is_steady(replica.control),
        watched=watches_steps(replica.control),
        further=has_further(replica.control),
        eager=has_further(replica.control)
        or replica.long_prefill_token_threshold_adaptive
        or fleet.routing == LEAST_LOADED,
        followed=False,
        counts=np.zeros((replicas, 3), np.int64),
    )


@inline
def part_of(workspace, r, caching, followed):
    """Return the working memory of one replica; what is false as the kernel is compiled costs nothing there."""
    return Workspace(
        workspace.request,
        workspace.finish,
        workspace.state[r],
        workspace.kept[r],
        workspace.means[r],
        workspace.coming[r],
        workspace.last[r],
        workspace.lists[r],
        workspace.phase[r],
        workspace.queue[r],
        workspace.seen[r],
        workspace.bucket_ends,
        workspace.numbers,
        cache_of(workspace.cache, r),
        caching,
        workspace.steady,
        workspace.watched,
        workspace.further,
        workspace.eager,
        followed,
        workspace.counts[r],
    )


STEPS, FINISHED = range(2)


@inline
def observation_of(row):
    """Read an observation."""
    return Observation(row[0], row[1], row[2], row[3])


@inline
def keep(row, new):
    """Keep an observation."""
    row[0], row[1], row[2], row[3] = new.signal, new.batch, new.tokens, new.squares


@inline
def means_of(which, workspace):
    """Read the running means of a replica's STEPS, or of the requests that FINISHED there."""
    row = workspace.means[which]
    return RunningMeans(row[0], observation_of(row[1:]))


@inline
def see(which, new, seen, smoothing, workspace):
    """Take an observation into the running means; so many were `seen` before."""
    row = workspace.seen[which, seen % smoothing.observations]
    means = update(means_of(which, workspace), new, observation_of(row), smoothing)
    keep(row, new)
    workspace.means[which, 0] = means.seen
    keep(workspace.means[which, 1:], means.total)
    keep(workspace.last[which], new)
