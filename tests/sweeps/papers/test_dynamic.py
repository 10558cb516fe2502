"""`batchcube reproduce dynamic`: what was printed is compared with what was simulated, and said plainly."""

import io
import re
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.errors import InputError
from batchcube.figures import registry
from batchcube.results.build import Coordinate, build_cube
from batchcube.results.claims import Row, Verdict
from batchcube.results.cube import read_cube
from batchcube.results.provenance import MadeBy, provenance
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.papers import dynamic as reproduce_dynamic
from batchcube.sweeps.papers.dynamic import (
    _beside,
    _Gain,
    _Over,
    _reached,
    _said_of_table_1,
    _said_of_table_2,
    _static_and_dynamic,
)
from batchcube.sweeps.papers.reproduction import Interval, Reproduction
from batchcube.sweeps.progress import Silent
from helpers.comparisons import check_origins, check_screen, table
from helpers.cubes import check_cube

# Eight settings of Algorithm 2, not 120, of which the same is told.
FEW = ["axes.delta.values=[1, 4]", "axes.tolerance_s.values=[0.0005, 0.002]", "axes.weight.values=[0.02, 0.2]"]


@pytest.fixture(scope="module", autouse=True)
def few_settings() -> Iterator[None]:
    plain = Reproduction._sweep

    def fewer(self: Reproduction, preset: str, overrides: Any, **more: Any) -> Any:
        return plain(self, preset, [*overrides, *(FEW if preset == "dynamic-table2-settings" else [])], **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reproduction, "_sweep", fewer)
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Path]]:
    """The folder, what was printed, and the figures drawn; saving them all would take most of the time."""
    folder = tmp_path_factory.mktemp("reproduce") / "dynamic"
    out = io.StringIO()
    drawn: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "save", lambda figure, cube, file: drawn.append(file))
        with pytest.raises(SystemExit) as left, redirect_stdout(out):
            main(["reproduce", "dynamic", "-o", str(folder), "--quick", "--quiet"])
    assert left.value.code == 0
    return folder, out.getvalue(), drawn


@pytest.fixture(scope="module")
def folder(told: tuple[Path, str, list[Path]]) -> Path:
    return told[0]


def test_everything_is_written(told: tuple[Path, str, list[Path]]) -> None:
    folder, _, drawn = told
    assert {file.parent for file in drawn} == {folder}
    figures = {file.stem for file in drawn if file.suffix == ".png"}
    assert figures == {file.stem for file in drawn if file.suffix == ".pdf"}
    table_1 = {f"dynamic-table1-{row}" for row in ("llama-65b", "llama3-70b-454-out", "llama3-70b-382-out", "fixed")}
    rows = ("llama-65b", "llama3-70b", "llama3-70b-pd-fusion")
    table_2 = {f"dynamic-table2-{row}-growth-{growth}" for row in rows for growth in (2, 20)}
    others = {f"dynamic-{name}" for name in ("fig3", "fig4", "table2", "erratum", "bounds")}
    assert figures == table_1 | table_2 | others
    for file in folder.glob("*.nc"):
        check_cube(read_cube(file), file.name)
    assert {row["experiment"] for row in table(folder)} == {
        "Fig. 3",
        "Table I",
        "Table II",
        "Fig. 4",
        "Algorithm 1",
        "Algorithm 2",
    }


def test_every_row_of_the_paper_is_there_with_its_assumptions(folder: Path) -> None:
    rows = table(folder)
    gains = [row for row in rows if row["experiment"] == "Table I" and row["quantity"] == "gain (%)"]
    # Two for each of six rows: at the stated settings, and over the range.
    assert len(gains) == 12
    printed = [float(row["paper"]) for row in gains[::2]]
    np.testing.assert_allclose(printed, [8.2, 6.5, 12.2, 28.2, 16.0, 8.0], atol=0.05)
    assert "printed 26 %, its own columns give 16.0 %" in gains[8]["note"]
    assert all("static cap 256, KV cache of 120,000 tokens" in row["note"] for row in gains[::2])
    capacities = [row for row in rows if row["experiment"] == "Table II" and row["quantity"].startswith("capacity")]
    assert [row["paper"] for row in capacities] == ["3", "3.3", "", "5.4", "6.6", "", "3", "3.8", ""]
    # With a tenth of the requests, the backlog of a steady run wavers by more than 2 % of the arrivals.
    assert all(0.3 < float(row["simulated"]) / float(row["paper"]) < 1.3 for row in capacities[::3])
    over = [row for row in rows if row["experiment"] == "Table II" and ", growth " in row["setting"]]
    assert [row["setting"].rpartition("growth ")[2] for row in over] == ["2 %", "20 %"] * 3
    # Only a steady state is a claim.
    assert [bool(row["agrees"]) for row in over] == [True, False] * 3
    assert all(float(row["ci_low"]) <= float(row["simulated"]) <= float(row["ci_high"]) for row in over)
    tokens = [row for row in rows if row["experiment"] == "Table II" and row["quantity"] == "tokens/s"]
    assert [row["paper"] for row in tokens] == ["1190", "1223", "331", "405", "1322", "1665"]
    assert ", 3.3/s" in tokens[1]["setting"]


