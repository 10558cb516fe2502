"""The waiting queue of a server, in the order in which a replica with bins admits (docs/model.md, section 10)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from batchcube.engine.policies.order import Candidate
from batchcube.engine.policies.steering import Turns

from .log import Head

Request = Any
"""Whatever the server calls one."""


class Place(NamedTuple):
    """What the queue knows of a request."""

    number: int
    """In the order of arrival."""
    bin: int
    head: Head


class BinnedQueue:
    """A queue with the methods that vLLM calls of its own: preempted requests, then those of the bin being served.

    `place_of` knows a request's place, `has_run` says whether it was preempted. Where the order fails, `failed` is
    told, once, and requests are served by arrival from then on: no method raises for what an order does.
    """

    def __init__(
        self,
        bins: int,
        order: Any,
        largest: int,
        place_of: Callable[[Request], Place],
        has_run: Callable[[Request], bool],
        failed: Callable[[Exception], None],
    ) -> None:
        self.returned: deque[Request] = deque()
        self.queues: list[deque[Request]] = [deque() for _ in range(bins)]
        self._turns = Turns(order, largest)
        self._place_of, self._has_run, self._failed = place_of, has_run, failed

    def heads(self) -> list[Head]:
        """Return the first request of each bin, zeros where nobody waits."""
        return [self._place_of(queue[0]).head if queue else Head(0, 0, 0.0) for queue in self.queues]

    def sizes(self) -> list[int]:
        """Return how many wait in each bin; who was preempted is in none."""
        return [len(queue) for queue in self.queues]

    def add_request(self, request: Request) -> None:
        """Let a request wait."""
        self.queues[self._bin_of(request)].append(request)

    def peek_request(self) -> Request:
        """Return who is next; IndexError where nobody waits."""
        return self._next()[0]

    def pop_request(self) -> Request:
        """Let who is next leave the queue; IndexError where nobody waits."""
        queue = self._next()
        if queue is not self.returned:
            self._turns.left -= 1
        return queue.popleft()

    def prepend_request(self, request: Request) -> None:
        """Take back a request that was preempted, or one that was passed over: then its bin has its turn again."""
        if self._has_run(request):
            self.returned.appendleft(request)
            return
        k = self._bin_of(request)
        self.queues[k].appendleft(request)
        self._turns.left += k == self._turns.serving

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Take back requests, the last of them to be next."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """Let one leave."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Let some leave, those that wait here."""
        gone = set(requests)
        for queue in (self.returned, *self.queues):
            if any(request in gone for request in queue):
                kept = [request for request in queue if request not in gone]
                queue.clear()
                queue.extend(kept)

    def __len__(self) -> int:
        return len(self.returned) + sum(map(len, self.queues))

    def __bool__(self) -> bool:
        return bool(self.returned) or any(self.queues)

    def __iter__(self) -> Iterator[Request]:
        return chain(self.returned, *self.queues)

    def by_arrival(self) -> None:
        """Serve by arrival from now on, whatever the bin."""
        waiting = sorted(chain(*self.queues), key=lambda request: self._place_of(request).number)
        self.queues = [deque(waiting)]

    def _bin_of(self, request: Request) -> int:
        return self._place_of(request).bin if len(self.queues) > 1 else 0

    def _next(self) -> deque[Request]:
        if self.returned:
            return self.returned
        if len(self.queues) > 1 and any(self.queues):
            try:
                return self.queues[self._turns.bin_served(self.sizes(), self._candidate)]
            except Exception as error:
                self.by_arrival()
                self._failed(error)
        return self.queues[0]

    def _candidate(self, k: int, previous: int) -> Candidate:
        place = self._place_of(self.queues[k][0])
        arrival_ns, prompt, predicted = place.head
        size = len(self.queues[k])
        return Candidate(k, size, float(place.number), arrival_ns / 1000, float(prompt), predicted, 0.0, previous, 0)
