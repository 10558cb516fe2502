"""NetCDF-4 files, cubes or not: written complete or not at all, read with a reason when they cannot be."""

from __future__ import annotations

import glob
import os
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .disk import lock, output_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

_HASH = "[0-9a-f]" * 8


def write_dataset(
    dataset: xr.Dataset, path: str | os.PathLike[str], *, ready: Callable[[], None] = lambda: None
) -> Path:
    """Write a dataset as compressed NetCDF-4, complete or not at all, and return its path.

    The file is written beside its target under another name, synced, and moved into place; whatever stops that, Ctrl-C
    included, leaves no part of it and leaves an older file as it was. `ready` is called right before the move, and
    stops it by what it raises. Parts that a killed process left of the same file are removed.
    Raises InputError (target or folder is not writable as such) or OSError (disk full), one line each, naming the file.
    """
    target = output_file(Path(path))
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", file=path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")  # `_HASH`
    clean = dataset.copy()
    for name in clean.variables:
        clean[name].encoding = {}
    with _writing(target):
        try:
            # The NetCDF library reports a refused file as anything; asking the system first gives the reason.
            part.touch()
            clean.to_netcdf(part, engine="netcdf4", format="NETCDF4", encoding=_encoding(clean))
            with part.open("rb") as written:
                os.fsync(written.fileno())
            ready()
            part.replace(target)
            sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise OSError(f"{path}: cannot be written: {reason}{_space(target.parent)}") from error
        finally:
            part.unlink(missing_ok=True)
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Share a lock on the folder of a target while writing; with nobody else in it, parts of the target are dead.

    The system drops the lock of a process that dies. Where it has no locks of folders (on NFS) nothing is removed.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            folder = os.open(target.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            with suppress(OSError):
                lock(folder)
                for dead in target.parent.glob(f".{glob.escape(target.name)}.{_HASH}.part"):
                    dead.unlink()
            lock(folder, shared=True)
        yield


def read_dataset(path: str | os.PathLike[str], what: str) -> xr.Dataset:
    """Read a NetCDF file into memory; InputError, one line naming the file and `what` it must be, when it cannot be."""
    source = Path(path)
    if not source.is_file():
        found = "is a folder" if source.is_dir() else "is no file" if source.exists() else "no such file"
        raise InputError(f"{found}, must be {what} (NetCDF)", file=path)
    try:
        with source.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error
    if not start:
        raise InputError(f"is empty, must be {what} (NetCDF)", file=path)
    # The classic format (CDF) lacks our types, and the library takes seconds over a damaged count in it.
    if start != b"\x89HDF\r\n\x1a\n":
        raise InputError(f"is no {'NetCDF-4' if start.startswith(b'CDF') else 'NetCDF'} file", file=path)
    try:
        with xr.open_dataset(source, engine="netcdf4", decode_timedelta=False) as opened:
            return opened.load()
    except Exception as error:  # xarray and the NetCDF library raise whatever a damaged byte leads them to
        raise InputError(f"is damaged or incomplete: {error}", file=path) from error


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return chunk sizes of at most 1 MiB that keep the last dimensions whole as far as possible."""
    chunks = list(shape)
    for dim in range(len(chunks)):
        rest = int(np.prod(chunks[dim + 1 :], dtype=np.int64)) * itemsize
        chunks[dim] = max(1, min(chunks[dim], 2**20 // max(rest, 1)))
    return tuple(chunks)


def _encoding(dataset: xr.Dataset) -> dict[Hashable, dict[str, object]]:
    encoding: dict[Hashable, dict[str, object]] = {}
    for name, variable in dataset.variables.items():
        chosen: dict[str, object] = {}
        if name in dataset.coords:
            chosen["_FillValue"] = None
        if variable.dtype.kind in "biuf" and variable.size and variable.ndim:
            itemsize = 1 if variable.dtype.kind == "b" else variable.dtype.itemsize
            chosen |= {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True}
            chosen["chunksizes"] = _chunks(variable.shape, itemsize)
        elif variable.dtype.kind not in "biuf":
            chosen.pop("_FillValue", None)  # variable-length strings take none
        encoding[name] = chosen
    return encoding


def _space(folder: Path) -> str:
    import shutil

    free = shutil.disk_usage(folder).free
    return f" ({free / 2**20:.0f} MiB free in {folder})" if free < 2**30 else ""
