"""The specification, executed: one replica, step by step, in plain Python (model, section 10).

One rule goes beyond the text: a step that preempts admits nobody (as in vLLM), or the preempted request would be the
first to be admitted into the room that was just made.
"""

from dataclasses import dataclass, field

import numpy as np

from ..policies.admission import decide_cap, see_finished, see_step, start_admission
from ..policies.estimates import Seen, observe
from .model import (
    LATEST,
    REJECTED,
    SERVED,
    TICKS_PER_MICROSECOND,
    Records,
    Replica,
    Requests,
    Totals,
    blocks_of,
    never_fits,
    too_late,
)


@dataclass
class Running:
    """A request that holds KV cache."""

    number: int
    resident: int = 0
    """Tokens in the KV cache."""
    to_prefill: int = 0
    """Tokens still to be prefilled; 0 for one that decodes."""
    chunk: int = 0
    """Tokens that it prefills in this step."""


@dataclass
class Engine:
    """The whole state of one replica."""

    requests: Requests
    replica: Replica
    now: int = 0
    next_request: int = 0
    waiting: list[int] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    """In the order of admission."""
    steps: int = 0
    decode_tokens: int = 0
    prefill_tokens: int = 0
    prefills: int = 0
    busy: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        count = len(self.requests.arrival)
        self.generated = [0] * count
        self.records = Records(*(np.full(count, -1, np.int64) for _ in Records._fields))
        self.records.preemptions[:] = 0
        self.records.status[:] = np.where(never_fits(self.requests, self.replica), REJECTED, SERVED)
        self.admission = start_admission(self.replica.control)
        self.seen_steps: list[Seen] = []
        self.seen_finished: list[Seen] = []

    def run(self) -> Totals:
        """Step until every request is served or rejected."""
        while True:
            self.let_in()
            if not self.running and not self.waiting:
                if self.next_request == len(self.requests.arrival):
                    break
                self.now = int(self.requests.arrival[self.next_request])
                continue
            self.step()
        preemptions = int(self.records.preemptions.sum())
        tokens = (self.decode_tokens, self.prefill_tokens, self.prefills)
        return Totals(self.steps, *tokens, preemptions, self.busy, self.peak)

    def let_in(self) -> None:
        """Let in everybody who has arrived; a request that could never fit is turned away."""
        arrival = self.requests.arrival
        while self.next_request < len(arrival) and arrival[self.next_request] <= self.now:
            if self.records.status[self.next_request] == SERVED:
                self.waiting.append(self.next_request)
            self.next_request += 1

    def step(self) -> None:
        """Schedule one step, let its time pass, and emit its tokens."""
        waiting, running = len(self.waiting), len(self.running)
        self.admission = decide_cap(self.admission, waiting, running, self.replica.control)
        if self.replica.chunked:
            preempted = self.make_room_for_decodes()
            budget = self.replica.token_budget - len(self.decoding())
            budget, evicted = self.continue_prefills(budget)
            if not (preempted or evicted):
                self.admit(budget)
            decoding = self.decoding()
        else:
            self.admit(self.replica.token_budget)
            decoding = []
            if not any(r.chunk for r in self.running):
                self.make_room_for_decodes()
                decoding = self.decoding()
        duration = self.pass_time(decoding)
        finished = self.emit(decoding)
        self.learn(duration, len(decoding), finished)

    def decoding(self) -> list[Running]:
        """Return the running requests that are past their prefill."""
        return [r for r in self.running if not r.to_prefill]

    # Room in the KV cache.

    def used(self) -> int:
        """Return the blocks in use, the chunks of this step counted."""
        return sum(blocks_of(r.resident + r.chunk, self.replica.block_tokens) for r in self.running)

    def make_room_for_decodes(self) -> bool:
        """Preempt the latest admitted until every decode of this step has room for one token; say whether any was."""
        preempted = False
        while self.used_after_decodes() > self.replica.blocks:
            self.preempt()
            preempted = True
        return preempted

    def used_after_decodes(self) -> int:
        """Return the blocks in use once every decoding request has one token more."""
        size = self.replica.block_tokens
        return sum(blocks_of(r.resident + (0 if r.to_prefill else 1), size) for r in self.running)

    def preempt(self) -> None:
        """Send the latest admitted request back to the head of the queue; its KV cache is lost."""
        gone = self.running.pop()
        self.records.preemptions[gone.number] += 1
        self.waiting.insert(0, gone.number)

    def fits(self, running: Running, chunk: int) -> bool:
        """Say whether a chunk fits beside the chunks of this step, and the decodes if it has any."""
        size = self.replica.block_tokens
        others = sum(
            blocks_of(r.resident + r.chunk + (1 if self.replica.chunked and not r.to_prefill else 0), size)
            for r in self.running
            if r.number != running.number
        )
        return others + blocks_of(running.resident + chunk, size) <= self.replica.blocks

    # Work of a step.

    def continue_prefills(self, budget: int) -> tuple[int, bool]:
        """Give running prefills their next chunks; return the budget left, and whether one went for lack of room."""
        for running in [r for r in self.running if r.to_prefill]:
            chunk = min(running.to_prefill, budget)
            if chunk and not self.fits(running, chunk):
                # It is the latest admitted: an earlier one would have had the budget first.
                self.preempt()
                return budget, True
            running.chunk = chunk
            budget -= chunk
        return budget, False

    def admit(self, budget: int) -> None:
        """Admit from the head of the queue; the first that does not fit stops admission."""
        while self.waiting and len(self.running) < self.admission.cap and budget > 0:
            number = self.waiting[0]
            need = int(self.requests.prompt[number]) + self.generated[number]
            chunk = min(need, budget) if self.replica.chunked else need
            new = Running(number, to_prefill=need)
            if chunk > budget or not self.fits(new, chunk):
                return
            new.chunk = chunk
            self.waiting.pop(0)
            self.running.append(new)
            if self.records.scheduled[number] < 0:
                self.records.scheduled[number] = self.now
            budget -= chunk

    def pass_time(self, decoding: list[Running]) -> int:
        """Let the step's time pass; return how long it was."""
        law = self.replica.law
        prefilling = [r for r in self.running if r.chunk]
        duration = law.step + law.request * len(decoding)
        duration += law.kv_token * sum(r.resident + 1 for r in decoding)
        duration += law.prefill_token * sum(r.chunk for r in prefilling)
        duration += law.prefill_attention * sum(r.chunk * (r.resident + r.chunk) for r in prefilling)
        self.now += duration
        if self.now > LATEST:
            raise too_late()
        self.steps += 1
        self.busy += duration
        self.decode_tokens += len(decoding)
        self.prefill_tokens += sum(r.chunk for r in prefilling)
        return duration

    def emit(self, decoding: list[Running]) -> list[int]:
        """Emit a token of every decode and of every prefill that is done; let finished requests leave, return them."""
        for running in decoding:
            running.resident += 1
        emitting = list(decoding)
        for running in self.running:
            if running.chunk:
                running.resident += running.chunk
                running.to_prefill -= running.chunk
                running.chunk = 0
                if not running.to_prefill:
                    emitting.append(running)
                    self.prefills += 1
        self.peak = max(self.peak, self.used())
        finished = []
        for running in emitting:
            i = running.number
            self.generated[i] += 1
            if self.records.first_token[i] < 0:
                self.records.first_token[i] = self.now
            if self.generated[i] == self.requests.output[i]:
                self.records.last_token[i] = self.now
                self.running.remove(running)
                finished.append(i)
        return finished

    def learn(self, duration: int, decoding: int, finished: list[int]) -> None:
        """Teach the controllers what the step has shown: its length and batch, and the requests that it finished."""
        control = self.replica.control
        if decoding:
            new = observe(duration / TICKS_PER_MICROSECOND, decoding, 0, 0)
            self.admission = see_step(self.admission, new, self.oldest(self.seen_steps, new), control)
        if finished:
            tokens = [int(self.requests.prompt[i] + self.requests.output[i]) for i in finished]
            new = observe(0.0, len(tokens), sum(tokens), sum(t * t for t in tokens))
            self.admission = see_finished(self.admission, new, self.oldest(self.seen_finished, new), control)

    def oldest(self, history: list[Seen], new: Seen) -> Seen:
        """Keep an observation, and return the one that leaves a full window; zeros before that."""
        history.append(new)
        held = self.replica.control.smoothing.observations
        return history[-1 - held] if len(history) > held else Seen(0, 0, 0, 0)


def simulate_reference(requests: Requests, replica: Replica) -> tuple[Records, Totals]:
    """Simulate one replica; return what became of each request, and the totals."""
    engine = Engine(requests, replica)
    totals = engine.run()
    return engine.records, totals
