"""What figures read of the specification of a cube: settings of each line, and the defaults that the cube keeps."""

import json

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.sweeps.spec.document import Sweep
from helpers.artists import legend_labels, lines, refusal
from helpers.serving_cubes import DEFAULTS, over_time, rules


def with_defaults(cube, defaults):
    return cube.assign_attrs(specification_defaults=json.dumps(defaults))


@pytest.mark.parametrize(
    ("preset", "paths"),
    [
        ("dynamic-bounds", ["policy.smallest_batch", "policy.sla.variant", "policy.sla.alpha"]),
        ("dynamic-erratum", ["policy.memory.overflow_probability"]),
    ],
)
def test_sweeps_keep_the_defaults_that_figures_read(preset, paths):
    sweep = Sweep.from_toml(preset, [])
    for path in paths:
        stated = sweep.document
        for key in path.split("."):
            stated = stated.get(key) if isinstance(stated, dict) else None
        assert (stated or sweep.defaults().get(path)) == DEFAULTS[path]


def test_what_is_left_out_is_as_the_cube_was_made():
    cube = with_defaults(over_time(("target",)), DEFAULTS | {"policy.smallest_batch": 3, "policy.sla.alpha": 10})
    assert "B_min + α/2, B_max − α/2 = 8, 123" in legend_labels(draw("controller-bounds", cube))
    other = with_defaults(rules(), {"policy.memory.overflow_probability": 0.01})
    np.testing.assert_allclose(lines(draw("memory-erratum", other).axes[1])["allowed overflow"].get_ydata(), 0.01)


def test_nothing_is_drawn_of_defaults_that_the_cube_does_not_keep():
    message = refusal("controller-bounds", with_defaults(over_time(("target",)), {}))
    assert "its specification sets no policy.smallest_batch" in message
    figure = draw("memory-erratum", with_defaults(rules(), {}))
    assert "allowed overflow" not in lines(figure.axes[1])
    assert not [label for label in legend_labels(figure) if "allowed" in label]
