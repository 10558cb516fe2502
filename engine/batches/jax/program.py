"""What a program is compiled for, and jobs stacked into its arrays. Plain NumPy: no JAX here.

Jobs of one key differ in numbers only: their arrays are padded to common shapes and stacked. What jobs share (the
requests of a replication, the setup of a grid point) is stored and sent to the device once, and referred to by row.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies.controller import Controller, controller_of
from ...policies.estimates import WINDOW
from ...policies.order import BUILTIN, Order, counts_waiting, order_of
from ...simulation import Shape
from ...ticks import NEVER
from ..model import INFINITE, Job, Setup

MOST_SLOTS = 64
"""Batches in service at once that are provided for when servers are many; doubled when it was too few."""


class ProgramKey(NamedTuple):
    """The structure of a program: array shapes, and what there is at all."""

    requests: int
    """Room for the requests of a replication, and one more."""
    batches: int
    """Room for its batches: 0 until the jobs of a call are known."""
    bins: int
    largest_batch: int
    windows: int
    pieces: int
    servers: int
    """Batches in service at once; 0 for no limit."""
    observations: int
    """Room for what a window of estimates holds."""
    static: bool
    waits: bool
    """Some bin forms a batch of what it holds after a longest wait."""
    ranked: bool
    """Formed batches are served by rank, not as they are formed."""
    counted: bool
    """The order of bins looks at how many wait."""
    own_completion: bool
    timed: bool
    sla: bool
    memory: bool
    further: Controller | None
    """A controller beside the papers'."""
    order: Order
    """Of the formed batches, or of the bins."""
    records: bool
    """Say what became of each request."""

    @property
    def predicted(self) -> bool:
        """Whether a policy may read predicted lengths."""
        return self.ranked or self.further is not None or self.order is not BUILTIN


def roomy(count: int) -> int:
    """Round up to one of eight sizes in each doubling, so that similar inputs share a compiled program."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << (count - 1).bit_length()


def slots_for(servers: int) -> int:
    """Return room for the batches of several servers, or of one."""
    return 1 if servers == 1 else max(power_of_two(servers), 4)


def batches_of(job: Job) -> int:
    """Return how many batches a job can have at most."""
    policy = job.setup.policy
    if policy.static and not policy.waits:
        return int((-(-np.diff(job.bins.start) // policy.batch_size)).sum())
    return len(job.trace.arrival)


def key_of(job: Job, shape: Shape, *, records: bool, slots: int = MOST_SLOTS) -> ProgramKey:
    """Return the program key of a job; `slots` bounds the batches in service when servers are many."""
    setup = job.setup
    policy, service, control = setup.policy, setup.service, setup.control
    requests = len(job.trace.arrival)
    if policy.static:
        servers = 0 if policy.servers == INFINITE else slots_for(policy.servers)
    else:
        servers = min(slots_for(policy.servers), slots)
    return ProgramKey(
        requests=roomy(max(requests + 1, 64)),
        batches=0,
        bins=shape.bins,
        largest_batch=shape.largest_batch,
        windows=shape.windows,
        pieces=power_of_two(len(service.knots)),
        servers=servers,
        observations=max(power_of_two(control.smoothing.observations), 8)
        if control.smoothing.kind == WINDOW and not policy.static
        else 1,
        static=policy.static,
        waits=policy.waits,
        ranked=policy.static and policy.ranked,
        counted=not policy.static and shape.bins > 1 and counts_waiting(policy.bin_choice),
        own_completion=policy.own_completion,
        timed=service.timed,
        sla=control.sla.enabled,
        memory=control.memory.enabled,
        further=None if policy.static else controller_of(control.further),
        order=order_of(policy.service_order if policy.static else policy.bin_choice),
        records=records,
    )


def sized(key: ProgramKey, jobs: Sequence[Job]) -> ProgramKey:
    """Give a key room for the batches of the jobs that run together."""
    return key._replace(batches=roomy(max(8, *map(batches_of, jobs))))


class Stack(NamedTuple):
    """Arrays for one call: rows that replications share, and the rows of each replication.

    Every device gets an equal part of the replications and of the rows: row numbers count within a part.
    """

    arrival: NDArray[np.int64]
    """(row, request) ticks; NEVER beyond the last."""
    asked: NDArray[np.int64]
    """(row, 3, request) length, prompt, output; 1, 0, 0 beyond the last."""
    predicted: NDArray[np.float64]
    """(row, request), where a policy may read it."""
    order: NDArray[np.int32]
    """(row, request) request numbers, bin by bin."""
    start: NDArray[np.int64]
    """(row, bin + 1) where each bin begins."""
    setups: Setup
    """Every number of every setup, leading axis row."""
    rows: NDArray[np.uint32]
    """(replication, 5) rows of arrival, asked, predicted, order and start, setups; unsigned, so that JAX expects none
    to be counted from the end."""
    requests: NDArray[np.int64]
    """(replication,) requests; 0 in a replication that only fills up the shape."""


class _Rows:
    """Values of one kind, each kept once; two are the same if they are the same objects."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._row_of: dict[tuple[int, ...], int] = {}

    def row(self, *parts: Any) -> int:
        """Return the row of a value, given by its parts."""
        key = tuple(id(part) for part in parts)
        if key not in self._row_of:
            self._row_of[key] = len(self.values)
            self.values.append(parts)
        return self._row_of[key]


