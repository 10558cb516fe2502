"""What the kernel works in: arrays of the requests, and of every replica."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...numba.jit import inline
from ...policies.admission import Admission, is_steady
from ...policies.estimates import Observation, RunningMeans
from ...policies.sla import Range
from ..model import Job
from ..tally import BUCKET_ENDS

NOBODY = -1
# Numbers that the parts of the kernel share and change, for each replica.
(
    NOW,
    NEXT,  # how many of the requests that are sent here have arrived
    WAITING,
    RETURNED,  # the preempted request that is admitted next
    RUNNING,
    IN_STEP,  # requests that run in the latest step
    TAIL,  # the request admitted last
    PREFILLING,  # the request whose prefill has begun and not ended
    DECODING,
    MEASURED_DECODING,  # those past the warm-up
    GROWN,  # decode steps so far
    OFFSETS,  # tokens that decoding requests have in the cache, less `GROWN` each
    TOKENS,  # in the cache
    USED,  # blocks
    EMITTED,  # end of the latest step with decodes
    FRESH,  # requests that began to decode after it
    SERVING,  # bin that admission takes from
    TURN,  # how many more it may take in a row
    SEEN_STEPS,
    SEEN_FINISHED,
    WINDOW,
    FIELDS,
) = range(22)


class Workspace(NamedTuple):
    """Working memory of the fleet, and of one replica: the same without the leading axis replica."""

    resident: NDArray[np.int64]
    """(request,) tokens in the KV cache; less `GROWN` while the request decodes."""
    to_prefill: NDArray[np.int64]
    """(request,)"""
    generated: NDArray[np.int64]
    """(request,) tokens emitted, up to date while the request does not decode."""
    finish: NDArray[np.int64]
    """(request,) value of `GROWN` at which a decoding request is done; NOBODY while it does not decode."""
    emitted: NDArray[np.int64]
    """(request,) when it emitted its latest token, but for tokens of decode steps that ended later."""
    before: NDArray[np.int64]
    """(request,) running requests in the order of admission, linked both ways."""
    after: NDArray[np.int64]
    """(request,) the same; of a waiting request, the one behind it."""
    place: NDArray[np.int64]
    """(request,) where in the heap it is."""
    state: NDArray[np.int64]
    """(replica, FIELDS)"""
    counts: NDArray[np.int64]
    """(replica, 11) integers of `Admission`."""
    reals: NDArray[np.float64]
    """(replica, 4) floats of `Admission`."""
    heap: NDArray[np.int64]
    """(replica, running) decoding requests, the one that is done first on top."""
    done: NDArray[np.int64]
    """(replica, running) requests whose prefill ends in this step."""
    fresh: NDArray[np.int64]
    """(replica, running) requests that began to decode after the latest step with decodes."""
    phase: NDArray[np.int64]
    """(replica, token of a block) decoding requests by `resident` less `GROWN`, modulo the block."""
    queue: NDArray[np.int64]
    """(replica, bin, 3) first and last waiting request of a bin, and how many."""
    seen: NDArray[np.int64]
    """(replica, 2, observation, 4) what the windows of the controllers still hold: decode steps, finished requests."""
    bucket_ends: NDArray[np.int64]
    """BUCKET_ENDS: as a global it would be part of the machine code, in every part of the kernel."""
    steady: bool
    """Whether the cap stays while nothing finishes and nobody comes."""


FIRST, LAST, COUNT = range(3)


def make_workspace(job: Job) -> Workspace:
    """Make the arrays for one replication."""
    requests, (replica, fleet, _) = job.requests, job.setup
    count, replicas = len(requests.arrival), fleet.replicas
    running = min(int(replica.control.largest), count) + 1
    state = np.zeros((replicas, FIELDS), np.int64)
    state[:, [RETURNED, TAIL, PREFILLING]] = NOBODY
    # Nothing was served before the first turn: it begins with a choice.
    state[:, SERVING] = NOBODY

    def every(value: int = 0) -> NDArray[np.int64]:
        return np.full(count, value, np.int64)

    return Workspace(
        resident=every(),
        to_prefill=every(),
        generated=every(),
        finish=every(NOBODY),
        emitted=every(),
        before=every(NOBODY),
        after=every(NOBODY),
        place=every(),
        state=state,
        counts=np.zeros((replicas, 11), np.int64),
        reals=np.zeros((replicas, 4), np.float64),
        heap=np.zeros((replicas, running), np.int64),
        done=np.zeros((replicas, running), np.int64),
        fresh=np.zeros((replicas, running), np.int64),
        phase=np.zeros((replicas, replica.block_tokens), np.int64),
        queue=np.full((replicas, fleet.bins if fleet.by_bin else 1, 3), (NOBODY, NOBODY, 0), np.int64),
        seen=np.zeros((replicas, 2, replica.control.smoothing.observations, 4), np.int64),
        bucket_ends=BUCKET_ENDS,
        steady=is_steady(replica.control),
    )


@inline
def part_of(workspace, r):
    """Return the working memory of one replica."""
    return Workspace(
        workspace.resident,
        workspace.to_prefill,
        workspace.generated,
        workspace.finish,
        workspace.emitted,
        workspace.before,
        workspace.after,
        workspace.place,
        workspace.state[r],
        workspace.counts[r],
        workspace.reals[r],
        workspace.heap[r],
        workspace.done[r],
        workspace.fresh[r],
        workspace.phase[r],
        workspace.queue[r],
        workspace.seen[r],
        workspace.bucket_ends,
        workspace.steady,
    )


@inline
def load(workspace):
    """Read the state of a replica's controllers."""
    counts, reals = workspace.counts, workspace.reals
    steps = RunningMeans(counts[0], Observation(counts[1], counts[2], counts[3], counts[4]))
    finished = RunningMeans(counts[5], Observation(counts[6], counts[7], counts[8], counts[9]))
    return Admission(steps, finished, Range(reals[0], reals[1]), reals[2], reals[3], counts[10])


@inline
def store(admission, workspace):
    """Keep the state of a replica's controllers."""
    counts, reals = workspace.counts, workspace.reals
    steps, finished = admission.steps, admission.finished
    counts[0], counts[5] = steps.seen, finished.seen
    counts[1], counts[2], counts[3] = steps.total.signal, steps.total.batch, steps.total.tokens
    counts[4], counts[10] = steps.total.squares, admission.cap
    counts[6], counts[7], counts[8] = finished.total.signal, finished.total.batch, finished.total.tokens
    counts[9] = finished.total.squares
    reals[0], reals[1] = admission.span.low, admission.span.high
    reals[2], reals[3] = admission.memory_bound, admission.sla_bound
