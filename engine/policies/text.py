"""What a policy does, as a hash: the text of its functions and of all they call, and the values that they refer to.

It is the same in every process and on every version of Python, so that cubes and machines can be told by it whether a
policy is still the one they had. (`engine.compiling.source` has a hash of what a kernel is compiled from: it ends with
the version of Python, or of Numba.)
"""

import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache
from textwrap import dedent
from typing import Any

import numpy as np

from ..compiling.names import is_own, referred_by


def text_digest(functions: Iterable[Callable[..., Any]], settings: type) -> str:
    """Return the hash of functions and the class of their settings.

    Of a value that is no number, text, function, class, array or module, or of several such, it knows the type alone.
    """
    digest = hashlib.sha256()
    seen: list[Any] = []
    for part in (*functions, settings):
        for word in _words(part, seen):
            digest.update(repr(word).encode())
    return digest.hexdigest()


def _words(value: Any, seen: list[Any]) -> Iterator[Any]:
    """Yield what a function may refer to, in words that Python prints in one way only."""
    value = getattr(value, "py_func", value)  # of what Numba compiles
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield type(value).__name__, value
    elif isinstance(value, types.ModuleType):
        yield "module", value.__name__
    elif isinstance(value, types.FunctionType | types.BuiltinFunctionType | type) and not is_own(value.__module__):
        yield value.__module__, value.__qualname__
    elif isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, type):
        yield value.__name__, getattr(value, "_fields", ())
        members = value.__members__.items() if issubclass(value, Enum) else ()
        yield from _several((getattr(value, "_field_defaults", {}), [(name, one.value) for name, one in members]), seen)
    elif isinstance(value, np.ndarray | np.generic):
        yield value.dtype.str, value.shape, value.tobytes()
    elif isinstance(value, dict):
        yield from _several([*value.items()], seen)
    elif isinstance(value, tuple | list):
        yield type(value).__name__, len(value)
        yield from _several(value, seen)
    else:
        yield (type(value).__qualname__,)


def _several(values: Iterable[Any], seen: list[Any]) -> Iterator[Any]:
    for value in values:
        yield from _words(value, seen)


def _function(function: types.FunctionType, seen: list[Any]) -> Iterator[Any]:
    """Yield the text of a function, and what its names stand for; each function once, so that the walk ends."""
    if function in seen:
        yield "again", seen.index(function)
        return
    seen.append(function)
    yield from _text(function.__code__)
    yield from _several((function.__defaults__, function.__kwdefaults__ or {}), seen)
    for name, value in referred_by(function).items():
        yield name
        yield from _words(value, seen)


@cache
def _text(code: types.CodeType) -> tuple[Any, ...]:
    """Return the text of code, as it was when first asked for; where there is none, the code without its lines."""
    try:
        return (dedent(inspect.getsource(code)),)
    except (OSError, TypeError):
        inner = [_text(one) if isinstance(one, types.CodeType) else one for one in code.co_consts]
        return code.co_code, code.co_names, code.co_varnames, tuple(inner)