def test_every_verdict_has_two_sides_and_is_counted(told: tuple[Path, str, list[Path]]) -> None:
    rows = table(told[0])
    for row in rows:
        others = [row[name] for name in ("paper", "theory", "limit") if row[name]]
        assert (row["simulated"] and others) or row["agrees"] in ("", "cannot tell"), row
    (counted,) = re.findall(r"^\d+ rows: .*", told[1], re.MULTILINE)
    total, *counts = map(int, re.findall(r"\d+", counted))
    assert total == sum(counts) == len(rows)
    # With so few requests an interval holds the printed dynamic capacity, and no gain just as well.
    capacities = [row for row in rows if row["quantity"].startswith("capacity") and row["agrees"]]
    for row in capacities:
        wide = float(row["ci_high"]) - float(row["ci_low"]) > float(row["paper"])
        assert row["agrees"] in (("cannot tell", "no") if wide else ("yes", "no"))


def test_every_row_names_a_cube_its_points_and_a_command(told: tuple[Path, str, list[Path]]) -> None:
    check_origins(table(told[0]))
    check_screen(told[1])


def test_every_row_says_what_was_assumed(folder: Path) -> None:
    assert all("assumed: " in row["note"] for row in table(folder) if row["experiment"] != "Fig. 3")


def test_the_line_of_figure_3_is_met_exactly(folder: Path) -> None:
    cube = read_cube(folder / "dynamic-fig3.nc")
    full = cube.isel(replication=0)
    np.testing.assert_allclose(full["tbt_min_s"], 0.030 + 0.00022 * full["largest_batch"], rtol=1e-12)
    rows = [row for row in table(folder) if row["experiment"] == "Fig. 3" and row["quantity"] == "tokens/s"]
    assert [row["agrees"] for row in rows] == ["yes"] * 10 + [""]


def test_nothing_random_has_no_interval(folder: Path) -> None:
    assert read_cube(folder / "dynamic-table1-fixed.nc").sizes["replication"] == 1
    fixed = [row for row in table(folder) if row["setting"].startswith("PanGu") and "as stated" in row["setting"]]
    assert fixed
    assert {row["ci_low"] for row in fixed} == {""}


def test_the_errata_show(folder: Path) -> None:
    rows = {(row["setting"], row["quantity"]): row for row in table(folder) if row["experiment"] == "Algorithm 1"}
    share = "batches over capacity (share)"
    assert rows["literal", share]["agrees"] == "no"
    assert float(rows["literal", share]["simulated"]) > 0.9
    assert float(rows["exact", share]["simulated"]) < 0.2
    bounds = [float(row["simulated"]) for row in table(folder) if row["experiment"] == "Algorithm 2"]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] <= 248


def test_searches_that_are_there_are_used_again(folder: Path) -> None:
    searched = [folder / f"dynamic-table2{more}.nc" for more in ("", "-growth-20")]
    before = [file.stat().st_mtime_ns for file in searched]
    text = io.StringIO()
    options = {"quick": True, "progress": lambda: nullcontext(Silent())}
    to = Reproduction(folder, Console(file=text), **options)  # type: ignore[arg-type]
    to.capacity("dynamic-table2", ["tbt_mean_ms=50"], growth=0.02)
    to.capacity("dynamic-table2-settings", ["tbt_mean_ms=50"], growth=0.2, name="dynamic-table2-growth-20")
    assert [file.stat().st_mtime_ns for file in searched] == before
    with pytest.raises(InputError, match=r"dynamic-table2.nc: holds another search; choose another output, or"):
        to.capacity("dynamic-table2", ["tbt_mean_ms=60"], growth=0.02)
    with pytest.raises(InputError, match=r"dynamic-table2.nc: holds another search; choose another output, or"):
        to.capacity("dynamic-table2", ["tbt_mean_ms=50"], growth=0.1)


def test_jax_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "dynamic", "-o", str(tmp_path / "d"), "--quick", "--quiet", "--backend", "jax"])
    assert left.value.code == 2
    assert "numba" in capsys.readouterr().err.strip().splitlines()[-1]


# Gains over a grid --------------------------------------------------------------------------------------------------


