import re

import numpy as np
import pytest
import xarray as xr

from batchcube.results.build import build_cube
from batchcube.results.cube import read_cube, write_cube
from helpers.cubes import check_cube


def test_netcdf_that_is_no_cube(example_cube, tmp_path):
    path = tmp_path / "x.nc"

    def refused(dataset, message):
        dataset.to_netcdf(path)
        with pytest.raises(ValueError, match=message) as error:
            read_cube(path)
        assert "\n" not in str(error.value)

    refused(xr.Dataset({"a": ("x", [1.0])}), "is no batchcube cube: it has no attribute batchcube_version")
    refused(xr.Dataset(attrs={"batchcube_version": "1"}), "it has no dimension replication")
    refused(example_cube[["replication"]].assign_attrs(example_cube.attrs), "holds none of the registered variables")
    refused(example_cube.transpose(..., "bins"), "has dimensions")
    refused(example_cube.assign(requests=example_cube["requests"] * 1.0), "requests has dtype float64, must be int64")


SEARCHED = {
    "capacity_criteria": '[{"variable": "latency_mean_s", "quantile": null, "limit": 1.0}]',
    "capacity_notes_unanswered": "",
    "capacity_range_given": 1,
    "capacity_low_per_s": 1.0,
    "capacity_high_per_s": 2.0,
    "capacity_tolerance": 0.1,
    "capacity_growth": 0.02,
}
NARROWED = {
    "precision_wanted": "2%",
    "precision_looks": "8, 12",
    "precision_reached": 1,
    "precision_level": 0.96,
}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"specification": None}, "has no attribute specification"),
        ({"specification": "{"}, "specification: is neither TOML nor JSON"),
        ({"specification": "[1]"}, "specification: must be a table of settings"),
        ({"specification": '{"a": ' + DEEP + "}"}, "specification: is nested deeper than 24 levels"),
        ({"specification": '{"a": ' + DEEP[99_900:-99_900] + "}"}, "specification: is nested deeper than 24 levels"),
        ({"specification": 1}, "attribute specification: must be text"),
        ({"title": np.array([1, 2])}, "attribute title: must be text"),
        ({"notes": ["a", "b"]}, "attribute notes: must be text"),
        ({"seed": np.array([1, 2, 3])}, "attribute seed: must be a whole number"),
        ({"seed": "1"}, "attribute seed: must be a whole number"),
        ({"replications": 1.5}, "attribute replications: must be a whole number"),
        ({"specification_sha256": 3.0}, "attribute specification_sha256: must be text"),
        ({"versions": "3.12"}, "attribute versions: must be a table in JSON"),
        ({"versions": '{"numpy": 2}'}, "attribute versions: must hold text only"),
        ({"versions": DEEP}, "attribute versions: is nested deeper than 24 levels"),
        ({"service_coefficients": "[["}, "attribute service_coefficients: is not JSON"),
        ({"service_coefficients": "[]"}, "attribute service_coefficients: must be a table in JSON"),
        ({"service_coefficients": '{"a": 1}'}, "attribute service_coefficients: each must have its sha256"),
        (NARROWED | {"precision_looks": "8,12"}, "attribute precision_looks: must be numbers of replications"),
        (NARROWED | {"precision_level": None}, "has no attribute precision_level"),
        (NARROWED | {"precision_reached": "yes"}, "attribute precision_reached: must be a whole number"),
        (SEARCHED | {"capacity_low_per_s": "[]"}, "attribute capacity_low_per_s: must be a number"),
        (SEARCHED | {"capacity_tolerance": np.nan}, "attribute capacity_tolerance: must be a number"),
        (SEARCHED | {"capacity_growth": None}, "has no attribute capacity_growth"),
        (SEARCHED | {"capacity_criteria": "{}"}, "attribute capacity_criteria: must be a list in JSON"),
        (SEARCHED | {"capacity_criteria": "[1]"}, "attribute capacity_criteria: must hold variables with their"),
        (
            SEARCHED | {"capacity_criteria": '[{"variable": "x", "quantile": null, "limit": 1}]'},
            "attribute capacity_criteria: must hold variables with their",
        ),
        (
            SEARCHED | {"capacity_criteria": '[{"variable": "latency_quantile_s", "quantile": 1.2, "limit": 1}]'},
            "attribute capacity_criteria: must hold variables with their",
        ),
    ],
)
def test_attributes_of_a_foreign_cube_are_checked(example_cube, tmp_path, attrs, message):
    foreign = example_cube.assign_attrs(attrs)
    foreign.attrs = {name: value for name, value in foreign.attrs.items() if value is not None}
    foreign.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_cube(tmp_path / "x.nc")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "x.nc"))


