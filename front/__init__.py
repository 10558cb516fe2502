"""Simulate LLM batching policies over whole parameter grids, into labelled cubes with confidence intervals.

    import batchcube as bc

What to run:

    bc.sweep(...)         a sweep from keyword arguments
    bc.load_spec(...)     a sweep from a TOML file or a preset, with settings laid over it
    bc.register(...)      a policy of your own, known by its name from then on

Run it:

    bc.run(...)           every point and replication, into a cube (an xarray.Dataset)
    bc.capacity(...)      the largest arrival rate at which latency limits hold
    bc.plan(...)          the best setting and the replicas it needs, and how sure that is
    bc.simulate(...)      one replication of one point, and what became of each request
    bc.extend(...)        more values of the axes of a cube, or more replications
    bc.join(...)          one cube of several that have parts of a sweep
    bc.merge(...)         the cube of shards that other machines made

Look at it:

    bc.open(...)          a cube from its file
    bc.interval(...)      a variable's mean with its interval, or compared with a baseline
    bc.plot(...)          a figure

A mistake in what is given raises `bc.InputError`, with one line that says where it is and what is allowed. The
commands of the same names (`batchcube --help`) do the same things from a shell.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import InputError

__all__ = [
    "InputError",
    "__version__",
    "capacity",
    "extend",
    "interval",
    "join",
    "load_spec",
    "merge",
    "open",
    "plan",
    "plot",
    "register",
    "run",
    "simulate",
    "sweep",
]

if TYPE_CHECKING:
    from .api import (
        capacity,
        extend,
        interval,
        join,
        load_spec,
        merge,
        open,
        plan,
        plot,
        register,
        run,
        simulate,
        sweep,
    )

    __version__: str
else:
    # Unseen by type checkers, which would take any name for one that is here.
    def __getattr__(name: str) -> Any:
        """Load what is asked for when it is asked for, so that importing costs next to nothing."""
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version(__name__)
        elif name in __all__:
            value = getattr(import_module(".api", __name__), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
