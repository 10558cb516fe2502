"""What is at an output already, and whether a run or a search may go on from it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchcube.errors import InputError
from batchcube.results.provenance import batchcube_version

from ..files import require_inside
from ..spec.document import Sweep, files_of, remade
from ..spec.service import require_unchanged

if TYPE_CHECKING:
    import xarray as xr

ADVICE = "choose another output, or remove it"


def same_sweep(target: Path, sweep: Sweep, *, capacities: bool = False) -> "xr.Dataset":
    """Return the cube that is there already; raises InputError unless a run of the same sweep made it.

    With `capacities` it must hold those, which a search made and no run can continue.
    """
    from batchcube.results.cube import read_cube, refuse_changed
    from batchcube.results.provenance import parse_made_from

    try:
        cube = read_cube(target, refuse_changed(target))
    except InputError as error:
        raise error.advised(ADVICE) from None
    if ("capacity_criteria" in cube.attrs) != capacities:
        holds = (
            "no capacities, but what a run made"
            if capacities
            else "capacities, which a search made and no run can continue"
        )
        raise InputError(f"holds {holds}; {ADVICE}", file=target)
    if "plan" in cube.attrs:
        raise InputError(f"holds the answer of a plan, which nothing can continue; {ADVICE}", file=target)
    version = cube.attrs["batchcube_version"]
    if version != batchcube_version():
        raise InputError(f"was made by version {version}; {ADVICE}", file=target)
    kept, _ = remade(*parse_made_from(cube), str(target))
    require_own_grid(cube, kept, target)
    theirs, ours = kept.parts(), sweep.parts()
    if differing := sorted(name for name in ours if ours[name] != theirs[name]):
        verb = "differs" if len(differing) == 1 else "differ"
        raise InputError(f"holds another sweep ({', '.join(differing)} {verb}); {ADVICE}", file=target)
    return cube


def require_own_grid(cube: "xr.Dataset", sweep: Sweep, file: Path) -> None:
    """Raise InputError for a cube with other points than its specification: somebody put it together by hand."""
    from batchcube.results.axes import axis_names

    own = {axis.name: list(axis.labels) for axis in sweep.grid.axes}
    found = {name: cube[name].values.tolist() for name in axis_names(cube)}
    differing = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if differing:
        raise InputError(
            f"holds other points than its specification (axis {differing[0]}): batchcube join puts cubes together",
            file=file,
        )


def require_own_files(file: Path, cube: "xr.Dataset", *, trust_paths: bool) -> None:
    """Raise InputError where a cube was made from files outside its folder, unless trusted, or with other coefficients.

    A cube may be anybody's.
    """
    from batchcube.results.provenance import parse_made_from

    coefficients = str(cube.attrs.get("service_coefficients", "{}"))
    if not trust_paths:
        recorded = (name for name in json.loads(coefficients) if name.endswith(".json"))
        require_inside(file, [*(name for made in parse_made_from(cube) for name in files_of(made)), *recorded])
    require_unchanged(coefficients)
