import errno
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import config
from numba.core.cpu import CPUContext

from batchcube.engine.compiling import libraries
from batchcube.engine.compiling.jit import inline, jit
from helpers.compiling import in_another_process


@inline
def rule(x):
    return 2.0 * x


def only(kept):
    """Return the file of the one kernel that is kept."""
    (file,) = kept.glob("*.kernel")
    return file


FACTOR = 3.0
UNKNOWN = object()


def kernel(values, out):
    for i in range(len(values)):
        out[i] = rule(values[i]) * FACTOR


def run(values=(1.0, 2.0)):
    """Compile the kernel as in a new process; return what it gives, and whether it came from the cache."""
    compiled, out = jit(kernel), np.empty(len(values))
    compiled(np.array(values), out)
    return out.tolist(), sum(compiled.stats.cache_hits.values()) == 1


def test_a_kernel_is_compiled_once_and_found_again(kept, caplog):
    assert run() == ([6.0, 12.0], False)
    file = only(kept)
    assert file.name.startswith("kernel-")
    assert run() == ([6.0, 12.0], True)
    assert only(kept) == file
    assert caplog.messages == []


IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from batchcube.engine.compiling.jit import jit

@jit
def double(values, out):
    for i in range(len(values)):
        out[i] = 2.0 * values[i]

out = np.empty(2)
double(np.array([1.0, 2.0]), out)
print(out, sum(double.stats.cache_hits.values()), "numba.np.linalg" in sys.modules)
"""


def test_a_kernel_is_loaded_without_what_compiles(kept):
    environment = {**os.environ, "BATCHCUBE_CACHE": str(kept.parents[1])}
    for told in ("[2. 4.] 0 True\n", "[2. 4.] 1 False\n"):
        done = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == told


OF_A_HELPER = """
import sys
import numpy as np
from numba import njit
from batchcube.engine.compiling.jit import jit

def kernel(k):
    @njit
    def grown(n, x):
        return x if n <= 0 else grown(n - 1, k * x)

    @jit
    def kernel(out):
        out[0] = grown(3.0, 1.0)

    return kernel

out = np.empty(1)
for k in sys.argv[1:]:
    made = kernel(float(k))
    made(out)
    print(out[0], sum(made.stats.cache_hits.values()))
"""


def test_helpers_of_one_name_in_kernels_of_different_processes_are_told_apart(kept):
    assert in_another_process(kept, OF_A_HELPER, 2) == "8.0 0\n"
    assert in_another_process(kept, OF_A_HELPER, 3) == "27.0 0\n"
    assert in_another_process(kept, OF_A_HELPER, 2, 3) == "8.0 1\n27.0 1\n"


def test_a_kernel_whose_code_lies_elsewhere_is_not_kept(kept):
    program = OF_A_HELPER.replace("3.0, 1.0", "3, 1.0")  # Numba compiles for `Literal[int](3)`, then for what calls it
    assert in_another_process(kept, program, 2) == "8.0 0\n"
    assert in_another_process(kept, program, 2) == "8.0 0\n"


@pytest.mark.parametrize("what", ["_OF_LIBRARY", "_OF_ENGINE"])
def test_kernels_are_not_kept_where_numbas_insides_are_others(kept, monkeypatch, caplog, what):
    monkeypatch.setattr(libraries, what, (*getattr(libraries, what), "_renamed_since"))
    assert run() == ([6.0, 12.0], False)
    assert run() == ([6.0, 12.0], False)
    assert not list(kept.glob("*"))
    (message,) = caplog.messages
    assert message == f"batchcube: kernels are compiled on every run, as Numba {numba.__version__} is too new"


OF_THE_MAIN_MODULE = """
from typing import NamedTuple
from batchcube.engine.compiling.jit import KernelCache, jit

class Pair(NamedTuple):
    first: float
    second: float

@jit
def total(pair):
    return pair.first + pair.second

