"""Datasets in files, cubes or not: NetCDF-4, and Zarr (v3) where a name ends in .zarr.

Written complete or not at all, read with a reason when they cannot be.
"""

from __future__ import annotations

import math
import os
import shutil
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np
import xarray as xr
from xarray.backends import NetCDF4DataStore

from batchcube.errors import InputError, quoted

from .disk import ZARR, ZARR_GROUP, cube_file, remove, require_zarr, sync_folder, url_of, writing
from .pieces import LARGEST_CHUNK, chunks, read_later, together, values_of
from .signals import uninterrupted
from .variables import REGISTRY, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from numpy.typing import NDArray

    _Written = tuple[Mapping[str, Any], Callable[[Mapping[str, str]], None]]
    """The variables of a file that grow, to be filled, and what gives the file further attributes."""


def write_dataset(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    ready: Callable[[], None] = lambda: None,
    seen: Callable[[Hashable, NDArray[Any]], None] = lambda *_: None,
    last: Callable[[Callable[[], xr.Dataset]], Mapping[str, str]] = lambda _: {},
) -> Path:
    """Write a dataset, compressed and with checksums, complete or not at all, and return its path.

    NetCDF-4, or a folder of Zarr (v3) where the name ends in .zarr. It is written beside its target under another name,
    synced, and moved into place; whatever stops that, Ctrl-C included, leaves no part of it and leaves an older file
    as it was. `ready` is called right before the move, and stops it by what it raises. Parts that a killed process left
    of the same file are removed.

    What has replications is written some of them at a time, so that arrays that are read later need not fit into
    memory; each chunk is of replications that are written at once, and a NetCDF file can be continued along them.
    `seen` is called with the name of each variable and its values, piece by piece in the order of `values_of`; `last`
    is asked for further attributes then; what it is given returns the dataset, to be read from what was written.
    Raises InputError (target or folder is not writable as such) or OSError (disk full), one line each, naming the file.
    """
    target = cube_file(Path(path))
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", file=path)
    with writing(target) as part:
        try:
            # Libraries report a refused file as anything; asking the system first gives the reason.
            part.mkdir() if target.suffix == ZARR else part.touch()
            _write(dataset, part, seen, last)
            for written in [part] if part.is_file() else part.rglob("*"):
                _sync(written)
            ready()
            _put(part, target)
            sync_folder(target.parent)
        except InputError:
            raise
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise OSError(f"{path}: cannot be written: {reason}{_space(target.parent)}") from error
    return target


def _write(
    dataset: xr.Dataset,
    part: Path,
    seen: Callable[[Hashable, NDArray[Any]], None],
    last: Callable[[Callable[[], xr.Dataset]], Mapping[str, str]],
) -> None:
    clean = dataset.copy()
    for variable in clean.variables.values():
        variable.encoding = {}
    growing = [str(name) for name, variable in clean.variables.items() if REPLICATION in variable.dims]
    for name, variable in clean.variables.items():
        if name not in growing:
            for _, piece in values_of(variable):
                seen(name, piece.values)
    at_once = together(clean)
    with (_zarr if part.is_dir() else _netcdf)(clean, growing, part, at_once) as (variables, tell):
        for start in range(0, clean.sizes[REPLICATION] if growing else 0, at_once):
            for name in growing:
                variable = clean.variables[name]
                some = variable.isel({REPLICATION: slice(start, start + at_once)})
                for place, piece in values_of(some):
                    seen(name, piece.values)
                    here = place[REPLICATION]
                    place[REPLICATION] = slice(start + here.start, start + here.stop)
                    values = piece.transpose(*variable.dims).values
                    variables[name][tuple(place[dim] for dim in variable.dims)] = values

        def written() -> xr.Dataset:
            kept = {name: _again(clean.variables[name], variables[name]) for name in growing}
            for like in kept.values():
                like.encoding = {"preferred_chunks": dict(zip(like.dims, chunks(like, at_once), strict=True))}
            return clean.assign(kept)

        tell(last(written))


def _again(variable: xr.Variable, written: Any) -> xr.Variable:
    """Return a variable whose values are read from where they were written; a file has no type for truth values."""
    return read_later(variable, lambda key: np.asarray(written[key], variable.dtype))


