import json

import numpy as np
import pytest
import xarray as xr

from batchcube.results.build import build_cube
from batchcube.results.joining import extend_cube


def test_extending_gives_the_cube_of_all_replications(make_cube):
    whole = make_cube(replications=6)
    first, rest = make_cube(replications=4), make_cube(first_replication=4, replications=2)
    joined = extend_cube(first, rest)
    assert joined.attrs["specification"] == whole.attrs["specification"]
    assert joined.attrs["specification_sha256"] == whole.attrs["specification_sha256"]
    assert joined.attrs["replications"] == 6
    joined.attrs = whole.attrs
    xr.testing.assert_identical(joined, whole)
    backwards = extend_cube(rest, first)
    backwards.attrs = whole.attrs
    xr.testing.assert_identical(backwards, whole)


def test_what_simulated_the_parts_is_said_of_the_whole(make_cube):
    def part(first, backend, device, **versions):
        said = {"backend": backend, "backend_device": device, "versions": json.dumps(versions)}
        return make_cube(first_replication=first, replications=1).assign_attrs(said)

    joined = extend_cube(part(0, "numba", "cpu", numpy="2.4"), part(1, "jax", "Big GPU", numpy="2.5", jax="0.10"))
    assert (joined.attrs["backend"], joined.attrs["backend_device"]) == ("numba, jax", "cpu, Big GPU")
    assert json.loads(joined.attrs["versions"]) == {"numpy": "2.4, 2.5", "jax": "0.10"}
    joined = extend_cube(joined, part(2, "jax", "cpu", numpy="2.5", jax="0.10"))
    assert (joined.attrs["backend"], joined.attrs["backend_device"]) == ("numba, jax", "cpu, Big GPU")
    assert json.loads(joined.attrs["versions"]) == {"numpy": "2.4, 2.5", "jax": "0.10"}
    # A cube that does not say it, of somebody else's making.
    del joined.attrs["backend_device"], joined.attrs["versions"]
    assert extend_cube(joined, part(3, "jax", "cpu")).attrs["backend_device"] == "cpu"


def test_extending_pads_bins_and_batch_sizes():
    def part(first, size, bins):
        sizes = np.zeros((1, size + 1), np.int64)
        sizes[0, size] = 1
        arrays = {
            "batch_size_histogram": sizes,
            "bin_requests": np.ones((1, bins), np.int64),
            "bin_wait_mean_s": np.ones((1, bins)),
        }
        about = {"title": "t", "specification": "{}"}
        return build_cube((), arrays, replications=1, first_replication=first, attrs=about)

    joined = extend_cube(part(0, 3, 1), part(1, 5, 2))
    assert joined["batch_size"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert joined["batch_size_histogram"].dtype == np.int64
    assert joined["batch_size_histogram"].values.tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert joined["bin_requests"].values.tolist() == [[1, 0], [1, 1]]
    np.testing.assert_array_equal(joined["bin_wait_mean_s"], [[1.0, np.nan], [1.0, 1.0]])


def test_cubes_of_different_sweeps_are_not_joined(make_cube):
    first, rest = make_cube(replications=2), make_cube(first_replication=2, replications=2)

    def refused(other, message):
        with pytest.raises(ValueError, match=message) as error:
            extend_cube(first, other)
        assert "\n" not in str(error.value)

    refused(make_cube(first_replication=2, seed=2), "different sweeps: seed = 1 against 2")
    refused(make_cube(("mode",), first_replication=2), "different sweeps: axes = ")
    refused(first, "both cubes have replication 0")
    refused(rest.assign_attrs(batchcube_version="0"), "batchcube_version = ")
    refused(rest.assign_attrs(input_sha256="ab"), "input_sha256 = '' against 'ab'")
    refused(rest.drop_vars("utilisation"), "different variables: utilisation")
    refused(rest.assign_coords(bins=[1, 2, 8]), "different axes")
    refused(rest.assign(theory_latency_s=rest["theory_latency_s"] + 1), "theory_latency_s: differs")
    refused(make_cube(first_replication=3, replications=2), "states replications = 5, the joined cube has 4")
    for stated in ("5", True, 5.0, [5]):
        text = json.dumps({**json.loads(str(rest.attrs["specification"])), "replications": stated})
        refused(rest.assign_attrs(specification=text), "replications = .*: must be a whole number")
    refused(rest.assign_attrs(specification="= ["), "neither TOML nor JSON")
