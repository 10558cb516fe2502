"""What the shell completes, where that costs it no wait: presets, variables, rows. Files are left to the shell."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from batchcube.errors import InputError


def preset(incomplete: str) -> list[str]:
    """Return the presets that begin with what is typed."""
    from .. import presets

    return _beginning(presets.names(), incomplete)


def variable(incomplete: str) -> list[str]:
    """Return the variables of cubes that begin with what is typed."""
    from batchcube.results.variables import REGISTRY

    return _beginning(REGISTRY, incomplete)


def row(incomplete: str) -> list[str]:
    """Return the names of rows of the comparisons in out/ that begin with what is typed."""
    from batchcube.results.claims import read_comparison

    names: list[str] = []
    for file in comparisons():
        with suppress(InputError):
            names += (row.row for row in read_comparison(file))
    return _beginning(dict.fromkeys(names), incomplete)


def comparisons() -> list[Path]:
    """Return the comparisons that `batchcube reproduce` writes, as far as they are in its own folders."""
    return sorted(Path("out").glob("*/comparison.csv"))


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
