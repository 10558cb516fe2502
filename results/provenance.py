"""Where a cube came from: attributes that are enough to make it again."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONVENTIONS = "CF-1.11"
_PACKAGES = ("numpy", "numba", "scipy", "xarray", "netCDF4")


def batchcube_version() -> str:
    """Return the version of the installed package."""
    return metadata.version("batchcube")


def git_commit() -> str:
    """Return the commit of the source tree that runs, with "-dirty" after local changes, "" outside a git checkout."""
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


def provenance(
    *,
    title: str,
    specification: str,
    seed: int,
    replications: int,
    backend: str,
    overload_test: str,
    input_sha256: str = "",
    trace_rows_dropped: int = 0,
    notes: Sequence[str] = (),
) -> dict[str, str | int]:
    """Return the attributes of a cube: `specification` is the full text (TOML or JSON) that makes it again.

    `notes` are sentences that readers must be told (removed bins, extrapolated service times), joined by newlines.
    """
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}
    return {
        "title": title,
        "Conventions": CONVENTIONS,
        "batchcube_version": batchcube_version(),
        "specification": specification,
        "specification_sha256": hashlib.sha256(specification.encode()).hexdigest(),
        "seed": seed,
        "replications": replications,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": json.dumps(versions),
        "backend": backend,
        "input_sha256": input_sha256,
        "trace_rows_dropped": trace_rows_dropped,
        "notes": "\n".join(notes),
        "overload_test": overload_test,
    }
