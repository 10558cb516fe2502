import shlex

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib._pylab_helpers import Gcf
from matplotlib.text import Text

from batchcube.figures.registry import draw, save
from batchcube.results.cube import read_cube, write_cube
from batchcube.sweeps.cli.main import main
from helpers.artists import refusal


@pytest.fixture(scope="module")
def cube(make_cube):
    return make_cube(axes=("bins", "rate"))


def test_a_missing_axis_is_named_with_the_preset_that_has_it(cube):
    message = refusal("throughput-vs-predictor-error", cube)
    assert "workload.predictor.error_probability" in message
    assert "bins (policy.bins)" in message
    assert "`batchcube run multi-bin-fig8`" in message


def test_a_missing_variable_is_named(cube):
    message = refusal("throughput-vs-rate", cube.drop_vars("throughput_requests_per_s"))
    assert "no variable throughput_requests_per_s" in message


def test_a_single_further_axis_is_drawn_as_lines(cube):
    panel = draw("throughput-vs-bins", cube).axes[0]
    labels = {line.get_label() for line in panel.get_lines()}
    assert {f"arrival rate {rate}/s" for rate in (4, 8, 12)} <= labels


def test_all_further_axes_are_named_with_a_command_that_works(make_cube, tmp_path, monkeypatch):
    many = make_cube(axes=("bins", "rate", "servers", "error"))
    write_cube(many, tmp_path / "a cube.nc")
    read = read_cube(tmp_path / "a cube.nc")
    message = refusal("throughput-vs-bins", read, quantity="throughput_requests_per_s")
    said, _, command = message.partition(", for instance: ")
    assert said == (
        "figure throughput-vs-bins: choose one value of arrival_rate_per_s (4, 8, 12, 24) and error_probability (0, "
        "0.1, 0.3)"
    )
    words = shlex.split(command)
    assert words[:4] == ["batchcube", "figure", "throughput-vs-bins", str(tmp_path / "a cube.nc")]
    assert "quantity=throughput_requests_per_s" in words
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words[1:])
    assert left.value.code == 0
    assert (tmp_path / "throughput-vs-bins.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ({"arrival_rate_per_s": "5"}, "`select` arrival_rate_per_s=5: must be one of 4, 8, 12, 24"),
        ({"arrival_rate_per_s": "fast"}, "`select` arrival_rate_per_s=fast: must be one of 4, 8, 12, 24"),
        ({"speed": 4}, "`select` speed: axes of this cube: arrival_rate_per_s, bins, replication"),
        ({"arrival_rate_per_s": []}, "`select` arrival_rate_per_s: needs a value, one of 4, 8, 12, 24"),
        ({"replication": 9}, "`select` replication=9: must be one of 0, 1, 2, 3, 4, 5"),
    ],
)
def test_a_selection_that_is_not_there_is_refused(cube, select, said):
    assert said in refusal("throughput-vs-bins", cube, select=select)


@pytest.mark.parametrize("value", [8, 8.0, "8", "8.0", np.float64(8.0)])
def test_a_value_is_selected_as_number_or_text(cube, value):
    panel = draw("throughput-vs-bins", cube, select={"arrival_rate_per_s": value}).axes[0]
    expected = cube["busy_throughput_requests_per_s"].sel(arrival_rate_per_s=8.0).mean("replication")
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), expected)


def test_several_values_restrict_an_axis(cube):
    panel = draw("throughput-vs-rate", cube, select={"bins": [4, "1"]}).axes[0]
    labels = {line.get_label() for line in panel.get_lines()}
    assert {"1 bin", "4 bins"} <= labels
    assert "2 bins" not in labels


def test_one_replication_alone_can_be_drawn(cube):
    figure = draw("throughput-vs-rate", cube, select={"replication": "3"})
    first = figure.axes[0].get_lines()[0]
    assert first.get_ydata()[0] == cube["throughput_requests_per_s"].values[0, 0, 3]
    # The highest rate is overloaded.
    assert np.isnan(first.get_ydata()[-1])
    said = " ".join(text.get_text() for text in figure.texts).replace("\N{NO-BREAK SPACE}", " ")
    assert "replication 3" in said
    assert "no interval can be given" in said


