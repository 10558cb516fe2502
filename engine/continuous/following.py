"""Requests that come when an answer ends: who follows whom, and by whose arrivals growth is judged.

A request whose `Requests.follows` names another arrives `Requests.delay` after that one's end; one that follows ANYBODY
does after an end that none names, the first of them after the first such end, and so on. Ends are the instant of the
last token, or of the arrival of a request that is turned away.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dialect import policy
from .model import ANYBODY, NOBODY, Requests

ENDS, ARRIVES = range(2)
"""What happens to a request, in the order of one instant; then by number."""


class Followers(NamedTuple):
    """Who follows whom."""

    of: NDArray[np.int64]
    """Requests that follow a certain one, by the one that they follow."""
    begin: NDArray[np.int64]
    """(request + 1,) where in `of` those begin that follow a request."""
    anybody: NDArray[np.int64]
    """Those that follow anybody, in order."""


def follows_of(requests: Requests) -> NDArray[np.int64]:
    """Return whom each request follows, NOBODY for all where all arrivals are known."""
    return requests.follows if len(requests.follows) else np.full(len(requests.arrival), NOBODY, np.int64)


def followers(requests: Requests) -> Followers:
    """Return who follows whom."""
    follows = follows_of(requests)
    order = np.argsort(follows, kind="stable")
    order = order[np.searchsorted(follows[order], 0) :]
    begin = np.searchsorted(follows[order], np.arange(len(follows) + 1))
    return Followers(order, begin, np.flatnonzero(follows == ANYBODY))


@policy
def makespan_begins(i: Any, requests: Any, closed: Any) -> Any:
    """Return when the makespan begins if request i is the first measured: as it arrives.

    In a closed loop it does as a user turns to it, whose think time it is before it is sent; users are there from 0 on.
    """
    if not closed:
        return requests.arrival[i]
    return 0 if requests.follows[i] == NOBODY else requests.arrival[i] - requests.delay[i]


class Judged(NamedTuple):
    """The arrivals over which growth is judged: of the requests that follow nobody."""

    half: int
    """The request with which half of them have come."""
    last: int
    later: int
    """How many come after the half: growth is a share of them."""


def judged_by(requests: Requests) -> Judged:
    """Return the arrivals over which growth is judged.

    In a closed loop, where requests follow anybody, nothing grows: the last of these has the place of the half, and
    what did not grow is a share of all.
    """
    count = len(requests.arrival)
    if not len(requests.follows):
        return Judged(count // 2, count - 1, count - (count // 2 + 1))
    anybody, opening = (np.flatnonzero(requests.follows == whom) for whom in (ANYBODY, NOBODY))
    if len(anybody):
        last = int(anybody[-1])
        return Judged(last, last, count)
    half = len(opening) // 2
    return Judged(int(opening[half]), int(opening[-1]), len(opening) - (half + 1))
