import netCDF4
import numpy as np
import pytest
import xarray as xr

from batchcube.results.calibration import KIND as CALIBRATION
from batchcube.results.cube import write_cube
from batchcube.results.measurements import KIND, build_measurement, read_measurement
from batchcube.results.storage import write_dataset

AXES = {"batch_size": (1, 4), "prompt_tokens": (16, 32, 64), "output_tokens": (8,)}
REPETITIONS, STEPS = 2, 8
SHAPE = (2, 3, 1)


def arrays():
    rng = np.random.default_rng(1)
    steps = rng.uniform(0.001, 0.002, (*SHAPE, REPETITIONS, STEPS))
    steps[1, 2] = np.nan
    order = rng.permutation(12).reshape(*SHAPE, REPETITIONS)
    order[1, 2] = -1
    refusal = np.full(SHAPE, "", dtype=np.str_).astype("<U40")
    refusal[1, 2] = "a KV cache of 12.5 GB, 8.0 GB are free"
    return {"step_s": steps, "batch_wall_s": steps.sum(axis=-1), "order": order, "refusal": refusal}


def build(attrs=None, axes=AXES, **changes):
    return build_measurement(axes, **(arrays() | changes), attrs={"engine": "none"} if attrs is None else attrs)


def one_line(error):
    return "\n" not in str(error.value)


def test_arrays_lie_under_their_names_with_units():
    given = arrays()
    made = build()
    for name, dims in (
        ("step_s", ("batch_size", "prompt_tokens", "output_tokens", "repetition", "step")),
        ("batch_wall_s", ("batch_size", "prompt_tokens", "output_tokens", "repetition")),
        ("order", ("batch_size", "prompt_tokens", "output_tokens", "repetition")),
        ("refusal", ("batch_size", "prompt_tokens", "output_tokens")),
    ):
        assert made[name].dims == dims
        np.testing.assert_array_equal(made[name].values, given[name])
        assert {"units", "long_name"} <= set(made[name].attrs)
    assert made["step_s"].attrs["units"] == made["batch_wall_s"].attrs["units"] == "s"
    assert {name: made[name].values.tolist() for name in AXES} == {name: list(values) for name, values in AXES.items()}
    assert made["repetition"].values.tolist() == [0, 1]
    assert made["step"].values.tolist() == list(range(STEPS))
    assert made["prompt_tokens"].attrs["units"] == "tokens"


def test_attributes_say_what_it_is_and_what_was_measured():
    attrs = build({"engine": "vllm", "threads": 4, "created_utc": "2001-01-01T00:00:00+00:00"}).attrs
    assert attrs["kind"] == KIND
    assert attrs["Conventions"] == "CF-1.11"
    assert attrs["numpy"] == np.__version__
    assert {"batchcube_version", "git_commit", "python"} <= set(attrs)
    # What the caller says goes before what is found out.
    assert (attrs["engine"], attrs["threads"]) == ("vllm", 4)
    assert attrs["created_utc"] == "2001-01-01T00:00:00+00:00"


def test_a_measurement_is_read_as_it_was_written(tmp_path):
    made = build({"engine": "vllm", "threads": 4, "share": 0.25})
    path = write_dataset(made, tmp_path / "m.nc")
    xr.testing.assert_identical(read_measurement(path), made)
    again = write_dataset(read_measurement(path), tmp_path / "again.nc")
    xr.testing.assert_identical(read_measurement(again), made)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.nc", "m.nc"]


def test_the_netcdf_library_finds_compressed_numbers_and_plain_text(tmp_path):
    write_dataset(build(), tmp_path / "m.nc")
    with netCDF4.Dataset(tmp_path / "m.nc") as raw:
        assert raw.variables["step_s"].filters()["zlib"]
        assert raw.variables["step_s"].units == "s"
        assert raw.variables["refusal"][1, 2, 0] == "a KV cache of 12.5 GB, 8.0 GB are free"
        assert "_FillValue" not in raw.variables["batch_size"].ncattrs()
        assert raw.kind == KIND


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("batch_wall_s", (*SHAPE, REPETITIONS + 1)),
        ("order", (*SHAPE, 1)),
        ("refusal", (2, 3, 2)),
        ("step_s", (3, 2, 1, REPETITIONS, STEPS)),
    ],
)
def test_arrays_of_another_shape_are_refused_by_name(name, shape):
    wrong = np.zeros(shape, arrays()[name].dtype)
    with pytest.raises(ValueError, match=rf"^{name}: has shape .*, must be \(2, 3, 1") as error:
        build(**{name: wrong})
    assert one_line(error)


def test_what_is_no_measurement_is_refused_in_a_line(tmp_path, example_cube):
    path = tmp_path / "x.nc"

    def refused(message):
        with pytest.raises(ValueError, match=message) as error:
            read_measurement(path)
        assert str(error.value).startswith(f"{path}: ")
        assert one_line(error)

    refused("no such file, must be a measurement")
    path.write_bytes(b"")
    refused("is empty, must be a measurement")
    path.write_text("batch_size,seconds\n1,2\n")
    refused("is no NetCDF file")
    good = write_dataset(build(), path).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    refused("is damaged or incomplete")
    write_cube(example_cube, path)
    refused("is no measurement; batchcube calibrate vllm and calibrate transformers make them")
    write_dataset(build().assign_attrs(kind=CALIBRATION), path)
    refused("is no measurement")
    write_dataset(build().drop_vars("refusal"), path)
    refused(r"refusal is missing or has other dimensions than \(batch_size, prompt_tokens, output_tokens\)")
    write_dataset(build().isel(repetition=0), path)
    refused("step_s is missing or has other dimensions than")


def test_a_stopped_write_leaves_the_old_measurement(tmp_path, monkeypatch):
    path = write_dataset(build(), tmp_path / "m.nc")
    before = path.read_bytes()

    def half(self, store, **_):
        store.set_dimension("half", 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "dump_to_store", half)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(build({"engine": "other"}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.nc"]
