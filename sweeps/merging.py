"""Merging shards, whichever command dealt them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from batchcube.errors import InputError
from batchcube.results.disk import output_file

from .progress import Progress
from .run.shards import Shards

if TYPE_CHECKING:
    import xarray as xr

    from .planning.answer import Answer


def merge(
    output: str | os.PathLike[str], *, progress: Progress | None = None, allow_missing: bool = False
) -> "xr.Dataset | Answer":
    """Write what `run`, `capacity` or `plan` would have written, of the shards of an output, and return it.

    Raises InputError where none are there, and for answers with `allow_missing`; see `merge_shards`.
    """
    command = Shards(output_file(Path(output))).about()["asked"]["command"]
    if command == "run":
        from .run.execution import merge_run

        return merge_run(output, progress=progress, allow_missing=allow_missing)
    if allow_missing:
        raise InputError("goes with shards of a run only: answers rest on all of them", path="`allow_missing`")
    if command == "capacity":
        from .run.capacity import merge_capacity

        return merge_capacity(output, progress=progress)
    from .planning.decide import merge_plan

    return merge_plan(output, progress=progress)
