import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary

import batchcube as bc
from batchcube.engine.compiling import libraries, parts
from batchcube.engine.compiling.jit import inline, jit
from batchcube.engine.compiling.libraries import LARGEST_ALONE, PartLibrary
from batchcube.engine.policies import registry
from helpers.compiling import in_another_process
from helpers.outside import EXAMPLES, load


@inline
def rule(x):
    return x


FACTOR = 3.0


def kernel(values, out):
    for i in range(len(values)):
        out[i] = rule(values[i]) * FACTOR


def branching(choices):
    """Return a rule of so many branches."""
    body = "".join(f"    if x == {k}.0:\n        return {k + 1}.0\n" for k in range(choices))
    names = {"__name__": __name__}
    exec(f"def branches(x):\n{body}    return 2.0 * x\n", names)
    return inline(names["branches"])


@pytest.mark.parametrize("choices", [1, LARGEST_ALONE])
def test_a_part_becomes_machine_code_with_its_kernels_only(kept, monkeypatch, choices):
    monkeypatch.setitem(globals(), "rule", branching(choices))
    compiled, out = jit(kernel), np.empty(2)
    compiled(np.array([0.0, 1.5]), out)
    assert out.tolist() == [1.0 * FACTOR, 3.0 * FACTOR]
    (made,) = compiled.overloads.values()
    (part,) = (library for library in made.library._linking_libraries if "branches" in library.name)
    assert isinstance(part, PartLibrary)
    assert list(part.get_defined_functions())
    assert not [made for made in part.get_defined_functions() if part.codegen._engine.is_symbol_defined(made.name)]
    code = made.library.get_asm_str()
    assert not [line for line in code.splitlines() if "call" in line and "branches" in line]


@pytest.mark.parametrize("what", ["_OF_LIBRARY", "_OF_ENGINE"])
def test_parts_have_numbas_own_library_where_its_insides_are_others(kept, monkeypatch, what):
    monkeypatch.setattr(libraries, what, (*getattr(libraries, what), "_renamed_since"))
    monkeypatch.setitem(globals(), "rule", branching(1))
    compiled, out = jit(kernel), np.empty(2)
    compiled(np.array([0.0, 1.5]), out)
    assert out.tolist() == [1.0 * FACTOR, 3.0 * FACTOR]
    (made,) = compiled.overloads.values()
    (part,) = (library for library in made.library._linking_libraries if "branches" in library.name)
    assert type(part) is JITCodeLibrary


SLOPE = 2.0


@pytest.fixture
def ours(monkeypatch):
    """Have what is written here kept as what the package has."""
    monkeypatch.setattr(parts, "KEPT_PACKAGES", {*parts.KEPT_PACKAGES, __name__.partition(".")[0]})


def run(monkeypatch, factor):
    """Compile a kernel of one part as in a new process; return its numbers, and whether the part was compiled too."""
    compiled_parts = []
    monkeypatch.setattr(PartLibrary, "finalize", lambda library: [compiled_parts.append(library), finalize(library)])
    monkeypatch.setitem(globals(), "FACTOR", factor)
    monkeypatch.setitem(globals(), "rule", inline(lambda x: SLOPE * x))
    compiled, out = jit(kernel), np.empty(2)
    compiled(np.array([1.0, 2.0]), out)
    return out.tolist(), bool(compiled_parts)


finalize = PartLibrary.finalize


@pytest.mark.usefixtures("ours")
def test_a_part_is_compiled_for_the_first_of_the_kernels_that_call_it(kept, monkeypatch):
    assert run(monkeypatch, 3.0) == ([6.0, 12.0], True)
    assert run(monkeypatch, 5.0) == ([10.0, 20.0], False)
    assert len(list(kept.glob("*.part"))) == 1
    assert len(list(kept.glob("*.kernel"))) == 2


def test_parts_of_others_are_not_kept(kept, monkeypatch):
    assert run(monkeypatch, 3.0) == ([6.0, 12.0], True)
    assert run(monkeypatch, 5.0) == ([10.0, 20.0], True)
    assert not list(kept.glob("*.part"))


@pytest.mark.usefixtures("ours")
def test_a_part_is_compiled_again_for_another_constant(kept, monkeypatch):
    assert run(monkeypatch, 3.0) == ([6.0, 12.0], True)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "SLOPE", 7.0)
        assert run(patch, 3.0) == ([21.0, 42.0], True)
    assert run(monkeypatch, 5.0) == ([10.0, 20.0], False)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:99] + content])
@pytest.mark.usefixtures("ours")
def test_a_damaged_part_is_compiled_again(kept, monkeypatch, caplog, damage):
    run(monkeypatch, 3.0)
    (file,) = kept.glob("*.part")
    file.write_bytes(damage(file.read_bytes()))
    assert run(monkeypatch, 5.0) == ([10.0, 20.0], True)
    assert caplog.messages == [f"batchcube: {file}: damaged, compiled again"]
    assert run(monkeypatch, 7.0) == ([14.0, 28.0], False)


