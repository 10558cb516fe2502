import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.numba.heap import pop, push


@jit
def heapsort(rows, heap, out):
    for i in range(len(rows)):
        for field in range(rows.shape[1]):
            heap[i, field] = rows[i, field]
        push(heap, i)
    for i in range(len(rows)):
        pop(heap, len(rows) - i)
        for field in range(rows.shape[1]):
            out[i, field] = heap[len(rows) - 1 - i, field]


keys = st.tuples(st.integers(0, 6), st.integers(-(2**62), 2**62))


@given(st.lists(keys, max_size=40, unique=True))
def test_rows_leave_by_their_first_two_columns_and_stay_whole(rows):
    table = np.array([(*key, i) for i, key in enumerate(rows)], np.int64).reshape(-1, 3)
    out = np.zeros_like(table)
    heapsort(table, np.zeros_like(table), out)
    assert out.tolist() == sorted(table.tolist())


@jit
def churn(first, rows, heap, out):
    for i in range(len(first)):
        heap[i, 0], heap[i, 1] = first[i, 0], first[i, 1]
        push(heap, i)
    count = len(first)
    for i in range(len(rows)):
        pop(heap, count)
        out[i, 0], out[i, 1] = heap[count - 1, 0], heap[count - 1, 1]
        heap[count - 1, 0], heap[count - 1, 1] = rows[i, 0], rows[i, 1]
        push(heap, count - 1)


def test_the_smallest_leaves_while_others_come():
    rng = np.random.default_rng(9)
    first, rows = rng.integers(0, 50, (20, 2)), rng.integers(0, 50, (3000, 2))
    out = np.zeros_like(rows)
    churn(first, rows, np.zeros((21, 2), np.int64), out)
    held = first.tolist()
    for smallest, new in zip(out.tolist(), rows.tolist(), strict=True):
        assert smallest == min(held)
        held.remove(smallest)
        held.append(new)
