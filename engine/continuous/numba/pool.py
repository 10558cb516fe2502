"""The KV cache in blocks: room for prefills, taken as they are scheduled; decodes grow all at once (`leaps`)."""

from ...numba.jit import inline
from .leaps import blocks_for
from .workspace import TOKENS, USED


@inline
def more_blocks(resident, tokens, size):
    """Return the blocks that a request needs for so many tokens more than it has."""
    return blocks_for(resident + tokens, size) - blocks_for(resident, size)


@inline
def take(workspace, i, chunk, size):
    """Prefill a chunk of a request, for which there is room; return its attention, chunk * context."""
    resident = workspace.resident[i]
    workspace.state[USED] += more_blocks(resident, chunk, size)
    workspace.state[TOKENS] += chunk
    workspace.resident[i] = resident + chunk
    workspace.to_prefill[i] -= chunk
    return chunk * (resident + chunk)


@inline
def release(workspace, i, size):
    """Take a request that does not decode out of the cache."""
    workspace.state[USED] -= blocks_for(workspace.resident[i], size)
    workspace.state[TOKENS] -= workspace.resident[i]
