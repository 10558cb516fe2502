"""Sweeps that ship with the package: one TOML file each."""

from functools import cache
from importlib.resources import files

from batchcube.errors import did_you_mean


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
    return did_you_mean(name, names()) or "`batchcube specs` lists the presets"
