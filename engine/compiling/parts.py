"""Parts of kernels: functions that are compiled into every kernel that calls them, and never called by themselves."""

import pickle
from typing import Any

from llvmlite.binding import parse_bitcode
from numba.core.compiler import Compiler, compile_result
from numba.core.typing import signature

from .kept import KeptFile, kept_file
from .libraries import LARGEST_ALONE, KeptLibrary, PartLibrary, is_known
from .source import Fingerprint, UnhashableError, is_library


class PartCompiler(Compiler):  # type: ignore[misc]
    """Numba's own, but for the library that the code goes into, where Numba's insides are known: else it is slower.

    Parts of this package are kept on disk: a kernel for another policy is compiled in half the time, as all that calls
    no policy is already there.
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


KEPT_PACKAGES = {"batchcube"}
"""Whose parts are kept, where all that they reach is of these packages or of Python, NumPy and Numba. Not users': the
`State` of one policy is told from that of another by its class, which a hash does not know."""


def _file(state: Any) -> KeptFile | None:
    """Return the file of a part; None for one that is not kept."""
    function = state.func_id.func
    try:
        source = Fingerprint.of(function, state.args)
    except UnhashableError:
        return None
    if not all(package in KEPT_PACKAGES or is_library(package) for package in source.packages):
        return None
    how = LARGEST_ALONE, str(state.flags), state.targetctx.codegen().magic_tuple()
    return kept_file(function.__name__, "part", source.digest.hexdigest(), *how)


def _payload(compiled: Any) -> bytes:
    """Return a part as it is kept."""
    library, descriptor = compiled.library, compiled.fndesc
    descriptor.typemap = descriptor.calltypes = None  # as Numba does when it keeps something: nobody needs them again
    arguments, descriptor.argtypes = descriptor.argtypes, None  # types of functions are those of one process
    bitcode, result = library._final_module.as_bitcode(), compiled.signature.return_type
    try:
        return pickle.dumps((library.name, bitcode, descriptor, compiled.environment, result))
    finally:
        descriptor.argtypes = arguments


def _restored(payload: bytes, state: Any) -> Any:
    """Return what was compiled for a part that was kept."""
    name, bitcode, descriptor, environment, result = pickle.loads(payload)
    descriptor.argtypes = state.args
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
        signature=signature(result, *state.args),
        objectmode=False,
        lifted=(),
        fndesc=descriptor,
        library=library,
        environment=environment,
        reload_init=[],
    )


PART: dict[str, Any] = {"forceinline": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}
"""How Numba is to compile a part."""
