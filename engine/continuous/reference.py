"""The specification, executed: every replica, step by step, in plain Python (docs/model.md, section 10).

With separate prefills, a preempted request that needs more than the token budget is prefilled alone.
"""

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
from ..tally import Tally
from .blocks import Cache
from .count import count_reference
from .following import ARRIVES, ENDS
from .model import (
    ANYBODY,
    LATEST,
    LONGEST_GAP,
    NEVER,
    NOBODY,
    ROUTINGS,
    SERVED,
    TICKS_PER_MICROSECOND,
    TICKS_PER_NANOSECOND,
    Job,
    Records,
    is_crowded,
    longest_chunk,
    most_active,
    must_fit,
    too_late,
)


@dataclass
class RunningRequest:
    """A request that holds KV cache."""

    number: int
    resident: int = 0
    """Tokens in the KV cache."""
    tokens: int = 0
    """Tokens that it gets in this step."""
    decodes: bool = False
    """Whether it gets one because everything but its latest token is in the cache; otherwise they are prefilled."""


class Step(NamedTuple):
    """What one step did."""

    start: int
    duration: int
    decoding: int
    running: int
    prefill_tokens: int
    prefills: int
    blocks: int
    """In use at its end, before finished requests leave."""
    kept: int
    """Not in use then, but found again by what is in them."""
    tokens: int
    """In the KV cache then."""
    mean_gap: int
    """Nanoseconds since the tokens before those of its decodes."""
    target: Target
    """What the controllers had decided."""


class Move(NamedTuple):
    """A request that began to run (1), or went back to the queue (-1)."""

    instant: int
    running: int
    asked: int = 0
    """Tokens that were looked for in the cache, of one that runs for the first time."""
    found: int = 0