def _without(dataset: xr.Dataset, growing: list[str]) -> xr.Dataset:
    """Return a dataset with no replication, which is xarray's to write."""
    return dataset.isel({REPLICATION: slice(0)}) if growing else dataset


@contextmanager
def _netcdf(dataset: xr.Dataset, growing: list[str], part: Path, at_once: int) -> Iterator[_Written]:
    encoding: dict[Hashable, dict[str, object]] = {}
    for name, variable in dataset.variables.items():
        chosen: dict[str, object] = {}
        if name in dataset.coords and variable.dtype.kind in "biuf":  # variable-length strings take none
            chosen["_FillValue"] = None
        if _is_chunked(variable):
            chosen |= {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True}
            chosen["chunksizes"] = chunks(variable, at_once)
        encoding[name] = chosen
    with _small_caches(), netCDF4.Dataset(part, "w") as file:
        # The library goes through all variables where one is defined after values of another were written.
        later: list[tuple[Any, Any]] = []
        with uninterrupted():
            _without(dataset, growing).dump_to_store(
                NetCDF4DataStore(file),  # type: ignore[no-untyped-call]
                writer=SimpleNamespace(add=lambda values, variable: later.append((values, variable))),
                encoding=encoding,
                unlimited_dims=[REPLICATION] if growing else [],
            )
            for values, variable in later:
                if variable.variable_name not in growing:
                    variable[...] = values
            later.clear()
        file.set_auto_maskandscale(False)
        yield file.variables, file.setncatts


