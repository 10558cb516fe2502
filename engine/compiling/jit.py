"""One decorator that owns how kernels are compiled and how the machine code is kept."""

import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar, cast

import numba
from llvmlite.binding import address_of_symbol
from numba.core.caching import NullCache
from numba.core.codegen import RuntimeLinker
from numba.core.compiler import Compiler, CompileResult
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from ..cache import note
from .kept import KeptFile, kept_file
from .libraries import KernelLibrary, is_known
from .parts import PART
from .source import UnhashableError, source_digest

F = TypeVar("F", bound=Callable[..., Any])


class KernelCompiler(Compiler):  # type: ignore[misc]
    """Numba's own, but for the library that the code goes into, where Numba's insides are known."""

    def _compile_core(self) -> Any:
        generator = self.state.targetctx.codegen()
        if is_known(generator):
            self.state.library = KernelLibrary(generator, self.state.func_id.func_qualname)
            self.state.library.enable_object_caching()
        return super()._compile_core()


_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
    "pipeline_class": KernelCompiler,
}


class KernelCache(NullCache):  # type: ignore[misc]
    """The compiled forms of a kernel on disk, a file for each signature."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the kernel compiled for a signature, None where there is none; a damaged file is deleted."""
        file = self._file(signature, context)
        payload = None if file is None else file.read()
        if payload is None:
            return None
        stream = BytesIO(payload)
        try:
            compiled, needed = pickle.load(stream), pickle.load(stream)
        except (ImportError, AttributeError):  # it names a user's module, which is not to be found from here
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
        # What calls itself with other types than it was called with: a process that loads it would call nothing.
        if any(name.startswith(RuntimeLinker.PREFIX) for name in needed):
            note(f"{self._function.__name__}: compiled on every run, as it uses a function that calls itself")
            return
        file.write(dumps(compiled._reduce()) + dumps([name for name in needed if not name.startswith("llvm.")]))

    def _file(self, signature: Any, context: Any) -> KeptFile | None:
        name, generator = self._function.__name__, context.codegen()
        if not is_known(generator):
            note(f"kernels are compiled on every run, as Numba {numba.__version__} is too new")
            return None
        try:
            source = source_digest(self._function, signature)
        except UnhashableError as error:
            note(f"{name}: compiled on every run, as it uses {error}")
            return None
        return kept_file(name, "kernel", source, _OPTIONS, generator.magic_tuple())


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
