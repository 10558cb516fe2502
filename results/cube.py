"""Cubes in files: written as NetCDF-4 or Zarr, read, and known to be as they were written."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from batchcube.errors import InputError, found_in

from .axes import axis_names
from .form import CONTENT, VARIABLES, check_form, check_values
from .pieces import Kept, read_later, values_of
from .storage import open_dataset, write_dataset
from .variables import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from hashlib import _Hash as Digest
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray

AT_ONCE = 2**28
"""Bytes up to which a cube is read into memory."""
_CHANGED = "was changed after it was written: its content has another checksum"


def write_cube(
    cube: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    ready: Callable[[], None] = lambda: None,
    tell: Callable[[xr.Dataset], None] | None = None,
) -> Path:
    """Write a cube, compressed, complete or not at all, and return its path; see `write_dataset`.

    `tell` is given the cube as it was written, its variables to be read, and may give it other attributes.
    The attribute `content_sha256` is of all it holds: by it `read_cube` tells what was changed after this.
    """
    check_form(cube, str(path))
    digests = {str(name): _begun(name, variable) for name, variable in cube.variables.items()}

    def seen(name: Hashable, values: NDArray[Any]) -> None:
        if name in REGISTRY:
            with found_in(file=str(path)):
                check_values(REGISTRY[str(name)], values)
        _add(digests[str(name)], values)

    def last(written: Callable[[], xr.Dataset]) -> dict[str, str]:
        told = cube
        if tell is not None:
            tell(told := written())
        found = json.dumps({name: digest.hexdigest() for name, digest in sorted(digests.items())})
        return {
            **{name: value for name, value in told.attrs.items() if cube.attrs.get(name) is not value},
            VARIABLES: found,
            CONTENT: _content_sha256({**told.attrs, VARIABLES: found}),
        }

    return write_dataset(cube, path, ready=ready, seen=seen, last=last)


def fits(cube: xr.Dataset) -> bool:
    """Say whether a cube is one that is read into memory."""
    return cube.nbytes <= AT_ONCE


def read_cube(path: str | os.PathLike[str], doubt: Callable[[str], None] | None = None) -> xr.Dataset:
    """Read a cube; InputError, one line naming the file, when it is missing, damaged or no cube.

    One of more than `AT_ONCE` bytes is opened only: each of its variables is read, piece by piece, where somebody asks
    for its values, and looked at as a whole before the first time; of those that are a piece as many are kept in memory
    as `AT_ONCE` bytes are. It is best closed after use (`with`).
    `doubt` is called with a sentence about a cube that is not as `write_cube` left it, at once or then. This finds
    accidents and edits; whoever means to deceive can compute the checksums anew.
    """
    opened = cube = open_dataset(path, "a cube", at_once=AT_ONCE)
    later = not fits(cube)
    with ExitStack() as failing:
        failing.callback(opened.close)
        check_form(cube if later else cube.load(), str(path))
        looking = _Looking(cube, path, doubt)
        for name, variable in cube.variables.items():
            if name in cube.coords or not later:
                looking.at(name, variable)
        if later:
            cube = cube.assign({name: looking.later(name, cube.variables[name]) for name in cube.data_vars})
            cube.set_close(opened.close)
            failing.pop_all()
    for name in (*axis_names(cube), *(["class"] if "class" in cube.coords else [])):
        if cube[name].dtype.kind not in "iuf":
            cube[name] = (name, cube[name].values.astype(np.str_), cube[name].attrs)
    return cube


def refuse_changed(path: str | os.PathLike[str], advice: str = "") -> Callable[[str], None]:
    """Return what raises InputError, naming the file, with each doubt that `read_cube` has."""

    def refuse(doubt: str) -> None:
        raise InputError(f"{doubt}; {advice}" if advice else doubt, file=path)

    return refuse


class _Looking:
    """Looks at what is in a file of a cube: whether its values are possible, and as they were written."""

    def __init__(self, cube: xr.Dataset, path: str | os.PathLike[str], doubt: Callable[[str], None] | None) -> None:
        self._path, self._doubt = path, doubt
        self._kept = Kept(AT_ONCE)
        self._written: dict[str, str] = json.loads(cube.attrs.get(VARIABLES, "{}"))
        if CONTENT not in cube.attrs:
            self._tell("has no checksum of its content: it may have been changed after it was made")
        elif cube.attrs[CONTENT] != _content_sha256(cube.attrs) or set(self._written) != set(cube.variables):
            self._tell(_CHANGED)

    def at(self, name: Hashable, variable: xr.Variable) -> None:
        """Look at a variable."""
        digest = _begun(name, variable)
        for _, piece in values_of(variable):
            if name in REGISTRY:
                with found_in(file=self._path):
                    check_values(REGISTRY[str(name)], piece.values)
            if self._doubt is not None:
                _add(digest, piece.values)
        if self._doubt is not None and self._written.get(str(name)) != digest.hexdigest():
            self._tell(_CHANGED)

    def later(self, name: Hashable, variable: xr.Variable) -> xr.Variable:
        """Return the variable, at which is looked before it is read first."""
        looked = False

        def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
            nonlocal looked
            whole = self._kept.whole(name, variable)
            if not looked:
                self.at(name, variable if whole is None else variable.copy(data=whole))
                looked = True
            return np.asarray(variable[key].values) if whole is None else np.array(whole[key])

        return read_later(variable, read)

    def _tell(self, sentence: str) -> None:
        """Tell of a doubt, if it is the first."""
        if self._doubt is not None:
            doubt, self._doubt = self._doubt, None
            doubt(sentence)


# Checksums ----------------------------------------------------------------------------------------------------------


def _content_sha256(attrs: Mapping[Any, Any]) -> str:
    """Return the SHA-256 of the attributes of a cube but this one: one of them has those of all variables."""
    return hashlib.sha256(_plain({name: attrs[name] for name in attrs if name != CONTENT})).hexdigest()


def _begun(name: Hashable, variable: xr.Variable) -> Digest:
    """Return the SHA-256 of a variable without its values, which are to be added in the order of `values_of`."""
    kind = variable.dtype.str if variable.dtype.kind in "biuf" else "text"
    about = f"{name} {variable.dims} {variable.shape} {kind}"
    return hashlib.sha256(about.encode() + _plain(variable.attrs))


def _add(digest: Digest, values: NDArray[Any]) -> None:
    if values.dtype.kind in "biuf":
        digest.update(np.ascontiguousarray(values).reshape(-1).data)
    else:
        digest.update("".join(json.dumps(str(value)) for value in values.flat).encode())


def _plain(attrs: Mapping[Any, Any]) -> bytes:
    """Return attributes as bytes that are the same in memory and from a file, in which lists of one are numbers."""
    return json.dumps({str(name): np.atleast_1d(value).tolist() for name, value in sorted(attrs.items())}).encode()