class _Part:
    """The replications of one device: what they read, and where."""

    def __init__(self, jobs: Sequence[Job], replications: int, key: ProgramKey) -> None:
        self.kinds = tuple(_Rows() for _ in range(5))
        arrivals, asked, predicted, bins, setups = self.kinds
        self.rows = np.zeros((replications, 5), np.uint32)
        self.requests = np.zeros(replications, np.int64)
        for replication, (trace, sorting, setup) in enumerate(jobs):
            self.requests[replication] = len(trace.arrival)
            self.rows[replication] = (
                arrivals.row(trace.arrival),
                asked.row(trace.length, trace.prompt, trace.output),
                predicted.row(trace.predicted) if key.predicted else 0,
                bins.row(sorting.order, sorting.start),
                setups.row(setup),
            )


def _parts(jobs: Sequence[Job], key: ProgramKey, replications: int, devices: int) -> list[_Part]:
    each = replications // devices
    return [_Part(jobs[device * each : (device + 1) * each], each, key) for device in range(devices)]


def rows_for(jobs: Sequence[Job], key: ProgramKey, replications: int, devices: int = 1) -> tuple[int, ...]:
    """Return how many rows of each kind jobs need in chunks of `replications`: with as many in all, one program."""
    rows = [1] * 5
    for first in range(0, len(jobs), replications):
        for part in _parts(jobs[first : first + replications], key, replications, devices):
            rows = [max(most, len(kind.values)) for most, kind in zip(rows, part.kinds, strict=True)]
    return tuple(min(power_of_two(most), replications // devices) for most in rows)


def stack(
    jobs: Sequence[Job], key: ProgramKey, replications: int, devices: int = 1, rows_of_kind: Sequence[int] | None = None
) -> Stack:
    """Stack jobs of one key into the arrays of one call; `replications` is a multiple of `devices`.

    `rows_of_kind` is what `rows_for` says of all chunks of which this is one; of this alone when left out.
    """
    parts = _parts(jobs, key, replications, devices)
    if rows_of_kind is None:
        rows_of_kind = rows_for(jobs, key, replications, devices)

    def rows_of(kind: int, widen: Callable[..., Any], filler: tuple[Any, ...]) -> list[Any]:
        most, rows = rows_of_kind[kind], []
        for part in parts:
            values = part.kinds[kind].values
            wide = [widen(*value) for value in values]
            rows += wide + [widen(*filler) if not wide else wide[0]] * (most - len(wide))
        return rows

    def widen(values: Any, fill: Any, dtype: Any) -> NDArray[Any]:
        wide = np.full(key.requests, fill, dtype)
        wide[: len(values)] = values
        return wide

    def widen_asked(length: Any, prompt: Any, output: Any) -> NDArray[np.int64]:
        return np.stack([widen(length, 1, np.int64), widen(prompt, 0, np.int64), widen(output, 0, np.int64)])

    def widen_bins(order: Any, start: Any) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        wide = np.arange(key.requests, dtype=np.int32)
        wide[: len(order)] = order
        return wide, np.pad(start, (0, key.bins + 1 - len(start)), mode="edge")

    some = jobs[0]
    bins = rows_of(3, widen_bins, (some.bins.order, some.bins.start))
    setups = rows_of(4, lambda setup: _widen_setup(setup, key), (some.setup,))
    columns = zip(*(_leaves(setup) for setup in setups), strict=True)
    return Stack(
        arrival=np.stack(rows_of(0, lambda arrival: widen(arrival, NEVER, np.int64), (some.trace.arrival,))),
        asked=np.stack(rows_of(1, widen_asked, some.trace[1:4])),
        predicted=np.stack(rows_of(2, lambda guess: widen(guess, 0.0, np.float64), ((),))),
        order=np.stack([order for order, _ in bins]),
        start=np.stack([start for _, start in bins]),
        setups=_like(setups[0], iter([np.stack(column) for column in columns])),
        rows=np.concatenate([part.rows for part in parts]),
        requests=np.concatenate([part.requests for part in parts]),
    )


def _widen_setup(setup: Setup, key: ProgramKey) -> Setup:
    """Pad the arrays of a setup, or cut what no batch can reach; what is added is never read."""
    service, control = setup.service, setup.control
    pieces = (0, key.pieces - len(service.knots))

    def widen(table: NDArray[Any]) -> NDArray[Any]:
        cut = table[: key.largest_batch + 1]
        return np.pad(cut, ((0, key.largest_batch + 1 - len(cut)), pieces))

    def widen_prior(prior: NDArray[np.float64]) -> NDArray[np.float64]:
        cut = prior[: key.bins]
        return np.pad(cut, (0, key.bins - len(cut)), constant_values=1.0)

    return setup._replace(
        service=service._replace(
            knots=np.pad(service.knots, pieces, constant_values=NEVER),
            base=widen(service.base),
            slope=widen(service.slope),
            extrapolated=widen(service.extrapolated),
        ),
        control=control._replace(
            prior_tokens=widen_prior(control.prior_tokens), prior_squares=widen_prior(control.prior_squares)
        ),
    )


def _leaves(value: Any) -> list[NDArray[Any]]:
    """List the numbers of nested named tuples: integers and bools as int64, floats as float64."""
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    array = np.asarray(value)
    return [array.astype(np.float64 if array.dtype.kind == "f" else np.int64)]


def _like(value: Any, leaves: Iterator[Any]) -> Any:
    """Build nested named tuples in the shape of another from their leaves."""
    if isinstance(value, tuple):
        return type(value)(*(_like(part, leaves) for part in value))
    return next(leaves)
