"""What one replication is given: a trace, its sorting into bins, and a setup. Plain tuples of arrays and numbers."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.errors import InputError, found_in

from ..dialect import policy, where
from ..policies.order import CHOICES, SERVICE_ORDERS, is_ranked, order_settings, reads_predictions
from ..policies.service import Service, longest_service
from ..policies.sla import TOKEN_GAP
from ..policies.target import Control, has_further
from ..refusals import number_of, refuse
from ..simulation import Reporting, Shape, reporting_of
from ..statistics import TBT_UNIT
from ..ticks import LARGEST_BATCH, LARGEST_REQUEST, LATEST, MOST_REQUESTS, NEVER, TICKS_PER_S, from_seconds

Mode = Literal["fifo_fixed", "fifo_greedy", "multi_bin_only", "dynamic_only", "multi_bin_dynamic"]
MODES: tuple[Mode, ...] = get_args(Mode)
FIXED: tuple[Mode, ...] = ("fifo_fixed", "multi_bin_only")
"""Those whose batches form in their bins, when they are full."""
Tail = Literal["flush", "drop"]
ControllerScope = Literal["per_bin", "global"]
Completion = Literal["batch", "own"]
INFINITE = 2**30
"""Number of servers that stands for infinitely many."""


class Trace(NamedTuple):
    """The requests of one replication in arrival order, each field (request,) (docs/model.md, section 1)."""

    arrival: NDArray[np.int64]
    """Ticks, non-decreasing."""
    length: NDArray[np.int64]
    """What the longest of a batch is taken over: output tokens, prompt + output tokens, or service ticks."""
    prompt: NDArray[np.int64]
    """Tokens; 0 where only service times are given."""
    output: NDArray[np.int64]
    """Tokens; 0 where only service times are given."""
    predicted: NDArray[np.float64]
    """Predicted length, in the unit of `length`; read where a policy looks at it: see `Setup.reads_predictions`."""


class Bins(NamedTuple):
    """The trace sorted into bins, arrival order kept inside each: a batch is always a slice of `order`."""

    of: NDArray[np.int32]
    """(request,) bin of each request."""
    order: NDArray[np.uint32]
    """(request,) request numbers, bin by bin; unsigned, which spares kernels the test for negative indices."""
    start: NDArray[np.int64]
    """(bin + 1,) where each bin begins in `order`."""


class Batching(NamedTuple):
    """How batches are formed and served (docs/model.md, section 3)."""

    static: bool
    """Whether a batch forms in its bin, when that is full, and not only when a server is free."""
    batch_size: int
    """B of static batches; the largest dynamic one."""
    max_wait: int
    """Ticks that the oldest request of a bin waits at most before what is there forms a batch; NEVER for no limit."""
    service_order: Any
    """Settings of the order in which formed batches are served."""
    ranked: bool
    """Serve the formed batch that comes first in `service_order`, instead of the first formed."""
    drop_tail: bool
    """What is left in the bins at the last arrival never forms a batch."""
    bin_choice: Any
    """Settings of the order in which a free server chooses among bins."""
    per_bin: bool
    """One controller for each bin, instead of one for all."""
    servers: int
    """c, or INFINITE."""
    own_completion: bool
    """Each request completes at its own length; the server stays busy until the longest is done."""

    @property
    def waits(self) -> bool:
        """Whether bins form batches of what they hold after a longest wait."""
        return self.static and self.max_wait < NEVER


@policy
def deadline_of(arrival: Any, policy: Batching) -> Any:
    """Return when a bin forms a batch at the latest, its oldest request come at `arrival`; NEVER for no limit."""
    return where(policy.max_wait < NEVER, arrival + policy.max_wait, NEVER)


class Setup(NamedTuple):
    """Everything but the requests."""

    policy: Batching
    service: Service
    control: Control
    reporting: Reporting

    @property
    def largest_batch(self) -> int:
        """Most requests of a batch."""
        return self.policy.batch_size

    @property
    def windows(self) -> int:
        """Number of time windows of the report."""
        return self.reporting.windows

    @property
    def reads_predictions(self) -> bool:
        """Whether a policy may look at predicted lengths; bins are known before."""
        if self.policy.static:
            return reads_predictions(self.policy.service_order)
        return has_further(self.control) or reads_predictions(self.policy.bin_choice)


class Job(NamedTuple):
    """One replication to simulate."""

    trace: Trace
    bins: Bins
    setup: Setup

    @property
    def shape(self) -> Shape:
        """The shape of its tally."""
        return Shape(len(self.bins.start) - 1, self.setup.largest_batch, self.setup.windows)


class Records(NamedTuple):
    """What became of each request, (request,) each; -1 where it was never served."""

    start: NDArray[np.int64]
    """Ticks."""
    completion: NDArray[np.int64]
    """Ticks."""
    batch: NDArray[np.int64]
    """Number of the batch, in the order in which batches start."""
    bin: NDArray[np.int64]
    size: NDArray[np.int64]
    """Requests in its batch."""


def make_trace(
    arrival_s: ArrayLike,
    *,
    output_tokens: ArrayLike | None = None,
    prompt_tokens: ArrayLike | None = None,
    service_s: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    length: str = "output",
) -> Trace:
    """Build a trace from arrays of shape (request,): arrival times with either token counts or service times.

    `predicted` is the predicted output length in tokens (or service time in seconds), by default the true one. With
    `length="total"` a batch is dominated by prompt + output tokens. Raises InputError naming the field and the first
    bad entry.
    """
    arrival = np.asarray(arrival_s, dtype=np.float64)
    count = len(arrival)
    refuse("arrival_s", ~np.isfinite(arrival), arrival, "must be finite")
    refuse("arrival_s", arrival < 0, arrival, "must be >= 0")
    refuse("arrival_s", np.diff(arrival, prepend=0.0) < 0, arrival, "must not decrease")
    if (output_tokens is None) == (service_s is None):
        raise InputError("a trace needs either output_tokens or service_s")
    if service_s is not None:
        seconds = np.asarray(service_s, dtype=np.float64)
        _same_length("service_s", len(seconds), count)
        refuse("service_s", ~(seconds > 0), seconds, "must be > 0")
        ticks = np.maximum(from_seconds(seconds), 1)
        guess = ticks.astype(np.float64) if predicted is None else np.asarray(predicted, np.float64) * TICKS_PER_S
        _same_length("predicted", len(guess), count)
        nothing = np.zeros(count, np.int64)
        return Trace(from_seconds(arrival), ticks, nothing, nothing, guess)
    output = np.asarray(output_tokens)
    prompt = np.zeros(count, np.int64) if prompt_tokens is None else np.asarray(prompt_tokens)
    _same_length("output_tokens", len(output), count)
    _same_length("prompt_tokens", len(prompt), count)
    refuse("output_tokens", ~(output >= 1), output, "must be >= 1")
    refuse("prompt_tokens", ~(prompt >= 0), prompt, "must be >= 0")
    refuse(
        "prompt_tokens + output_tokens", prompt + output > LARGEST_REQUEST, prompt, f"sum must be <= {LARGEST_REQUEST}"
    )
    output, prompt = output.astype(np.int64), prompt.astype(np.int64)
    guess = output.astype(np.float64) if predicted is None else np.asarray(predicted, dtype=np.float64)
    _same_length("predicted", len(guess), count)
    number_of(length, ("output", "total"), "length")
    if length == "total":
        return Trace(from_seconds(arrival), prompt + output, prompt, output, prompt + guess)
    return Trace(from_seconds(arrival), output, prompt, output, guess)


def sort_into_bins(bin_of_request: NDArray[np.int32], bins: int) -> Bins:
    """Sort requests by bin, arrival order kept: (request,) bin numbers in 0..bins-1; InputError for one beyond."""
    of = np.ascontiguousarray(bin_of_request, dtype=np.int32)
    counts = np.bincount(of, minlength=bins)
    if len(counts) > bins:
        raise InputError(f"bin {len(counts) - 1} of a request", allowed=f"must be below {bins}")
    if bins == 1:
        order = np.arange(len(of), dtype=np.uint32)
    else:
        # Radix sort needs a narrow key: 2-3 times faster than on int32.
        order = np.argsort(of.astype(np.uint8 if bins <= 256 else np.uint16), kind="stable").astype(np.uint32)
    return Bins(of, order, np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def make_policy(
    mode: str,
    *,
    batch_size: int,
    servers: int = 1,
    max_wait_s: float | None = None,
    service_order: Any = "first_formed",
    tail: str = "flush",
    bin_choice: Any = "oldest_head",
    controller_scope: str = "per_bin",
    completion: str = "batch",
) -> Batching:
    """Build the policy of one of `MODES`; `servers=INFINITE` for infinitely many.

    `batch_size` is B where batches have a fixed size, and the largest batch in the dynamic modes. `service_order`
    and `bin_choice` are names, or settings of an `Order`. Raises InputError for an unknown word or a number out of
    range.
    """
    number_of(mode, MODES, "policy.mode")
    number_of(tail, get_args(Tail), "policy.tail")
    number_of(controller_scope, get_args(ControllerScope), "policy.controller_scope")
    number_of(completion, get_args(Completion), "server.completion")
    if not 1 <= batch_size <= LARGEST_BATCH:
        raise InputError(f"must be in 1..{LARGEST_BATCH}", path="policy.batch_size", value=batch_size)
    if max_wait_s is not None and not max_wait_s >= 0:
        raise InputError("must be >= 0", path="policy.max_wait_s", value=max_wait_s)
    if not 1 <= servers <= INFINITE:
        raise InputError("must be >= 1 or infinite", path="server.servers", value=servers)
    formed_order = order_settings(service_order, "policy.service_order", SERVICE_ORDERS)
    return Batching(
        static=mode in FIXED,
        batch_size=int(batch_size),
        max_wait=_whole(max_wait_s, "policy.max_wait_s"),
        service_order=formed_order,
        ranked=is_ranked(formed_order),
        drop_tail=tail == "drop",
        bin_choice=order_settings(bin_choice, "policy.bin_choice", CHOICES),
        per_bin=controller_scope == "per_bin",
        servers=int(servers),
        own_completion=completion == "own",
    )


def _whole(seconds: float | None, name: str) -> int:
    """Return seconds as whole ticks, NEVER for none."""
    with found_in(path=name):
        return NEVER if seconds is None else int(from_seconds(seconds))


def _between_tokens(seconds: float | None, name: str) -> float:
    """Return seconds between tokens in ticks, which need not be whole."""
    return float("inf") if seconds is None else seconds * TICKS_PER_S


make_reporting = partial(reporting_of, _whole, _between_tokens)
"""See `reporting_of`."""


def check(job: Job) -> None:
    """Refuse what cannot be simulated without overflow, or does not fit together; raises InputError."""
    trace, bins, setup = job
    requests = len(trace.arrival)
    if requests == 0:
        raise InputError("a trace needs at least one request")
    if requests >= MOST_REQUESTS:
        raise InputError(f"{requests} requests in one replication", allowed=f"must be below {MOST_REQUESTS}")
    _same_length("bins", len(bins.of), requests)
    if setup.service.base.shape[0] <= setup.policy.batch_size:
        raise InputError("the service law must cover every batch size up to policy.batch_size")
    if not setup.policy.static and int(setup.control.largest) > setup.policy.batch_size:
        raise InputError("policy.largest_batch of the controller", allowed="must not exceed policy.batch_size")
    if setup.control.sla.signal == TOKEN_GAP:
        raise InputError("only steps of continuous batching have one", path="policy.sla.signal", value="'token_gap'")
    controllers = len(bins.start) - 1 if setup.policy.per_bin else 1
    if len(setup.control.prior_tokens) < controllers:
        raise InputError(f"the controller needs prior moments for {controllers} bins")
    longest = longest_service(setup.service, int(trace.length.max()))
    if not setup.service.timed and longest > LATEST // TBT_UNIT:
        raise InputError(
            f"a batch of this trace could take {longest / TICKS_PER_S:.6g} s",
            path="server.service",
            allowed=f"must be at most {LATEST // TBT_UNIT // TICKS_PER_S} s",
        )
    if setup.reads_predictions:
        least, most = float(trace.predicted.min()), float(trace.predicted.max())
        if not 0 <= least <= most <= LATEST:
            raise InputError(f"predicted lengths from {least} to {most}", allowed=f"must be in 0..{LATEST}")
        longest_service(setup.service, int(most))
    wait = 0 if setup.policy.max_wait == NEVER else setup.policy.max_wait
    # Sums over one batch are plain int64, so the horizon shrinks with very large batches.
    latest = min(LATEST, NEVER // setup.policy.batch_size)
    if int(trace.arrival[-1]) + wait + requests * longest > latest:
        raise InputError(
            f"{requests} requests of up to {longest / TICKS_PER_S:.6g} s each could run past "
            f"{latest // TICKS_PER_S} s, the longest that can be simulated with batches of up to "
            f"{setup.policy.batch_size}"
        )


def _same_length(name: str, length: int, count: int) -> None:
    if length != count:
        raise InputError(f"{name} has {length} entries, arrival_s has {count}", allowed="must be equal")
