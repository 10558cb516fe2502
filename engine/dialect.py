"""The few words that policies are written in: one text for plain Python, Numba and arrays (NumPy, JAX).

`if`, `and`, `min` and `int` fail on traced arrays, `np.where` on scalars does not compile in Numba, and the libraries
round and contract differently. A policy therefore says `where`, `minimum`, `maximum`, `floor`, `sqrt`, `nearest`,
`whole`, `bits` and `settle`. Only what is structure, not data (is there a controller at all?), is a plain bool
everywhere and may be asked with `if`.
"""

import math
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, TypeVar

import numpy as np

from batchcube.errors import InputError

from .compiling.names import referred_by

try:
    from numba.core.typing.templates import builtin_registry
    from numba.extending import overload, register_jitable

    from .compiling.parts import PART
except ImportError:  # Numba refuses a NumPy newer than itself; the other backends do without it

    def _nothing(*_: Any, **__: Any) -> Any:
        return lambda function: function

    overload = register_jitable = _nothing
    builtin_registry, PART = None, {}

F = TypeVar("F", bound=Callable[..., Any])
IN_DIALECT = "__batchcube_policy__"
"""Name of what marks the functions that `policy` was told of."""
_told: set[Callable[..., Any]] = set()
"""Those that Numba of this process knows: the mark goes with a function to wrappers and other processes, this does not.
Numba keeps what it is told twice, and what calls the function would then have another hash and be compiled again."""


def policy(function: F) -> F:
    """Let compiled code call a plain function; the function itself stays plain Python. Raises InputError for others."""
    if not isinstance(function, FunctionType):
        raise InputError("must be a plain function, with nothing around it", path="`policy`", value=repr(function))
    if function not in _told:
        _told.add(register_jitable(**PART)(function))
        function.__dict__[IN_DIALECT] = True
    return function


def compiles(function: Callable[..., Any]) -> bool:
    """Say whether compiled code may call a plain function: `policy`, or Numba itself, was told of it."""
    if getattr(function, "__dict__", {}).get(IN_DIALECT) or builtin_registry is None:
        return True
    return any(known is function for known, _ in builtin_registry.globals)


def policies_of(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield a function, and all that it calls, of those that `policy` was told of."""
    seen: list[Callable[..., Any]] = []
    left = [function]
    while left:
        one = left.pop()
        if one not in seen and getattr(one, "__dict__", {}).get(IN_DIALECT):
            seen.append(one)
            yield one
            left += referred_by(one).values()


_PLAIN = frozenset((bool, int, float))
"""What a server that decides at every step computes with; asked first, as it waits for each word."""


def _namespace(*values: Any) -> Any:
    """Return the array namespace of the first array among the values, or None when all are scalars."""
    for value in values:
        if getattr(value, "ndim", 0) or (hasattr(value, "aval") and hasattr(value, "__array_namespace__")):
            return value.__array_namespace__()
    return None


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Choose by a condition; both branches are evaluated."""
    if type(condition) is bool and type(yes) in _PLAIN and type(no) in _PLAIN:
        return yes if condition else no
    space = _namespace(condition, yes, no)
    return (yes if condition else no) if space is None else space.where(condition, yes, no)


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two numbers."""
    if type(a) in _PLAIN and type(b) in _PLAIN:
        return a if a < b else b
    return where(a < b, a, b)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two numbers."""
    if type(a) in _PLAIN and type(b) in _PLAIN:
        return a if a > b else b
    return where(a > b, a, b)


def floor(x: Any) -> Any:
    """Round down; the result stays a float."""
    space = None if type(x) in _PLAIN else _namespace(x)
    return float(math.floor(x)) if space is None else space.floor(x)


def sqrt(x: Any) -> Any:
    """Take the square root, correctly rounded on every backend."""
    space = None if type(x) in _PLAIN else _namespace(x)
    return math.sqrt(x) if space is None else space.sqrt(x)


def nearest(x: Any) -> Any:
    """Round to the nearest integer, ties to even, as an int64."""
    space = None if type(x) in _PLAIN else _namespace(x)
    return round(x) if space is None else space.astype(space.round(x), space.int64)


def whole(x: Any) -> Any:
    """Cut a float that is not negative down to an int64."""
    space = None if type(x) in _PLAIN else _namespace(x)
    return int(x) if space is None else space.astype(x, space.int64)


def bits(x: Any) -> Any:
    """Return the 64 bits of a number, taken as a float64, as an int64."""
    space = _namespace(x)
    return int(np.float64(x).view(np.int64)) if space is None else space.astype(x, space.float64).view(space.int64)


def settle(x: Any) -> Any:
    """Round a product to a multiple of 1/1024 before it is added to anything.

    A compiler may contract a*b+c into one rounding; with the product settled first, both ways give the same bits.
    """
    return nearest(x * 1024.0) / 1024.0


@overload(where, jit_options=PART)
def _where(condition, yes, no):  # type: ignore[no-untyped-def]
    return lambda condition, yes, no: yes if condition else no


@overload(minimum, jit_options=PART)
def _minimum(a, b):  # type: ignore[no-untyped-def]
    return lambda a, b: a if a < b else b


@overload(maximum, jit_options=PART)
def _maximum(a, b):  # type: ignore[no-untyped-def]
    return lambda a, b: a if a > b else b


@overload(floor, jit_options=PART)
def _floor(x):  # type: ignore[no-untyped-def]
    return lambda x: float(math.floor(x))


@overload(sqrt, jit_options=PART)
def _sqrt(x):  # type: ignore[no-untyped-def]
    return lambda x: math.sqrt(x)


@overload(nearest, jit_options=PART)
def _nearest(x):  # type: ignore[no-untyped-def]
    return lambda x: round(x)


@overload(whole, jit_options=PART)
def _whole(x):  # type: ignore[no-untyped-def]
    return lambda x: int(x)


@overload(bits, jit_options=PART)
def _bits(x):  # type: ignore[no-untyped-def]
    return lambda x: np.float64(x).view(np.int64)


policy(settle)
