"""Serve requests for real, with the decisions of the simulator: its own reference, on a clock that ticks by itself."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from batchcube.engine import Bins, Records, Setup, Trace
from batchcube.engine.batches.reference import Batch, System
from batchcube.engine.ticks import NEVER, TICKS_PER_S
from batchcube.errors import InputError

Serve = Callable[[Sequence[int]], None]
"""Serve a batch of requests, given by their numbers, and return when the last one is done."""


class LiveReplication(System):
    """The reference with one change: what a batch takes is not computed, it happens.

    Bins, queues, controllers and their learning are those of the simulator, to the line. Requests join at the times of
    their trace, also those that come while a batch is served; one server, and all of a batch complete together.
    """

    def __init__(self, trace: Trace, bins: Bins, setup: Setup, serve: Serve) -> None:
        policy = setup.policy
        if policy.servers != 1 or policy.max_wait != NEVER or policy.own_completion:
            raise InputError("serving live needs one server, bins without a maximum wait, and completion by the batch")
        super().__init__(trace, bins, setup)
        self.serve = serve
        self.begun = time.perf_counter()

    def clock(self) -> int:
        """Return the ticks since the start."""
        return int((time.perf_counter() - self.begun) * TICKS_PER_S)

    def run(self) -> None:
        """Serve until every request is done."""
        self.begun = time.perf_counter()
        while True:
            self.let_in(self.clock())
            batch = self.next_formed() if self.setup.policy.static else self.take()
            if batch is not None:
                self.begin(batch)
            elif self.next_request < len(self.trace.arrival):
                time.sleep(max(0.0, (int(self.trace.arrival[self.next_request]) - self.clock()) / TICKS_PER_S))
            else:
                return

    def let_in(self, until: int) -> None:
        """Let in everybody who has arrived by a tick, each at the time of their arrival."""
        while self.next_request < len(self.trace.arrival) and self.trace.arrival[self.next_request] <= until:
            self.now = int(self.trace.arrival[self.next_request])
            self.enqueue()
        self.now = until

    def begin(self, batch: Batch) -> None:
        """Serve a batch, for real, and learn from it."""
        batch.longest = max(int(self.trace.length[i]) for i in batch.members)
        batch.number, self.started = self.started, self.started + 1
        batch.start = self.clock()
        self.serve(batch.members)
        batch.completion = self.clock()
        batch.service = batch.completion - batch.start
        # At one instant completions come first: who arrives at this one does not wait yet.
        self.let_in(batch.completion - 1)
        self.done.append(batch)
        if not self.setup.policy.static:
            self.learn_from(batch)


def serve_live(trace: Trace, bins: Bins, setup: Setup, serve: Serve) -> Records:
    """Serve a trace on one server in real time; return what became of every request, in ticks since the start.

    Raises InputError for what cannot be served live.
    """
    live = LiveReplication(trace, bins, setup, serve)
    live.run()
    records = Records(*(np.full(len(trace.arrival), -1, np.int64) for _ in Records._fields))
    for batch in live.done:
        for i in batch.members:
            values = (batch.start, batch.completion, batch.number, batch.bin, len(batch.members))
            for column, value in zip(records, values, strict=True):
                column[i] = value
    return records
