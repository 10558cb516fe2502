"""One decorator that owns how kernels are compiled and how the machine code is kept."""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite.binding import address_of_symbol
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from ..cache import cache_directory, note
from .kept import KeptFile, kept_file
from .parts import PART
from .source import UnhashableError, source_digest

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}


class KernelCache(NullCache):  # type: ignore[misc]
    """The compiled forms of a kernel on disk, a file for each signature."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def cache_path(self) -> Path | None:
        """Return the folder of the files."""
        return cache_directory()

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the kernel compiled for a signature, None where there is none; a damaged file is deleted."""
        file = self._file(signature, context)
        payload = None if file is None else file.read()
        if payload is None:
            return None
        stream = BytesIO(payload)
        try:
            compiled, needed = pickle.load(stream), pickle.load(stream)
        # It names a user's module, which is not to be found from here; or is of a version that kept less.
        except (ImportError, AttributeError, EOFError):
            return None
        # Numba begins by loading all that can be compiled, its linear algebra included: for most of our kernels that
        # would take longer than all else, and they need none of it.
        if any(address_of_symbol(name) is None for name in needed):
            context.refresh()
        found = CompileResult._rebuild(context, *compiled)
        # A class of the main module, a notebook's, was pickled whole and is another one now: under its own types the
        # kernel would not be found, and read again for every call.
        arguments, _ = normalize_signature(signature)
        return found._replace(signature=found.signature.replace(args=arguments))

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel; where that is impossible, the next run compiles again."""
        if compiled.lifted or compiled.library.has_dynamic_globals:
            return
        file = self._file(signature, compiled.target_context)
        if file is None:
            return
        module = compiled.library._final_module
        needed = [part.name for part in (*module.functions, *module.global_variables) if part.is_declaration]
        file.write(dumps(compiled._reduce()) + dumps([name for name in needed if not name.startswith("llvm.")]))

    def _file(self, signature: Any, context: Any) -> KeptFile | None:
        name = self._function.__name__
        try:
            source = source_digest(self._function, signature)
        except UnhashableError as error:
            note(f"{name}: compiled on every run, as it uses {error}")
            return None
        return kept_file(name, "kernel", source, _OPTIONS, context.codegen().magic_tuple())


def jit(function: F) -> F:
    """Compile a kernel on first use: without the GIL, with NumPy's rules for errors, kept across processes.

    A kernel allocates nothing, so it is compiled without Numba's reference counting: with it, more than half of the
    time was seen to go into atomic counts of the arrays handed from part to part. fastmath was measured to gain nothing
    and to change digits, so it stays off.
    """
    compiled: Any = numba.njit(**_OPTIONS)(function)
    compiled._cache = KernelCache(function)
    return cast("F", compiled)


def inline(function: F) -> F:
    """Mark a part of a kernel: compiled into each kernel that calls it."""
    registered: F = numba.extending.register_jitable(**PART)(function)
    return registered