@pytest.mark.usefixtures("ours")
def test_without_a_folder_parts_are_compiled(kept, monkeypatch):
    monkeypatch.setattr("batchcube.engine.compiling.kept.cache_directory", lambda: None)
    assert run(monkeypatch, 3.0) == ([6.0, 12.0], True)
    assert run(monkeypatch, 3.0) == ([6.0, 12.0], True)
    assert not kept.exists()


@pytest.mark.usefixtures("kept")
def test_policies_whose_states_have_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    for name in "ab":
        text = (EXAMPLES / "aimd.py").read_text().replace('"aimd"', f'"aimd_{name}"')
        registry.register(load(tmp_path / f"aimd_{name}.py", text).AIMD)
        tables = {
            "policy": {"mode": "dynamic_only", "largest_batch": 4, "controller": {"name": f"aimd_{name}"}},
            "server": {"service": {"law": "linear", "a0_s": 0.05, "a1_s_per_token": 0.01, "gamma": 0.02}},
            "report": {"horizon_s": 10.0},
        }
        requests = {"arrival_s": [0.0, 0.1, 0.2], "prompt_tokens": [64] * 3, "output_tokens": [12, 250, 30]}
        found = [bc.simulate(tables, requests=requests, backend=backend).report for backend in ("numba", "reference")]
        assert found[0]["latency_mean_s"] == found[1]["latency_mean_s"]


# All that `times` makes has one name; Numba tells functions apart by how many it compiled before. `multiply` is no
# part, and is kept within the one that calls it.
IN_ANOTHER_PROCESS = """
import sys
from typing import NamedTuple
import numpy as np
from numba import njit
from batchcube.engine.compiling import libraries, parts
from batchcube.engine.compiling.jit import inline, jit

libraries.LARGEST_ALONE = 0  # what is called lies in the file by itself
parts.KEPT_PACKAGES.add("__main__")
finalize, compiled = parts.PartLibrary.finalize, []
parts.PartLibrary.finalize = lambda library: [compiled.append(library), finalize(library)]

class Pair(NamedTuple):
    first: float
    second: float

def times(k):
    multiply = njit(lambda x: k * x)
    return inline(lambda x: Pair(multiply(x), x))

def kernel(one, other):
    @jit
    def kernel(out):
        out[0] = one(1.0).first
        out[1] = other(10.0).first + other(10.0).second
    return kernel

out = np.empty(2)
kernel(*(times(float(k)) for k in sys.argv[1:]))(out)
print(out, len(compiled))
"""


def test_parts_of_one_name_from_different_processes_are_told_apart(kept):
    for factors, told in (((2, 2), "[ 2. 30.] 1"), ((3, 3), "[ 3. 40.] 1"), ((2, 3), "[ 2. 40.] 0")):
        assert in_another_process(kept, IN_ANOTHER_PROCESS, *factors) == f"{told}\n"


GIVEN_A_RULE = """
import sys
import numpy as np
from batchcube.engine.compiling import parts
from batchcube.engine.compiling.jit import inline, jit

parts.KEPT_PACKAGES.add("__main__")
finalize, compiled = parts.PartLibrary.finalize, []
parts.PartLibrary.finalize = lambda library: [compiled.append(library), finalize(library)]

@inline
def apply(rule, x):
    return rule(x) + 1.0

def times(k):
    return inline(lambda x: k * x)

def kernel(one, other, factor):
    @jit
    def kernel(out):
        out[0], out[1] = apply(one, 1.0) * factor, apply(other, 10.0) * factor
    return kernel

one, other, factor = map(float, sys.argv[1:])
out = np.empty(2)
kernel(times(one), times(other), factor)(out)
print(out, len(compiled))
"""


def test_a_part_given_a_function_is_kept_for_that_function(kept):
    for numbers, told in (
        ((2, 2, 1), "[ 3. 21.] 2"),
        ((3, 2, 1), "[ 4. 21.] 2"),
        ((2, 3, 5), "[ 15. 155.] 0"),
        ((3, 3, 7), "[ 28. 217.] 0"),
    ):
        assert in_another_process(kept, GIVEN_A_RULE, *numbers) == f"{told}\n"


OF_A_KERNEL = """
import sys
import numpy as np
from batchcube.engine.compiling import parts
from batchcube.engine.compiling.jit import inline, jit

parts.KEPT_PACKAGES.add("__main__")
FACTOR = float(sys.argv[1])

@jit
def double(out):
    out[0] *= 2.0

@inline
def twice(out):
    double(out)
    double(out)

@jit
def kernel(out):
    twice(out)
    out[1] *= FACTOR

out = np.ones(2)
kernel(out)
double(out)
print(out)
"""


def test_a_kernel_within_a_part_that_was_kept_can_be_called_by_itself(kept):
    assert in_another_process(kept, OF_A_KERNEL, 3.0) == "[8. 3.]\n"
    assert in_another_process(kept, OF_A_KERNEL, 5.0) == "[8. 5.]\n"
