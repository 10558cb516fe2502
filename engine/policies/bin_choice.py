"""Which bin a free server takes from in `multi_bin_dynamic` (docs/model.md, section 3)."""

from typing import Any

from ..dialect import policy, where

CHOICES = ("oldest_head", "round_robin", "longest_queue")
EMPTY = 2**62


@policy
def rank(choice: Any, bin_index: Any, head: Any, waiting: Any, previous: Any, bins: Any) -> Any:
    """Return the rank of a bin; the lowest is served, the lower bin on a tie.

    `head` is the index of the bin's first request (requests are numbered by arrival), `waiting` how many it holds,
    `previous` the bin served last (-1 before the first).
    """
    turn = where(bin_index > previous, bin_index, bin_index + bins) - previous  # a remainder would cost a division
    order = where(choice == 0, head, where(choice == 1, turn, -waiting))
    return where(waiting > 0, order, EMPTY)
