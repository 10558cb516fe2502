"""What a kernel is compiled from: its own source and that of everything it calls, with the constants in it."""

import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.types.containers import BaseNamedTuple
from numba.core.typing.templates import builtin_registry


class UnhashableError(TypeError):
    """A kernel is compiled from something that has no hash: whether it is still the same cannot be seen."""


def source_digest(function: Callable[..., Any], arguments: Any) -> str:
    """Return a hash over what a kernel is compiled from, for arguments of some Numba types.

    It covers the code and the constants of the kernel and of every function that can be reached from it, ours or a
    user's, as they are in this process, through what Numba compiles in place of them; and the fields of its arguments.
    Of other libraries it knows the names only. Raises UnhashableError where something that may be compiled in cannot be
    distinguished from another of its kind.
    """
    fingerprint = Fingerprint()
    fingerprint.arguments(arguments)
    fingerprint.value(function)
    return fingerprint.digest.hexdigest()


class Fingerprint:
    """A walk over what a kernel is compiled from, which writes all of it into a hash."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}

    def write(self, *words: Any) -> None:
        """Write values that Python prints in one way only."""
        self.digest.update(repr(words).encode())

    def arguments(self, arguments: Any) -> None:
        """Write argument types; Numba's name of a named tuple leaves out what its fields are called."""
        for given in arguments:
            self.write(str(given))
            if isinstance(given, BaseNamedTuple):
                self.write(given.fields)
                self.arguments(given)

    def value(self, value: Any) -> None:
        """Write whatever a function's code may refer to."""
        if isinstance(value, Dispatcher):
            self.write(sorted(value.targetoptions.items()))
            value = value.py_func
        if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes):
            self.write(type(value).__name__, value)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, types.CodeType):
            self.code(value)
        elif isinstance(value, tuple | list):
            self.write(type(value).__name__, len(value))
            for part in value:
                self.value(part)
        elif isinstance(value, frozenset):
            self.value(sorted(value, key=repr))
        elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            self.write(type(value).__name__, value.dtype.descr, value.shape, value.tobytes())
        elif isinstance(value, np.dtype):
            self.write("dtype", value.descr)
        elif isinstance(value, type):
            self.write("type", value.__module__, value.__qualname__, getattr(value, "_fields", ()))
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self.write("builtin", getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] != "batchcube":
            self.write("module", value.__name__)
        else:
            raise UnhashableError(f"a {type(value).__name__}")

    def function(self, function: types.FunctionType) -> None:
        """Write a function with all that its code can reach; each once, so that the walk ends."""
        if id(function) in self.seen:
            self.write("again", self.seen[id(function)])
            return
        self.seen[id(function)] = len(self.seen)
        self.write("function", function.__module__, function.__qualname__)
        for part in (function.__defaults__, sorted((function.__kwdefaults__ or {}).items()), function.__code__):
            self.value(part)
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            self.write("global", name)
            self.value(function.__globals__[name])
        for cell in function.__closure__ or ():
            self.value(cell.cell_contents)
        for implementation in self.implementations(function):
            self.value(implementation)

    def code(self, code: types.CodeType) -> None:
        """Write code, but not the lines it came from."""
        self.write("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        self.value(code.co_consts)

    def implementations(self, function: types.FunctionType) -> list[types.FunctionType]:
        """Return what Numba compiles in place of a function.

        It is looked up where `overload` puts it: Numba's typing context has it too, but takes as long to be filled as
        all else that a kernel is loaded with. What Numba has for functions of NumPy comes with its version.
        """
        if function.__module__.partition(".")[0] == "numpy":
            return []
        known = (kind for value, kind in builtin_registry.globals if value is function)
        templates = (template for kind in known for template in kind.templates)
        return [template._overload_func for template in templates if hasattr(template, "_overload_func")]


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code and the functions in it may look up, attributes among them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
