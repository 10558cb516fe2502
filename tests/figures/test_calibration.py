"""Figures of calibrations are tested on the data in their artists against the numbers of the calibration."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.container import ErrorbarContainer

from batchcube.calibration.cells import Cells
from batchcube.calibration.measuring.bench import Grid
from batchcube.figures.registry import calibration_names, draw, names, save
from batchcube.results.cube import write_cube
from batchcube.results.storage import write_dataset
from batchcube.sweeps.calibrate.fit import fit_cells, fit_measurement
from batchcube.sweeps.calibrate.measure import measure_engine
from batchcube.sweeps.cli.main import main
from helpers.artists import legend_labels, lines, said
from helpers.engines import FakeEngine

GRID = Grid((1, 2, 4, 16), (16, 64), (4, 8, 24), 3, 1)
NAMES = ["calibration-law", "calibration-residuals", "calibration-batch-factor", "calibration-throughput"]


def fit_of(folder, engine, grid=GRID):
    measure_engine(lambda: engine, grid, folder / "m.nc", overwrite=True, quiet=True)
    return fit_measurement(folder / "m.nc", "mine")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The coefficients and the calibration of an engine that was measured on a complete grid."""
    with np.errstate(all="raise"):
        return fit_of(tmp_path_factory.mktemp("fit"), FakeEngine())


@pytest.fixture(scope="module")
def calibration(fitted):
    return fitted[1]


def literature(cells):
    return fit_cells(cells, name="x", label="literature", title="A table", source="Somebody, 2001")[1]


@pytest.fixture(scope="module")
def batches_only():
    """Whole batches of nobody knows which prompts, measured nobody knows how often."""
    b, n = (grid.ravel() for grid in np.meshgrid([1.0, 2.0, 8.0], [16.0, 64.0, 256.0], indexing="ij"))
    noise = 1 + 0.02 * np.random.default_rng(1).standard_normal(b.size)
    return literature(Cells.of("batch", (0.05 + 0.01 * n * b**0.3) * noise, batch_size=b, output_tokens=n))


@pytest.fixture(scope="module")
def steps_only():
    """Decode steps over the batch size."""
    b = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    seconds = 1e-2 + 1e-3 * b * (1 + 0.02 * np.random.default_rng(1).standard_normal(b.size))
    return literature(Cells.of("decode", seconds, batch_size=b))


def shown(figure):
    return [panel for panel in figure.axes if panel.get_visible()]


def points(panel):
    """Return x, y and whiskers (low, high) of measured points by their label."""
    found = {}
    for container in panel.containers:
        if isinstance(container, ErrorbarContainer) and not container.get_label().startswith("_"):
            line, _, (bars,) = container
            ends = np.array([segment[:, 1] for segment in bars.get_segments() if segment.ndim == 2])
            found[container.get_label()] = (line.get_xdata(), line.get_ydata(), ends)
    return found


def bands(panel):
    """Return the (low, high) of every band, in the order drawn."""
    found = []
    for collection in panel.collections:
        if type(collection).__name__ == "FillBetweenPolyCollection":
            vertices = np.concatenate([path.vertices for path in collection.get_paths()])
            places = np.unique(vertices[:, 0])
            y = [vertices[vertices[:, 0] == place, 1] for place in places]
            found.append((np.array([v.min() for v in y]), np.array([v.max() for v in y])))
    return found


def title(panel):
    return panel.get_title(loc="left") or panel.get_title()


# What is drawn ------------------------------------------------------------------------------------------------------


def test_figures_of_calibrations_are_listed_beside_those_of_cubes():
    assert calibration_names() == NAMES
    described = {entry.name: entry for entry in names()}
    for name in NAMES:
        assert described[name].shows.endswith(".")
        assert "batchcube calibrate fit MEASUREMENT" in described[name].needs
        assert described[name].presets == ()
        assert described[name].options == ("width_mm",)
    assert len(described) > len(NAMES)


