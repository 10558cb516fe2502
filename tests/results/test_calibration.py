import netCDF4
import numpy as np
import pytest
import xarray as xr

from batchcube.results.calibration import (
    KIND,
    VARIABLES,
    build_calibration,
    read_calibration,
)
from batchcube.results.cube import write_cube
from batchcube.results.measurements import KIND as MEASUREMENT
from batchcube.results.storage import write_dataset

COORDINATES = {
    "prompt_tokens": np.array([16.0, 64.0]),
    "batch_size": np.array([1.0, 2.0, 4.0]),
    "output_tokens": np.array([8.0, 32.0]),
    "law": np.array(["constant", "linear"]),
    "curve_batch_size": np.linspace(1.0, 4.0, 5),
    "curve_output_tokens": np.linspace(8.0, 32.0, 7),
    "step": np.arange(4),
}


def arrays(names=VARIABLES):
    """Something for every variable, NaN in it."""
    rng = np.random.default_rng(1)
    made = {}
    for name in names:
        shape = tuple(len(COORDINATES[dim]) for dim in VARIABLES[name][0])
        if name == "chosen":
            made[name] = np.array(["linear", "constant"])
        elif name == "step_kind":
            made[name] = np.array(["prefill", "decode", "decode", "step"])
        else:
            made[name] = rng.uniform(0.1, 1.0, shape)
            made[name].flat[-1] = np.nan
    return made


def build(**changes):
    about = {"name": "mine", "title": "a title", "source": "a source", "raw_sha256": "ab"}
    return build_calibration(COORDINATES, arrays() | changes, about)


def one_line(error):
    return "\n" not in str(error.value)


def test_every_variable_has_its_dimensions_units_and_meaning():
    made, given = build(), arrays()
    assert set(made.data_vars) == set(VARIABLES)
    for name, (dims, units, long_name) in VARIABLES.items():
        assert made[name].dims == dims
        assert made[name].attrs == {"units": units, "long_name": long_name}
        np.testing.assert_array_equal(made[name].values, given[name])
    for name, values in COORDINATES.items():
        np.testing.assert_array_equal(made[name].values, values)
        assert {"units", "long_name"} == set(made[name].attrs)
    assert made.attrs["kind"] == KIND
    assert made.attrs["name"] == "mine"


def test_what_there_is_nothing_to_say_of_is_left_out():
    steps = [name for name in VARIABLES if name.startswith("step_")]
    made = build_calibration(COORDINATES, arrays(steps), {})
    assert set(made.data_vars) == set(steps)
    assert set(made.coords) == {"step"}


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    made = build()
    path = write_dataset(made, tmp_path / "x.fit.nc")
    xr.testing.assert_identical(read_calibration(path), made)
    with netCDF4.Dataset(path) as raw:
        assert raw.variables["curve_batch_s"].filters()["zlib"]
        assert raw.variables["chosen"][:].tolist() == ["linear", "constant"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.fit.nc"]


def test_wrong_arrays_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^batch_s: has shape \(3, 2, 2\), must be \(2, 3, 2\)$"):
        build(batch_s=np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match=r"^chosen: has shape \(1,\), must be \(2,\)$"):
        build(chosen=np.array(["linear"]))
    with pytest.raises(ValueError, match=r"^batch_ms: is no variable of a calibration$"):
        build(batch_ms=np.zeros(2))


def test_what_is_no_calibration_is_refused_in_a_line(tmp_path, example_cube):
    path = tmp_path / "x.nc"

    def refused(message):
        with pytest.raises(ValueError, match=message) as error:
            read_calibration(path)
        assert str(error.value).startswith(f"{path}: ")
        assert one_line(error)

    refused("no such file, must be a calibration")
    path.write_text("{}")
    refused("is no NetCDF file")
    write_cube(example_cube, path)
    refused("is no calibration; batchcube calibrate fit makes one of a measurement")
    write_dataset(build().assign_attrs(kind=MEASUREMENT), path)
    refused("is no calibration")
    with pytest.raises(ValueError, match="is a folder, must be a calibration"):
        read_calibration(tmp_path)


def test_a_foreign_calibration_is_checked(tmp_path):
    path = tmp_path / "a.nc"
    made = build()
    turned = made.assign(batch_s=made["batch_s"].transpose(..., "prompt_tokens"))
    for wrong, message in (
        (made.assign_attrs(title=3), "attribute title: must be text"),
        (made.drop_vars("batch_size"), "has other dimensions than .*, or no coordinates of them"),
        (turned, "batch_s has other dimensions than"),
    ):
        path.unlink(missing_ok=True)
        wrong.to_netcdf(path)
        with pytest.raises(ValueError, match=message):
            read_calibration(path)
