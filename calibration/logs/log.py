"""The log of a server: what became of each request."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous import Requests, follow, make_requests
from batchcube.engine.continuous.model import ANYBODY, NOBODY

Floats = NDArray[np.float64]
Clock = Literal["server", "client"]

# Of a closed loop: requests that say so at least, and how far apart, of a step, times from an end to the next arrival.
_TELL, _REGULAR = 10, 0.25


class Log(NamedTuple):
    """A request log in the order in which requests were queued, each field (request,); seconds since the first came."""

    queued_s: Floats
    """When the server had a request; where the clock is the client's, when that sent it."""
    scheduled_s: Floats
    """NaN where the log does not say."""
    first_token_s: Floats
    last_token_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    sha256: str
    """Of what the file holds, packed or not."""
    arrival_s: Floats | None = None
    """When a request arrived, before it was queued; None where the log has no such stamp beside `queued_s`."""
    format: str = "vllm-requests"
    clock: Clock = "server"
    failed: int = 0
    """Requests left out, as those of the two fields below."""
    cancelled: int = 0
    warm_up: int = 0
    notes: tuple[str, ...] = ()
    """What must be known of the times, a line each."""
    loop: int = 0
    """Requests that a closed loop kept under way, each of the others sent when one ended; 0 where it was none."""

    @property
    def came_s(self) -> Floats:
        """(request,) when requests came: arrived, where the log says so, but none before those queued ahead of it.

        A server that is busy may queue a request a step after it arrived, and users wait from its arrival on.
        """
        return in_turn(self.queued_s, self.arrival_s)

    def requests(self, client_s: float = 0.0) -> Requests:
        """Return what the simulator replays; those of a closed loop come as long after an end as they did.

        An end is seen later by a client's clock, which adds ``client_s``.
        """
        requests = make_requests(self.came_s, self.prompt_tokens, self.output_tokens)
        if not self.loop:
            return requests
        delay = np.zeros(len(self.came_s))
        delay[self.loop :] = np.maximum(_after_ends(self.came_s, self.last_token_s, self.loop), 0.0)
        if self.clock == "client":
            delay[self.loop :] += client_s
        return follow(requests, np.where(np.arange(len(delay)) < self.loop, NOBODY, ANYBODY), delay)

    def first(self, count: int) -> NDArray[np.bool_]:
        """Say which requests are among the first ``count``."""
        return np.arange(len(self.queued_s)) < count

    def remarks(self) -> list[str]:
        """Say, a line each, what was left out, whose clock it is, and what must be known of the times."""
        left_out = left_out_of(self.failed, self.cancelled, self.warm_up)
        return [
            *([f"{left_out} requests left out: what they cost the server is not simulated"] if left_out else []),
            *(["times by the client's clock: network and tokeniser are in them"] if self.clock == "client" else []),
            *self.notes,
        ]


def in_turn(queued_s: Floats, arrival_s: Floats | None) -> Floats:
    """Return (request,) when requests came: `Log.came_s`."""
    return queued_s if arrival_s is None else np.maximum.accumulate(arrival_s)


def loop_of(log: Log) -> int:
    """Return how many requests a closed loop kept under way, 0 where arrivals do not look like those of one.

    In a loop every end has an arrival that follows it, always as soon, and more evenly than one arrival the last. Where
    a replay moves an end, by the scatter of steps, that arrival must move along: it would fall anywhere in a step, and
    wait for half of one.
    """
    came, ends = log.came_s, np.sort(log.last_token_s)
    several = log.output_tokens > 1
    if not several.any():
        return 0
    steps = (log.last_token_s - log.first_token_s)[several] / (log.output_tokens[several] - 1)
    near = _REGULAR * float(np.median(steps))
    under_way = 1 + np.arange(len(came)) - np.searchsorted(ends, came + near, side="right")
    users = max(int(under_way.max()), 1)
    if len(came) - users < max(users, _TELL):
        return 0
    even = _spread(_after_ends(came, log.last_token_s, users))
    return users if even <= min(near, _spread(np.diff(came))) else 0


def _after_ends(came_s: Floats, last_token_s: Floats, users: int) -> Floats:
    """Return how long after an end each request came, but the first as many as ``users``: one after each end."""
    return came_s[users:] - np.sort(last_token_s)[: len(came_s) - users]


def _spread(times: Floats) -> float:
    return float(np.subtract(*np.quantile(times, [0.75, 0.25])))


def left_out_of(failed: int, cancelled: int, warm_up: int) -> str:
    """Return the counts of requests left out in words, empty where there are none."""
    counts = {"failed": failed, "cancelled": cancelled, "warm-up": warm_up}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
