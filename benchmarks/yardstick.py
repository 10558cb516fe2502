"""kbin.c, compiled on the spot and called from Python."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peers import Means

SOURCE = Path(__file__).with_name("kbin.c")


class _Means(ctypes.Structure):
    _fields_ = (("throughput", ctypes.c_double), ("latency", ctypes.c_double))


class Yardstick:
    """The two functions of kbin.c."""

    def __init__(self, library: Any, compiler: str) -> None:
        self.compiler = compiler
        self._library = library
        library.kbin_drawn.restype = library.kbin_trace.restype = _Means
        number, real = ctypes.c_int64, ctypes.c_double
        library.kbin_drawn.argtypes = [number, ctypes.c_int, ctypes.c_int, real, real, real, ctypes.c_uint64]
        library.kbin_trace.argtypes = [number, ctypes.c_int, *[ctypes.c_void_p] * 3]
        library.kbin_tables()

    def drawn(self, requests: int, bins: int, batch: int, rate: float, low: float, high: float, seed: int) -> Means:
        """Simulate a trace that is drawn in the loop."""
        means = self._library.kbin_drawn(requests, bins, batch, rate, low, high, seed)
        return Means(means.throughput, means.latency)

    def trace(
        self, arrival_s: NDArray[np.float64], service_s: NDArray[np.float64], bins: NDArray[np.int32], batch: int
    ) -> Means:
        """Simulate a trace that is given."""
        arrays: list[NDArray[Any]] = [np.ascontiguousarray(array) for array in (arrival_s, service_s, bins)]
        means = self._library.kbin_trace(len(arrival_s), batch, *(array.ctypes.data for array in arrays))
        return Means(means.throughput, means.latency)


def build() -> Yardstick | None:
    """Compile kbin.c with the machine's C compiler; None without one. Where it fails, its words are shown."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kbin.so"
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr)
            return None
        return Yardstick(ctypes.CDLL(str(library)), Path(compiler).name)
