"""What is drawn, read from the artists of a figure."""

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY
from batchcube.results.statistics import mean_interval


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def bands(axes):
    """Return the interval bands by the name of their line: (low, high) in the order of x."""
    found = {}
    for collection in axes.collections:
        label = collection.get_label()
        if type(collection).__name__ == "FillBetweenPolyCollection" and label.endswith(", 95 % interval"):
            x = np.concatenate([path.vertices[:, 0] for path in collection.get_paths()])
            y = np.concatenate([path.vertices[:, 1] for path in collection.get_paths()])
            places = np.unique(x)
            low = np.array([y[x == place].min() for place in places])
            high = np.array([y[x == place].max() for place in places])
            found[label.removesuffix(", 95 % interval")] = (places, low, high)
    return found


def whiskers(axes, label):
    """Return the whiskers of a label as rows (x0, y0, x1, y1)."""
    found = [c for c in axes.collections if c.get_label() == f"{label}, 95 % interval" and hasattr(c, "get_segments")]
    return np.array([np.ravel(segment) for c in found for segment in c.get_segments()])


def drawn_y(axes, label):
    """Return y of a line, its steady part and the others put together."""
    found = lines(axes)
    y = np.array(found[label].get_ydata(), dtype=float)
    for queue in (OVERLOADED, CANNOT_TELL):
        if f"{label}, {queue}" in found:
            y = np.where(np.isnan(y), found[f"{label}, {queue}"].get_ydata(), y)
    return y


def check_curve(axes, label, x, values, queue=None):
    """Assert that a line and its band show mean and t interval of values (x, replication)."""
    expected = mean_interval(values)
    np.testing.assert_allclose(lines(axes)[label].get_xdata(), x)
    np.testing.assert_allclose(drawn_y(axes, label), expected.estimate)
    places, low, high = bands(axes)[label]
    np.testing.assert_allclose(places, x)
    np.testing.assert_allclose(low, expected.low)
    np.testing.assert_allclose(high, expected.high)
    if queue is not None:
        np.testing.assert_array_equal(np.isnan(lines(axes)[label].get_ydata()), queue != STEADY)
        for state, filled, dashes in ((OVERLOADED, ("full", "white"), ":"), (CANNOT_TELL, ("left", None), "--")):
            assert (f"{label}, {state}" in lines(axes)) == (queue == state).any()
            if (queue == state).any():
                drawn = lines(axes)[f"{label}, {state}"]
                assert drawn.get_fillstyle() == filled[0]
                assert drawn.get_markerfacecolor() == (filled[1] or lines(axes)[label].get_color())
                assert drawn.get_linestyle() == dashes
                np.testing.assert_array_equal(drawn.get_markevery(), np.flatnonzero(queue == state))


def texts(figure):
    return [text.get_text() for text in figure.texts]


def said(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def legend_labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def refusal(name, cube, **options):
    with pytest.raises(ValueError, match=f"^figure {name}: ") as raised:
        draw(name, cube, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)