def test_a_cube_of_a_search_holds_its_answers(example_cube, tmp_path):
    with pytest.raises(ValueError, match="is of a search for capacities and holds no capacity_requests_per_s"):
        write_cube(example_cube.assign_attrs(SEARCHED), tmp_path / "x.nc")
    found = {"capacity_requests_per_s": np.ones(2), "capacity_unbracketed": np.zeros(2, np.int64)}
    cube = build_cube((), found, replications=2, attrs={"title": "t", "specification": "{}"})
    path = write_cube(cube.assign_attrs(SEARCHED), tmp_path / "x.nc")
    assert read_cube(path).attrs["capacity_growth"] == 0.02
    for wrong in ("small", np.nan, 10**400):
        cube["capacity_requests_per_s"].attrs["relative_error"] = wrong
        with pytest.raises(ValueError, match="capacity_requests_per_s: its attribute relative_error: must be a number"):
            check_cube(cube, "x.nc")
    for wrong in (-3.0, 1.0, 1e300):
        cube["capacity_requests_per_s"].attrs["relative_error"] = wrong
        with pytest.raises(ValueError, match="its attribute relative_error: must be from 0 to below 1"):
            check_cube(cube, "x.nc")


def test_an_axis_named_like_a_variable_is_refused(example_cube):
    cube = example_cube.drop_vars("utilisation").rename(bins="utilisation")
    with pytest.raises(ValueError, match="axis utilisation: has the name of a variable"):
        check_cube(cube, "x.nc")


def without(cube, name, attribute):
    made = cube.copy()
    made[name].attrs = {key: value for key, value in cube[name].attrs.items() if key != attribute}
    return made


def relabelled(cube, name, values):
    return cube.assign_coords({name: xr.Variable(name, values, cube[name].attrs)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: without(c, "bins", "units"), "axis bins: its attribute units: must be text"),
        (lambda c: without(c, "bins", "long_name"), "axis bins: its attribute long_name: must be text"),
        (lambda c: without(c, "bins", "path"), "has dimensions"),
        (lambda c: relabelled(c, "bins", [1, 1, 2]), "axis bins: a value occurs twice"),
        (lambda c: relabelled(c, "bins", [1.0, np.nan, 2.0]), "axis bins: holds NaN"),
        (lambda c: c.isel(bins=[]), "axis bins: has no values"),
        (lambda c: c.rename(bins="../bins\x1b"), r"axis ../bins\x1b: a name is letters, digits and _"),
        (lambda c: c.isel(replication=[]), "replication: has no values"),
        (lambda c: relabelled(c, "replication", [0.5, 1, 2, 3, 4, 5]), "replication: must hold numbers"),
        (lambda c: relabelled(c, "replication", [0, 0, 2, 3, 4, 5]), "replication: a value occurs twice"),
        (lambda c: relabelled(c, "quantile", [0.5, 0.9, 0.95, 1.5]), "quantile: must hold probabilities above 0"),
        (lambda c: c.drop_vars("quantile"), "quantile: the dimension quantile has no such coordinate"),
        (
            lambda c: c.drop_vars("latency_bucket_upper_s"),
            "latency_bucket_upper_s: the dimension latency_bucket has no",
        ),
        (lambda c: c.isel(latency_bucket=slice(None, None, -1)), "latency_bucket: its buckets must be in order"),
        (lambda c: c.drop_vars("window"), "window: the dimension window has no such coordinate"),
        (lambda c: without(c, "latency_mean_s", "units"), "latency_mean_s: its attribute units: must be text"),
        (
            lambda c: c.assign(
                throughput_requests_per_s=c["throughput_requests_per_s"].copy(data=c["makespan_s"] * 0 - 5)
            ),
            "holds values outside [0, inf]",
        ),
    ],
)
def test_axes_and_variables_of_a_foreign_cube_are_checked(example_cube, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_cube(change(example_cube), "x.nc")
    assert str(error.value).startswith("x.nc: ")
    assert "\n" not in str(error.value)