def test_selecting_the_axis_that_is_drawn_leaves_nothing_to_draw(cube):
    assert "needs two or more values of policy.bins" in refusal("throughput-vs-bins", cube, select={"bins": 2})


def test_axes_of_one_value_need_no_selection(cube):
    one = cube.isel(arrival_rate_per_s=[0])
    panel = draw("throughput-vs-bins", one).axes[0]
    expected = one["busy_throughput_requests_per_s"].isel(arrival_rate_per_s=0).mean("replication")
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), expected)


def test_axes_are_known_by_their_path_and_not_by_their_name(cube):
    renamed = cube.rename(bins="k", arrival_rate_per_s="load")
    panel = draw("throughput-vs-rate", renamed).axes[0]
    assert panel.get_lines()[0].get_label() == "1 bin"


def test_a_zip_over_modes_is_no_axis_over_numbers_of_bins(make_cube):
    message = refusal("throughput-vs-bins", make_cube(axes=("mode",)))
    assert "needs two or more values of policy.bins" in message


def test_labels_of_a_zipped_axis_are_spaced_evenly(cube):
    labels = np.array(["BERT k=1", "BERT k=2", "BERT k=4"])
    zipped = cube.isel(arrival_rate_per_s=0, drop=True).assign_coords(bins=labels)
    zipped["bins"].attrs = cube["bins"].attrs | {"path": "policy.bins,workload.predictor.matrix"}
    panel = draw("throughput-vs-bins", zipped).axes[0]
    np.testing.assert_allclose(panel.get_lines()[0].get_xdata(), [0, 1, 2])
    assert [text.get_text() for text in panel.get_xticklabels()] == list(labels)
    assert {text.get_rotation() for text in panel.get_xticklabels()} == {0.0}
    zipped["bins"] = [f"a long label of {label}" for label in labels]
    zipped["bins"].attrs = cube["bins"].attrs | {"path": "policy.bins,workload.predictor.matrix"}
    panel = draw("throughput-vs-bins", zipped).axes[0]
    assert {text.get_rotation() for text in panel.get_xticklabels()} == {30.0}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("throughput-vs-rate", {"colour": "red"}, "no option colour; it takes select, lines, quantity, width_mm"),
        ("throughput-vs-rate", {"quantity": "speed"}, "quantity = speed: must be one of throughput_requests_per_s"),
        ("throughput-vs-rate", {"width_mm": 10.0}, "width_mm = 10.0: must be a number from 60 to 400"),
        ("throughput-vs-rate", {"width_mm": "wide"}, "width_mm = wide: must be a number from 60 to 400"),
        ("throughput-vs-rate", {"lines": "arrival_rate_per_s"}, "lines = arrival_rate_per_s: axes to draw as lines"),
        ("modes-compared", {}, "needs two or more values of policy.mode"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(cube, name, options, said):
    assert said in refusal(name, cube, **options)


def test_the_answer_of_a_plan_is_not_run_again_for_a_figure(cube):
    lacking = cube.drop_vars("throughput_requests_per_s").assign_attrs(plan="{}")
    said = "the answer of a plan has no variable throughput_requests_per_s; batchcube report draws what it has"
    assert refusal("throughput-vs-rate", lacking).endswith(said)


def test_an_unknown_figure_is_refused_with_all_names(cube):
    with pytest.raises(ValueError, match=r"^figure pie: no such figure; must be one of .*latency-vs-rate"):
        draw("pie", cube)
    with pytest.raises(ValueError, match=r"^figure latency-rate: no such figure; did you mean latency-vs-rate"):
        draw("latency-rate", cube)


def test_an_unknown_baseline_is_refused(make_cube):
    message = refusal("modes-compared", make_cube(axes=("mode",)), baseline="static")
    assert "baseline = static: must be one of fifo_fixed, fifo_greedy" in message


def test_one_static_mode_alone_cannot_be_compared(make_cube):
    cube = make_cube(axes=("mode",)).sel(mode=["fifo_fixed", "multi_bin_only"])
    assert "the cube has fifo_fixed, multi_bin_only" in refusal("static-vs-dynamic", cube)


@pytest.mark.parametrize(
    ("name", "variable", "said"),
    [
        ("sla-violation-over-time", "window_request_sla_violation_fraction", "report.request_sla_s was not set"),
        ("controller-step", "window_signal_mean_s", "no controller signal"),
    ],
)
def test_a_cube_without_sla_is_refused_over_time(make_cube, name, variable, said):
    cube = make_cube(axes=("sla",))
    cube[variable] *= np.nan
    assert said in refusal(name, cube)


def test_throughput_that_is_nowhere_defined_is_refused(cube):
    nothing = cube.isel(arrival_rate_per_s=0)
    nothing = nothing.assign(busy_throughput_requests_per_s=nothing["busy_throughput_requests_per_s"] * np.nan)
    said = "busy_throughput_requests_per_s is NaN everywhere in this cube"
    assert refusal("throughput-vs-bins", nothing).endswith(
        f"{said}; `batchcube run multi-bin-fig3` makes a cube that has it"
    )
    assert refusal("lines", nothing, y="busy_throughput_requests_per_s").endswith(said)


@pytest.mark.parametrize("name", ["lines", "throughput-vs-rate", "latency-vs-rate", "throughput-vs-bins"])
def test_the_order_of_numbers_on_an_axis_changes_nothing(cube, name, tmp_path):
    mixed = cube.isel(arrival_rate_per_s=[1, 3, 0, 2], bins=[2, 0, 1])
    for part, of in (("in order", cube), ("mixed", mixed)):
        save(draw(name, of), cube, tmp_path / f"{part}.png")
    assert (tmp_path / "in order.png").read_bytes() == (tmp_path / "mixed.png").read_bytes()


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_same_cube_gives_the_same_bytes_with_its_title_and_specification(cube, tmp_path, ending):
    first, second = tmp_path / f"first.{ending}", tmp_path / "a folder" / f"second.{ending}"
    for path in (first, second):
        save(draw("throughput-vs-rate", cube), cube, path)
    data = first.read_bytes()
    assert data == second.read_bytes()
    assert b"Example" in data
    assert cube.attrs["specification_sha256"].encode() in data


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("figure.gif", "must end in .png, .pdf or .svg"),
        ("made.png", "is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(cube, tmp_path, name, said):
    (tmp_path / "made.png").mkdir()
    figure = draw("throughput-vs-rate", cube)
    with pytest.raises(ValueError, match=said):
        save(figure, cube, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["made.png"]


def test_figures_leave_pyplot_and_the_users_settings_alone(cube):
    before = dict(mpl.rcParams)
    draw("throughput-vs-rate", cube)
    assert dict(mpl.rcParams) == before
    assert Gcf.get_num_fig_managers() == 0


def test_a_figure_is_redrawn_from_the_file(cube, tmp_path):
    path = tmp_path / "cube.nc"
    cube.to_netcdf(path)
    with xr.open_dataset(path, decode_timedelta=False) as read:
        panel = draw("throughput-vs-rate", read).axes[0]
    expected = cube["throughput_requests_per_s"].sel(bins=1).mean("replication")
    np.testing.assert_allclose(panel.get_lines()[0].get_ydata()[:2], expected[:2])


def test_foreign_text_is_text_and_no_mathematics(make_cube, tmp_path):
    foreign = {"title": "$\\frac{$ and \x1b[31m$x$", "notes": "a $\\sum note\x07"}
    labels = ["$\\frac{$", "$a$", "\x1b[2J", "x" * 5000, "e"]
    cube = make_cube(axes=("mode", "rate"), **foreign)
    cube = cube.assign_coords(mode=("mode", labels, cube["mode"].attrs))
    cube["arrival_rate_per_s"].attrs |= {"path": "workload.trace.rate_scale,server.servers", "long_name": "$\\x{$"}
    for name, chosen in (("per-bin-statistics", {"arrival_rate_per_s": 8.0}), ("throughput-vs-rate", {})):
        figure = draw(name, cube, select=chosen)
        said = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
        for shown in ("$\\frac{$ and \\x1b[31m$x$", " $\\sum note\\x07", "$a$", "\\x1b[2J"):
            assert shown in said
        assert "x" * 100 not in said
        for ending in ("png", "svg", "pdf"):
            assert save(figure, cube, tmp_path / f"{name}.{ending}").stat().st_size > 1000