@pytest.mark.parametrize(("name", "ending"), [*zip(NAMES, (".png", ".pdf", ".svg", ".png"), strict=True)])
def test_every_figure_is_drawn_and_saved(name, ending, calibration, tmp_path):
    figure = draw(name, calibration)
    path = save(figure, calibration, tmp_path / f"figure{ending}")
    assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[ending])
    for panel in shown(figure):
        assert panel.get_xlabel() or panel.get_ylabel()
    text = said(figure)
    for part in ("mine", calibration.attrs["title"], "measured by batchcube"):
        assert part in text
    assert min(text.get_fontsize() for text in figure.texts) >= 7
    narrow = draw(name, calibration, width_mm=120)
    assert narrow.get_figwidth() * 25.4 == pytest.approx(120)


def test_the_law_goes_through_measured_batches_with_band_and_scatter(calibration):
    figure = draw("calibration-law", calibration)
    panels = shown(figure)
    assert len(panels) == 2
    for k, panel in enumerate(panels):
        here = calibration.isel(prompt_tokens=k)
        chosen = str(here["chosen"].values)
        law = here.sel(law=chosen)
        assert title(panel) == f"prompt {GRID.prompt_tokens[k]} tokens: h(b) {chosen}"
        for i, b in enumerate(GRID.batch_sizes):
            curve = lines(panel)[f"b = {b}, law"]
            np.testing.assert_array_equal(curve.get_xdata(), calibration["curve_output_tokens"])
            np.testing.assert_array_equal(curve.get_ydata(), law["curve_batch_s"].values[i])
            x, y, ends = points(panel)[f"b = {b}"]
            np.testing.assert_array_equal(x, GRID.output_tokens)
            np.testing.assert_array_equal(y, here["batch_s"].values[i])
            std = here["batch_std_s"].values[i]
            np.testing.assert_allclose(ends, np.stack([y - std, y + std], axis=1))
            low, high = bands(panel)[i]
            middle, half = law["curve_batch_s"].values[i], law["curve_half_width_s"].values[i]
            np.testing.assert_allclose(high, middle + half)
            np.testing.assert_allclose(low, np.maximum(middle - half, 1e-3 * middle))
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert panels[0].get_ylabel() == "time of a batch (s)"
    labels = legend_labels(figure)
    assert labels[:4] == [f"b = {b}" for b in GRID.batch_sizes]
    assert "fitted law" in labels


def test_the_calibration_itself_holds_the_fit(fitted):
    """What the figures are compared with is in turn what the coefficients say."""
    from scipy.stats import t as student

    known, calibration = fitted
    for k, laws in enumerate(known.batch_laws):
        for h, law in laws.laws.items():
            here = calibration.isel(prompt_tokens=k).sel(law=h)
            b, n = calibration["batch_size"].values[:, None], calibration["output_tokens"].values
            factor = {"constant": 1.0 + 0 * b, "linear": 1 + law.gamma * (b - 1), "power": b**law.gamma}
            factor["saturating"] = 1 + law.gamma * (b - 1) / b
            expected = law.a0_s + law.a1_s_per_token * n * factor[h]
            np.testing.assert_allclose(here["fitted_batch_s"], expected)
            assert float(here["leave_one_out_rms"]) == law.quality.leave_one_out_rms
        constant = laws.laws["constant"]
        covariance, n = np.array(constant.covariance), calibration["curve_output_tokens"].values
        error = np.sqrt(covariance[0, 0] + 2 * n * covariance[0, 1] + n**2 * covariance[1, 1])
        half = calibration["curve_half_width_s"].sel(law="constant").isel(prompt_tokens=k).values
        np.testing.assert_allclose(half[0], student.ppf(0.975, constant.degrees_of_freedom) * error)


