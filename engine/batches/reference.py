"""The specification, executed: one replication, event by event, in plain Python.

New semantics land here first. Slow on purpose; every other backend must give the same records, request by request.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..policies.controller import Heads, View, as_floats, controller_of
from ..policies.estimates import NOTHING, Observation, observe
from ..policies.order import NO_RANK, Candidate, order_of, rank_of
from ..policies.service import own_ticks, service_ticks
from ..policies.sla import BATCH_TIME, TBT
from ..policies.steering import Means
from ..policies.target import Target, decider, finished_of, last_of, steps_of
from ..ticks import NEVER, TICKS_PER_MICROSECOND
from .model import Bins, Records, Setup, Trace, deadline_of


@dataclass
class Batch:
    """A batch: waiting for a server, in service, or done."""

    bin: int
    members: list[int]
    formed: int = 0
    number: int = -1
    start: int = 0
    service: int = 0
    completion: int = 0
    longest: int = 0
    decision: Target | None = None
    rank: int = 0


class System:
    """The whole state of one replication."""

    def __init__(self, trace: Trace, bins: Bins, setup: Setup) -> None:
        self.trace, self.bins, self.setup = trace, bins, setup
        self.now = self.next_request = self.formations = self.started = 0
        self.last_bin = -1
        count = len(bins.start) - 1
        self.waiting: list[list[int]] = [[] for _ in range(count)]
        self.formed: list[Batch] = []
        self.running: list[Batch] = []
        self.done: list[Batch] = []
        self.decider = decider(controller_of(setup.control.further))
        self.means = [Means(setup.control.smoothing) for _ in range(count if setup.policy.per_bin else 1)]
        self.states: list[Any] = []
        self.targets: list[Target] = []
        for k, means in enumerate(self.means):
            state, target = self.decider.start(means.running, self.view(k, NOTHING, 0), setup.control)
            self.states.append(as_floats(state))
            self.targets.append(target)

    # The clock: at one instant first completions, then arrivals, then dispatch (docs/model.md, section 1).

    def run(self) -> None:
        """Let everything happen, one instant after the other."""
        while (instant := self.next_instant()) < NEVER:
            self.now = instant
            self.complete()
            self.enqueue()
            self.dispatch()

    def next_instant(self) -> int:
        """Return when the next completion, arrival or end of a wait in a bin happens; NEVER if none will."""
        instants = [batch.completion for batch in self.running]
        if self.next_request < len(self.trace.arrival):
            instants.append(int(self.trace.arrival[self.next_request]))
        if self.setup.policy.static:
            instants += [self.deadline(queue) for queue in self.waiting if queue]
        return min(instants, default=NEVER)

    def complete(self) -> None:
        """Finish the batches that are due, by number."""
        finished = sorted((b for b in self.running if b.completion == self.now), key=lambda b: b.number)
        for batch in finished:
            self.running.remove(batch)
            self.done.append(batch)
            if not self.setup.policy.static:
                self.learn_from(batch)

    def enqueue(self) -> None:
        """Let requests join their bins in index order, then full, overdue and last batches form."""
        arrival = self.trace.arrival
        while self.next_request < len(arrival) and arrival[self.next_request] == self.now:
            queue = self.waiting[int(self.bins.of[self.next_request])]
            queue.append(self.next_request)
            self.next_request += 1
            if self.setup.policy.static and len(queue) == self.setup.policy.batch_size:
                self.form(int(self.bins.of[self.next_request - 1]))
        if self.setup.policy.static:
            self.form_late()

    def dispatch(self) -> None:
        """Give free servers work until there is none, or none is free."""
        while len(self.running) < self.setup.policy.servers:
            batch = self.next_formed() if self.setup.policy.static else self.take()
            if batch is None:
                return
            self.begin(batch)

    # Static batches: formed in their bin ([MB] Algorithm 1).

    def deadline(self, queue: list[int]) -> int:
        """Return when the oldest request of a bin has waited as long as it may."""
        return int(deadline_of(int(self.trace.arrival[queue[0]]), self.setup.policy))

    def form_late(self) -> None:
        """Form batches in the bins that have waited long enough; at the last arrival, in all of them."""
        for j, queue in enumerate(self.waiting):
            if queue and self.deadline(queue) == self.now:
                self.form(j)
        if self.next_request == len(self.trace.arrival) and not self.setup.policy.drop_tail:
            for j, queue in enumerate(self.waiting):
                if queue:
                    self.form(j)

    def form(self, j: int) -> None:
        """Form a batch of what bin j holds."""
        batch = Batch(j, self.waiting[j], formed=self.now)
        settings = self.setup.policy.service_order
        if self.setup.policy.ranked:
            batch.rank = int(rank_of(order_of(settings).key(self.candidate(batch), settings)))
        self.formed.append(batch)
        self.waiting[j] = []
        self.formations += 1

    def next_formed(self) -> Batch | None:
        """Take the formed batch that is served next from the central queue."""
        if not self.formed:
            return None
        batch = min(self.formed, key=lambda batch: batch.rank)
        self.formed.remove(batch)
        return batch

    def candidate(self, batch: Batch) -> Candidate:
        """Return what an order sees of a batch that is formed now."""
        i, longest = batch.members[0], max(float(self.trace.predicted[i]) for i in batch.members)
        return Candidate(
            batch.bin,
            len(batch.members),
            float(i),
            self.trace.arrival[i] * 1.0 / TICKS_PER_MICROSECOND,
            float(self.trace.prompt[i]),
            longest,
            service_ticks(len(batch.members), longest, self.setup.service) / TICKS_PER_MICROSECOND,
            -1,
            self.formations,
        )

    # Dynamic batches: formed when a server is free, up to the target ([DB]).

    def take(self) -> Batch | None:
        """Choose a bin and take a batch from its head; None when nothing waits."""
        ranks = [self.rank(j) if queue else NO_RANK for j, queue in enumerate(self.waiting)]
        j = ranks.index(min(ranks))
        if not self.waiting[j]:
            return None
        target = self.targets[self.controller(j)]
        members, self.waiting[j] = self.waiting[j][: target.batch], self.waiting[j][target.batch :]
        self.last_bin = j
        return Batch(j, members, formed=self.now, decision=target)

    def rank(self, j: int) -> int:
        """Return where a bin in which requests wait stands."""
        settings, i = self.setup.policy.bin_choice, self.waiting[j][0]
        arrival = self.trace.arrival[i] * 1.0 / TICKS_PER_MICROSECOND
        prompt, predicted = float(self.trace.prompt[i]), float(self.trace.predicted[i])
        seen = Candidate(j, len(self.waiting[j]), float(i), arrival, prompt, predicted, 0.0, self.last_bin, 0)
        return int(rank_of(order_of(settings).key(seen, settings)))

    def controller(self, j: int) -> int:
        """Return the controller that decides for bin j."""
        return j if self.setup.policy.per_bin else 0

    def learn_from(self, batch: Batch) -> None:
        """Teach its controller what a finished batch has shown."""
        k, control = self.controller(batch.bin), self.setup.control
        tokens = [int(self.trace.prompt[i] + self.trace.output[i]) for i in batch.members]
        new = observe(self.signal(batch), len(tokens), sum(tokens), sum(t * t for t in tokens))
        self.means[k].take(new)
        view = self.view(k, new, len(batch.members))
        state, self.targets[k] = self.decider.decide(self.states[k], self.means[k].running, view, control)
        self.states[k] = as_floats(state)

    def view(self, k: int, new: Observation, finished: int) -> View:
        """Return what controller k sees once so many requests have finished, of which it has learned."""
        policy, control, trace = self.setup.policy, self.setup.control, self.trace
        means = self.means[k].running
        queued = len(self.waiting[k]) if policy.per_bin else sum(map(len, self.waiting))
        requests = np.arange(len(trace.arrival))
        first = np.array([queue[0] if queue else 0 for queue in self.waiting])
        return View(
            queued > 0,
            queued,
            finished + sum(len(batch.members) for batch in self.running),
            0,
            np.array([len(queue) for queue in self.waiting]),
            Heads(first, requests, trace.arrival, trace.prompt, trace.predicted, self.now, TICKS_PER_MICROSECOND),
            k if policy.per_bin else -1,
            control.smallest,
            control.largest,
            steps_of(means, control.smoothing),
            finished_of(means, control.prior_tokens[k], control.prior_squares[k], control.smoothing),
            last_of(new, new),
        )

    def signal(self, batch: Batch) -> float:
        """Return τ of a finished batch, in ticks."""
        chosen = self.setup.control.sla.signal
        if chosen == TBT:
            return batch.service / max(1, *(int(self.trace.output[i]) for i in batch.members))
        if chosen == BATCH_TIME:
            return float(batch.service)
        latencies = [self.completion_of(batch, i) - int(self.trace.arrival[i]) for i in batch.members]
        return float(sum(latencies) // len(latencies))  # whole ticks: the same in every backend

    # Service (docs/model.md, section 2).

    def begin(self, batch: Batch) -> None:
        """Start a batch on a server."""
        batch.longest = max(int(self.trace.length[i]) for i in batch.members)
        batch.service = int(service_ticks(len(batch.members), batch.longest, self.setup.service))
        batch.start, batch.completion = self.now, self.now + batch.service
        batch.number, self.started = self.started, self.started + 1
        self.running.append(batch)

    def completion_of(self, batch: Batch, i: int) -> int:
        """Return when request i of a batch completes."""
        if not self.setup.policy.own_completion:
            return batch.completion
        length = int(self.trace.length[i])
        return batch.start + int(own_ticks(len(batch.members), length, batch.service, self.setup.service))


def simulate_reference(trace: Trace, bins: Bins, setup: Setup) -> tuple[Records, list[Batch]]:
    """Simulate one replication; return what became of each request, and the batches in starting order."""
    system = System(trace, bins, setup)
    system.run()
    records = Records(*(np.full(len(trace.arrival), -1, np.int64) for _ in Records._fields))
    batches = sorted(system.done, key=lambda batch: batch.number)
    for batch in batches:
        for i in batch.members:
            values: tuple[Any, ...] = (
                batch.start,
                system.completion_of(batch, i),
                batch.number,
                batch.bin,
                len(batch.members),
            )
            for column, value in zip(records, values, strict=True):
                column[i] = value
    return records, batches
