"""What the lines of several figures share."""

import pytest

from batchcube.figures.curves import quantity_label
from batchcube.results.variables import REGISTRY


@pytest.mark.parametrize(
    ("variable", "label"),
    [
        ("throughput_requests_per_s", "throughput (requests/s)"),
        ("latency_mean_s", "mean latency (s)"),
        ("padding_waste", "padding waste"),
    ],
)
def test_the_axis_of_a_variable_says_its_unit(variable: str, label: str) -> None:
    assert quantity_label(variable) == label


def test_every_variable_has_a_label() -> None:
    assert all(quantity_label(name) for name in REGISTRY)
