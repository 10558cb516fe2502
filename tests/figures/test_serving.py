"""Figures of continuous batching are tested on the data in their artists, drawn from cubes made up here."""

import json

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

from batchcube.figures.registry import draw, names, save
from batchcube.figures.serving import DEFAULTS
from batchcube.results.cube import Coordinate, build_cube
from batchcube.results.provenance import MadeBy, provenance
from batchcube.results.statistics import mean_interval, paired_ratio
from batchcube.sweeps.spec.settings import MemorySettings, PolicySettings, SlaSettings

REPLICATIONS, WINDOWS = 4, 12
POLICIES = ("static", "memory", "both")
POINTS = {
    "static": {},
    "memory": {"policy.memory": {"rule": "exact"}},
    "both": {"policy": {"memory": {"rule": "exact"}, "sla": {"target_s": 0.05, "tolerance_s": 0.001}}},
}
PATHS = "policy.memory.rule,policy.sla.target_s,policy.sla.tolerance_s"
AXES = {
    "policy": Coordinate("policy", POLICIES, PATHS, "1", "cap on running requests"),
    "rate": Coordinate(
        "arrival_rate_per_s", (2.0, 4.0, 6.0, 8.0), "workload.arrivals.rate_per_s", "s-1", "arrival rate"
    ),
    "largest": Coordinate("largest_batch", (8, 32, 128), "policy.largest_batch", "1", "upper end"),
    "cv": Coordinate("output_cv", (0.2, 0.5, 1.0), "workload.lengths.cv", "1", "spread of output lengths"),
    "rule": Coordinate("rule", ("literal", "exact"), "policy.memory.rule", "1", "form of the bound"),
    "target": Coordinate("target_s", (0.02, 0.05, 0.12), "policy.sla.target_s", "s", "latency target"),
}
SPECIFICATION = {
    "policy": {"mode": "continuous", "largest_batch": 128},
    "server": {
        "service": {"law": "steps", "c0_s": 0.03, "c1_s_per_request": 0.00022},
        "replica": {"kv_capacity_tokens": 60000},
    },
    "report": {"token_sla_s": 0.055},
}


def make(axes, arrays, *, replications=REPLICATIONS, drawn=False, counts=True, **attrs):
    """Return a cube over the named AXES: arrays (*axes, replication, *extra), or what they are a multiple of."""
    chosen = [AXES[name] for name in axes]
    shape = tuple(len(axis.values) for axis in chosen)
    noise = np.random.default_rng(3).normal(1.0, 0.03, (*shape, replications))
    held = {}
    for name, value in arrays.items():
        value = np.asarray(value)
        extra = value.shape[len(shape) :] if value.ndim > len(shape) else ()
        spread = noise.reshape(noise.shape + (1,) * len(extra))
        full = np.broadcast_to(value.reshape((*value.shape[: len(shape)], 1, *extra)), (*shape, replications, *extra))
        held[name] = full.copy() if value.dtype.kind in "bi" else full * spread
    if "window_width_s" in held:
        held["window_width_s"] = np.full(shape, 5.0)
    if counts:
        held |= {"requests": np.full((*shape, replications), 400)}
        held |= {"steps": np.full((*shape, replications), 9000)}
        held.setdefault("overloaded", np.zeros((*shape, replications), bool))
        held["backlog_growth_fraction"] = np.where(held["overloaded"], 0.5, 0.0)
    points = {"policy": {"points": POINTS}} if "policy" in axes else {}
    specification = json.dumps(SPECIFICATION | {"axes": points})
    known = provenance(
        title="Example",
        specification=specification,
        defaults={},
        seed=1,
        replications=replications,
        made_by=[MadeBy("none", "cpu", "")],
        overload_test="none",
    )
    return build_cube(chosen, held, replications=replications, attrs=known | attrs, coefficients_drawn=drawn)


def at_rates(*first, **options):
    """Return a cube of times between tokens over rates, the first policies overloaded at the last rate."""
    rate = np.array(AXES["rate"].values)
    mean = 0.03 + 0.004 * rate * np.array([1.5, 1.2, 1.0])[:, None]
    over = np.zeros((3, 4), bool)
    over[0, -1] = True
    arrays = {
        "tbt_mean_s": mean,
        "tbt_quantile_s": mean[..., None] * np.array([1.0, 1.5, 1.7, 2.0]),
        "overloaded": over,
    }
    return make(("policy", "rate"), arrays, **options)


