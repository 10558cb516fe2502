"""What a kernel is compiled from: its own source and that of everything it calls, with the constants in it."""

import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.types.containers import BaseNamedTuple


class UntoldError(TypeError):
    """A kernel is compiled from something of which it cannot be told whether it is still the same."""


def source_digest(function: Callable[..., Any], arguments: Any, context: Any) -> str:
    """Return a hash over what a kernel is compiled from, for arguments of some Numba types.

    It covers the code and the constants of the kernel and of every function that can be reached from it, ours or a
    user's, as they are in this process, through what Numba's typing `context` compiles in place of them; and the fields
    of its arguments. Of other libraries it knows the names only. Raises UntoldError where something that may be
    compiled in cannot be told from another of its kind.
    """
    telling = Telling(context)
    telling.arguments(arguments)
    telling.value(function)
    return telling.digest.hexdigest()


class Telling:
    """A walk over what a kernel is compiled from, told part by part into a hash."""

    def __init__(self, context: Any) -> None:
        self.digest = hashlib.sha256()
        self.context = context
        self.seen: dict[int, int] = {}

    def say(self, *words: Any) -> None:
        """Tell words that Python prints in one way only."""
        self.digest.update(repr(words).encode())

    def arguments(self, arguments: Any) -> None:
        """Tell argument types; Numba's name of a named tuple leaves out what its fields are called."""
        for given in arguments:
            self.say(str(given))
            if isinstance(given, BaseNamedTuple):
                self.say(given.fields)
                self.arguments(given)

    def value(self, value: Any) -> None:
        """Tell whatever a function's code may refer to."""
        if isinstance(value, Dispatcher):
            self.say(sorted(value.targetoptions.items()))
            value = value.py_func
        if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes):
            self.say(type(value).__name__, value)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, types.CodeType):
            self.code(value)
        elif isinstance(value, tuple | list):
            self.say(type(value).__name__, len(value))
            for part in value:
                self.value(part)
        elif isinstance(value, frozenset):
            self.value(sorted(value, key=repr))
        elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            self.say(type(value).__name__, value.dtype.descr, value.shape, value.tobytes())
        elif isinstance(value, np.dtype):
            self.say("dtype", value.descr)
        elif isinstance(value, type):
            self.say("type", value.__module__, value.__qualname__, getattr(value, "_fields", ()))
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self.say("builtin", getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] != "batchcube":
            self.say("module", value.__name__)
        else:
            raise UntoldError(f"a {type(value).__name__}")

    def function(self, function: types.FunctionType) -> None:
        """Tell a function with all that its code can reach; each once, so that the walk ends."""
        if id(function) in self.seen:
            self.say("again", self.seen[id(function)])
            return
        self.seen[id(function)] = len(self.seen)
        self.say("function", function.__module__, function.__qualname__)
        for part in (function.__defaults__, sorted((function.__kwdefaults__ or {}).items()), function.__code__):
            self.value(part)
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            self.say("global", name)
            self.value(function.__globals__[name])
        for cell in function.__closure__ or ():
            self.value(cell.cell_contents)
        for implementation in self.implementations(function):
            self.value(implementation)

    def code(self, code: types.CodeType) -> None:
        """Tell code, but not the lines it came from."""
        self.say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        self.value(code.co_consts)

    def implementations(self, function: types.FunctionType) -> list[types.FunctionType]:
        """Return what Numba compiles in place of a function."""
        try:
            known = self.context.resolve_value_type(function)
        except (NumbaError, ValueError):  # none: only the functions of other libraries, and what is never called
            return []
        return [template._overload_func for template in known.templates if hasattr(template, "_overload_func")]


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code and the functions in it may look up, attributes among them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
