"""A fleet of replicas, and how requests find their way to one."""

from typing import Any, Literal, NamedTuple, get_args

from batchcube.errors import InputError

from ..dialect import maximum, policy, settle, where
from ..policies.order import CHOICES, order_settings
from ..refusals import number_of
from .ticks import TICKS_PER_S

MOST_REPLICAS = 4096
Routing = Literal["round_robin", "shortest_queue", "by_bin", "least_loaded", "least_waiting"]
ROUTINGS: tuple[Routing, ...] = get_args(Routing)
SHORTEST_QUEUE, BY_BIN, LEAST_LOADED, LEAST_WAITING = range(1, len(ROUTINGS))
COUNTED_EVERY = TICKS_PER_S // 10
"""Ticks between two counts of the requests on every replica, as vLLM's coordinator publishes them."""
Admission = Literal["fifo", "by_bin"]
ADMISSIONS: tuple[Admission, ...] = get_args(Admission)


class Fleet(NamedTuple):
    """Replicas that are all alike, and how requests find their way to one and into its batch."""

    replicas: int
    routing: int
    """Of `ROUTINGS`: in turn; to the replica with the fewest requests, the first of them on a tie; bin j of K to
    replica j c // K of c; or to the replica of the least `load_of`, by what was counted last."""
    bins: int
    """K."""
    by_bin: bool
    """Admission prefers the bin being served, until it is empty or has been given `most_running` requests in a row."""
    bin_choice: Any
    """Settings of the order in which bins are served."""
    lockstep: bool
    """Whether steps begin and end on all replicas together, each as long as the longest."""


def make_fleet(
    *,
    replicas: int = 1,
    routing: str = "round_robin",
    bins: int = 1,
    admission: str = "fifo",
    bin_choice: Any = "oldest_head",
    lockstep: bool = False,
) -> Fleet:
    """Build a fleet; InputError for an unknown word, no replica or bin, and fewer bins than replicas they map to."""
    way = number_of(routing, ROUTINGS, "routing")
    number_of(admission, ADMISSIONS, "admission")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InputError(f"must be in 1..{MOST_REPLICAS}", path="replicas", value=replicas)
    if bins < 1:
        raise InputError("must be >= 1", path="bins", value=bins)
    if routing == "by_bin" and bins < replicas:
        raise InputError(f"must be at least replicas = {replicas} with routing by_bin", path="bins", value=bins)
    order = order_settings(bin_choice, "bin_choice", CHOICES)
    return Fleet(int(replicas), way, int(bins), admission == "by_bin", order, bool(lockstep))


@policy
def looks_at_queues(fleet: Fleet) -> Any:
    """Say whether the way of a request depends on who is where when it comes."""
    return (fleet.routing == SHORTEST_QUEUE) | counts_loads(fleet)


@policy
def counts_loads(fleet: Fleet) -> Any:
    """Say whether the way of a request depends on what was counted every `COUNTED_EVERY`."""
    return (fleet.routing == LEAST_LOADED) | (fleet.routing == LEAST_WAITING)


@policy
def load_of(waiting: Any, running: Any, used: Any, blocks: Any, fleet: Fleet) -> Any:
    """Return the load of a replica, as the front of vLLM estimates it; the next request goes where it is least.

    `waiting` and `running` requests and `used` ones of its `blocks` are as counted last, and those that were sent there
    since wait. `least_loaded` is the rule of vLLM 0.32: where the KV cache is more than half full, who waits counts up
    to four times. `least_waiting` is that of earlier ones: who waits counts four times. That vLLM 0.32 counts no fewer
    than the requests it has sent and has no end of is no rule of its own here, where nothing is on its way and one
    front sends all of them.
    """
    full = settle(waiting * 6.0 * maximum(0.0, used / blocks - 0.5))
    return where(fleet.routing == LEAST_WAITING, waiting * 4.0, waiting + full) + running


@policy
def first_asked(turn: Any, fleet: Fleet) -> Any:
    """Return the replica that the `turn`-th request goes to if all have the same load; the next on a tie.

    vLLM 0.32 begins with another one every time, earlier ones always with the first.
    """
    return where(fleet.routing == LEAST_LOADED, turn % fleet.replicas, 0)
