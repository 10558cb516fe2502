import numpy as np
import pytest

from batchcube.results.differences import agree, compare_cubes, shapes_in_words


def row(table, name):
    return table[table["name"] == name].iloc[0]


def test_a_cube_agrees_with_itself_nan_included(example_cube):
    table = compare_cubes(example_cube, example_cube.copy(deep=True))
    assert set(table["status"]) == {"exact"}
    assert set(table[table["kind"] != "attribute"]["name"]) == {*map(str, example_cube.variables)}
    assert agree(table)


def test_a_difference_is_measured_and_may_be_tolerated(example_cube):
    other = example_cube.copy(deep=True)
    other["utilisation"].values[0, 0, 0] = 0.2  # was 0.25
    found = row(compare_cubes(example_cube, other), "utilisation")
    assert found["status"] == "differs"
    assert found["max_abs"] == pytest.approx(0.05)
    assert found["max_rel"] == pytest.approx(0.2)
    assert not agree(compare_cubes(example_cube, other, 0.19))
    tolerated = compare_cubes(example_cube, other, 0.21)
    assert row(tolerated, "utilisation")["status"] == "within tolerance"
    assert row(tolerated, "latency_mean_s")["status"] == "exact"
    assert agree(tolerated)


def test_a_number_against_nothing_differs_at_any_tolerance(example_cube):
    other = example_cube.copy(deep=True)
    other["utilisation"].values[0, 0, 0] = np.nan
    table = compare_cubes(example_cube, other, 1e9)
    assert row(table, "utilisation")["status"] == "differs"
    assert row(table, "utilisation")["max_abs"] == np.inf


def test_what_is_missing_or_of_another_shape_is_named(example_cube, make_cube):
    table = compare_cubes(example_cube.drop_vars("utilisation"), example_cube.drop_vars("batches"))
    assert row(table, "utilisation")["status"] == "only in second"
    assert row(table, "batches")["status"] == "only in first"
    assert not agree(table)
    assert row(compare_cubes(example_cube, make_cube(replications=2)), "latency_mean_s")["status"] == "other shape"
    few = example_cube.isel(replication=[0, 1])
    assert shapes_in_words(compare_cubes(example_cube, few), example_cube, few).endswith(" (replication 6 against 2)")
    assert shapes_in_words(table, example_cube, example_cube) == ""
    reordered = compare_cubes(make_cube(("bins", "rate")), make_cube(("rate", "bins")))
    assert row(reordered, "(order of the axes)")["status"] == "differs"


def test_labels_types_and_attributes_are_compared(make_cube, example_cube):
    modes = make_cube(("mode",))
    renamed = modes.assign_coords(mode=[*modes["mode"].values[:-1], "other"])
    assert row(compare_cubes(modes, renamed), "mode")["status"] == "differs"
    other = example_cube.assign_attrs(seed=2, created_utc="another day")
    table = compare_cubes(example_cube, other)
    assert row(table, "seed")["status"] == "differs"
    assert "created_utc" not in set(table["name"])
    assert agree(table)
    elsewhere = example_cube.assign_attrs(backend="jax", backend_device="Big GPU", versions="{}")
    assert set(compare_cubes(example_cube, elsewhere)["status"]) == {"exact"}
    with pytest.raises(ValueError, match="`tolerance` -1: must be >= 0"):
        compare_cubes(example_cube, example_cube, -1)


def test_other_units_are_another_thing(example_cube):
    other = example_cube.copy(deep=True)
    other["latency_mean_s"].attrs["units"] = "ms"
    table = compare_cubes(example_cube, other, 1e9)
    assert row(table, "latency_mean_s")["status"] == "other units"
    assert not agree(table)