def test_residuals_are_those_of_every_cell_in_percent(calibration):
    figure = draw("calibration-residuals", calibration)
    panels = {title(panel): panel for panel in shown(figure)}
    chosen = [str(name) for name in calibration["chosen"].values]
    assert list(panels) == [
        f"batches, prompt 16 ({chosen[0]})",
        f"batches, prompt 64 ({chosen[1]})",
        "prefill steps (step law)",
        "decode steps (step law)",
    ]
    scales = set()
    for k, p in enumerate(GRID.prompt_tokens):
        here = calibration.isel(prompt_tokens=k)
        expected = 100 * (here["fitted_batch_s"].sel(law=chosen[k]) / here["batch_s"] - 1).values
        (image,) = panels[f"batches, prompt {p} ({chosen[k]})"].images
        np.testing.assert_allclose(image.get_array(), expected)
        scales.add((image.norm.vmin, image.norm.vmax))
        written = panels[f"batches, prompt {p} ({chosen[k]})"].texts
        assert len(written) == expected.size
        numbers = [float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in written]
        np.testing.assert_allclose(numbers, expected.ravel(), atol=0.0501)
    kind, residual = calibration["step_kind"].values, calibration["fitted_step_s"] / calibration["step_s"] - 1
    for name in ("prefill", "decode"):
        (image,) = panels[f"{name} steps (step law)"].images
        for i, b in enumerate(GRID.batch_sizes):
            for j, p in enumerate(GRID.prompt_tokens):
                mine = (kind == name) & (calibration["step_batch_size"] == b) & (calibration["step_prompt_tokens"] == p)
                assert int(mine.sum()) == (1 if name == "prefill" else 3)
                assert image.get_array()[i, j] == pytest.approx(100 * float(residual[mine.values].mean()))
        scales.add((image.norm.vmin, image.norm.vmax))
    assert len(scales) == 1
    ((low, high),) = scales
    assert low == -high


def test_growth_is_drawn_by_every_law_and_as_measured(calibration):
    figure = draw("calibration-batch-factor", calibration)
    sizes, curve = calibration["batch_size"].values, calibration["curve_batch_size"].values
    for k, panel in enumerate(shown(figure)):
        here = calibration.isel(prompt_tokens=k)
        measured = lines(panel)["measured"]
        np.testing.assert_array_equal(measured.get_xdata(), sizes)
        np.testing.assert_array_equal(measured.get_ydata(), here["slope_ratio"])
        slopes = [np.polyfit(GRID.output_tokens, row, 1)[0] for row in here["batch_s"].values]
        np.testing.assert_allclose(measured.get_ydata(), np.array(slopes) / slopes[0])
        widths = {}
        for name in ("constant", "linear", "saturating", "power"):
            drawn = lines(panel)[name]
            np.testing.assert_array_equal(drawn.get_xdata(), curve)
            np.testing.assert_array_equal(drawn.get_ydata(), here["fitted_slope_ratio"].sel(law=name))
            widths[name] = drawn.get_linewidth()
            error = 100 * float(here["leave_one_out_rms"].sel(law=name))
            assert f"{name} {error:.1f} %" in panel.texts[0].get_text()
        assert max(widths, key=lambda name: widths[name]) == str(here["chosen"].values)
        top = panel.get_ylim()[1]
        assert all(line.get_ydata().max() < top for line in panel.get_lines())
    assert legend_labels(figure) == ["constant", "linear", "saturating", "power", "measured"]


