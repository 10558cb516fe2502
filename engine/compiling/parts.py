"""Parts of kernels: functions that are compiled into every kernel that calls them, and never called by themselves."""

import ctypes
import pickle
from typing import Any

from llvmlite.binding import Linkage, parse_bitcode
from numba.core import codegen
from numba.core.compiler import Compiler, compile_result

from .kept import KeptFile, kept_file
from .source import LIBRARIES, Fingerprint, UnhashableError

LARGEST_ALONE = 100
"""Basic blocks, with what is compiled in, of the largest part that is optimised before it goes into a kernel."""

_Library: Any = getattr(codegen, "JITCodeLibrary", object)
# What the code below changes and calls, none of which Numba promises to keep.
_OF_LIBRARY = (
    "finalize",
    "_optimize_final_module",
    "_finalize_final_module",
    "_finalize_dynamic_globals",
    "_ensure_finalized",
)
_OF_ENGINE = ("is_symbol_defined", "add_global_mapping")


class PartLibrary(_Library):  # type: ignore[misc]
    """The code of a part, which becomes machine code with the kernel only.

    Numba optimises every function by itself, with all that is compiled into it, and makes machine code of it: half of
    the time to compile a kernel went into its parts, their parts, and so on. Small ones are optimised all the same:
    that costs little, and not everything is found again in a kernel of thousands of blocks.
    """

    def _optimize_final_module(self) -> None:
        if sum(1 for function in self._final_module.functions for _ in function.blocks) <= LARGEST_ALONE:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        # Numba writes down the environment of a function where its machine code says; here is nothing to say it.
        engine, self._environments = self._codegen._engine, []
        for variable in self._final_module.global_variables:
            seen = variable.name.startswith("_ZN08NumbaEnv") and variable.linkage != Linkage.internal
            if seen and not engine.is_symbol_defined(variable.name):
                self._environments.append(ctypes.c_void_p())
                engine.add_global_mapping(variable, ctypes.addressof(self._environments[-1]))
        self._finalized = True


class KeptLibrary(PartLibrary):
    """The code of a part that is kept on disk.

    Of what is linked into it nothing is seen but the part itself: Numba names functions by how many it compiled before,
    so the same name is another function's in the next process.
    """

    def finalize(self) -> None:
        """Link, optimise and close; what is there before is the part itself."""
        self._own_names = {value.name for value in self._defined()}
        super().finalize()

    def _optimize_final_module(self) -> None:
        for value in self._defined():
            if value.name not in self._own_names:
                value.linkage = "internal"
        super()._optimize_final_module()

    def _defined(self) -> list[Any]:
        module = self._final_module
        return [value for value in (*module.functions, *module.global_variables) if not value.is_declaration]


def is_known(generator: Any) -> bool:
    """Say whether Numba's insides, of which `generator` makes code, are those that `PartLibrary` is written for."""
    engine = getattr(generator, "_engine", None)
    return all(hasattr(_Library, name) for name in _OF_LIBRARY) and all(hasattr(engine, name) for name in _OF_ENGINE)


class PartCompiler(Compiler):  # type: ignore[misc]
    """Numba's own, but for the library that the code goes into, where Numba's insides are known: else it is slower.

    Parts of this package are kept on disk: a kernel for another policy is compiled in half the time, as all that
    reaches none is there.
    """

    def _compile_core(self) -> Any:
        state = self.state
        generator, name = state.targetctx.codegen(), state.func_id.func_qualname
        if not is_known(generator):
            return super()._compile_core()
        file = _file(state)
        if file is None:
            state.library = PartLibrary(generator, name)
            return super()._compile_core()
        payload = file.read()
        if payload is not None:
            return _restored(payload, state)
        # The same name in every process, and only for the same code: whatever has one name is linked as one thing.
        state.func_id.unique_id = int(file.digest, 16)
        state.func_id.unique_name = f"{name}${file.digest}"
        state.library = KeptLibrary(generator, name)
        compiled = super()._compile_core()
        if not compiled.reload_init and not compiled.library.has_dynamic_globals:
            file.write(_payload(compiled))
        return compiled


KEPT_PACKAGES = {*LIBRARIES, "batchcube"}
"""Where all comes from that a kept part is compiled from. Of users' code a hash may not tell all: two classes of one
name are one to it, while what has one name is linked as one thing."""
_FORMAT = 1


def _file(state: Any) -> KeptFile | None:
    """Return the file of a part; None for one that is not kept."""
    function, source = state.func_id.func, Fingerprint()
    try:
        source.arguments(state.args)
        source.value(function)
    except UnhashableError:
        return None
    if not source.packages <= KEPT_PACKAGES:
        return None
    how = _FORMAT, LARGEST_ALONE, str(state.flags), state.targetctx.codegen().magic_tuple()
    return kept_file(function.__name__, "part", source.digest.hexdigest(), *how)


def _payload(compiled: Any) -> bytes:
    """Return a part as it is kept."""
    library, descriptor = compiled.library, compiled.fndesc
    descriptor.typemap = descriptor.calltypes = None  # as Numba does when it keeps something: nobody needs them again
    bitcode = library._final_module.as_bitcode()
    return pickle.dumps((library.name, bitcode, descriptor, compiled.environment, compiled.signature))


def _restored(payload: bytes, state: Any) -> Any:
    """Return what was compiled for a part that was kept."""
    name, bitcode, descriptor, environment, signature = pickle.loads(payload)
    context = state.targetctx
    library = KeptLibrary(context.codegen(), name)
    library._final_module = parse_bitcode(bitcode)
    library._finalize_final_module()
    entry = context.get_executable(library, descriptor, environment)
    context.insert_user_function(entry, descriptor, [library])
    return compile_result(
        typing_context=state.typingctx,
        target_context=context,
        entry_point=entry,
        signature=signature,
        objectmode=False,
        lifted=(),
        fndesc=descriptor,
        library=library,
        environment=environment,
        reload_init=[],
    )


PART: dict[str, Any] = {"forceinline": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}
"""How Numba is to compile a part."""
