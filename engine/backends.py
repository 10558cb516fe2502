"""The backends: three ways to compute the same numbers, and what each needs."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from batchcube.errors import InputError, quoted

from .simulation import Simulation

BACKENDS: tuple[str, ...] = ("numba", "jax", "reference")


class MissingBackendError(ImportError):
    """A backend needs a package that is not installed, or that cannot be loaded."""


def require_numba() -> None:
    """Refuse to go on without Numba: raises MissingBackendError where it is not installed, or refuses to load."""
    try:
        import_module("numba")
    except ImportError as error:
        raise MissingBackendError(
            f"`backend` numba: {quoted(error)} (`backend` reference runs without numba)"
        ) from None


def require_backend(backend: str, simulation: Simulation[Any]) -> None:
    """Refuse a backend that does not exist.

    Raises InputError for an unknown one and for one that a kind of simulation does not have, MissingBackendError for
    one that is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"must be one of {', '.join(BACKENDS)}", path="`backend`", value=backend)
    if backend not in simulation.BACKENDS:
        raise InputError(
            f"{simulation.NAME} runs with {' or '.join(simulation.BACKENDS)}", path="`backend`", value=backend
        )
    if backend == "numba":
        require_numba()
    if backend == "jax" and find_spec("jax") is None:
        raise MissingBackendError(
            "jax is not installed: in the clone, pip install '.[jax]' (or '.[cuda]' for NVIDIA GPUs)"
        )
