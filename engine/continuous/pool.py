"""The KV cache of one replica, in blocks: what the reference asks before a request gets tokens."""

from dataclasses import dataclass, field

from .model import blocks_of


@dataclass
class Pool:
    """Blocks, and who holds how many."""

    blocks: int
    block_tokens: int
    held: dict[int, int] = field(default_factory=dict)
    """Blocks of every request that runs."""

    @property
    def used(self) -> int:
        """Blocks in use."""
        return sum(self.held.values())

    def used_with(self, number: int, tokens: int) -> int:
        """Return the blocks in use once a request has so many tokens in all."""
        return self.used - self.held.get(number, 0) + blocks_of(tokens, self.block_tokens)

    def can_take(self, number: int, tokens: int) -> bool:
        """Say whether there is room for so many tokens in all of a request."""
        return self.used_with(number, tokens) <= self.blocks

    def take(self, number: int, tokens: int) -> None:
        """Hold the blocks for so many tokens in all of a request."""
        self.held[number] = blocks_of(tokens, self.block_tokens)

    def release(self, number: int) -> None:
        """Free the blocks of a request."""
        del self.held[number]
