"""The KV cache in blocks: room for prefills, taken as they are scheduled; decodes grow all at once (`leaps`)."""

from ...compiling.jit import inline
from ..model import NOBODY, blocks_of
from .blocks import KEPT, LATE, NOTHING, SIZE, WANTED, content_of, steps_until_found
from .blocks import admit as admit_with
from .blocks import find as find_blocks
from .blocks import grow as grow_all
from .blocks import let_go as free_blocks
from .blocks import part as part_from
from .blocks import take as take_blocks
from .workspace import FRESH, GROWN, RESIDENT, TO_PREFILL, TOKENS, USED


@inline
def more_blocks(resident, tokens, size):
    """Return the blocks that a request needs for so many tokens more than it has."""
    return blocks_of(resident + tokens, size) - blocks_of(resident, size)


@inline
def take(workspace, i, chunk, more):
    """Prefill a chunk of a request that takes so many blocks more; return its attention, chunk * context."""
    workspace.state[USED] += more
    workspace.state[TOKENS] += chunk
    workspace.request[i, RESIDENT] += chunk
    if workspace.caching:
        take_blocks(workspace.cache, i, workspace.request[i, RESIDENT], workspace.request[i, RESIDENT])
    workspace.request[i, TO_PREFILL] -= chunk
    return chunk * workspace.request[i, RESIDENT]


@inline
def release(workspace, i, size):
    """Take a request that does not decode out of the cache; where prefixes are cached, its blocks go with `free`."""
    if workspace.caching:
        part_from(workspace.cache, i)
    else:
        workspace.state[USED] -= blocks_of(workspace.request[i, RESIDENT], size)
    workspace.state[TOKENS] -= workspace.request[i, RESIDENT]


@inline
def free(workspace):
    """Free the blocks of those that have left, in the order in which they were served."""
    if workspace.caching:
        workspace.state[USED] -= free_blocks(workspace.cache)


@inline
def find(workspace, i, tokens):
    """Find the first tokens of a request, which has so many, in the cache; return how many, and blocks nobody holds."""
    if not workspace.caching:
        return 0, 0
    found, unheld = find_blocks(workspace.cache, i, tokens)
    return found * workspace.cache.numbers[SIZE], unheld


@inline
def begin_with(workspace, i, found, unheld):
    """Let a request begin with the tokens that were just found for it."""
    workspace.request[i, RESIDENT] = found
    workspace.state[TOKENS] += found
    workspace.state[USED] += unheld
    if workspace.caching:
        admit_with(workspace.cache, i, found // workspace.cache.numbers[SIZE])


@inline
def extend(workspace, i, tokens):
    """Let a running request hold so many tokens; where steps are scheduled ahead, a decode's last may not be known."""
    if workspace.caching:
        late = workspace.finish[i] != NOBODY and not is_fresh(workspace, i)
        take_blocks(workspace.cache, i, tokens, tokens - (workspace.cache.numbers[LATE] if late else 0))


@inline
def is_fresh(workspace, i):
    """Say whether a decode goes on from a token that is not of the latest step with decodes: that one is known."""
    fresh = False
    for k in range(workspace.state[FRESH]):
        fresh = fresh or workspace.lists[FRESH, k] == i
    return fresh


@inline
def fill(workspace, i):
    """Give content to all full blocks of a request that does not decode: its tokens are known."""
    if workspace.caching:
        take_blocks(workspace.cache, i, workspace.request[i, RESIDENT], workspace.request[i, RESIDENT])


@inline
def extend_all(workspace):
    """Let every decode hold one token more."""
    if workspace.caching:
        grow_all(workspace.cache, workspace.state[GROWN], 1, 0)


@inline
def extend_on(workspace, used, steps):
    """Let all decodes go on after the first of so many steps, at whose end so many blocks are in use.

    Returns the sum of the blocks in use and kept at the end of each, where prefixes are cached.
    """
    if not workspace.caching:
        return 0
    cache = workspace.cache
    return used + cache.numbers[KEPT] + grow_all(cache, workspace.state[GROWN] + 1, steps - 1, used)


@inline
def want(workspace, i, found, tokens):
    """Keep in mind what a request that was not admitted did not find first: it may fit once that is there."""
    cache = workspace.cache
    if workspace.caching:
        k = found // cache.numbers[SIZE]
        cache.numbers[WANTED] = content_of(cache, i, k) if k < (tokens - 1) // cache.numbers[SIZE] else NOTHING


@inline
def want_nothing(workspace):
    """Begin a step in which nobody was refused."""
    if workspace.caching:
        workspace.cache.numbers[WANTED] = NOTHING


@inline
def steps_until_wanted(workspace, steps):
    """Return how many of so many steps there are before a decode computes what somebody wants."""
    if not workspace.caching:
        return steps
    return steps_until_found(workspace.cache, workspace.request[:, RESIDENT], workspace.state[GROWN], steps)