@dataclass
class History:
    """What happened on all replicas, for the tally."""

    steps: list[Step] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
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

    def __post_init__(self) -> None:
        self.requests, (self.replica, self.fleet, _) = self.job.requests, self.job.setup
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
        """Schedule one step, let its time pass, and emit its tokens; return the requests that are done."""
        self.decide()
        longest = longest_chunk(len(self.running) + self.waiting(), self.replica)
        if self.replica.chunked:
            budget, preempted = self.serve_running(longest)
            if not preempted:
                # Or the one that just went would be the first to come back, into the room that it left.
                self.admit(budget, longest)
        elif not self.admit(self.replica.token_budget, longest):
            self.serve_running(longest)
        step = self.pass_time()
        finished = self.emit()
        self.learn(step, finished)
        return finished

    def need(self, request: RunningRequest) -> int:
        """Return how many of a request's tokens are not in the cache: of its prompt and what it has emitted."""
        number = request.number
        return int(self.requests.prompt[number]) + len(self.history.emitted[number]) - request.resident

    def serve_running(self, longest: int) -> tuple[int, bool]:
        """Give tokens to the running requests in their order, no more than `longest` each, while the budget lasts.

        Where one has no room, the latest admitted are preempted until it has, or has gone itself. Returns the budget
        that is left, and whether anybody was preempted.
        """
        budget, preempted, at = self.replica.token_budget, False, 0
        while at < len(self.running) and budget > 0:
            request = self.running[at]
            need = self.need(request)
            tokens = min(need, longest, budget)
            while not self.pool.can_take(request.number, request.resident + tokens):
                preempted = True
                if self.preempt() is request:
                    return budget, preempted
            self.give(request, tokens)
            request.decodes = need == 1 and len(self.history.emitted[request.number]) > 0
            budget -= tokens
            at += 1
        return budget, preempted

    def give(self, request: RunningRequest, tokens: int, found: Sequence[int] = ()) -> None:
        """Give a request tokens in this step, and room for them behind the blocks `found` for it."""
        self.pool.take(request.number, request.resident + tokens, found)
        request.tokens = tokens

    def preempt(self) -> RunningRequest:
        """Send the latest admitted request back to the head of the queue and return it; its KV cache is lost."""
        gone = self.running.pop()
        self.pool.release(gone.number)
        self.records.preemptions[gone.number] += 1
        self.history.moves.append(Move(self.now, -1))
        self.returned.insert(0, gone.number)
        return gone

    def admit(self, budget: int, longest: int) -> bool:
        """Admit those that are next in line until one does not fit, with chunks of `longest` at most.

        Returns whether anybody was admitted.
        """
        cap, admitted = most_active(self.target.batch, self.replica), False
        while self.waiting() and len(self.running) < cap and budget > 0:
            queue = self.returned or self.queues[self.bin_served()]
            new = RunningRequest(queue[0])
            asked = self.need(new)
            found = self.pool.find(new.number, asked)
            new.resident = len(found) * self.replica.block_tokens
            need = self.need(new)
            chunk = min(need, longest, budget) if self.replica.chunked else need
            blocks = self.pool.used_with(new.number, new.resident + must_fit(chunk, need, self.replica), found)
            if is_crowded(chunk, budget, blocks, self.replica):
                break
            queue.pop(0)
            if queue is not self.returned:
                self.turns.left -= 1
            self.running.append(new)
            self.give(new, chunk, found)
            admitted = True
            self.records.cached[new.number] += new.resident
            if self.records.scheduled[new.number] < 0:
                self.records.scheduled[new.number] = self.now
                looked_for = asked if self.pool.caching else 0
                self.history.moves.append(Move(self.now, 1, looked_for, new.resident))
            else:
                self.history.moves.append(Move(self.now, 1))
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

    def pass_time(self) -> Step:
        """Let the step's time pass; return what it did."""
        law = self.replica.law
        decoding = [r for r in self.running if r.tokens and r.decodes]
        prefilling = [r for r in self.running if r.tokens and not r.decodes]
        duration = law.step + law.request * len(decoding)
        duration += law.kv_token * sum(r.resident + 1 for r in decoding)
        duration += law.prefill_token * sum(r.tokens for r in prefilling)
        duration += law.prefill_attention * sum(r.tokens * (r.resident + r.tokens) for r in prefilling)
        gaps = [self.now + duration - self.history.emitted[r.number][-1] for r in decoding]
        step = Step(
            start=self.now,
            duration=duration,
            decoding=len(decoding),
            running=len(self.running),
            prefill_tokens=sum(r.tokens for r in prefilling),
            prefills=sum(r.tokens == self.need(r) for r in prefilling),
            blocks=self.pool.used,
            kept=len(self.pool.kept),
            tokens=sum(r.resident + r.tokens for r in self.running),
            mean_gap=sum(min(gap // TICKS_PER_NANOSECOND, LONGEST_GAP) for gap in gaps) // max(len(gaps), 1),
            target=self.target,
        )
        self.history.steps.append(step)
        self.in_step = len(self.running)
        self.now += duration
        if self.now > LATEST:
            raise too_late()
        return step

    def emit(self) -> list[int]:
        """Emit a token of everybody who has all tokens in the cache; let finished requests leave, return them."""
        finished = []
        for request in list(self.running):
            i = request.number
            request.resident += request.tokens
            request.tokens = 0
            if self.need(request):
                continue
            tokens = self.history.emitted[i]
            tokens.append(self.now)
            if len(tokens) == self.requests.output[i]:
                self.records.first_token[i], self.records.last_token[i] = tokens[0], self.now
                self.running.remove(request)
                self.pool.release(i)
                finished.append(i)
        return finished

    def decide(self) -> None:
        """Let the controllers decide how many may run."""
        self.steering.decide(self.steering.view(self.waiting(), len(self.running), *self.seen()))

    @property
    def target(self) -> Target:
        """What the controllers have decided."""
        return self.steering.target

    def seen(self) -> tuple[NDArray[np.int64], Heads]:
        """Return what the controllers see of those who wait: how many in each bin, and who is first."""
        requests, numbers = self.requests, np.arange(len(self.requests.arrival))
        first = np.array([queue[0] if queue else 0 for queue in self.queues])
        predicted, per_microsecond = requests.predicted, TICKS_PER_MICROSECOND
        heads = Heads(first, numbers, requests.arrival, requests.prompt, predicted, self.now, per_microsecond)
        return np.array([len(queue) for queue in self.queues]), heads

    def learn(self, step: Step, finished: list[int]) -> None:
        """Smooth what the step has shown: its length and batch, and the requests that it finished."""
        steering = self.steering
        if step.decoding and steering.watches:
            by_gap = steering.control.sla.signal == TOKEN_GAP
            signal = step.mean_gap / 1000 if by_gap else step.duration / TICKS_PER_MICROSECOND
            steering.learn_step(signal, step.decoding)
        if finished:
            tokens = [int(self.requests.prompt[i] + self.requests.output[i]) for i in finished]
            steering.learn_finished(len(tokens), sum(tokens), sum(t * t for t in tokens))


def way_to(job: Job, engines: list[Engine], i: int, turn: int, instant: int) -> int:
    """Return the replica that a request goes to at an instant; it is the `turn`-th that is not turned away."""
    fleet = job.setup.fleet
    match ROUTINGS[fleet.routing]:
        case "shortest_queue":
            here = [engine.here(instant) for engine in engines]
            return here.index(min(here))
        case "by_bin":
            return int(job.bin_of[i]) * fleet.replicas // fleet.bins
        case _:
            return turn % fleet.replicas


def serve_following(job: Job, records: Records, engines: list[Engine]) -> None:
    """Serve requests some of which come when others end, in the order of time over all replicas."""
    requests, turn = job.requests, 0
    ahead = [(int(requests.arrival[i]), ARRIVES, i) for i in np.flatnonzero(requests.follows == NOBODY).tolist()]
    anybody = np.flatnonzero(requests.follows == ANYBODY).tolist()
    while True:
        starts = [engine.now if engine.running or engine.waiting() else NEVER for engine in engines]
        start = min(starts)
        if ahead and ahead[0][0] <= start:
            instant, kind, i = heappop(ahead)
            if kind == ENDS:
                for j in np.flatnonzero(requests.follows == i).tolist() or [anybody.pop(0) for _ in anybody[:1]]:
                    heappush(ahead, (instant + int(requests.delay[j]), ARRIVES, j))
                continue
            requests.arrival[i] = instant
            if records.status[i] != SERVED:
                heappush(ahead, (instant, ENDS, i))
                continue
            records.replica[i] = way_to(job, engines, i, turn, instant)
            engines[records.replica[i]].welcome(i, instant)
            turn += 1
        elif start < NEVER:
            for i in engines[starts.index(start)].step():
                heappush(ahead, (int(records.last_token[i]), ENDS, i))
        else:
            return


def simulate_reference(job: Job, records: Records, tally: Tally) -> None:
    """Serve every request that is not rejected already; fill its records, and the empty tally."""
    fleet, arrival = job.setup.fleet, job.requests.arrival.tolist()
    accepted = [i for i in range(len(arrival)) if records.status[i] == SERVED]
    history = History(emitted={i: [] for i in accepted})
    engines = [Engine(job, records, history) for _ in range(fleet.replicas)]
    if len(job.requests.follows):
        serve_following(job, records, engines)
    for turn, i in enumerate(accepted if not len(job.requests.follows) else ()):
        if ROUTINGS[fleet.routing] == "shortest_queue":
            for engine in engines:
                engine.advance(arrival[i])
            r = way_to(job, engines, i, turn, arrival[i])
            engines[r].welcome(i, arrival[i])
        else:
            r = way_to(job, engines, i, turn, arrival[i])
            engines[r].sent.append(i)
        records.replica[i] = r
    for engine in engines:
        engine.advance(NEVER)
    kept = sum(running.resident for engine in engines for running in engine.running)
    count_reference(job, records, history, kept, tally)
