import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("example_cubes", Path(__file__).parents[1] / "results" / "cubes.py")
cubes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cubes)


@pytest.fixture(scope="session")
def make_cube():
    """Return the function that makes an example cube over named axes."""
    return cubes.make_cube


@pytest.fixture(scope="session")
def example_axes():
    """Return the axes of the example cubes by their short names."""
    return cubes.AXES
