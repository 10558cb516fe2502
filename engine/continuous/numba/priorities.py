"""Waiting requests by priority: a pairing heap in the links of the requests, so that it costs no memory of its own.

The heap is named by its first request; `BEFORE` leads to the first child of a waiting request, `AFTER` to its next
sibling.
"""

from ...compiling.jit import inline
from ..model import NOBODY
from .workspace import AFTER, BEFORE


@inline
def precedes(requests, a, b):
    """Say whether a request is admitted before another: by priority, then in the order of arrival."""
    if requests.priority[a] != requests.priority[b]:
        return requests.priority[a] < requests.priority[b]
    # Those that waited for answers may have come in another order than that of their numbers.
    first, second = requests.arrival[a], requests.arrival[b]
    return first < second or (first == second and a < b)


@inline
def meld(workspace, requests, a, b):
    """Return the first request of two heaps that become one; either may be empty."""
    if a == NOBODY:
        return b
    if b == NOBODY:
        return a
    first, second = (a, b) if precedes(requests, a, b) else (b, a)
    workspace.request[second, AFTER] = workspace.request[first, BEFORE]
    workspace.request[first, BEFORE] = second
    return first


@inline
def insert(workspace, requests, root, i):
    """Put a request into a heap; return the first."""
    workspace.request[i, BEFORE] = workspace.request[i, AFTER] = NOBODY
    return meld(workspace, requests, root, i)


@inline
def without_first(workspace, requests, root):
    """Take the first request out of a heap; return the next."""
    # Children are melded in pairs, the pairs then from the last to the first.
    child, pairs = workspace.request[root, BEFORE], NOBODY
    while child != NOBODY:
        other = workspace.request[child, AFTER]
        rest = NOBODY if other == NOBODY else workspace.request[other, AFTER]
        workspace.request[child, AFTER] = NOBODY
        if other != NOBODY:
            workspace.request[other, AFTER] = NOBODY
        pair = meld(workspace, requests, child, other)
        workspace.request[pair, AFTER] = pairs
        child, pairs = rest, pair
    first = NOBODY
    while pairs != NOBODY:
        rest = workspace.request[pairs, AFTER]
        workspace.request[pairs, AFTER] = NOBODY
        first = meld(workspace, requests, first, pairs)
        pairs = rest
    return first


@inline
def lowest(workspace, requests, head):
    """Return the running request that is preempted first: it would be admitted last."""
    found, i = head, workspace.request[head, AFTER]
    while i != NOBODY:
        if precedes(requests, found, i):
            found = i
        i = workspace.request[i, AFTER]
    return found
