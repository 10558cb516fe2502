"""The log of a server: what became of each request."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous import Requests, make_requests

Floats = NDArray[np.float64]
Clock = Literal["server", "client"]


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

    @property
    def came_s(self) -> Floats:
        """(request,) when requests came: arrived, where the log says so, but none before those queued ahead of it.

        A server that is busy may queue a request a step after it arrived, and users wait from its arrival on.
        """
        return in_turn(self.queued_s, self.arrival_s)

    def requests(self) -> Requests:
        """Return what the simulator replays."""
        return make_requests(self.came_s, self.prompt_tokens, self.output_tokens)

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


def left_out_of(failed: int, cancelled: int, warm_up: int) -> str:
    """Return the counts of requests left out in words, empty where there are none."""
    counts = {"failed": failed, "cancelled": cancelled, "warm-up": warm_up}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
