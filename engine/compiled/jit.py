"""One decorator that owns how kernels are compiled and where the machine code is kept."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numba
from numba.core import config

F = TypeVar("F", bound=Callable[..., Any])

_SETTING_CACHE_DIR = Lock()
ENGINE = Path(__file__).resolve().parent.parent


@cache
def cache_directory() -> Path:
    """Return the folder for compiled kernels, named after a hash of all engine sources.

    Numba's own stamp covers only the file that defines a kernel: after a change in a policy it was seen to return the
    old result. BATCHCUBE_CACHE moves the folder; where it cannot be written, a temporary one serves.
    """
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sorted(ENGINE.rglob("*.py")):
        digest.update(source.read_bytes())
    root = os.environ.get("BATCHCUBE_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "batchcube" / f"kernels-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="batchcube-kernels-"))
    return folder


def jit(function: F) -> F:
    """Compile a kernel on first use: without the GIL, with NumPy's rules for errors, kept across processes.

    A kernel allocates nothing, so it is compiled without Numba's reference counting: with it, more than half of the
    time was seen to go into atomic counts of the arrays handed from part to part. fastmath was measured to gain nothing
    and to change digits, so it stays off.
    """
    with _SETTING_CACHE_DIR:  # the folder is a global of Numba, and threads may import kernels at the same time
        before = config.CACHE_DIR
        config.CACHE_DIR = str(cache_directory())
        try:
            compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy", _nrt=False)(function)
        finally:
            config.CACHE_DIR = before
    return compiled


def inline(function: F) -> F:
    """Mark a part of a kernel: compiled into each kernel that calls it."""
    registered: F = numba.extending.register_jitable(forceinline=True)(function)
    return registered
