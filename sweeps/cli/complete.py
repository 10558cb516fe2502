"""What the shell completes, where that costs it no wait: presets and variables. Files are left to the shell."""

from collections.abc import Iterable


def preset(incomplete: str) -> list[str]:
    """Return the presets that begin with what is typed."""
    from .. import presets

    return _beginning(presets.names(), incomplete)


def variable(incomplete: str) -> list[str]:
    """Return the variables of cubes that begin with what is typed."""
    from batchcube.results.variables import REGISTRY

    return _beginning(REGISTRY, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
