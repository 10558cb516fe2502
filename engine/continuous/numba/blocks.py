"""The blocks of KV caches in arrays: `engine.continuous.blocks` does the same in plain Python.

Blocks without content are all alike: which of them is taken is not kept, but only how many there are. Contents are
found by hashing, in open addressing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiling.jit import inline, jit
from ...ticks import LARGEST_REQUEST
from ..model import Job, blocks_of

NONE = -1
NOTHING = np.iinfo(np.int64).min
# What is known of a block, in a row, so that it is found in one place.
CONTENT, USERS, NEXT, PREVIOUS, LATER, SOONER, PARTS = range(7)
# What is known of a request: the row of the table that it has while it runs, and how many blocks are in it; how many
# were admitted before it; who stands before and behind it in a line; where its ids begin, and how many blocks those
# name.
ROW, HELD, TURN, BEFORE, BEHIND, BEGIN, KNOWN, COLUMNS = range(8)
# Numbers of a replica.
BLANK, UNUSED, OLDEST, NEWEST, KEPT, ROWS, ADMITTED, LEAVING, EACH, SIZE, WANTED, LATE, FIELDS = range(13)
# Lists of a replica: its free rows begin at ROWS; LEAVING requests leave after this step, in the order of admission.
FREE, GONE = range(2)
MIXER = -7046029254386353131
"""2**64 over the golden ratio, as int64: neighbours are spread over all slots."""


class Cache(NamedTuple):
    """Blocks of all replicas, and of one replica: the same without the leading axis replica.

    Few arrays: every one of them makes the kernel slower to compile.
    """

    block: NDArray[np.int64]
    """(replica, block, PARTS): content, how many hold it; neighbours among the free blocks with content, the one freed
    first before the others (of blank ones, only the next); blocks with the same content that got it later, sooner: of
    the first, the last."""
    slot: NDArray[np.int32]
    """(replica, slot) the first block with a content, where its hash says or behind."""
    table: NDArray[np.int32]
    """(replica, row, k) blocks of a running request."""
    lists: NDArray[np.int64]
    """(replica, list, row)"""
    line: NDArray[np.int64]
    """(replica, token of a block, 2) decoding requests by their tokens modulo the block, less decode steps so far, in
    the order of admission: the first and the last of them."""
    numbers: NDArray[np.int64]
    """(replica, FIELDS)"""
    request: NDArray[np.int64]
    """(request, COLUMNS)"""
    ids: NDArray[np.int64]
    """(id,) EACH blocks of SIZE tokens."""


def make_cache(job: Job) -> Cache:
    """Make the arrays for one replication; without anything in them where nothing is cached."""
    requests, (replica, fleet, _) = job.requests, job.setup
    content, size, replicas = requests.content, replica.block_tokens, fleet.replicas
    count, blocks, running, longest = 1, 1, 1, 1
    if replica.enable_prefix_caching:
        count = len(requests.arrival)
        wanted = blocks_of(requests.prompt + requests.output, size)
        # Where all fit at once, no block is taken twice.
        blocks, longest = min(replica.blocks, int(wanted.sum())), int(wanted.max())
        running = min(int(replica.control.largest), count, blocks) + 1
    block = np.zeros((replicas, blocks, PARTS), np.int64)
    block[:, :, CONTENT] = NOTHING
    numbers = np.zeros((replicas, FIELDS), np.int64)
    numbers[:, [BLANK, OLDEST, NEWEST]] = NONE
    numbers[:, WANTED] = NOTHING
    numbers[:, LATE] = replica.async_scheduling
    numbers[:, EACH], numbers[:, SIZE] = blocks_of(content.tokens_each, size), size
    request = np.zeros((count, COLUMNS), np.int64)
    request[:, BEGIN], request[:, KNOWN] = content.begin[:count], content.tokens[:count] // size
    lists = np.zeros((replicas, 2, running), np.int64)
    lists[:, FREE] = np.arange(running)
    return Cache(
        block=block,
        slot=np.full((replicas, 2 ** (2 * blocks - 1).bit_length()), NONE, np.int32),
        table=np.empty((replicas, running, longest), np.int32),
        lists=lists,
        line=np.full((replicas, size, 2), NONE, np.int64),
        numbers=numbers,
        request=request,
        ids=content.ids,
    )


@inline
def cache_of(cache, r):
    """Return the cache of one replica."""
    return Cache(
        cache.block[r],
        cache.slot[r],
        cache.table[r],
        cache.lists[r],
        cache.line[r],
        cache.numbers[r],
        cache.request,
        cache.ids,
    )


# Contents ------------------------------------------------------------------------------------------------------------


@inline
def content_of(cache, i, k):
    """Return what block k of a request contains once it is full: content of its own where nobody knows."""
    if k >= cache.request[i, KNOWN]:
        return -1 - i * LARGEST_REQUEST - k
    if k < cache.numbers[EACH]:  # divisions take their time
        return cache.ids[cache.request[i, BEGIN]] * cache.numbers[EACH] + k
    return cache.ids[cache.request[i, BEGIN] + k // cache.numbers[EACH]] * cache.numbers[EACH] + k % cache.numbers[EACH]


@inline
def home_of(content, slots):
    """Return the slot that a content belongs into, of a power of two."""
    mixed = content * MIXER
    return (mixed ^ (mixed >> 32)) & (slots - 1)


@inline
def slot_of(cache, content):
    """Return the slot of a content, or the free one where it would be."""
    slots = len(cache.slot)
    at = home_of(content, slots)
    while cache.slot[at] != NONE and cache.block[cache.slot[at], CONTENT] != content:
        at = (at + 1) & (slots - 1)
    return at


@inline
def give_content(cache, b, content):
    """Say what a block contains; it is the last to be found of those with this content."""
    block, at = cache.block, slot_of(cache, content)
    first = cache.slot[at]
    block[b, CONTENT], block[b, LATER] = content, NONE
    if first == NONE:
        cache.slot[at] = b
        block[b, SOONER] = b
    else:
        last = block[first, SOONER]
        block[last, LATER] = b
        block[b, SOONER], block[first, SOONER] = last, b


@inline
def lose_content(cache, b):
    """Forget what a block contains."""
    block, slots = cache.block, len(cache.slot)
    at = slot_of(cache, block[b, CONTENT])
    first, later, sooner = cache.slot[at], block[b, LATER], block[b, SOONER]
    if first != b:
        block[sooner, LATER] = later
        block[first if later == NONE else later, SOONER] = sooner
    elif later != NONE:
        cache.slot[at] = later
        block[later, SOONER] = sooner
    else:
        # Close the gap: whoever stands behind it, and not where it belongs, moves up.
        follows = at
        while True:
            follows = (follows + 1) & (slots - 1)
            moved = cache.slot[follows]
            if moved == NONE:
                break
            home = home_of(block[moved, CONTENT], slots)
            if (follows - home) & (slots - 1) >= (follows - at) & (slots - 1):
                cache.slot[at] = moved
                at = follows
        cache.slot[at] = NONE
    block[b, CONTENT] = NOTHING


# Free blocks ---------------------------------------------------------------------------------------------------------


@inline
def revive(cache, b):
    """Take a free block with content out of its place."""
    block, numbers = cache.block, cache.numbers
    before, behind = block[b, PREVIOUS], block[b, NEXT]
    if before == NONE:
        numbers[OLDEST] = behind
    else:
        block[before, NEXT] = behind
    if behind == NONE:
        numbers[NEWEST] = before
    else:
        block[behind, PREVIOUS] = before
    numbers[KEPT] -= 1


@inline
def next_block(cache):
    """Take the next free block; what was in it is lost."""
    block, numbers = cache.block, cache.numbers
    if numbers[BLANK] != NONE:
        b = numbers[BLANK]
        numbers[BLANK] = block[b, NEXT]
    elif numbers[UNUSED] < len(block):
        b = numbers[UNUSED]
        numbers[UNUSED] += 1
    else:
        b = numbers[OLDEST]
        revive(cache, b)
        lose_content(cache, b)
    block[b, USERS] = 1
    return b


# Requests ------------------------------------------------------------------------------------------------------------


@jit
def find(cache, i, tokens):
    """Find blocks with the first tokens of a request that has so many, but never all; put them into the next free row.

    Returns how many there are, and how many of them nobody holds.
    """
    row = cache.table[cache.lists[FREE, cache.numbers[ROWS]]]
    found = unheld = 0
    for k in range((tokens - 1) // cache.numbers[SIZE]):
        b = cache.slot[slot_of(cache, content_of(cache, i, k))]
        if b == NONE:
            break
        row[k] = b
        found += 1
        unheld += cache.block[b, USERS] == 0
    return found, unheld


@jit
def admit(cache, i, found):
    """Let a request hold the blocks that were just found for it."""
    block, numbers = cache.block, cache.numbers
    cache.request[i, ROW], cache.request[i, HELD], cache.request[i, TURN] = (
        cache.lists[FREE, numbers[ROWS]],
        found,
        numbers[ADMITTED],
    )
    numbers[ROWS] += 1
    numbers[ADMITTED] += 1
    row = cache.table[cache.request[i, ROW]]
    for k in range(found):
        b = row[k]
        if block[b, USERS] == 0:
            revive(cache, b)
        block[b, USERS] += 1


@jit
def take(cache, i, tokens, computed):
    """Let a request hold so many tokens; of `computed`, the full blocks have content from now on."""
    row = cache.table[cache.request[i, ROW]]
    for k in range(cache.request[i, HELD], (tokens + cache.numbers[SIZE] - 1) // cache.numbers[SIZE]):
        row[k] = next_block(cache)
        cache.request[i, HELD] = k + 1
    full = computed // cache.numbers[SIZE]
    first = full
    while first > 0 and cache.block[row[first - 1], CONTENT] == NOTHING:
        first -= 1
    for k in range(first, full):
        give_content(cache, row[k], content_of(cache, i, k))


@jit
def release(cache, i):
    """Take everything from a request; return how many blocks nobody holds any more."""
    block, numbers = cache.block, cache.numbers
    row, freed = cache.table[cache.request[i, ROW]], 0
    for k in range(cache.request[i, HELD] - 1, -1, -1):
        b = row[k]
        block[b, USERS] -= 1
        if block[b, USERS] == 0:
            freed += 1
            if block[b, CONTENT] == NOTHING:
                block[b, NEXT] = numbers[BLANK]
                numbers[BLANK] = b
                continue
            newest = numbers[NEWEST]
            block[b, PREVIOUS], block[b, NEXT] = newest, NONE
            if newest == NONE:
                numbers[OLDEST] = b
            else:
                block[newest, NEXT] = b
            numbers[NEWEST] = b
            numbers[KEPT] += 1
    numbers[ROWS] -= 1
    cache.lists[FREE, numbers[ROWS]] = cache.request[i, ROW]
    cache.request[i, HELD] = 0
    return freed


@inline
def part(cache, i):
    """Let a request go once the step is over."""
    leaving, k = cache.lists[GONE], cache.numbers[LEAVING]
    while k > 0 and cache.request[leaving[k - 1], TURN] > cache.request[i, TURN]:
        leaving[k] = leaving[k - 1]
        k -= 1
    leaving[k] = i
    cache.numbers[LEAVING] += 1


@inline
def let_go(cache):
    """Take everything from those that leave; return how many blocks nobody holds any more."""
    freed = 0
    for k in range(cache.numbers[LEAVING]):
        freed += release(cache, cache.lists[GONE, k])
    cache.numbers[LEAVING] = 0
    return freed


# Decodes -------------------------------------------------------------------------------------------------------------


@inline
def line_up(cache, i, phase):
    """Let a request stand among those that decode and have so many tokens modulo the block."""
    line = cache.line[phase]
    before, behind = line[1], NONE
    while before != NONE and cache.request[before, TURN] > cache.request[i, TURN]:
        before, behind = cache.request[before, BEFORE], before
    cache.request[i, BEFORE], cache.request[i, BEHIND] = before, behind
    if before == NONE:
        line[0] = i
    else:
        cache.request[before, BEHIND] = i
    if behind == NONE:
        line[1] = i
    else:
        cache.request[behind, BEFORE] = i


@inline
def step_out(cache, i, phase):
    """Take a request out from among them."""
    line, before, behind = cache.line[phase], cache.request[i, BEFORE], cache.request[i, BEHIND]
    if before == NONE:
        line[0] = behind
    else:
        cache.request[before, BEHIND] = behind
    if behind == NONE:
        line[1] = before
    else:
        cache.request[behind, BEFORE] = before


@jit
def grow(cache, grown, steps, used):
    """Let all decodes take so many steps, after `grown` of them, with so many blocks in use.

    Those that need a block take it first: it may be full at once. Where steps are scheduled ahead, the token that fills
    it is known one step later. Returns the sum of blocks in use and kept after each.
    """
    stored, late, phase = 0, cache.numbers[LATE], -grown % cache.numbers[SIZE]
    for _ in range(steps):
        i = cache.line[phase, 0]
        while i != NONE:
            cache.table[cache.request[i, ROW], cache.request[i, HELD]] = next_block(cache)
            cache.request[i, HELD] += 1
            used += 1
            i = cache.request[i, BEHIND]
        before, phase = phase, (phase if phase > 0 else cache.numbers[SIZE]) - 1
        i = cache.line[before if late > 0 else phase, 0]
        while i != NONE:
            k = cache.request[i, HELD] - 1 - late
            b = np.int64(cache.table[cache.request[i, ROW], k])
            if cache.block[b, CONTENT] == NOTHING:
                give_content(cache, b, content_of(cache, i, k))
            i = cache.request[i, BEHIND]
        stored += used + cache.numbers[KEPT]
    return stored


@jit
def steps_until_found(cache, resident, grown, steps):
    """Return how many of so many steps, after `grown`, there are before the one that computes what is WANTED.

    All where none does; the first has begun.
    """
    wanted, size = cache.numbers[WANTED], cache.numbers[SIZE]
    if wanted != NOTHING:
        for k in range(1, steps):
            full = grown + k + 1 - cache.numbers[LATE]
            i = cache.line[-full % size, 0]
            while i != NONE:
                if content_of(cache, i, (resident[i] + full) // size - 1) == wanted:
                    return k
                i = cache.request[i, BEHIND]
    return steps
