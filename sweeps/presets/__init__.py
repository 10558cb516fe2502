"""Sweeps that ship with the package: one TOML file each."""

from difflib import get_close_matches
from functools import cache
from importlib.resources import files


@cache
def names() -> tuple[str, ...]:
    """Return the names of the presets, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def read(name: str) -> bytes:
    """Return the TOML of a preset; raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(name)
    return files(__name__).joinpath(f"{name}.toml").read_bytes()


def hint(name: str) -> str:
    """Return what to say to somebody who asked for a preset that does not exist."""
    close = get_close_matches(name, names(), n=3)
    return f"did you mean {' or '.join(close)}?" if close else "`batchcube specs` lists the presets"