@contextmanager
def _zarr(dataset: xr.Dataset, growing: list[str], part: Path, at_once: int) -> Iterator[_Written]:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    compressors = (BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec())
    # Text of fixed width is no part of Zarr v3.
    texts = {name: array.astype(object) for name, array in dataset.variables.items() if array.dtype.kind == "U"}
    dataset = dataset.assign({name: text for name, text in texts.items() if name in dataset.data_vars})
    dataset = dataset.assign_coords({name: text for name, text in texts.items() if name not in dataset.data_vars})
    encoding = {
        name: {"chunks": chunks(variable, at_once), "compressors": compressors}
        for name, variable in dataset.variables.items()
        if _is_chunked(variable)
    }
    _without(dataset, growing).to_zarr(part, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(part, mode="r+")
    arrays: dict[str, Any] = {name: group[name] for name in growing}
    for name, array in arrays.items():
        array.resize(dataset.variables[name].shape)
    yield arrays, group.attrs.update


def _is_chunked(variable: xr.Variable) -> bool:
    return variable.dtype.kind in "biuf" and bool(variable.size) and bool(variable.ndim)


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
    else:
        with path.open("rb") as written:
            os.fsync(written.fileno())


def _put(part: Path, target: Path) -> None:
    """Put a part into its place. A folder takes no folder's place: the old one is moved aside first."""
    if part.is_file() or not target.exists():
        part.replace(target)
        return
    old = part.with_suffix(".old")
    try:
        target.rename(old)
        part.rename(target)
    finally:
        if not target.exists():
            old.rename(target)
        remove(old)


def read_dataset(path: str | os.PathLike[str], what: str) -> xr.Dataset:
    """Read a file into memory; InputError, one line naming the file and `what` it must be, when it cannot be."""
    with open_dataset(path, what, at_once=math.inf) as opened:
        return opened


def open_dataset(path: str | os.PathLike[str], what: str, *, at_once: float = 0) -> xr.Dataset:
    """Open a file: its coordinates are read at once, its variables when somebody asks for their values.

    If they are of no more than `at_once` bytes together, variables are read at once as well. A name that ends in .zarr
    is that of a folder, or of what fsspec knows (`s3://bucket/sweep.zarr`).
    InputError, one line naming the file and `what` it must be, when it cannot be read, at once or then.
    """
    source = Path(path)
    if source.suffix == ZARR:
        require_zarr(source)
        if url_of(source) is None and not (source / ZARR_GROUP).is_file():
            found = "is no Zarr (v3)" if source.is_dir() else "is a file" if source.exists() else "no such folder"
            raise InputError(f"{found}, must be {what}", file=path)
    else:
        _require_netcdf(source, what)
    stamp = _stamp(source)

    def unchanged() -> None:
        if _stamp(source) != stamp:
            raise InputError("was written anew while it was open; open it again", file=path)

    how: dict[str, Any] = {"filename_or_obj": source, "engine": "netcdf4"}
    # What is elsewhere may keep one waiting for long.
    whole: Callable[[], AbstractContextManager[None]] = uninterrupted
    if source.suffix == ZARR:
        how = {"filename_or_obj": url_of(source) or source, "engine": "zarr", "chunks": None, "consolidated": False}
        whole = nullcontext

    @contextmanager
    def reading() -> Iterator[None]:
        with _reading(path, unchanged), whole():
            yield

    def close() -> None:
        with whole():
            opened.close()

    with ExitStack() as failing:
        with _reading(path, unchanged):
            with whole(), _small_caches():
                opened = xr.open_dataset(**how, decode_timedelta=False, cache=False)
                failing.callback(opened.close)
            read = opened.variables if opened.nbytes <= at_once else opened.coords
            for variable in read.values():
                with whole():
                    variable.load()
        failing.pop_all()
    names, later = list(opened.data_vars), opened.copy()
    if source.suffix == ZARR:
        # Text has a dtype of its own, and in a folder variables have no order.
        texts = {name: values for name, values in opened.coords.items() if values.dtype.kind == "T"}
        later = later.assign_coords({name: values.astype(object) for name, values in texts.items()})
        order = {name: place for place, name in enumerate(REGISTRY)}
        names.sort(key=lambda name: (order.get(str(name), len(order)), str(name)))
        later = later.drop_vars(names).assign({name: opened.variables[name] for name in names})
    if unread := {name: _later(opened.variables[name], reading) for name in names if name not in read}:
        later = later.assign(unread)
    later.set_close(close)
    return later


_INSTEAD = {
    ".toml": "; batchcube run makes a cube of a specification",
    ".json": "; batchcube calibrate show prints coefficients, if it has any",
}
"""What is said of files that are something else of ours."""


def _require_netcdf(source: Path, what: str) -> None:
    """Raise InputError unless a file begins as NetCDF-4 does."""
    if not source.is_file():
        found = "is a folder" if source.is_dir() else "is no file" if source.exists() else "no such file"
        raise InputError(f"{found}, must be {what} (NetCDF)", file=source)
    try:
        with source.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=source) from error
    if not start:
        raise InputError(f"is empty, must be {what} (NetCDF)", file=source)
    # The classic format (CDF) lacks our types, and the library takes seconds over a damaged count in it.
    if start != b"\x89HDF\r\n\x1a\n":
        kind = "NetCDF-4" if start.startswith(b"CDF") else "NetCDF"
        raise InputError(f"is no {kind} file{_INSTEAD.get(source.suffix, '')}", file=source)


def _stamp(source: Path) -> tuple[int, int] | None:
    """Return what tells a folder of Zarr, whose chunks are opened by name when they are read, from one in its place.

    None of a file, which stays open, and of what is elsewhere.
    """
    if source.suffix != ZARR or url_of(source) is not None:
        return None
    try:
        about = source.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _later(variable: xr.Variable, reading: Callable[[], AbstractContextManager[None]]) -> xr.Variable:
    """Return a variable whose values are read within this."""

    def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
        with reading():
            return np.asarray(variable[key].values)

    return read_later(variable, read)


@contextmanager
def _reading(path: str | os.PathLike[str], unchanged: Callable[[], None]) -> Iterator[None]:
    try:
        yield
        unchanged()
    except InputError:
        raise
    except Exception as error:  # xarray and the NetCDF library raise whatever a damaged byte leads them to
        unchanged()
        raise InputError(f"is damaged or incomplete: {quoted(error)}", file=path) from error


@contextmanager
def _small_caches() -> Iterator[None]:
    """Let the NetCDF library keep one chunk of each variable of a file opened or made within, not 64 MiB of it."""
    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(LARGEST_CHUNK, *before[1:])
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


def _space(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    return f" ({free / 2**20:.0f} MiB free in {folder})" if free < 2**30 else ""
