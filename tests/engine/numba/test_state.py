from typing import NamedTuple

import numpy as np

from batchcube.engine.batches.numba.dynamic import dynamic_kernel
from batchcube.engine.compiling.jit import jit
from batchcube.engine.compiling.source import source_digest
from batchcube.engine.numba.state import floats_of, packing, structure_of
from batchcube.engine.policies.order import BUILTIN
from batchcube.engine.policies.target import start_state
from helpers.batches import fixed_control
from helpers.outside import EXAMPLES, load


class Inner(NamedTuple):
    low: float
    high: float


class Outer(NamedTuple):
    first: float
    inner: Inner
    last: float


def test_a_state_is_kept_in_a_row_and_read_again():
    state = Outer(1.0, Inner(2.0, 3.0), 4.0)
    structure = structure_of(state)
    assert floats_of(structure) == 4
    load_state, store = packing(structure)

    @jit
    def through(row, out):
        state = load_state(row)
        store(out, Outer(state.last, Inner(state.inner.high, state.inner.low), state.first))

    out = np.zeros(4)
    through(np.array([1.0, 2.0, 3.0, 4.0]), out)
    assert out.tolist() == [4.0, 3.0, 2.0, 1.0]
    assert load_state(np.array([1.0, 2.0, 3.0, 4.0])) == state


def test_a_policy_that_changes_in_its_own_file_makes_another_kernel(tmp_path):
    """What a kernel is kept under covers the policies that are compiled in, wherever they are written."""
    text = (EXAMPLES / "aimd.py").read_text()

    def digest(text):
        policy = load(tmp_path / "aimd.py", text).AIMD
        control = fixed_control(4)._replace(further=policy.settings())
        kernel = dynamic_kernel(policy, structure_of(start_state(control)), BUILTIN)
        return source_digest(kernel, ())

    first = digest(text)
    assert digest(text) == first
    assert digest(text.replace("floor(state.bound * settings.decrease)", "floor(state.bound)")) != first
    assert digest(text.replace("* 1000.0", "* 2000.0")) != first
    assert digest(text) == first
