"""What to run: specification, grid, workloads, seeds, execution, command line.

``from batchcube.sweeps import Sweep; cube = Sweep.from_toml("sweep.toml").run()``. Names are imported when first used,
so that the command line starts quickly.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import UserError
    from .specification import Sweep

__all__ = ["Sweep", "UserError"]


def __getattr__(name: str) -> Any:
    if name == "Sweep":
        from .specification import Sweep

        return Sweep
    if name == "UserError":
        from .errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
