import pytest

from helpers import cubes


@pytest.fixture(scope="session")
def make_cube():
    """Return the function that makes an example cube over named axes."""
    return cubes.make_cube


@pytest.fixture(scope="session")
def example_axes():
    """Return the axes of the example cubes by their short names."""
    return cubes.AXES