def test_decode_steps_and_throughput(calibration):
    figure = draw("calibration-throughput", calibration)
    step, throughput = shown(figure)
    decode = calibration["step_kind"].values == "decode"
    curve = calibration["curve_batch_size"].values
    for k, p in enumerate(GRID.prompt_tokens):
        mine = decode & (calibration["step_prompt_tokens"].values == p)
        b, seconds = (calibration[f"step_{name}"].values[mine] for name in ("batch_size", "s"))
        assert b.size == 12
        fitted = calibration["fitted_decode_s"].values[k]
        label = f"prompt {p} tokens"
        for panel, y, law in ((step, 1e3 * seconds, 1e3 * fitted), (throughput, b / seconds, curve / fitted)):
            np.testing.assert_array_equal(lines(panel)[label].get_xdata(), b)
            np.testing.assert_allclose(lines(panel)[label].get_ydata(), y)
            np.testing.assert_array_equal(lines(panel)[f"{label}, law"].get_xdata(), curve)
            np.testing.assert_allclose(lines(panel)[f"{label}, law"].get_ydata(), law)
    assert step.get_ylabel() == "decode step τ(b) (ms)"
    assert throughput.get_ylabel() == "b / τ(b) (tokens/s)"
    assert legend_labels(figure) == ["prompt 16 tokens", "prompt 64 tokens"]


# What there is not --------------------------------------------------------------------------------------------------


def test_cells_that_were_not_measured_are_left_blank(tmp_path):
    # Refused: outputs of 24 with prompts of 64, at every batch size; for lack of room: most of batches of 16.
    _, calibration = fit_of(tmp_path, FakeEngine(positions=80, room_tokens=400))
    missing = calibration["batch_s"].isnull().values
    assert missing[1, :, 2].all()
    assert missing.any()
    assert not missing.all()
    residuals = draw("calibration-residuals", calibration)
    for k, panel in enumerate(shown(residuals)[:2]):
        (image,) = panel.images
        np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), missing[k])
        assert len(panel.texts) == (~missing[k]).sum()
    law = draw("calibration-law", calibration)
    for k, panel in enumerate(shown(law)):
        for i, b in enumerate(calibration["batch_size"].values):
            _, y, _ = points(panel)[f"b = {b:g}"]
            np.testing.assert_array_equal(np.isnan(y), missing[k, i])
    growth = draw("calibration-batch-factor", calibration)
    for k, panel in enumerate(shown(growth)):
        # Without two lengths there is no slope.
        blank = (~missing[k]).sum(axis=1) < 2
        measured = lines(panel)["measured"].get_ydata()
        np.testing.assert_array_equal(np.isnan(measured), blank)
    assert any(np.isnan(lines(panel)["measured"].get_ydata()).any() for panel in shown(growth))
    draw("calibration-throughput", calibration)


def test_no_point_is_cut_off_beside_one_that_was_not_measured(calibration):
    cut = calibration.copy(deep=True)
    cut["slope_ratio"][0, 1:3] = [np.nan, 100.0]
    panel = shown(draw("calibration-batch-factor", cut))[0]
    assert 100.0 < panel.get_ylim()[1] < 150.0


def test_whole_batches_alone_have_no_decode_steps(batches_only):
    with pytest.raises(ValueError, match=r"^figure calibration-throughput: the calibration has no decode steps$"):
        draw("calibration-throughput", batches_only)
    (panel,) = shown(draw("calibration-law", batches_only))
    assert title(panel) == f"prompt not known: h(b) {batches_only['chosen'].values[0]}"
    _, _, ends = points(panel)["b = 8"]
    np.testing.assert_array_equal(ends[:, 0], ends[:, 1])  # no scatter is known
    (panel,) = shown(draw("calibration-residuals", batches_only))
    assert title(panel) == f"batches ({batches_only['chosen'].values[0]})"
    (panel,) = shown(draw("calibration-batch-factor", batches_only))
    assert title(panel) == "prompt not known"
    assert "A table; Somebody, 2001" in said(draw("calibration-law", batches_only))


def test_steps_alone_have_no_whole_batches(steps_only):
    for name in ("calibration-law", "calibration-batch-factor"):
        with pytest.raises(ValueError, match=f"^figure {name}: the calibration has no times of whole batches$"):
            draw(name, steps_only)
    # Steps of unknown prompts lie on no grid.
    with pytest.raises(ValueError, match=r"^figure calibration-residuals: the calibration has no grid of cells$"):
        draw("calibration-residuals", steps_only)
    figure = draw("calibration-throughput", steps_only)
    step, _ = shown(figure)
    np.testing.assert_array_equal(lines(step)["prompt not known"].get_xdata(), [1, 2, 4, 8, 16])
    np.testing.assert_allclose(lines(step)["prompt not known, law"].get_ydata(), 1e3 * steps_only["fitted_decode_s"][0])
    assert legend_labels(figure) == []


