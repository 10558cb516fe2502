import json
from importlib.metadata import version

import pytest

from batchcube.results.provenance import MadeBy, named_together, parse_specification, provenance, versions_together


def made(*made_by):
    return provenance(
        title="Example",
        specification="{}",
        defaults={"policy.bins": 1},
        seed=1,
        replications=1,
        made_by=made_by,
    )


def test_what_simulated_is_said_with_its_versions():
    attrs = made(MadeBy("jax", "Big GPU (80 GB)", "jax 0.10.2, jaxlib 0.10.1"))
    assert (attrs["backend"], attrs["backend_device"]) == ("jax", "Big GPU (80 GB)")
    versions = json.loads(attrs["versions"])
    assert (versions["jax"], versions["jaxlib"]) == ("0.10.2", "0.10.1")
    assert versions["xarray"] == version("xarray")


def test_what_is_known_already_is_not_said_twice():
    attrs = made(MadeBy("numba", "cpu", f"numba {version('numba')}"), MadeBy("reference", "cpu", ""))
    assert (attrs["backend"], attrs["backend_device"]) == ("numba, reference", "cpu")
    assert attrs["versions"] == made()["versions"]


def test_names_and_versions_are_joined_in_order_each_once():
    assert named_together(["b, a", "", "c", "a"]) == "b, a, c"
    assert named_together([]) == ""
    assert versions_together([{"x": "1"}, {"y": "2", "x": "3"}, {"x": "1"}]) == {"x": "1, 3", "y": "2"}


def test_specification_is_toml_or_json():
    assert parse_specification("[a]\nb = 1") == parse_specification('{"a": {"b": 1}}') == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="must be a table"):
        parse_specification("[1, 2]")
