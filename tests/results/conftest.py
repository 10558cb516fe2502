import functools
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("example_cubes", Path(__file__).with_name("cubes.py"))
cubes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cubes)


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
