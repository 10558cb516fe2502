"""What Numba puts the code of functions into: libraries, which here show no more than they must.

Numba names functions by how many it compiled before. In another process the same name is another function's, and where
two that were kept are loaded, the linker takes the first for both.
"""

import ctypes
from typing import Any

from llvmlite.binding import Linkage
from numba.core import codegen

LARGEST_ALONE = 100
"""Basic blocks, with what is compiled in, of the largest part that is optimised before it goes into a kernel."""

_Library: Any = getattr(codegen, "JITCodeLibrary", object)
# What the code below changes and calls, none of which Numba promises to keep.
_OF_LIBRARY = (
    "finalize",
    "enable_object_caching",
    "_optimize_final_module",
    "_finalize_final_module",
    "_finalize_dynamic_globals",
    "_ensure_finalized",
)
_OF_ENGINE = ("is_symbol_defined", "add_global_mapping")


def is_known(generator: Any) -> bool:
    """Say whether Numba's insides, of which `generator` makes code, are those that this module is written for."""
    engine = getattr(generator, "_engine", None)
    return all(hasattr(_Library, name) for name in _OF_LIBRARY) and all(hasattr(engine, name) for name in _OF_ENGINE)


class KernelLibrary(_Library):  # type: ignore[misc]
    """The code of a kernel, of which nothing is seen but the kernel itself."""

    def finalize(self) -> None:
        """Link, optimise and close; what is there before is the kernel itself."""
        self._own_names = {value.name for value in self._defined()}
        super().finalize()

    def _optimize_final_module(self) -> None:
        for value in self._defined():
            # Mangled, as all names are that Numba counts.
            if "_ZN" in value.name and value.name not in self._own_names:
                value.linkage = "internal"
        super()._optimize_final_module()

    def _defined(self) -> list[Any]:
        return [function for function in self._final_module.functions if not function.is_declaration]


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
        # Numba writes the environment of a function to where its machine code has a place for it: there is none.
        engine, self._environments = self._codegen._engine, []
        for variable in self._final_module.global_variables:
            seen = variable.name.startswith("_ZN08NumbaEnv") and variable.linkage != Linkage.internal
            if seen and not engine.is_symbol_defined(variable.name):
                self._environments.append(ctypes.c_void_p())
                engine.add_global_mapping(variable, ctypes.addressof(self._environments[-1]))
        self._finalized = True


class KeptLibrary(KernelLibrary, PartLibrary):
    """The code of a part that is kept on disk, of which nothing is seen but the part itself, environments included."""

    def _defined(self) -> list[Any]:
        variables = [variable for variable in self._final_module.global_variables if not variable.is_declaration]
        return [*super()._defined(), *variables]
