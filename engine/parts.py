"""Parts of kernels: functions that are compiled into every kernel that calls them, and never called by themselves."""

import ctypes
from typing import Any

from numba.core import codegen
from numba.core.compiler import Compiler

LARGEST_ALONE = 100
"""Basic blocks, with what is compiled in, of the largest part that is optimised before it goes into a kernel."""


_Library: Any = getattr(codegen, "JITCodeLibrary", object)
# What the code below changes and calls, none of which Numba promises to keep.
_OF_LIBRARY = ("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals", "_ensure_finalized")
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
            if variable.name.startswith("_ZN08NumbaEnv") and not engine.is_symbol_defined(variable.name):
                self._environments.append(ctypes.c_void_p())
                engine.add_global_mapping(variable, ctypes.addressof(self._environments[-1]))
        self._finalized = True


def is_known(generator: Any) -> bool:
    """Say whether Numba's insides, of which `generator` makes code, are those that `PartLibrary` is written for."""
    engine = getattr(generator, "_engine", None)
    return all(hasattr(_Library, name) for name in _OF_LIBRARY) and all(hasattr(engine, name) for name in _OF_ENGINE)


class PartCompiler(Compiler):  # type: ignore[misc]
    """Numba's own, but for the library that the code goes into, where Numba's insides are known: else it is slower."""

    def _compile_core(self) -> Any:
        generator = self.state.targetctx.codegen()
        if is_known(generator):
            self.state.library = PartLibrary(generator, self.state.func_id.func_qualname)
        return super()._compile_core()


PART: dict[str, Any] = {"forceinline": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}
"""How Numba is to compile a part."""
