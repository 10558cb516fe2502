"""The blocks of a KV cache, as vLLM hands them out: who holds which, what is in them, and which is taken next.

Only full blocks have content that can be found again. Of free blocks, those without come first, the one freed last
before the others; then those that were never used; then those with content, the one freed first before the others: it
loses its content when it is taken. The blocks of a request are freed from its last to its first. Where several blocks
have the same content, the one that has had it longest is found.
"""

from collections import OrderedDict
from collections.abc import Sequence

from ..ticks import LARGEST_REQUEST
from .model import Requests, blocks_of


class Cache:
    """The KV cache of one replica, in plain Python."""

    def __init__(self, requests: Requests, blocks: int, block_tokens: int, *, caching: bool) -> None:
        self.requests, self.blocks, self.size, self.caching = requests, blocks, block_tokens, caching
        self.held: dict[int, list[int]] = {}
        """Blocks of every running request, in the order of its tokens."""
        self.users: dict[int, int] = {}
        """How many requests hold a block; a free one is not in it."""
        self.content: dict[int, int] = {}
        """Of every block that has any."""
        self.holders: dict[int, list[int]] = {}
        """Blocks of every content, in the order in which they got it."""
        self.blank: list[int] = []
        """Free blocks without content, the next to be taken at the end."""
        self.unused = 0
        """The first block that was never taken."""
        self.kept: OrderedDict[int, None] = OrderedDict()
        """Free blocks with content, the next to be taken first."""

    @property
    def used(self) -> int:
        """Blocks that requests hold, each once."""
        return len(self.users)

    def content_of(self, number: int, k: int) -> int:
        """Return what block k of a request contains once it is full: content of its own where nobody knows."""
        known, size = self.requests.content, self.size
        if (k + 1) * size > known.tokens[number]:
            return -1 - number * LARGEST_REQUEST - k
        each: int = blocks_of(known.tokens_each, size)
        return int(known.ids[known.begin[number] + k // each]) * each + k % each

    def find(self, number: int, tokens: int) -> list[int]:
        """Return blocks with the first tokens of a request that has so many: as many as there are, but never all."""
        found: list[int] = []
        if self.caching:
            for k in range((tokens - 1) // self.size):
                holders = self.holders.get(self.content_of(number, k))
                if not holders:
                    break
                found.append(holders[0])
        return found

    def used_with(self, number: int, tokens: int, found: Sequence[int] = ()) -> int:
        """Return the blocks in use once a request holds so many tokens in all, what is `found` for it among them."""
        more: int = blocks_of(tokens, self.size) - len(self.held.get(number, found))
        return self.used + max(more, 0) + sum(block not in self.users for block in found)

    def can_take(self, number: int, tokens: int) -> bool:
        """Say whether there is room for so many tokens in all of a request that runs."""
        return self.used_with(number, tokens) <= self.blocks

    def take(self, number: int, tokens: int, found: Sequence[int] = (), *, computed: int | None = None) -> None:
        """Let a request hold so many tokens in all; what is `found` for it comes first, when it is admitted.

        Blocks that are full have content from now on, up to the tokens `computed`: all, unless something else is said.
        """
        mine = self.held.setdefault(number, [])
        for block in found:
            self.kept.pop(block, None)
            self.users[block] = self.users.get(block, 0) + 1
            mine.append(block)
        while len(mine) * self.size < tokens:
            block = self._next()
            self.users[block] = 1
            mine.append(block)
        self.fill(number, tokens if computed is None else computed)

    def release(self, number: int) -> None:
        """Take everything from a request."""
        blank = []
        for block in reversed(self.held.pop(number)):
            self.users[block] -= 1
            if not self.users[block]:
                del self.users[block]
                if block in self.content:
                    self.kept[block] = None
                else:
                    blank.append(block)
        self.blank += reversed(blank)

    def fill(self, number: int, tokens: int) -> None:
        """Give content to the blocks of a request that so many tokens fill."""
        if not self.caching:
            return
        mine, full = self.held[number], tokens // self.size
        first = full
        while first and mine[first - 1] not in self.content:
            first -= 1
        for k in range(first, full):
            content = self.content[mine[k]] = self.content_of(number, k)
            self.holders.setdefault(content, []).append(mine[k])

    def _next(self) -> int:
        """Take the next free block; what was in it is lost."""
        if self.blank:
            return self.blank.pop()
        if self.unused < self.blocks:
            self.unused += 1
            return self.unused - 1
        block, _ = self.kept.popitem(last=False)
        content = self.content.pop(block)
        self.holders[content].remove(block)
        if not self.holders[content]:
            del self.holders[content]
        return block