load, loads = KernelCache.load_overload, []
KernelCache.load_overload = lambda *given: loads.append(load(*given)) or loads[-1]
print(total(Pair(1.0, 2.0)), total(Pair(3.0, 4.0)), len(loads), sum(total.stats.cache_hits.values()))
"""


def test_a_kernel_for_a_class_of_the_main_module_is_read_once(kept):
    told = [subprocess.check_output([sys.executable, "-c", OF_THE_MAIN_MODULE], text=True) for _ in range(2)]
    assert told == ["3.0 7.0 1 0\n", "3.0 7.0 1 1\n"]


def test_what_compiles_is_loaded_before_a_kernel_that_needs_something_of_it(kept, monkeypatch):
    refreshed = []
    refresh = CPUContext.refresh
    run()
    monkeypatch.setattr(CPUContext, "refresh", lambda context: [refreshed.append(1), refresh(context)])
    assert run() == ([6.0, 12.0], True)
    assert refreshed == []
    monkeypatch.setattr("batchcube.engine.compiling.jit.address_of_symbol", lambda name: None)
    assert run() == ([6.0, 12.0], True)
    assert refreshed


@pytest.mark.parametrize("what", ["rule", "constant"])
def test_what_is_changed_in_python_is_compiled_in_and_spoils_nothing(kept, monkeypatch, what):
    assert run() == ([6.0, 12.0], False)
    with monkeypatch.context() as patch:
        if what == "rule":
            patch.setitem(globals(), "rule", inline(lambda x: 5.0 * x))
        else:
            patch.setitem(globals(), "FACTOR", 7.5)
        assert run() == ([15.0, 30.0], False)
        assert run() == ([15.0, 30.0], True)
    assert run() == ([6.0, 12.0], True)


def test_a_cold_cache_filled_by_a_changed_rule_is_not_used_without_it(kept, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "rule", inline(lambda x: 5.0 * x))
        assert run() == ([15.0, 30.0], False)
    assert run() == ([6.0, 12.0], False)


def test_fields_of_arguments_that_change_places_are_another_kernel(kept):
    @jit
    def first(pair, out):
        out[0] = pair.a

    for number, fields in enumerate(("a b", "b a")):
        out = np.empty(1)
        first(namedtuple("Pair", fields)(1.0, 2.0), out)
        assert out[0] == 1.0 + number
        assert len(list(kept.glob("first-*"))) == 1 + number


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"x",
        lambda content: bytes(len(content)),
        lambda content: flipped(content, 0),
        lambda content: flipped(content, 40),
        lambda content: flipped(content, len(content) // 2),
        lambda content: flipped(content, len(content) - 1),
    ],
)
def test_a_damaged_file_is_compiled_again(kept, caplog, damage):
    run()
    file = only(kept)
    file.write_bytes(damage(file.read_bytes()))
    assert run() == ([6.0, 12.0], False)
    assert caplog.messages == [f"batchcube: {file}: damaged, compiled again"]
    assert run() == ([6.0, 12.0], True)
    assert only(kept) == file


def test_a_folder_in_place_of_the_file_is_no_error(kept, caplog):
    run()
    file = only(kept)
    file.unlink()
    file.mkdir()
    assert run() == ([6.0, 12.0], False)
    assert only(kept) == file
    assert caplog.messages == [f"batchcube: {kept}: compiled kernels cannot be kept: {os.strerror(errno.EISDIR)}"]


def test_a_pipe_in_place_of_the_file_is_not_waited_for(kept):
    run()
    file = only(kept)
    file.unlink()
    os.mkfifo(file)
    assert run() == ([6.0, 12.0], False)
    assert run() == ([6.0, 12.0], True)


def test_a_full_disk_stops_nothing_and_keeps_nothing(kept, monkeypatch, caplog):
    write = Path.write_bytes

    def full(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert run() == ([6.0, 12.0], False)
        assert run() == ([6.0, 12.0], False)
    assert list(kept.iterdir()) == []
    assert caplog.messages == [f"batchcube: {kept}: compiled kernels cannot be kept: {os.strerror(errno.ENOSPC)}"]


def test_what_a_killed_run_left_is_overwritten(kept):
    run()
    file = only(kept)
    file.rename(file.with_suffix(".unfinished"))
    file.with_suffix(".unfinished").write_bytes(b"half")
    assert run() == ([6.0, 12.0], False)
    assert only(kept) == file


def test_another_process_may_keep_the_same_kernel_at_the_same_time(kept, monkeypatch, caplog):
    write = Path.write_bytes

    def faster_elsewhere(path, content):
        write(path, content)
        path.replace(path.with_suffix(".kernel"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", faster_elsewhere)
        assert run() == ([6.0, 12.0], False)
    assert run() == ([6.0, 12.0], True)
    assert caplog.messages == []


def test_without_a_folder_kernels_compile_and_run(kept, monkeypatch):
    monkeypatch.setattr("batchcube.engine.compiling.kept.cache_directory", lambda: None)
    assert run() == ([6.0, 12.0], False)
    assert not kept.exists()


def test_a_kernel_of_parts_that_cannot_be_told_is_not_kept(kept, caplog):
    @jit
    def unclear(out):
        out[0] = 1.0 if UNKNOWN is None else 2.0

    out = np.empty(1)
    with pytest.raises(Exception, match="UNKNOWN"):
        unclear(out)
    (message,) = caplog.messages
    assert message.endswith("unclear: compiled on every run, as it uses a object")
    assert not list(kept.glob("*"))


def test_compiling_leaves_numbas_own_cache_folder_alone_and_follows_numpys_rules(kept):
    before = config.CACHE_DIR

    @jit
    def divide(a, b, out):
        out[0] = a[0] / b[0]

    out = np.empty(1)
    divide(np.ones(1), np.zeros(1), out)
    assert np.isinf(out[0])
    assert before == config.CACHE_DIR
    assert divide.targetoptions["nogil"]
