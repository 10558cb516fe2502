"""A binary heap in the rows of an array, the smallest (first column, second column) on top.

The caller keeps the count.
"""

from ..compiling.jit import inline


@inline
def before(rows, a, b):
    """Say whether row a comes before row b."""
    return rows[a, 0] < rows[b, 0] or (rows[a, 0] == rows[b, 0] and rows[a, 1] < rows[b, 1])


@inline
def swap(rows, a, b):
    """Exchange two rows."""
    for field in range(rows.shape[1]):
        rows[a, field], rows[b, field] = rows[b, field], rows[a, field]


@inline
def push(rows, count):
    """Move the row at `count`, just written, to its place; the heap then holds count + 1 rows."""
    child = count
    while child > 0:
        parent = (child - 1) >> 1
        if not before(rows, child, parent):
            return
        swap(rows, child, parent)
        child = parent


@inline
def pop(rows, count):
    """Move the top row to `count` - 1, where it can be read; the heap then holds count - 1 rows."""
    last = count - 1
    if last == 0:
        return
    swap(rows, 0, last)
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= last:
            return
        if child + 1 < last and before(rows, child + 1, child):
            child += 1
        if not before(rows, child, parent):
            return
        swap(rows, child, parent)
        parent = child
