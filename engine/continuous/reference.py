"""The specification, executed: every replica, step by step, in plain Python (docs/model.md, section 10).

With separate prefills, a preempted request that needs more than the token budget is prefilled alone.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..policies.controller import Heads
from ..policies.order import Candidate
from ..policies.sla import TOKEN_GAP
from ..policies.steering import Steering, Turns
from ..policies.target import Target
from ..statistics import Move
from ..tally import Tally
from ..ticks import NEVER
from .blocks import Cache
from .count import count_reference
from .fleet import COUNTED_EVERY, ROUTINGS, counts_loads, first_asked, load_of, looks_at_queues
from .following import ARRIVES, ENDS, follows_of
from .model import (
    ANYBODY,
    LONGEST_GAP,
    NOBODY,
    SERVED,
    Job,
    Records,
    is_crowded,
    longest_chunk,
    most_active,
    must_fit,
)
from .steps import decode_ticks, kv_token_ticks, prefill_ticks
from .ticks import LATEST, TICKS_PER_MICROSECOND, TICKS_PER_NANOSECOND, too_late


@dataclass(eq=False)
class RunningRequest:
    """A request that holds KV cache."""

    number: int
    resident: int = 0
    """Tokens in the KV cache, those of the steps that have been scheduled included."""
    coming: int = 0
    """Tokens that it will emit in the steps that have been scheduled."""


class Given(NamedTuple):
    """What a running request gets in a step."""

    request: RunningRequest
    tokens: int
    decodes: bool
    """Whether it is one because everything but its latest token is in the cache; otherwise they are prefilled."""
    emits: bool
    """Whether everything is in the cache then: the step ends with a token of its."""


class Plan(NamedTuple):
    """A step that has been scheduled."""

    decoding: list[RunningRequest]
    emitting: list[RunningRequest]
    """Requests that get a token: those that decode, and those whose prefill it ends."""
    prefill_tokens: int
    duration: int
    running: int
    """Requests that run in it, with those that it has no tokens for."""
    blocks: int
    """In use when it has been scheduled."""
    kept: int
    """Not in use then, but found again by what is in them."""
    tokens: int
    """In the KV cache at its end, before finished requests leave."""
    target: Target | None
    """What the controllers had decided."""


NOTHING = Plan([], [], 0, 0, 0, 0, 0, 0, None)
"""A step that came out empty."""


class Step(NamedTuple):
    """What one step did."""

    start: int
    duration: int
    decoding: int
    running: int
    prefill_tokens: int
    prefills: int
    blocks: int
    kept: int
    """Not in use then, but found again by what is in them."""
    tokens: int
    target: Target
    """What the controllers had decided."""


@dataclass
class History:
    """What happened on all replicas, for the tally."""

    steps: list[Step] = field(default_factory=list)
    moves: list[tuple[int, Move]] = field(default_factory=list)
    """Each with its instant."""
    emitted: dict[int, list[int]] = field(default_factory=dict)
    """Instants of the tokens of every request."""


@dataclass
class Engine:
    """The whole state of one replica."""

    job: Job
    records: Records
    history: History
    now: int = 0
    sent: list[int] = field(default_factory=list)
    """Requests that come here and have not arrived."""
    queues: list[list[int]] = field(default_factory=list)
    """Waiting requests: one queue, or one for each bin."""
    returned: list[int] = field(default_factory=list)
    """Preempted requests, the next to be admitted first."""
    running: list[RunningRequest] = field(default_factory=list)
    """In the order of admission."""
    in_step: int = 0
    """Requests that run in the latest step."""
    given: dict[int, Given] = field(default_factory=dict)
    """What requests get in the step that is being scheduled."""
    under_way: Plan = NOTHING
    """The step that begins now, if the next is scheduled before its tokens are known."""

    def __post_init__(self) -> None:
        self.requests, (self.replica, self.fleet, _) = self.job.requests, self.job.setup
        # As lists: numbers in arrays take longer to get at.
        self.prompt: list[int] = self.requests.prompt.tolist()
        self.output: list[int] = self.requests.output.tolist()
        self.numbers = np.arange(len(self.prompt))
        self.queues = [[] for _ in range(self.fleet.bins if self.fleet.by_bin else 1)]
        caching = self.replica.enable_prefix_caching
        self.pool = Cache(self.requests, self.replica.blocks, self.replica.block_tokens, caching=caching)
        self.turns = Turns(self.fleet.bin_choice, int(self.replica.control.largest))
        self.steering = Steering(self.replica.control, *self.seen())

    def advance(self, until: int) -> None:
        """Take the steps that begin before an instant."""
        while True:
            self.let_in()
            if not self.running and not self.waiting():
                if not self.sent or self.requests.arrival[self.sent[0]] >= until:
                    return
                self.now = int(self.requests.arrival[self.sent[0]])
            elif self.now >= until:
                return
            else:
                self.step()

    def let_in(self) -> None:
        """Let in everybody who is sent here and has arrived."""
        while self.sent and self.requests.arrival[self.sent[0]] <= self.now:
            self.enqueue(self.sent.pop(0))

    def enqueue(self, number: int) -> None:
        """Let a request wait."""
        if self.replica.by_priority:
            insort(self.queues[0], number, key=self.in_line)
        else:
            self.queues[self.job.bin_of[number] if self.fleet.by_bin else 0].append(number)

    def welcome(self, number: int, instant: int) -> None:
        """Let a request wait that arrives at an instant up to which all steps were taken; who sleeps wakes up."""
        self.now = max(self.now, instant)
        self.enqueue(number)

    def waiting(self) -> int:
        """Return how many requests wait."""
        return len(self.returned) + sum(map(len, self.queues))

    def here(self, instant: int) -> int:
        """Return how many requests are here at an instant: those that the step under way completes still are."""
        return self.waiting() + (self.in_step if self.now > instant else len(self.running))

    def step(self) -> list[int]:
        """Schedule one step and take it, or the one under way once the next has been scheduled; return who is done."""
        return self.go_on(self.schedule())

    def go_on(self, plan: Plan) -> list[int]:
        """Take a step that has been scheduled, or in its place the one under way; return who is done."""
        if self.replica.async_scheduling:
            plan, self.under_way = self.under_way, plan
        return self.take(plan)

    def schedule(self) -> Plan:
        """Choose who gets tokens in the next step."""
        self.decide()
        self.given = {}
        longest = longest_chunk(len(self.running) + self.waiting(), self.replica)
        if self.replica.chunked:
            budget, preempted = self.serve_running(longest)
            if not preempted:
                # Or the one that just went would be the first to come back, into the room that it left.
                self.admit(budget, longest)
        elif not self.admit(self.replica.token_budget, longest):
            self.serve_running(longest)
        return self.planned() if self.given else NOTHING

    def begins(self) -> int:
        """Return when the step that is being scheduled begins."""
        return self.now + self.under_way.duration

    def known(self, number: int) -> int:
        """Return how many tokens a request has: its prompt, and what it has emitted."""
        return self.prompt[number] + len(self.history.emitted[number])

    def ends(self, request: RunningRequest) -> bool:
        """Say whether the step under way ends a request."""
        return len(self.history.emitted[request.number]) + request.coming == self.output[request.number]

    def serve_running(self, longest: int) -> tuple[int, bool]:
        """Give tokens to the running requests in their order, no more than `longest` each, while the budget lasts.

        Where one has no room, others are preempted until it has, or has gone itself: nobody behind it gets tokens then.
        Returns the budget that is left, and whether anybody was preempted.
        """
        budget, preempted, at = self.replica.token_budget, False, 0
        while at < len(self.running) and budget > 0:
            request = self.running[at]
            if self.ends(request):
                at += 1
                continue
            need = self.known(request.number) + request.coming - request.resident
            tokens = min(need, longest, budget)
            while not self.pool.can_take(request.number, request.resident + tokens):
                preempted = True
                gone = self.victim()
                at -= self.running.index(gone) < at
                self.preempt(gone)
                taken_back = self.given.pop(gone.number, None)
                budget += taken_back.tokens if taken_back else 0
                if gone is request:
                    return budget, preempted
            self.give(request, need, tokens)
            budget -= tokens
            at += 1
        return budget, preempted

    def give(self, request: RunningRequest, need: int, tokens: int, found: Sequence[int] | None = None) -> None:
        """Give a request tokens of those that it needs, and room for them; one that is new begins with what is `found`.

        Blocks have content up to the last token that is known.
        """
        known = self.known(request.number)
        begun = known + request.coming > self.prompt[request.number]
        after = request.resident + tokens
        self.pool.take(request.number, after, found or (), computed=min(after, known))
        self.given[request.number] = Given(request, tokens, need == 1 and begun and found is None, tokens == need)
        request.resident = after

    def victim(self) -> RunningRequest:
        """Return who is preempted next: the latest admitted, or who would be admitted last by priority."""
        if not self.replica.by_priority:
            return self.running[-1]
        return max(self.running, key=lambda request: self.in_line(request.number))

    def in_line(self, number: int) -> tuple[int, int, int]:
        """Return where a request stands by priority; of those that are equal, who came first is first."""
        return int(self.requests.priority[number]), int(self.requests.arrival[number]), number

    def preempt(self, gone: RunningRequest) -> None:
        """Send a request back to the head of the queue, or to its place; its KV cache is lost."""
        self.running.remove(gone)
        self.pool.release(gone.number)
        self.records.preemptions[gone.number] += 1
        self.history.moves.append((self.begins(), Move(-1, 0, 0)))
        if self.replica.by_priority:
            self.enqueue(gone.number)
        else:
            self.returned.insert(0, gone.number)

    def admit(self, budget: int, longest: int) -> bool:
        """Admit those that are next in line until one does not fit, with chunks of `longest` at most.

        Returns whether anybody was admitted.
        """
        cap, admitted = most_active(self.target.batch, self.replica), False
        while self.waiting() and len(self.running) < cap and budget > 0:
            queue = self.returned or self.queues[self.bin_served()]
            new = RunningRequest(queue[0])
            asked = self.known(new.number)
            found = self.pool.find(new.number, asked)
            new.resident = len(found) * self.replica.block_tokens
            need = asked - new.resident
            chunk = min(need, longest, budget) if self.replica.chunked else need
            blocks = self.pool.used_with(new.number, new.resident + must_fit(chunk, need, self.replica), found)
            if is_crowded(chunk, budget, blocks, self.replica):
                break
            queue.pop(0)
            if queue is not self.returned:
                self.turns.left -= 1
            self.records.cached[new.number] += new.resident
            if self.records.scheduled[new.number] < 0:
                self.records.scheduled[new.number] = self.begins()
                looked_for = asked if self.pool.caching else 0
                self.history.moves.append((self.begins(), Move(1, looked_for, new.resident)))
            else:
                self.history.moves.append((self.begins(), Move(1, 0, 0)))
            self.running.append(new)
            self.give(new, need, chunk, found)
            admitted = True
            budget -= chunk
        return admitted

    def bin_served(self) -> int:
        """Return the bin that admission takes from: another one when it is empty, or its turn is over."""
        if not self.fleet.by_bin:
            return 0
        return self.turns.bin_served([len(queue) for queue in self.queues], self.candidate)

    def candidate(self, k: int, previous: int) -> Candidate:
        """Return what the order of bins sees of one in which requests wait."""
        i, requests = self.queues[k][0], self.requests
        arrival, prompt = requests.arrival[i] * 1.0 / TICKS_PER_MICROSECOND, float(requests.prompt[i])
        predicted = float(requests.predicted[i])
        return Candidate(k, len(self.queues[k]), float(i), arrival, prompt, predicted, 0.0, previous, 0)

    def planned(self) -> Plan:
        """Return the step that has been scheduled; its tokens are on their way."""
        law, given = self.replica.law, self.given.values()
        decoding = [g.request for g in given if g.decodes]
        prefilling = [g for g in given if not g.decodes]
        emitting = [g.request for g in given if g.emits]
        prefill_tokens = sum([g.tokens for g in prefilling])
        duration = int(decode_ticks(len(decoding), law))
        duration += int(kv_token_ticks(len(decoding), law)) * sum([r.resident for r in decoding])
        if prefilling:
            attention = sum([g.tokens * g.request.resident for g in prefilling])
            duration += int(prefill_ticks(prefill_tokens, attention, len(decoding), law))
        running = [r for r in self.running if r.number in self.given or not self.ends(r)]
        for request in emitting:
            request.coming += 1
        return Plan(
            decoding,
            emitting,
            prefill_tokens,
            duration,
            len(running),
            self.pool.used,
            len(self.pool.kept),
            sum([r.resident for r in running]),
            self.target,
        )

    def take(self, plan: Plan) -> list[int]:
        """Let the time of a step pass, and emit its tokens; return the requests that are done."""
        if plan.target is None:
            self.now += plan.duration
            self.in_step = len(self.running)
            return []
        ends = self.now + plan.duration
        step = Step(
            start=self.now,
            duration=plan.duration,
            decoding=len(plan.decoding),
            running=plan.running,
            prefill_tokens=plan.prefill_tokens,
            prefills=len(plan.emitting) - len(plan.decoding),
            blocks=plan.blocks,
            kept=plan.kept,
            tokens=plan.tokens,
            target=plan.target,
        )
        self.history.steps.append(step)
        self.now = ends
        if self.now > LATEST:
            raise too_late()
        finished = self.emit(plan)
        self.in_step = len(self.running) + len(finished)
        self.learn(plan, finished)
        return finished

    def emit(self, plan: Plan) -> list[int]:
        """Emit the tokens of a step; let finished requests leave, return them."""
        finished = []
        for request in plan.emitting:
            i, tokens = request.number, self.history.emitted[request.number]
            tokens.append(self.now)
            request.coming -= 1
            if request in self.running:
                self.pool.fill(i, request.resident - request.coming)
            if len(tokens) == self.output[i]:
                self.records.first_token[i], self.records.last_token[i] = tokens[0], self.now
                self.leave(request)
                finished.append(i)
        return finished

    def leave(self, request: RunningRequest) -> None:
        """Let a finished request leave, be it that it waits: it was preempted while its last token was on its way."""
        if request in self.running:
            self.running.remove(request)
            self.pool.release(request.number)
            return
        self.history.moves.append((self.now, Move(1, 0, 0)))
        queue = self.returned if request.number in self.returned else self.queues[0]
        queue.remove(request.number)

    def decide(self) -> None:
        """Let the controllers decide how many may run."""
        if self.steering.moves:
            self.steering.decide(self.steering.view(self.waiting(), len(self.running), *self.seen()))

    @property
    def target(self) -> Target:
        """What the controllers have decided."""
        return self.steering.target

    def seen(self) -> tuple[NDArray[np.int64], Heads]:
        """Return what the controllers see of those who wait: how many in each bin, and who is first."""
        requests, predicted, per_microsecond = self.requests, self.requests.predicted, TICKS_PER_MICROSECOND
        first = np.array([queue[0] if queue else 0 for queue in self.queues])
        heads = Heads(first, self.numbers, requests.arrival, requests.prompt, predicted, self.now, per_microsecond)
        return np.array([len(queue) for queue in self.queues]), heads

    def learn(self, plan: Plan, finished: list[int]) -> None:
        """Smooth what a step has shown: its length and batch, and the requests that it finished."""
        steering = self.steering
        if plan.decoding and steering.watches:
            by_gap = steering.control.sla.signal == TOKEN_GAP
            signal = self.mean_gap(plan) / 1000 if by_gap else plan.duration / TICKS_PER_MICROSECOND
            steering.learn_step(signal, len(plan.decoding))
        if finished:
            tokens = [self.prompt[i] + self.output[i] for i in finished]
            steering.learn_finished(len(tokens), sum(tokens), sum(t * t for t in tokens))

    def mean_gap(self, plan: Plan) -> int:
        """Return the mean time between the tokens that the decodes of a step have emitted and those before, in ns.

        Each counts as `LONGEST_GAP` at most.
        """
        latest = [self.history.emitted[r.number][-2:] for r in plan.decoding]
        gaps = [(later - sooner) // TICKS_PER_NANOSECOND for sooner, later in latest]
        return sum([min(gap, LONGEST_GAP) for gap in gaps]) // len(gaps)


@dataclass
class Front:
    """Where requests come in: it sends each to a replica."""

    job: Job
    engines: list[Engine]
    turn: int = 0
    """Requests that it has sent."""
    counted: int = 0
    """When it was told last who is where."""
    counts: list[list[int]] = field(default_factory=list)
    """Of each replica: requests that wait, those it has sent since among them; requests that run; blocks in use."""

    def __post_init__(self) -> None:
        self.counts = [[0, 0, 0] for _ in self.engines]

    def due(self, instant: int) -> int | None:
        """Return when it is told last before an instant, None unless that is news."""
        due = instant // COUNTED_EVERY * COUNTED_EVERY
        return due if counts_loads(self.job.setup.fleet) and due > self.counted else None

    def count(self, instant: int) -> None:
        """Let it be told who is where at an instant up to which all steps were taken."""
        self.counted = instant
        self.counts = [
            [engine.waiting(), engine.here(instant) - engine.waiting(), engine.pool.used] for engine in self.engines
        ]

    def way_to(self, i: int, instant: int) -> int:
        """Return the replica that a request goes to, which comes at an instant and is not turned away."""
        fleet, turn = self.job.setup.fleet, self.turn
        self.turn += 1
        match ROUTINGS[fleet.routing]:
            case "shortest_queue":
                here = [engine.here(instant) for engine in self.engines]
                return here.index(min(here))
            case "by_bin":
                return int(self.job.bin_of[i]) * fleet.replicas // fleet.bins
            case "round_robin":
                return turn % fleet.replicas
        blocks = self.job.setup.replica.blocks
        loads = [load_of(waiting, running, used, blocks, fleet) for waiting, running, used in self.counts]
        first = first_asked(turn, fleet)
        in_turn = [(first + k) % fleet.replicas for k in range(fleet.replicas)]
        least: int = min(in_turn, key=loads.__getitem__)
        self.counts[least][0] += 1
        return least


def step_together(engines: list[Engine]) -> list[int]:
    """Let all replicas step at once, each step being as long as the longest of them; return who is done."""
    now = max(engine.now for engine in engines)
    for engine in engines:
        engine.now = now
    plans = [engine.schedule() if engine.running or engine.waiting() else NOTHING for engine in engines]
    longest = max(plan.duration for plan in plans)
    return [
        i for engine, plan in zip(engines, plans, strict=True) for i in engine.go_on(plan._replace(duration=longest))
    ]


def serve_in_order(job: Job, records: Records, engines: list[Engine]) -> None:
    """Serve requests in the order of time over all replicas, as some come when others end, or all step together."""
    requests, front, lockstep = job.requests, Front(job, engines), job.setup.fleet.lockstep
    whom = follows_of(requests)
    ahead = [(int(requests.arrival[i]), ARRIVES, i) for i in np.flatnonzero(whom == NOBODY).tolist()]
    anybody = np.flatnonzero(whom == ANYBODY).tolist()
    while True:
        starts = [engine.now if engine.running or engine.waiting() else NEVER for engine in engines]
        start = min(starts)
        # Until then nothing changes.
        due = front.due(min(start, ahead[0][0] if ahead else NEVER))
        if due is not None:
            front.count(due)
        if ahead and ahead[0][0] <= start:
            instant, kind, i = heappop(ahead)
            if kind == ENDS:
                for j in np.flatnonzero(whom == i).tolist() or [anybody.pop(0) for _ in anybody[:1]]:
                    heappush(ahead, (instant + int(requests.delay[j]), ARRIVES, j))
                continue
            if whom[i] != NOBODY:
                requests.arrival[i] = instant
            if records.status[i] != SERVED:
                heappush(ahead, (instant, ENDS, i))
                continue
            records.replica[i] = front.way_to(i, instant)
            engines[records.replica[i]].welcome(i, instant)
        elif start < NEVER:
            for i in step_together(engines) if lockstep else engines[starts.index(start)].step():
                heappush(ahead, (int(records.last_token[i]), ENDS, i))
        else:
            return


def advance_all(engines: list[Engine], until: int) -> None:
    """Take the steps of all replicas that begin before an instant."""
    for engine in engines:
        engine.advance(until)


def simulate_reference(job: Job, records: Records, tally: Tally) -> None:
    """Serve every request that is not rejected already; fill its records, and the empty tally."""
    fleet, arrival = job.setup.fleet, job.requests.arrival.tolist()
    accepted = [i for i in range(len(arrival)) if records.status[i] == SERVED]
    history = History(emitted={i: [] for i in accepted})
    engines = [Engine(job, records, history) for _ in range(fleet.replicas)]
    in_order = fleet.lockstep or len(job.requests.follows) > 0
    if in_order:
        serve_in_order(job, records, engines)
    front = Front(job, engines)
    for i in accepted if not in_order else ():
        if looks_at_queues(fleet):
            due = front.due(arrival[i])
            if due is not None:
                advance_all(engines, due)
                front.count(due)
            advance_all(engines, arrival[i])
            r = front.way_to(i, arrival[i])
            engines[r].welcome(i, arrival[i])
        else:
            r = front.way_to(i, arrival[i])
            engines[r].sent.append(i)
        records.replica[i] = r
    advance_all(engines, NEVER)
    kept = sum(running.resident for engine in engines for running in engine.running)
    count_reference(job, records, history, kept, tally)
