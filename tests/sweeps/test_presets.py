"""The presets that ship: each validates, says what it assumes, runs, and gives the figures that name it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.figures import reading, registry
from batchcube.results.overload import OVERLOADED, STEADY, judge
from batchcube.sweeps import presets
from batchcube.sweeps.run.assemble import coordinate_of
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.settings import CONTROLLED

NAMES = presets.names()
TRACED = ("azure-conversation", "modes-trace")
# What a figure must be told where a preset has more axes than it can draw.
SELECTED: dict[str, dict[str, Any]] = {
    "multi-bin-fig3": {"arrival_rate_per_s": 13.0},
    "multi-bin-fig9": {"servers": 1},
    "modes-poisson": {"arrival_rate_per_s": 3.0},
    "modes-on-off": {"arrival_rate_per_s": 2.0},
    "modes-trace": {"rate_scale": 0.5},
    "continuous-rate": {"arrival_rate_per_s": 14.0},
    "continuous-bins": {"arrival_rate_per_s": 24.0},
}
# Nothing is random in them: one replication says it all.
FIXED = ("dynamic-fig3", "dynamic-table1-fixed")
WHOLE = ("static-vs-dynamic", "latency-vs-rate", "throughput-vs-rate", "tbt-vs-rate")
# Drawn from a search for the capacity, or from sweeps that `reproduce` puts together.
NOT_OF_PRESETS = ("capacity", "gain-map")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Settings that give the presets of recorded data something to read, made up in the same layout."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(1)
    seconds = np.cumsum(rng.exponential(0.18, 2500))
    trace = folder / "trace.csv"
    trace.write_text(
        "arrival_s,prompt_tokens,output_tokens\n"
        + "".join(
            f"{t:.6f},{p},{o}\n"
            for t, p, o in zip(seconds, rng.integers(1, 2000, 2500), rng.integers(1, 600, 2500), strict=True)
        )
    )
    classes = folder / "classes.csv"
    tokens = rng.integers(1, 700, 2500)
    said = np.searchsorted([42, 141, 294, 503], tokens + rng.integers(-60, 60, 2500), side="right")
    classes.write_text(
        "output_token_length,predicted_length\n" + "".join(f"{t},{c}\n" for t, c in zip(tokens, said, strict=True))
    )
    given = {name: [f"workload.trace.path={json.dumps(str(trace))}"] for name in TRACED}
    return {**given, "lmsys-predictor": [f"workload.lengths.path={json.dumps(str(classes))}"]}


@pytest.fixture(scope="module")
def cubes(inputs: dict[str, list[str]]) -> dict[str, xr.Dataset]:
    """Every preset, run small."""
    small = ["workload.requests=2000", "replications=2"]
    return {name: run_sweep(Sweep.from_toml(name, [*inputs.get(name, []), *small]), workers=1) for name in NAMES}


def test_the_experiments_are_there() -> None:
    assert {f"multi-bin-fig{number}" for number in (3, 4, 6, 8, 9, 11)} < set(NAMES)
    assert {"azure-conversation", "modes-poisson", "modes-on-off", "modes-trace", "controller-step"} < set(NAMES)
    assert {"dynamic-sla", "lmsys-predictor", "max-wait", "shortest-first"} < set(NAMES)
    assert {"continuous-rate", "continuous-bins"} < set(NAMES)
    assert {f"dynamic-{name}" for name in ("fig3", "fig4", "table1", "table2", "erratum", "bounds")} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_what_it_is(name: str) -> None:
    sweep, text = Sweep.from_toml(name), presets.read(name).decode()
    assert sweep.name == name
    assert 20 < len(sweep.title) < 100
    assert sweep.description.rstrip().endswith(".")
    assert "  " not in sweep.description
    assert text.startswith("# ")
    assert "ssumed" in text, "a preset says which numbers are assumed"
    assert sweep.replications == 1 if name in FIXED else sweep.replications >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_runs(name: str, cubes: dict[str, xr.Dataset]) -> None:
    cube = cubes[name]
    assert cube.sizes["replication"] == (1 if name in FIXED else 2)
    assert bool((cube["completed"] > 0).all())
    assert bool(np.isfinite(cube["latency_mean_s"]).all())


def test_presets_of_data_files_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHCUBE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="azure-conv-2023"):
        run_sweep(Sweep.from_toml("modes-trace"))
    with pytest.raises(InputError, match="run `batchcube data fetch lmsys-predictions`"):
        run_sweep(Sweep.from_toml("lmsys-predictor"))


def test_the_mode_presets_differ_in_the_workload_only() -> None:
    base = Sweep.from_toml("modes-poisson").document
    for name in ("modes-on-off", "modes-trace"):
        other = Sweep.from_toml(name).document
        assert other["axes"]["mode"] == base["axes"]["mode"]
        assert other["server"] == base["server"]
        assert other["report"] == base["report"]
        assert other["workload"]["predictor"] == base["workload"]["predictor"]


def test_the_sla_of_the_mode_presets_binds_and_static_batches_are_below_it() -> None:
    seen = set()
    for point in Sweep.from_toml("modes-poisson").grid.points:
        law, policy = point.server.service, point.policy
        largest = policy.largest_batch if policy.mode in CONTROLLED else policy.batch_size
        assert law.law == "linear"
        assert largest is not None
        assert point.report.token_sla_s is not None
        over = law.a1_s_per_token * (1 + law.gamma * (largest - 1)) > point.report.token_sla_s
        assert over == (policy.mode in CONTROLLED)
        seen.add(policy.mode)
    assert len(seen) == 5


def test_the_step_presets_heuristic_sticks_above_the_feasible_batch() -> None:
    sweep = Sweep.from_toml("controller-step", ["replications=6"])
    cube = run_sweep(sweep, workers=1)
    width = float(cube["window_width_s"].values.ravel()[0])
    middle = (np.arange(cube.sizes["window"]) + 0.5) * width
    signal = cube["window_signal_mean_s"].isel(window=np.flatnonzero((middle > 1400) & (middle < 1600)))
    settled = signal.mean(["window", "replication"])
    assert float(settled.sel(sla_variant="paper")) < 0.026
    assert float(settled.sel(sla_variant="heuristic")) > 0.026


def test_the_caps_of_the_continuous_preset_do_what_they_are_for() -> None:
    cube = run_sweep(Sweep.from_toml("continuous-rate", ["replications=4"]))
    mean = cube.mean("replication")
    # Fig. 4 of arXiv 2503.05248: 44.0 and 51.1 ms with a static cap.
    tpot = mean["tpot_mean_s"].sel(cap="static", arrival_rate_per_s=[4.0, 5.4])
    np.testing.assert_allclose(tpot, [0.0440, 0.0511], rtol=0.03)
    busiest = mean.isel(arrival_rate_per_s=-1)
    assert busiest["preemptions"].sel(cap="memory") < 0.5 * busiest["preemptions"].sel(cap="static")
    assert busiest["throughput_tokens_per_s"].sel(cap="memory") > busiest["throughput_tokens_per_s"].sel(cap="static")
    # A decode step of 50 ms has 91 requests.
    for cap in ("sla", "memory and sla"):
        assert 75 < busiest["batch_size_mean"].sel(cap=cap) < 95
        assert busiest["preemptions"].sel(cap=cap) == 0
    # Where nothing binds, the caps are of no account.
    assert (
        cube["latency_mean_s"].isel(arrival_rate_per_s=0) == cube["latency_mean_s"].isel(arrival_rate_per_s=0, cap=0)
    ).all()


def test_routing_by_bins_of_equal_mass_overloads_the_replica_of_the_longest() -> None:
    cube = run_sweep(Sweep.from_toml("continuous-bins", ["replications=4"]))
    light = cube.isel(arrival_rate_per_s=0)
    shares = light["bin_requests"].mean("replication") / 10_000
    np.testing.assert_allclose(shares.sel(scheduler="replica by bin, equal mass"), 0.25, atol=0.03)
    assert shares.sel(scheduler="replica by bin, equal tokens").values[0] > 0.5
    queue = judge(light)
    assert queue.sel(scheduler="replica by bin, equal mass") == OVERLOADED
    assert queue.sel(scheduler="replica by bin, equal tokens") == STEADY
    shortest, turn = (cube["latency_mean_s"].sel(scheduler=name) for name in ("shortest queue", "round robin"))
    assert (shortest.mean("replication") < turn.mean("replication")).all()


# Figures ------------------------------------------------------------------------------------------------------------

NAMED = [(figure.name, preset) for figure in registry.names() for preset in figure.presets]


@pytest.mark.parametrize(("figure", "preset"), NAMED)
def test_a_figure_draws_the_presets_it_names(figure: str, preset: str, cubes: dict[str, xr.Dataset]) -> None:
    select = SELECTED.get(preset)
    if (figure in WHOLE and preset != "multi-bin-fig9") or (figure, preset) == ("latency-vs-rate", "multi-bin-fig9"):
        select = None
    drawn = registry.draw(figure, cubes[preset], select=select)
    lines = [line for axes in drawn.axes for line in axes.lines]
    assert any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in lines)


def test_every_figure_names_a_preset() -> None:
    # Those of calibrations and validations are drawn from no cube.
    others = [*registry.calibration_names(), "simulated-vs-measured", *NOT_OF_PRESETS]
    made = [figure for figure in registry.names() if figure.name not in others]
    assert len(made) == 19
    assert all(figure.presets for figure in made)
    assert {preset for figure in registry.names() for preset in figure.presets} <= set(NAMES)


def test_a_mode_keeps_its_colour_with_every_number_of_bins(cubes: dict[str, xr.Dataset]) -> None:
    drawn = registry.draw("latency-vs-rate", cubes["azure-conversation"])
    looks = {
        str(line.get_label()): (str(line.get_color()), str(line.get_marker()))
        for line in drawn.axes[0].lines
        if not str(line.get_label()).endswith((", overloaded", ", cannot tell"))
    }
    assert len(looks) == 9
    for mode in ("multi_bin_only", "multi_bin_dynamic"):
        several = [looks[f"{mode} {bins} bins"] for bins in (2, 4, 8)]
        assert len({colour for colour, _ in several}) == 1
        assert len({marker for _, marker in several}) == 3
    assert len({colour for colour, _ in looks.values()}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_titles_of_axes_are_not_cut_short(name):
    sweep = Sweep.from_toml(name)
    for axis in (coordinate_of(axis, sweep) for axis in sweep.grid.axes):
        about = {"path": axis.path, "units": axis.units, "long_name": axis.long_name}
        [drawn] = reading._axes(xr.Dataset(coords={axis.name: (axis.name, axis.values, about)}))
        assert drawn.title == drawn.title.rstrip("\N{HORIZONTAL ELLIPSIS}")
