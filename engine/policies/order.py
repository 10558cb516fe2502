"""Who is served next: of the formed batches, of the bins a free server takes from, of the bins a replica admits from.

An order is a plain function in the words of `dialect`, `key(candidate, settings)`: the lowest number is served first,
on a tie the batch formed first, or the lower bin (docs/model.md, section 3). Settings are a NamedTuple of numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ..dialect import bits, policy, where
from ..refusals import number_of
from .owners import claim

ServiceOrder = Literal["first_formed", "shortest_first"]
SERVICE_ORDERS: tuple[ServiceOrder, ...] = get_args(ServiceOrder)
BinChoice = Literal["oldest_head", "round_robin", "longest_queue"]
CHOICES: tuple[BinChoice, ...] = get_args(BinChoice)
NAMED = SERVICE_ORDERS + CHOICES
FIRST_FORMED, SHORTEST_FIRST, OLDEST_HEAD, ROUND_ROBIN, LONGEST_QUEUE = range(len(NAMED))
MOST_BINS = 2**20
NO_RANK = 2**63 - 1
"""A rank behind all others: that of a bin in which nobody waits."""


class Candidate(NamedTuple):
    """What an order may see of a formed batch, when it is formed, or of a bin, when one is chosen."""

    bin: int
    size: int
    """Requests of the batch, or that wait in the bin."""
    request: float
    """The first of them, by its number; requests are numbered by arrival."""
    arrival: float
    """Its arrival in microseconds."""
    prompt: float
    """Its prompt in tokens."""
    predicted: float
    """The longest predicted length of the batch; that of the first request of the bin."""
    service: float
    """Predicted service time of the batch in microseconds; 0 for a bin."""
    previous: int
    """The bin served last, -1 before the first; -1 for a batch."""
    number: int
    """How many batches were formed before; 0 for a bin."""


@dataclass(frozen=True)
class Order:
    """An order of service; see the top of this file."""

    name: str
    settings: type
    """NamedTuple of its settings; the type alone says whose settings a value is: each order has a type of its own."""
    key: Callable[[Any, Any], Any]

    def __post_init__(self) -> None:
        policy(self.key)
        self.claim()

    def claim(self) -> None:
        """Make the settings those of this one; InputError where they are of one of another name."""
        claim(_of_settings, self)


_of_settings: dict[type, Order] = {}


def order_of(settings: Any) -> Order:
    """Return the order whose settings these are, the latest that was made with their type."""
    return _of_settings[type(settings)]


@policy
def rank_of(key: Any) -> Any:
    """Return an int64 that grows with a number; what is no number comes behind all others, but before `NO_RANK`."""
    number = key * 1.0
    pattern = bits(where(number == 0.0, 0.0, number))
    rank = where(pattern < 0, pattern ^ (2**63 - 1), pattern)
    return where(number == number, rank, NO_RANK - 1)


@policy
def is_sooner(key: Any, least: Any) -> Any:
    """Say whether the `rank_of` a key is less than that of another, both floats: a kernel asks for every bin."""
    return (key < least) | ((key == key) & (least != least))


class Named(NamedTuple):
    """Settings of the orders of the package: one function has them all, so that one kernel has."""

    which: int
    """Of `NAMED`."""


@policy
def named_key(candidate: Candidate, settings: Named) -> Any:
    """Order by formation, predicted service, first arrival, turn, or length of the queue."""
    beyond = candidate.bin + MOST_BINS  # a remainder would cost a division
    turn = where(candidate.bin > candidate.previous, candidate.bin, beyond) - candidate.previous
    which, waiting = settings.which, -1.0 * candidate.size
    of_bins = where(which == OLDEST_HEAD, candidate.request, where(which == ROUND_ROBIN, turn * 1.0, waiting))
    formed = candidate.number * 1.0
    return where(which == FIRST_FORMED, formed, where(which == SHORTEST_FIRST, candidate.service, of_bins))


BUILTIN = Order("named", Named, named_key)


def order_settings(order: Any, path: str, allowed: tuple[str, ...]) -> Any:
    """Return the settings of an order, given by an `allowed` name or by settings of its own; InputError for others."""
    if isinstance(order, tuple) and type(order) in _of_settings:
        return order
    number_of(order, allowed, path)
    return Named(NAMED.index(order))


def is_ranked(settings: Any) -> bool:
    """Say whether formed batches are served in another order than that of their formation."""
    return type(settings) is not Named or settings.which != FIRST_FORMED


def reads_predictions(settings: Any) -> bool:
    """Say whether an order may look at predicted lengths."""
    return order_of(settings) is not BUILTIN or settings.which == SHORTEST_FIRST


def counts_waiting(settings: Any) -> bool:
    """Say whether an order may look at how many wait."""
    return order_of(settings) is not BUILTIN or settings.which == LONGEST_QUEUE