def test_a_measurement_of_one_output_length_has_steps_alone(tmp_path):
    known, calibration = fit_of(tmp_path, FakeEngine(), GRID._replace(output_tokens=(8,)))
    assert known.batch_laws == []
    panels = {title(panel): panel for panel in shown(draw("calibration-residuals", calibration))}
    assert list(panels) == ["prefill steps (step law)", "decode steps (step law)"]
    (image,) = panels["prefill steps (step law)"].images
    assert image.get_array().shape == (4, 2)
    step, _ = shown(draw("calibration-throughput", calibration))
    decode = calibration["step_kind"].values == "decode"
    measured = lines(step)["prompt not known"]
    np.testing.assert_array_equal(measured.get_xdata(), calibration["step_batch_size"].values[decode])
    np.testing.assert_allclose(measured.get_ydata(), 1e3 * calibration["step_s"].values[decode])
    with pytest.raises(ValueError, match="no times of whole batches"):
        draw("calibration-law", calibration)


def test_options_of_cubes_are_refused(calibration):
    with pytest.raises(ValueError, match=r"^figure calibration-law: no option select; it takes width_mm$"):
        draw("calibration-law", calibration, select={"prompt_tokens": 16})
    with pytest.raises(ValueError, match=r"^figure calibration-law: width_mm = 3: must be a number from 60 to 400$"):
        draw("calibration-law", calibration, width_mm=3)


# From the command line ----------------------------------------------------------------------------------------------


def answer(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, capsys.readouterr().err


def test_the_command_line_draws_a_calibration(calibration, tmp_path, capsys):
    file, picture = write_dataset(calibration, tmp_path / "x.fit.nc"), tmp_path / "x.svg"
    assert answer(capsys, "figure", "calibration-law", file, "width_mm=120", "-o", picture) == (0, "")
    text = picture.read_text()
    assert f"batchcube raw sha256 {calibration.attrs['raw_sha256']}" in text
    assert calibration.attrs["title"].replace("'", "&#x27;") in text or calibration.attrs["title"] in text
    again = tmp_path / "again.svg"
    save(draw("calibration-law", calibration, width_mm=120), calibration, again)
    assert again.read_bytes() == picture.read_bytes()


def test_the_command_line_refuses_a_cube_and_a_calibration_where_a_cube_is_asked_for(
    calibration, make_cube, tmp_path, capsys
):
    cube = write_cube(make_cube(axes=("bins", "rate"), replications=2), tmp_path / "cube.nc")
    file = write_dataset(calibration, tmp_path / "x.fit.nc")
    for name, given, told in (
        ("calibration-law", cube, f"{cube}: is no calibration; batchcube calibrate fit makes one of a measurement"),
        ("throughput-vs-bins", file, f"{file}: is no batchcube cube: it has no dimension replication"),
        (
            "calibration-law",
            tmp_path / "none.nc",
            f"{tmp_path / 'none.nc'}: no such file, must be a calibration (NetCDF)",
        ),
    ):
        status, err = answer(capsys, "figure", name, given, "-o", tmp_path / "x.png")
        assert (status, err) == (2, f"batchcube: {told}\n")
    assert not (tmp_path / "x.png").exists()
    steps = xr.Dataset(attrs=calibration.attrs)
    status, err = answer(capsys, "figure", "calibration-law", write_dataset(steps, file), "-o", tmp_path / "x.png")
    assert (status, err) == (2, "batchcube: figure calibration-law: the calibration has no times of whole batches\n")