def capped() -> xr.Dataset:
    """Return a cube of throughput over caps (100, 200, dynamic) and memory (1, 2): gains of 20 and -5, 50 and 10 %."""
    values = np.array([[1000.0, 1000.0], [1200.0 / 0.95, 1500.0 / 1.1], [1200.0, 1500.0]])
    values[1] = 1200.0 / 0.95, 1500.0 / 1.1
    attrs = provenance(
        title="t",
        specification="{}",
        defaults={},
        seed=1,
        replications=2,
        made_by=[MadeBy("numba", "cpu", "")],
        input_sha256="",
        notes=[],
    )
    axes = [
        Coordinate("cap", ["100", "200", "dynamic"], "policy.largest_batch,policy.memory"),
        Coordinate("kv_capacity_tokens", [1, 2], "server.replica.kv_capacity_tokens"),
    ]
    both = np.repeat(values[:, :, None], 2, axis=2)
    return build_cube(axes, {"throughput_tokens_per_s": both}, replications=2, attrs=attrs)


def test_static_caps_become_numbers_beside_the_dynamic_one() -> None:
    cube = _static_and_dynamic(capped())
    check_cube(cube, "cube")
    tokens = cube["throughput_tokens_per_s"]
    assert tokens.dims == ("cap", "static_cap", "kv_capacity_tokens", "replication")
    assert cube["static_cap"].values.tolist() == [100, 200]
    np.testing.assert_array_equal(tokens.sel(cap="static", static_cap=100), 1000.0)
    np.testing.assert_array_equal(tokens.sel(cap="dynamic").isel(replication=0), [[1200, 1500], [1200, 1500]])


def test_axes_of_either_side_are_kept() -> None:
    cube = capped().isel(kv_capacity_tokens=0, drop=True)
    more = capped().sel(cap="dynamic", drop=True)
    joined = _beside(cube.sel(cap="100", drop=True), more)
    assert joined["throughput_tokens_per_s"].dims == ("cap", "kv_capacity_tokens", "replication")
    np.testing.assert_array_equal(joined["throughput_tokens_per_s"].sel(cap="static"), 1000.0)


@pytest.mark.parametrize(
    ("target", "places", "nearest"),
    [
        (8.0, ["KV 1 at caps 100-200"], 10.0),
        (30.0, ["KV 2 at caps 100-200"], 20.0),
        (15.0, ["KV 1 at caps 100-200", "KV 2 at caps 100-200"], 10.0),
        (90.0, [], 50.0),
    ],
)
def test_where_a_gain_is_reached(target: float, places: list[str], nearest: float) -> None:
    found = _reached(_static_and_dynamic(capped()), target)
    assert found.places == places
    assert found.nearest == pytest.approx(nearest)
    assert (found.least, found.most) == pytest.approx((-5.0, 50.0))
    assert found.row("M", target).agrees == "", "a grid that wide proves nothing"


def test_a_row_is_reproduced_in_range_or_not() -> None:
    printed = _Gain("M", "", 100.0, 115.0, 15.0)
    grid = _static_and_dynamic(capped())
    inside, outside = Interval(14.0, 13.0, 16.0), Interval(2.0, 1.0, 3.0)
    reached, beyond = _reached(grid, 15.0), _reached(grid, 90.0)
    assert _said_of_table_1(printed, inside, "yes", reached).startswith("M: reproduced, 15.0 % printed, 14.0 % [13.0")
    assert _said_of_table_1(printed, outside, "no", reached).startswith("M: reproduced in range, 15.0 % printed, 2.0 %")
    assert _said_of_table_1(printed, outside, "no", beyond).startswith("M: not reproduced, 15.0 % printed, 2.0 %")


@pytest.mark.parametrize(
    ("verdict", "inside", "reached", "says"),
    [
        ("yes", 0, "no", "R: reproduced; printed 3 -> 3.3"),
        ("no", 3, "yes", "R: reproduced in range; printed 3 -> 3.3"),
        ("no", 0, "no", "R: not reproduced; printed 3 -> 3.3"),
        ("no", 3, "cannot tell", "R: not reproduced; printed 3 -> 3.3"),
        ("cannot tell", 0, "cannot tell", "R: cannot be told; printed 3 -> 3.3"),
    ],
)
def test_a_capacity_is_reproduced_in_steady_state_or_not(
    verdict: Verdict, inside: int, reached: Verdict, says: str
) -> None:
    best = Row("", "", "", 10.0, simulated=12.0, agrees=reached)
    over = [_Over(0.02, inside, best), _Over(0.2, 5, Row("", "", "", simulated=30.0))]
    rates = reproduce_dynamic._Rates("R", 3.0, 3.3, (1.0, 1.0))
    found = _said_of_table_2(rates, Interval(3.0, 2.9, 3.1), Interval(3.2, 3.1, 3.3), verdict, over)
    assert found.startswith(says)
    assert f"+12.0 % in steady state, what is printed at {inside} of them; +30.0 % where" in found


def test_printed_gains_are_those_of_the_printed_columns() -> None:
    rounding = {row.row: row.gains for row in reproduce_dynamic._TABLE_2}
    assert rounding["LLaMA3-70B"] == pytest.approx((6.55 / 5.45 * 100 - 100, 6.65 / 5.35 * 100 - 100))
