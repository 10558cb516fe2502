import numpy as np
import pytest

from batchcube.results.variables import BUCKETED, EXTRA_DIMENSIONS, REGISTRY, edge_names


def test_every_variable_is_described():
    for name, variable in REGISTRY.items():
        assert name == variable.name
        assert variable.units
        assert variable.long_name
        assert variable.definition.endswith(".")
        assert set(variable.extra) <= set(EXTRA_DIMENSIONS)
        np.dtype(variable.dtype)


@pytest.mark.parametrize(
    ("suffix", "units"),
    [("_s", "s"), ("_s2", "s2"), ("_requests_per_s", "s-1"), ("_fraction", "1"), ("_tokens", "tokens")],
)
def test_names_say_their_unit(suffix, units):
    rate = suffix.endswith("per_s")
    found = {v.units for name, v in REGISTRY.items() if name.endswith(suffix) and name.endswith("per_s") == rate}
    assert found == {units}


def test_dimensions_of_buckets_have_a_histogram_each_and_edges_of_free_names():
    for dim in BUCKETED:
        assert dim in EXTRA_DIMENSIONS
        (histogram,) = (name for name, variable in REGISTRY.items() if variable.extra == (dim,))
        assert histogram == dim.replace("_bucket", "_histogram")
        assert not {*edge_names(dim)} & {*REGISTRY, *EXTRA_DIMENSIONS}
    assert edge_names("tbt_bucket") == ("tbt_bucket_lower_s", "tbt_bucket_upper_s")
