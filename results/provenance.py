"""Where a cube came from: attributes that are enough to make it again."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tomllib
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchcube.documents import DEEPEST, is_deep, parse_json
from batchcube.errors import InputError, found_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import xarray as xr

CONVENTIONS = "CF-1.11"
_PACKAGES = ("numpy", "numba", "scipy", "xarray", "netCDF4")


class MadeBy(NamedTuple):
    """What simulated replications of a cube."""

    backend: str
    device: str
    """What it ran on: "cpu", or the name of an accelerator."""
    versions: str
    """Of the packages that it is made of: name and version, separated by ", "."""


version_of = cache(metadata.version)
"""Return the version of an installed package, for which its metadata are read once."""


def batchcube_version() -> str:
    """Return the version of the installed package."""
    return version_of("batchcube")


@cache
def git_commit() -> str:
    """Return the commit of the source tree that runs, with "-dirty" after local changes, "" outside a git checkout.

    Git is asked once in a process, at the first call.
    """
    root = Path(__file__).resolve().parents[1]
    # Without this test a package installed below somebody's repository would report that repository's commit.
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def named_together(names: Iterable[str]) -> str:
    """Return names, each of which may be several already, as one list: each of them once, separated by ", "."""
    return ", ".join(dict.fromkeys(part for name in names for part in name.split(", ") if part))


def versions_together(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the versions of packages by name, all of them where the tables differ."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: named_together(table.get(name, "") for table in tables) for name in names}


def provenance(
    *,
    title: str,
    specification: str,
    defaults: Mapping[str, object],
    seed: int,
    replications: int,
    made_by: Sequence[MadeBy],
    input_sha256: str = "",
    notes: Sequence[str] = (),
) -> dict[str, str | int]:
    """Return the attributes of a cube: `specification` is the full text (TOML or JSON) that makes it again.

    `defaults` are the values of what it leaves out, by dotted path: those of a later version may be others.

    `made_by` are the backends that simulated it: several where a stopped run was continued with another one.
    `notes` are sentences that readers must be told (removed bins, extrapolated service times), joined by newlines.
    """
    versions = {"python": platform.python_version()} | {name: version_of(name) for name in _PACKAGES}
    brought = [dict(_name_and_version(text) for text in maker.versions.split(", ") if text) for maker in made_by]
    return {
        "title": title,
        "Conventions": CONVENTIONS,
        "batchcube_version": batchcube_version(),
        "specification": specification,
        "specification_defaults": json.dumps(defaults),
        "specification_sha256": hashlib.sha256(specification.encode()).hexdigest(),
        "seed": seed,
        "replications": replications,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": json.dumps(versions_together([versions, *brought])),
        "backend": named_together(maker.backend for maker in made_by),
        "backend_device": named_together(maker.device for maker in made_by),
        "input_sha256": input_sha256,
        "notes": "\n".join(notes),
    }


def _name_and_version(text: str) -> tuple[str, str]:
    name, _, version = text.rpartition(" ")
    return name, version


def parse_specification(text: str) -> dict[str, object]:
    """Return the specification kept in a cube, TOML or JSON, as nested dictionaries; InputError when it is neither."""
    deeper = f"is nested deeper than {DEEPEST} levels"
    try:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = tomllib.loads(text)
    except ValueError as error:
        raise InputError(f"is neither TOML nor JSON: {error}", path="specification") from error
    except RecursionError:
        raise InputError(deeper, path="specification") from None
    if not isinstance(parsed, dict):
        raise InputError("must be a table of settings", path="specification")
    if is_deep(parsed):
        raise InputError(deeper, path="specification")
    return parsed


def parse_made_from(cube: xr.Dataset) -> tuple[dict[str, object], dict[str, object]]:
    """Return the specification kept in a cube, and the defaults of what it leaves out, by dotted path."""
    specification = parse_specification(str(cube.attrs["specification"]))
    return specification, json_of(cube.attrs, "specification_defaults", dict)


def json_of(attrs: Mapping[Any, Any], name: str, kind: type) -> Any:
    """Return what an attribute of JSON holds, nothing where it is not there."""
    with found_in(path=f"attribute {name}"):
        found = parse_json(attrs[name]) if name in attrs else kind()
        if not isinstance(found, kind):
            raise InputError(f"must be a {'table' if kind is dict else 'list'} in JSON")
        return found