def at_sizes(axes=("largest",), **options):
    size = np.array([8.0, 30.0, 110.0])
    tau = 0.03 + 0.00022 * size
    arrays = {"batch_size_mean": size, "tbt_mean_s": tau, "throughput_tokens_per_s": size / tau}
    if len(axes) == 2:
        arrays = {name: np.stack([values] * 2) * [[1.0], [1.1]] for name, values in arrays.items()}
    return make(axes, arrays, **options)


def over_time(axes=("policy",), **options):
    shape = tuple(len(AXES[name].values) for name in axes)
    window = np.arange(1.0, WINDOWS + 1)
    level = np.arange(1.0, np.prod(shape) + 1).reshape((*shape, 1))
    arrays = {
        "window_width_s": np.ones(shape),
        "window_arrivals": np.full((*shape, WINDOWS), 20),
        "window_queue_length_mean": level * window,
        "window_running_mean": level * 20 + window,
        "window_kv_tokens_mean": level * 10000 + window,
        "window_batch_target_mean": 120.0 / level - window,
        "window_batch_memory_bound_mean": 125.0 / level - window,
        "window_batch_sla_bound_mean": 110.0 / level - window,
        "window_preemptions": np.zeros((*shape, WINDOWS), int),
    }
    return make(axes, arrays, **options)


def capacities(axes=("policy", "cv"), **options):
    """Return a cube of capacities: one replication of the first point without an answer, all of the last one."""
    shape = tuple(len(AXES[name].values) for name in axes)
    size = int(np.prod(shape))
    cube = make(
        axes,
        {
            "capacity_requests_per_s": 3.0 + np.arange(size, dtype=float).reshape(shape),
            "capacity_unbracketed": np.zeros(shape, int),
            "capacity_statistic": np.full(shape, 0.05),
        },
        counts=False,
        capacity_criteria=json.dumps(
            [
                {"variable": "tbt_mean_s", "quantile": None, "limit": 0.05},
                {"variable": "latency_quantile_s", "quantile": 0.99, "limit": 60.0},
            ]
        ),
        capacity_low_per_s=0.5,
        capacity_high_per_s=32.0,
        capacity_growth=0.02,
        **options,
    )
    first, last = (0,) * len(shape), (-1,) * len(shape)
    cube["capacity_requests_per_s"].values[(*first, 1)] = np.nan
    cube["capacity_unbracketed"].values[(*first, 1)] = -1
    cube["capacity_requests_per_s"].values[last] = np.nan
    cube["capacity_unbracketed"].values[last] = 1
    return cube


def gains(axes=("policy", "rate", "cv"), **options):
    """Return a cube whose last policy gains from -3 to 8 % over the first, the second nothing."""
    rise = np.linspace(-3.0, 8.0, 12).reshape(4, 3)
    base = np.full((4, 3), 1000.0)
    values = np.stack([base, base, base * (1.0 + rise / 100.0)])
    cube = make(axes, {"throughput_tokens_per_s": values, "latency_mean_s": values / 100.0}, **options)
    # Common random numbers: what policies have in common cancels in pairs, and a little is left.
    noise = np.random.default_rng(5).normal(1.0, [[0.05], [0.002]], (2, cube.sizes["replication"]))
    cube["throughput_tokens_per_s"].values[:] = values[..., None] * noise[0]
    cube["throughput_tokens_per_s"].values[2] *= noise[1]
    return cube


def rules(**options):
    cube = over_time(("rule",), **options)
    overflow = np.array([[0.9], [0.04]]) * np.linspace(0.9, 1.1, cube.sizes["replication"])
    return cube.assign(memory_overflow_fraction=(("rule", "replication"), overflow))


