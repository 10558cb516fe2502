import functools

import pytest

from helpers import cubes


@pytest.fixture(scope="session")
def make_cube():
    """Return the function that makes an example cube: `make_cube(axes=("bins", "rate"), replications=6, ...)`.

    The same arguments give the same cube again: copy it before changing it.
    """
    return functools.cache(cubes.make_cube)


@pytest.fixture(scope="session")
def example_cube(make_cube):
    """Return an example cube over bins and arrival rate; do not change it."""
    return make_cube()
