"""NetCDF-4 files, cubes or not: written complete or not at all, read with a reason when they cannot be."""

from __future__ import annotations

import glob
import os
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .disk import lock, output_file, sync_folder
from .pieces import LARGEST_CHUNK, chunks, read_later, together, values_of
from .variables import REPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from numpy.typing import NDArray

_HASH = "[0-9a-f]" * 8


def write_dataset(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    ready: Callable[[], None] = lambda: None,
    seen: Callable[[Hashable, NDArray[Any]], None] = lambda *_: None,
    last: Callable[[], Mapping[str, str]] = dict,
) -> Path:
    """Write a dataset as compressed NetCDF-4, complete or not at all, and return its path.

    The file is written beside its target under another name, synced, and moved into place; whatever stops that, Ctrl-C
    included, leaves no part of it and leaves an older file as it was. `ready` is called right before the move, and
    stops it by what it raises. Parts that a killed process left of the same file are removed.

    What has replications is written some of them at a time, so that arrays that are read later need not fit into
    memory; the file can be continued along them. `seen` is called with the name of each variable and its values, piece
    by piece in the order of `values_of`; `last` is asked for further attributes then.
    Raises InputError (target or folder is not writable as such) or OSError (disk full), one line each, naming the file.
    """
    target = output_file(Path(path))
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", file=path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")  # `_HASH`
    with _writing(target):
        try:
            # The NetCDF library reports a refused file as anything; asking the system first gives the reason.
            part.touch()
            _write(dataset, part, seen, last)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            ready()
            part.replace(target)
            sync_folder(target.parent)
        except InputError:
            raise
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise OSError(f"{path}: cannot be written: {reason}{_space(target.parent)}") from error
        finally:
            part.unlink(missing_ok=True)
    return target


def _write(
    dataset: xr.Dataset,
    part: Path,
    seen: Callable[[Hashable, NDArray[Any]], None],
    last: Callable[[], Mapping[str, str]],
) -> None:
    clean = dataset.copy()
    for variable in clean.variables.values():
        variable.encoding = {}
    growing = [str(name) for name, variable in clean.variables.items() if REPLICATION in variable.dims]
    for name, variable in clean.variables.items():
        if name not in growing:
            for _, piece in values_of(variable):
                seen(name, piece.values)
    # Everything but the replications is xarray's to write.
    without = clean.isel({REPLICATION: slice(0)}) if growing else clean
    at_once = together(clean)
    without.to_netcdf(
        part,
        engine="netcdf4",
        format="NETCDF4",
        encoding=_encoding(clean, at_once),
        unlimited_dims=[REPLICATION] if growing else [],
    )
    with _small_caches(), netCDF4.Dataset(part, "a") as file:
        file.set_auto_maskandscale(False)
        for start in range(0, clean.sizes[REPLICATION] if growing else 0, at_once):
            for name in growing:
                variable = clean.variables[name]
                some = variable.isel({REPLICATION: slice(start, start + at_once)})
                for place, piece in values_of(some):
                    seen(name, piece.values)
                    here = place[REPLICATION]
                    place[REPLICATION] = slice(start + here.start, start + here.stop)
                    values = piece.transpose(*variable.dims).values
                    file[name][tuple(place[dim] for dim in variable.dims)] = values
        file.setncatts(last())


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
    with open_dataset(path, what) as opened:
        return opened.load()


def open_dataset(path: str | os.PathLike[str], what: str) -> xr.Dataset:
    """Open a NetCDF file: its coordinates are read at once, its variables when somebody asks for their values.

    InputError, one line naming the file and `what` it must be, when it cannot be read, at once or then.
    """
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
    with _reading(path), _small_caches():
        opened = xr.open_dataset(source, engine="netcdf4", decode_timedelta=False, cache=False)
        try:
            for coordinate in opened.coords.values():
                coordinate.load()
        except BaseException:
            opened.close()
            raise
    later = opened.assign({name: _later(array.variable, path) for name, array in opened.data_vars.items()})
    later.set_close(opened.close)
    return later


def _later(variable: xr.Variable, path: str | os.PathLike[str]) -> xr.Variable:
    def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
        with _reading(path):
            return np.asarray(variable[key].values)

    return read_later(variable, read)


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # xarray and the NetCDF library raise whatever a damaged byte leads them to
        raise InputError(f"is damaged or incomplete: {error}", file=path) from error


@contextmanager
def _small_caches() -> Iterator[None]:
    """Let the NetCDF library keep one chunk of each variable of a file that is opened now, not 64 MiB of it."""
    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(LARGEST_CHUNK, *before[1:])
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


def _encoding(dataset: xr.Dataset, at_once: int) -> dict[Hashable, dict[str, object]]:
    encoding: dict[Hashable, dict[str, object]] = {}
    for name, variable in dataset.variables.items():
        chosen: dict[str, object] = {}
        if name in dataset.coords:
            chosen["_FillValue"] = None
        if variable.dtype.kind in "biuf" and variable.size and variable.ndim:
            chosen |= {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True}
            chosen["chunksizes"] = chunks(variable, at_once)
        elif variable.dtype.kind not in "biuf":
            chosen.pop("_FillValue", None)  # variable-length strings take none
        encoding[name] = chosen
    return encoding


def _space(folder: Path) -> str:
    import shutil

    free = shutil.disk_usage(folder).free
    return f" ({free / 2**20:.0f} MiB free in {folder})" if free < 2**30 else ""