MAKERS = {
    "tbt-vs-rate": (at_rates, {}),
    "step-throughput": (at_sizes, {}),
    "serving-over-time": (over_time, {}),
    "capacity": (capacities, {}),
    "gain-map": (gains, {"against": "both"}),
    "memory-erratum": (rules, {}),
    "controller-bounds": (lambda **options: over_time(("target",), **options), {}),
}


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def band(axes, label):
    """Return the ends of a line's interval band in the order of x."""
    (found,) = [
        c
        for c in axes.collections
        if c.get_label() == f"{label}, 95 % interval" and type(c).__name__ == "FillBetweenPolyCollection"
    ]
    x, y = np.concatenate([path.vertices for path in found.get_paths()]).T
    ends = [(y[x == place].min(), y[x == place].max()) for place in np.unique(x)]
    return np.array(ends).T


def whisker(axes, label):
    (found,) = [
        c for c in axes.collections if c.get_label() == f"{label}, 95 % interval" and hasattr(c, "get_segments")
    ]
    return np.ravel(found.get_segments())


def said(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def legend_labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def refusal(name, cube, **options):
    with pytest.raises(ValueError, match=f"^figure {name}: ") as raised:
        draw(name, cube, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_is_drawn_saved_and_described(name, tmp_path):
    maker, options = MAKERS[name]
    cube = maker()
    figure = draw(name, cube, **options)
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        assert save(figure, cube, tmp_path / f"figure{ending}").read_bytes().startswith(start)
    (entry,) = [entry for entry in names() if entry.name == name]
    assert entry.shows.endswith(".")
    assert entry.needs
    assert {"select", "width_mm"} <= set(entry.options)
    assert f"{REPLICATIONS} replications" in said(figure)
    assert "Example" in said(figure)
    for panel in figure.axes:
        assert panel.get_xlabel() or panel.get_ylabel() or panel.get_title(loc="left")


@pytest.mark.parametrize("name", MAKERS)
def test_one_replication_gets_no_interval(name):
    maker, options = MAKERS[name]
    cube = maker(replications=2).isel(replication=[0])
    figure = draw(name, cube, **options)
    for panel in figure.axes:
        assert not [c for c in panel.collections if c.get_label().endswith("95 % interval")]
        assert not [patch for patch in panel.patches if patch.get_hatch()]
    assert not [label for label in legend_labels(figure) if "interval" in label]
    assert "no interval can be given" in said(figure)


def test_what_a_specification_may_leave_out_is_what_settings_say():
    fields = {"policy": PolicySettings, "policy.sla": SlaSettings, "policy.memory": MemorySettings}
    for path, value in DEFAULTS.items():
        table, _, name = path.rpartition(".")
        assert fields[table].model_fields[name].default == value


@pytest.mark.parametrize(("statistic", "place"), [("mean", None), ("p50", 0), ("p90", 1), ("p95", 2), ("p99", 3)])
def test_tbt_vs_rate_shows_a_statistic_in_ms_with_the_sla(statistic, place):
    cube = at_rates()
    figure = draw("tbt-vs-rate", cube, statistic=statistic)
    (panel,) = figure.axes
    assert panel.get_ylabel() == f"{statistic} time between tokens (ms)"
    for i, policy in enumerate(POLICIES):
        values = cube["tbt_mean_s"] if place is None else cube["tbt_quantile_s"].isel(quantile=place)
        expected = mean_interval(1e3 * values.isel(policy=i).values)
        y = lines(panel)[policy].get_ydata()
        if policy == "static":
            np.testing.assert_array_equal(np.isnan(y), [False, False, False, True])
            hollow = lines(panel)["static, overloaded"]
            assert hollow.get_markerfacecolor() == "white"
            y = np.where(np.isnan(y), hollow.get_ydata(), y)
        np.testing.assert_allclose(lines(panel)[policy].get_xdata(), AXES["rate"].values)
        np.testing.assert_allclose(y, expected.estimate)
        np.testing.assert_allclose(band(panel, policy), [expected.low, expected.high])
    # The target that one labelled point sets.
    np.testing.assert_allclose(lines(panel)["SLA target"].get_ydata(), 50.0)
    assert "SLA target of the controller (50 ms)" in legend_labels(figure)
    assert "overloaded: not a steady state" in legend_labels(figure)


def test_tbt_vs_rate_without_a_controller_has_no_target():
    figure = draw("tbt-vs-rate", at_rates(), select={"policy": ["static", "memory"]})
    assert "SLA target" not in lines(figure.axes[0])
    alone = draw("tbt-vs-rate", at_rates(), select={"policy": "both"})
    np.testing.assert_allclose(lines(alone.axes[0])["SLA target"].get_ydata(), 50.0)
    assert "Example; policy = both" in said(alone)


def test_tbt_vs_rate_works_on_cubes_of_whole_batches(make_cube):
    cube = make_cube(axes=("mode", "rate"))
    figure = draw("tbt-vs-rate", cube)
    y = lines(figure.axes[0])["dynamic_only"].get_ydata()
    expected = 1e3 * cube["tbt_mean_s"].sel(mode="dynamic_only").mean("replication").values
    np.testing.assert_allclose(y[:2], expected[:2])
    assert "decoding time per token of its batch" in said(figure)


def test_tbt_vs_rate_refuses():
    assert "statistic = p42: must be one of mean, p50, p90, p95, p99" in refusal(
        "tbt-vs-rate", at_rates(), statistic="p42"
    )
    cube = at_rates().isel(quantile=[0, 3])
    assert "statistic = p95: the cube has mean, p50, p99" in refusal("tbt-vs-rate", cube, statistic="p95")
    message = refusal("tbt-vs-rate", over_time())
    assert "the cube has no variable tbt_mean_s" in message
    assert "needs two or more values of workload.arrivals.rate_per_s" in refusal(
        "tbt-vs-rate", at_rates(), select={"arrival_rate_per_s": 4}
    )


@pytest.mark.parametrize("x", ["batch_size_mean", "largest_batch"])
def test_step_throughput_shows_both_panels_with_the_law(x):
    cube = at_sizes()
    figure = draw("step-throughput", cube, x=x)
    size = cube["batch_size_mean"].mean("replication").values if x == "batch_size_mean" else AXES["largest"].values
    for panel, variable, scale in zip(figure.axes, ("throughput_tokens_per_s", "tbt_mean_s"), (1.0, 1e3), strict=True):
        expected = mean_interval(scale * cube[variable].values)
        np.testing.assert_allclose(lines(panel)["simulated"].get_xdata(), size)
        np.testing.assert_allclose(lines(panel)["simulated"].get_ydata(), expected.estimate)
        np.testing.assert_allclose(band(panel, "simulated"), [expected.low, expected.high])
    law = lines(figure.axes[1])["simulated, theory"]
    np.testing.assert_allclose(law.get_ydata(), 30.0 + 0.22 * np.asarray(law.get_xdata()))
    rate = lines(figure.axes[0])["simulated, theory"]
    b = np.asarray(rate.get_xdata())
    np.testing.assert_allclose(rate.get_ydata(), b / (0.03 + 0.00022 * b))
    np.testing.assert_allclose(lines(figure.axes[1])["limit between tokens"].get_ydata(), 55.0)


def test_step_throughput_of_another_law_has_no_theory():
    cube = at_sizes(("rule", "largest"))
    specification = json.loads(cube.attrs["specification"])
    specification["server"]["service"] = {"coefficients": "somebodys"}
    cube.attrs["specification"] = json.dumps(specification)
    figure = draw("step-throughput", cube)
    assert not [label for panel in figure.axes for label in lines(panel) if label.endswith("theory")]
    assert {"literal", "exact"} <= set(lines(figure.axes[0]))


def test_step_throughput_sorts_by_batch_size():
    cube = at_sizes()
    cube["batch_size_mean"].values[:] = cube["batch_size_mean"].values[::-1].copy()
    x = lines(draw("step-throughput", cube).axes[0])["simulated"].get_xdata()
    assert (np.diff(x) > 0).all()


def test_step_throughput_refuses():
    message = refusal("step-throughput", at_rates().assign(at_sizes().isel(largest_batch=0, drop=True)))
    assert "needs two or more values of policy.largest_batch" in message
    assert message.endswith("`batchcube run dynamic-fig3` makes a cube that has it")
    assert "x = steps: must be one of batch_size_mean, largest_batch" in refusal(
        "step-throughput", at_sizes(), x="steps"
    )


def test_serving_over_time_has_a_panel_per_quantity():
    cube = over_time()
    figure = draw("serving-over-time", cube)
    shown = (
        "window_arrivals",
        "window_queue_length_mean",
        "window_running_mean",
        "window_kv_tokens_mean",
        "window_batch_target_mean",
        "window_preemptions",
    )
    assert len(figure.axes) == len(shown)
    time = 5.0 * (np.arange(WINDOWS) + 0.5)
    for panel, variable in zip(figure.axes[1:], shown[1:], strict=True):
        for i, policy in enumerate(POLICIES):
            expected = mean_interval(cube[variable].isel(policy=i).values.T)
            np.testing.assert_allclose(lines(panel)[policy].get_xdata(), time)
            np.testing.assert_allclose(lines(panel)[policy].get_ydata(), expected.estimate)
    (arrivals,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(arrivals.get_ydata(), 20 / 5.0)
    np.testing.assert_allclose(lines(figure.axes[3])["KV capacity"].get_ydata(), 60000.0)
    assert figure.axes[3].get_ylim()[1] > 60000.0
    assert figure.axes[5].get_ylim()[1] >= 1.0


def test_the_cap_has_the_bounds_that_each_policy_sets():
    cube = over_time()
    figure = draw("serving-over-time", cube)
    bounds = {label for label in lines(figure.axes[4]) if ", b_" in label}
    assert bounds == {"memory, b_mem", "both, b_mem", "both, b_SLA"}
    expected = cube["window_batch_sla_bound_mean"].sel(policy="both").mean("replication")
    np.testing.assert_allclose(lines(figure.axes[4])["both, b_SLA"].get_ydata(), expected)
    assert {"b_mem", "b_SLA"} <= set(legend_labels(figure))
    static = draw("serving-over-time", cube, select={"policy": "static"})
    assert not {"b_mem", "b_SLA"} & set(legend_labels(static))


def test_a_far_capacity_is_said_and_not_drawn():
    cube = over_time()
    cube["window_kv_tokens_mean"].values[:] /= 100.0
    figure = draw("serving-over-time", cube)
    assert "KV capacity" not in lines(figure.axes[3])
    assert "The KV capacity of a replica, 60,000 tokens, lies above its panel." in said(figure)


def test_serving_over_time_refuses_whole_batches(make_cube):
    message = refusal("serving-over-time", make_cube(axes=("mode",)))
    assert "the cube has no variable window_running_mean" in message
    assert "`batchcube run continuous-rate`" in message


def test_capacity_shows_dots_by_policy_and_a_panel_per_value():
    cube = capacities()
    figure = draw("capacity", cube)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [f"output_cv = {v:g}" for v in AXES["cv"].values]
    for place, panel in enumerate(figure.axes):
        assert [label.get_text() for label in panel.get_yticklabels()] == list(POLICIES)
        for row, policy in enumerate(POLICIES):
            values = cube["capacity_requests_per_s"].values[row, place]
            if np.isnan(values).all():
                assert [text.get_text() for text in panel.texts] == ["no answer"]
                continue
            expected = mean_interval(values)
            dot = lines(panel)[policy]
            np.testing.assert_allclose(dot.get_xdata(), expected.estimate)
            np.testing.assert_allclose(whisker(panel, policy), [expected.low, row, expected.high, row])
            assert (dot.get_markerfacecolor() == "white") == bool(np.isnan(values).any())


def test_capacity_names_what_has_no_answer_and_the_criteria():
    unanswered = "4 of 4 replications still meet the criteria at 32/s"
    cube = capacities(notes=f"{unanswered}\nbins were removed")
    cube.attrs["capacity_notes_unanswered"] = unanswered
    figure = draw("capacity", cube)
    text = said(figure)
    assert unanswered not in text
    assert "replications that miss the criteria already at the lowest rate, output_cv = 0.2, static (1 of 4)." in text
    assert "replications that still meet the criteria at the highest rate, output_cv = 1, both (4 of 4)." in text
    assert (
        "with mean time between tokens ≤ 0.05 s and p99 latency ≤ 60 s and a backlog that grows by at most 2 %" in text
    )
    assert "Searched from 0.5 to 32 requests/s." in text
    assert text.endswith("Of the whole cube: Bins were removed.")
    assert "some replications without an answer" in legend_labels(figure)
    whole = draw("capacity", capacities(), select={"policy": "memory"})
    assert "Left out" not in said(whole)
    assert [label.get_text() for label in whole.axes[0].get_yticklabels()] == [
        "output_cv = 0.2",
        "output_cv = 0.5",
        "output_cv = 1",
    ]


def test_capacity_of_drawn_coefficients_has_prediction_intervals():
    cube = capacities(drawn=True)
    figure = draw("capacity", cube)
    expected = mean_interval(cube["capacity_requests_per_s"].values[1, 1], single=True)
    np.testing.assert_allclose(whisker(figure.axes[1], "memory")[[0, 2]], [expected.low, expected.high])
    assert "prediction intervals of one replication" in said(figure)


def test_capacity_of_one_point_and_of_lines_by_name():
    point = draw("capacity", capacities(), select={"policy": "memory", "output_cv": 0.5})
    assert len(lines(point.axes[0])) == 1
    turned = draw("capacity", capacities(), lines="output_cv")
    assert [panel.get_title(loc="left") for panel in turned.axes] == list(POLICIES)


def test_capacity_refuses():
    assert "`batchcube capacity` makes a cube that has it" in refusal("capacity", at_rates())
    cube = capacities(("policy", "cv", "largest"))
    assert "select one value of largest_batch (largest_batch=VALUE): 8, 32, 128" in refusal("capacity", cube)


def test_gain_map_shows_paired_ratios():
    cube = gains()
    figure = draw("gain-map", cube, baseline="static", against="both")
    panel, bar = figure.axes
    values = (
        cube["throughput_tokens_per_s"].transpose("output_cv", "policy", "arrival_rate_per_s", "replication").values
    )
    ratio = paired_ratio(values[:, 2], values[:, 0])
    gain, low, high = (100.0 * (part - 1.0) for part in ratio[:3])
    (mesh,) = [c for c in panel.collections if type(c).__name__ == "QuadMesh"]
    np.testing.assert_allclose(np.asarray(mesh.get_array()), gain)
    largest = np.abs(gain).max()
    np.testing.assert_allclose([mesh.norm.vmin, mesh.norm.vmax], [-largest, largest])
    unsure = {(int(p.get_x() + 0.5), int(p.get_y() + 0.5)) for p in panel.patches if p.get_hatch()}
    assert unsure == {(column, row) for row, column in np.argwhere((low <= 0) & (high >= 0))}
    assert 0 < len(unsure) < gain.size
    shown = {tuple(text.get_position()): text.get_text() for text in panel.texts}
    assert shown[3, 2] == f"{gain[2, 3]:+.1f}"
    assert shown[0, 0] == f"{gain[0, 0]:+.1f}".replace("-", "\N{MINUS SIGN}")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "4", "6", "8"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.2", "0.5", "1"]
    assert panel.get_xlabel() == "arrival rate (requests/s)"
    assert bar.get_ylabel() == "relative gain (%)"
    assert "Gain in token throughput: both over static" in said(figure)
    assert "95 % interval holds 0" in legend_labels(figure)


@pytest.mark.parametrize("printed", [5, 5.0, "5", [5.0], "5,40"])
def test_gain_map_draws_the_printed_gain_where_it_lies(printed):
    figure = draw("gain-map", gains(), against="both", printed=printed)
    (contour,) = [c for c in figure.axes[0].collections if isinstance(c, QuadContourSet)]
    np.testing.assert_allclose(contour.levels, [5.0])
    # Over the middles of the cells, the rise goes first along the spread, then along the rate.
    assert contour.get_paths()[0].vertices[:, 0].min() >= 1.0
    assert "printed gain of 5 %" in legend_labels(figure)
    assert ("No line for the printed gain of 40 %" in said(figure)) == (printed == "5,40")


def test_gain_map_takes_any_quantity_axis_and_capacities():
    cube = gains()
    figure = draw("gain-map", cube, quantity="latency_mean_s", against="memory", x="output_cv")
    panel, bar = figure.axes
    assert panel.get_xlabel() == "spread of output lengths"
    assert bar.get_ylabel() == "relative change (%)"
    assert "Change in mean latency: memory over static" in said(figure)
    searched = capacities(("policy", "rate", "cv"))
    options = {"quantity": "capacity_requests_per_s", "against": "both"}
    grey = draw("gain-map", searched, **options)
    (mesh,) = [c for c in grey.axes[0].collections if type(c).__name__ == "QuadMesh"]
    np.testing.assert_array_equal(np.argwhere(np.ma.getmaskarray(mesh.get_array())), [[2, 3]])
    assert "Grey: no ratio" in said(grey)
    assert "Replications without a value in both are left out." in said(grey)
    assert "Searched from 0.5 to 32 requests/s." in said(grey)


def test_gain_map_marks_overload():
    cube = gains()
    cube["overloaded"].values[2, 3, 1] = True
    cube["overloaded"].values[2, 2, 1, 0] = True
    options = {"against": "both", "quantity": "latency_mean_s"}
    panel = draw("gain-map", cube, **options).axes[0]
    np.testing.assert_allclose(lines(panel)["overloaded"].get_xydata(), [[3.36, 1.34]])
    np.testing.assert_allclose(lines(panel)["cannot tell"].get_xydata(), [[2.36, 1.34]])
    assert {"either is overloaded: not a steady state", "cannot tell whether either is overloaded"} <= set(
        legend_labels(draw("gain-map", cube, **options))
    )
    everywhere = cube.assign(overloaded=cube["overloaded"] | True)
    assert "Either is overloaded at every point." in said(draw("gain-map", everywhere, **options))
    # Throughput means the same under overload.
    assert "overloaded" not in lines(draw("gain-map", cube, against="both").axes[0])


def test_tbt_vs_rate_draws_printed_points():
    figure = draw("tbt-vs-rate", at_rates(), printed="static=4:44,5.4:51.1;dynamic=4:36.9")
    drawn = lines(figure.axes[0])
    np.testing.assert_array_equal(drawn["static, as printed"].get_xydata(), [[4, 44], [5.4, 51.1]])
    np.testing.assert_array_equal(drawn["dynamic, as printed"].get_xydata(), [[4, 36.9]])
    assert "dynamic, as printed" in legend_labels(figure)
    with pytest.raises(ValueError, match=r"printed = 4;5: must be names with rate:ms"):
        draw("tbt-vs-rate", at_rates(), printed="4;5")
    with pytest.raises(ValueError, match="must be at most 4 names, not 5"):
        draw("tbt-vs-rate", at_rates(), printed=";".join(f"{name}=1:2" for name in "abcde"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "against: choose one of memory, both"),
        ({"against": "statik"}, "against = statik: must be one of static, memory, both"),
        ({"against": "static"}, "against = static: is the baseline; must be one of memory, both"),
        ({"baseline": "none"}, "baseline = none: must be one of static, memory, both"),
        ({"against": "both", "printed": "much"}, "printed = much: must be a gain in %, or several"),
        ({"against": "both", "x": "policy"}, "x = policy: must be one of arrival_rate_per_s, output_cv"),
        (
            {"quantity": "tbt_mean_s"},
            "quantity = tbt_mean_s: must be one of latency_mean_s, requests, steps, throughput",
        ),
        ({"select": {"output_cv": 0.5}}, "needs an axis of policies and two more, and the cube varies policy, arrival"),
    ],
)
def test_gain_map_refuses(options, message):
    assert message in refusal("gain-map", gains(), **options)


def test_gain_map_without_a_baseline_to_divide_by():
    cube = gains()
    cube["throughput_tokens_per_s"].values[0] = 0.0
    assert "there is no relative change" in refusal("gain-map", cube, against="both")


def test_memory_erratum_shows_the_bound_and_the_overflow():
    cube = rules()
    figure = draw("memory-erratum", cube)
    left, right = figure.axes
    for place, rule in enumerate(("literal", "exact")):
        expected = mean_interval(cube["window_batch_memory_bound_mean"].isel(rule=place).values.T, bounds=(0, 128))
        np.testing.assert_allclose(lines(left)[rule].get_ydata(), expected.estimate)
        np.testing.assert_allclose(band(left, rule), [expected.low, expected.high])
        share = mean_interval(cube["memory_overflow_fraction"].isel(rule=place).values, bounds=(0.0, 1.0))
        np.testing.assert_allclose(lines(right)[rule].get_xydata(), [[place, share.estimate]])
    np.testing.assert_allclose(lines(left)["B_max"].get_ydata(), 128.0)
    np.testing.assert_allclose(lines(right)["allowed overflow"].get_ydata(), 0.05)
    assert [label.get_text() for label in right.get_xticklabels()] == ["literal", "exact"]
    assert "right: allowed, ε_M = 0.05" in legend_labels(figure)
    assert "literal is Algorithm 1 of arXiv 2503.05248 as printed" in said(figure)


def test_a_window_without_a_decision_keeps_the_bound():
    cube = rules()
    bound = cube["window_batch_memory_bound_mean"].values
    bound[1, 0, 4:] = np.nan
    bound[1, 1, :2] = np.nan
    held = bound[1].copy()
    held[0, 4:] = held[0, 3]
    y = lines(draw("memory-erratum", cube).axes[0])["exact"].get_ydata()
    np.testing.assert_allclose(y, mean_interval(held.T).estimate)


def test_memory_erratum_refuses():
    message = refusal("memory-erratum", over_time(("rule",)))
    assert "no variable memory_overflow_fraction" in message
    cube = rules()
    cube["window_batch_memory_bound_mean"].values[:] = np.nan
    assert "no memory bound over time" in refusal("memory-erratum", cube)
    assert "needs two or more values of policy.memory.rule" in refusal(
        "memory-erratum", rules(), select={"rule": "exact"}
    )


def test_controller_bounds_show_the_ends_and_where_it_settles():
    cube = over_time(("target",))
    figure = draw("controller-bounds", cube)
    (panel,) = figure.axes
    for place, target in enumerate(AXES["target"].values):
        values = cube["window_batch_sla_bound_mean"].isel(target_s=place).values.T
        expected = mean_interval(values, bounds=(0, 128))
        np.testing.assert_allclose(lines(panel)[f"target_s = {target:g}"].get_ydata(), expected.estimate)
    marks = {
        label: sorted({line.get_ydata()[0] for line in panel.get_lines() if line.get_label() == label})
        for label in lines(panel)
    }
    np.testing.assert_allclose(marks["B_min, B_max"], [1, 128])
    np.testing.assert_allclose(marks["B_min + α/2, B_max − α/2"], [9, 120])
    assert "B_min + α/2, B_max − α/2 = 9, 120" in legend_labels(figure)
    last = cube["window_batch_sla_bound_mean"].values[1, :, -1].mean()
    assert f"target_s = 0.05: {last:.1f}" in said(figure)


def test_controller_bounds_follow_the_settings_of_the_cube():
    cube = over_time(("target",))
    specification = json.loads(cube.attrs["specification"])
    specification["policy"] |= {"smallest_batch": 4, "sla": {"alpha": 8}}
    cube.attrs["specification"] = json.dumps(specification)
    assert "B_min + α/2, B_max − α/2 = 8, 124" in legend_labels(draw("controller-bounds", cube))
    specification["policy"]["sla"]["variant"] = "heuristic"
    cube.attrs["specification"] = json.dumps(specification)
    assert "B_min + α/2, B_max − α/2" not in lines(draw("controller-bounds", cube).axes[0])


def test_controller_bounds_leave_out_policies_without_a_controller():
    figure = draw("controller-bounds", over_time())
    assert [label for label in legend_labels(figure) if label in POLICIES] == ["both"]
    assert np.isnan(lines(figure.axes[0])["static"].get_ydata()).all()


def test_controller_bounds_refuse():
    cube = over_time(("target",))
    assert "no SLA bound over time" in refusal(
        "controller-bounds", over_time(), select={"policy": ["static", "memory"]}
    )
    bare = cube.assign_attrs(specification="{}")
    assert "its specification sets no policy.largest_batch" in refusal("controller-bounds", bare)
    cube["window_batch_sla_bound_mean"].values[:] = np.nan
    message = refusal("controller-bounds", cube)
    assert "no SLA bound over time" in message
    assert "`batchcube run controller-step`" in message
