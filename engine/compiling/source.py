"""What a kernel, or a part of one, is compiled from: its own source, that of all it calls, and the constants in it."""

import hashlib
import sys
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from sysconfig import get_path
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.core.types import Callable as CallableType
from numba.core.types import Function
from numba.core.types.containers import BaseNamedTuple, BaseTuple
from numba.core.types.misc import Optional
from numba.core.typing.templates import builtin_registry

from .names import names_of


@cache
def is_library(package: str) -> bool:
    """Say whether a package is Python's own, NumPy or Numba, whose functions are known by name: versions tell them."""
    if package not in sys.stdlib_module_names:
        return package in ("numpy", "numba")
    file = getattr(sys.modules.get(package), "__file__", None)
    return file is None or any(Path(file).is_relative_to(get_path(name)) for name in ("stdlib", "platstdlib"))


class UnhashableError(TypeError):
    """A kernel is compiled from something that has no hash: whether it is still the same cannot be seen."""


def source_digest(function: Callable[..., Any], arguments: Any) -> str:
    """Return a hash over what a kernel is compiled from, for arguments of some Numba types.

    It covers the code and the constants of the kernel and of every function that can be reached from it, ours or a
    user's, as they are in this process, through what Numba compiles in place of them; and the fields of its arguments.
    Of Python's own functions, NumPy's and Numba's it knows the names only. Raises UnhashableError where something that
    may be compiled in cannot be distinguished from another of its kind.
    """
    return Fingerprint.of(function, arguments).digest.hexdigest()


class Fingerprint:
    """A walk over what a kernel is compiled from, which writes all of it into a hash."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.packages: set[str] = set()
        """Where all of it comes from: the first names of modules."""
        self.seen: dict[int, int] = {}

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: Any) -> "Fingerprint":
        """Return what a function is compiled from, for arguments of some Numba types."""
        fingerprint = cls()
        fingerprint.arguments(arguments)
        fingerprint.value(function)
        return fingerprint

    def write(self, *words: Any) -> None:
        """Write values that Python prints in one way only."""
        self.digest.update(repr(words).encode())

    def arguments(self, arguments: Any) -> None:
        """Write argument types: of functions what they do, as Numba's name of one is where it lies in this process.

        Raises UnhashableError for what else can be called.
        """
        for given in arguments:
            self.write(type(given).__name__)
            if isinstance(given, BaseTuple):
                self.write(len(given))
                if isinstance(given, BaseNamedTuple):
                    self.write(given.instance_class.__qualname__, given.fields)
                    self.class_comes_from(given.instance_class)
                self.arguments(given)
            elif isinstance(given, Optional):
                self.arguments((given.type,))
            elif isinstance(given, Function):
                self.value(given.typing_key)
            elif isinstance(given, CallableType):
                raise UnhashableError("a function as an argument")
            else:
                self.write(str(given))

    def comes_from(self, module: str | None) -> None:
        """Remember a package; what is made by `exec` may be of none."""
        self.packages.add(_package(module))

    def class_comes_from(self, of: type) -> None:
        """Remember the package of a class; one that `exec` made may say a module that does not have it."""
        found: Any = sys.modules.get(of.__module__)
        for name in of.__qualname__.split("."):
            found = getattr(found, name, None)
        self.comes_from(of.__module__ if found is of else None)

    def value(self, value: Any) -> None:
        """Write whatever a function's code may refer to."""
        self.comes_from(type(value).__module__)
        if isinstance(value, Dispatcher):
            compiled: Any = value
            self.write(sorted(compiled.targetoptions.items()), sorted(compiled.locals.items()))
            if not compiled._can_compile:
                self.write([str(signature) for signature in compiled.nopython_signatures])
            value = compiled.py_func
        if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes):
            self.write(type(value).__name__, value)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, types.CodeType):
            self.code(value)
        elif isinstance(value, tuple | list):
            self.write(type(value).__name__, getattr(value, "_fields", ()), len(value))
            for part in value:
                self.value(part)
        elif isinstance(value, frozenset):
            self.value(sorted(value, key=repr))
        elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            self.write(type(value).__name__, value.dtype.descr, value.shape, value.tobytes())
        elif isinstance(value, np.dtype):
            self.write("dtype", value.descr)
        elif isinstance(value, type):
            self.class_comes_from(value)
            self.write("type", value.__module__, value.__qualname__, getattr(value, "_fields", ()))
            if issubclass(value, Enum):
                self.value([(name, member.value) for name, member in value.__members__.items()])
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self.write("builtin", getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, types.ModuleType) and is_library(_package(value.__name__)):
            self.write("module", value.__name__)
        else:
            raise UnhashableError(f"a {type(value).__name__}")

    def function(self, function: types.FunctionType) -> None:
        """Write a function with all that its code can reach; each once, so that the walk ends."""
        if id(function) in self.seen:
            self.write("again", self.seen[id(function)])
            return
        self.seen[id(function)] = len(self.seen)
        self.comes_from(function.__module__)
        self.write("function", function.__module__, function.__qualname__)
        for part in (function.__defaults__, sorted((function.__kwdefaults__ or {}).items()), function.__code__):
            self.value(part)
        names = names_of(function.__code__)
        self.attributes(function.__globals__, names.globals, names.attributes)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:
                raise UnhashableError("a name that has no value yet") from None
            self.value(content)
        for template in self.templates(function):
            self.write(sorted(template._jit_options.items()))
            self.value(template._overload_func)

    def attributes(
        self, scope: dict[str, Any], names: set[str], inner: set[str], within: tuple[types.ModuleType, ...] = ()
    ) -> None:
        """Write what names stand for in a module; of a module of somebody's own, what `inner` names stand for in it."""
        for name in sorted(names & scope.keys()):
            value = scope[name]
            self.write("name", name)
            if not isinstance(value, types.ModuleType) or is_library(_package(value.__name__)):
                self.value(value)
            elif hasattr(value, "__getattr__"):
                raise UnhashableError("a module that makes its values when they are asked for")
            elif value not in within:
                self.comes_from(value.__name__)
                self.attributes(vars(value), inner, inner, (*within, value))

    def code(self, code: types.CodeType) -> None:
        """Write code, but not the lines it came from."""
        self.write(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_exceptiontable)
        self.write("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        self.value(code.co_consts)

    def templates(self, function: types.FunctionType) -> list[Any]:
        """Return what Numba takes functions from to compile in place of one.

        They are looked up where `overload` puts them: Numba's typing context has them too, but takes as long to be
        filled as all else that a kernel is loaded with. What Numba has for functions of NumPy comes with its version.
        """
        if _package(function.__module__) == "numpy":
            return []
        known = (kind for value, kind in builtin_registry.globals if value is function)
        templates = (template for kind in known for template in kind.templates)
        return [template for template in templates if hasattr(template, "_overload_func")]


def _package(module: str | None) -> str:
    return str(module).partition(".")[0]
