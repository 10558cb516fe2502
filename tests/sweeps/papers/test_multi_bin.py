"""`batchcube reproduce`: verdicts follow from numbers, files are complete, and what is missing is said in one line."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.errors import InputError
from batchcube.figures import registry
from batchcube.results.claims import COLUMNS, Origin, Row
from batchcube.results.cube import read_cube
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.papers import modes as reproduce_modes
from batchcube.sweeps.papers.reproduction import (
    Drawing,
    Found,
    Interval,
    Reproduction,
    in_words,
    mean_of,
    ratio_of,
    simultaneous,
)
from batchcube.sweeps.progress import Silent
from helpers.comparisons import Table, check_origins, check_screen, table


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["reproduce", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


def reproduction(folder: Path, **options: object) -> tuple[Reproduction, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=80)
    options = {"command": "batchcube reproduce it", "progress": lambda: nullcontext(Silent()), **options}
    return Reproduction(folder, console, **options), text  # type: ignore[arg-type]


def test_rows_of_times_say_whom_they_leave_out(tmp_path: Path) -> None:
    to, text = reproduction(tmp_path, quick=True, replications=2, quick_requests=10_000, workers=1)
    # Batches are of 128: of 400 requests many stay in bins that are never full.
    to.run("multi-bin-fig3")
    rows = [
        Row("multi-bin-fig3", "all", name, simulated=1.0, note="first", origin=Origin(variable))
        for name, variable in (("p99", "latency_quantile_s[0.99]"), ("throughput", "throughput_requests_per_s"))
    ]
    to.tell("Times", Found(rows, []))
    told = "of the requests were never served: times and their quantiles are of what was served"
    assert " ".join(text.getvalue().split()).count(f"% {told}") == 1
    to.write()
    of_time, of_rate = table(tmp_path)
    assert of_time["note"].endswith(told)
    assert of_time["note"].startswith("quick run, reduced size; first; ")
    assert of_rate["note"] == "quick run, reduced size; first"


# Verdicts -----------------------------------------------------------------------------------------------------------


def test_simultaneous_intervals_are_those_of_bonferroni() -> None:
    assert simultaneous(1) == pytest.approx(0.95)
    assert simultaneous(5) == pytest.approx(0.99)
    values = np.array([1.0, 2.0, 4.0, 7.0])
    one, five = mean_of(values), mean_of(values, 5)
    assert one.mean == five.mean == 3.5
    # Student's t with 3 degrees of freedom: 3.1824 and 5.8409.
    assert (five.high - five.mean) / (one.high - one.mean) == pytest.approx(5.8409 / 3.1824, rel=1e-4)


def test_an_interval_holds_a_value_or_does_not() -> None:
    interval = Interval(4.0, 3.0, 5.0)
    assert [interval.holds(x) for x in (2.9, 3.0, 5.0, 5.1)] == ["no", "yes", "yes", "no"]
    assert [interval.above(x) for x in (2.9, 4.0, 5.1)] == ["yes", "cannot tell", "no"]
    assert [interval.at_most(x) for x in (2.9, 4.0, 5.0)] == ["no", "cannot tell", "yes"]
    assert mean_of([2.0]).holds(2.0) == "cannot tell", "one replication has no interval"
    assert interval.holds(np.nan) == interval.at_most(np.nan) == "cannot tell"


def test_an_interval_wider_than_the_value_it_holds_says_nothing() -> None:
    wide = Interval(2.0, -1.0, 5.0)
    assert [wide.holds(x) for x in (-2.0, 3.0, 0.0, 5.5)] == ["no", "cannot tell", "yes", "no"]


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({}, "cannot tell"),
        ({"simulated": 1.0}, "cannot tell"),
        ({"theory": 1.0}, "cannot tell"),
        ({"paper": 1.0, "limit": 1.0}, "cannot tell"),
        ({"simulated": 1.0, "paper": 1.0}, "yes"),
        ({"simulated": 1.0, "theory": 1.0}, "yes"),
        ({"simulated": 1.0, "limit": 0.0}, "yes"),
        ({"paper": 1.0, "theory": 1.0}, "yes"),
    ],
)
def test_a_verdict_needs_both_sides(numbers: dict[str, float], verdict: str) -> None:
    assert Row("e", "s", "q", agrees="yes", **numbers).agrees == verdict  # type: ignore[arg-type]
    assert Row("e", "s", "q", **numbers).agrees == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "larger", "smaller"),
    [
        (0.5, 1.5, "yes", "no"),
        (-1.5, -0.5, "no", "yes"),
        (-0.05, 0.05, "equal", "equal"),
        (0.02, 0.09, "equal", "equal"),
        (-0.5, 0.5, "cannot tell", "cannot tell"),
        (np.nan, np.nan, "cannot tell", "cannot tell"),
    ],
)
def test_a_difference_is_judged_by_its_interval(low: float, high: float, larger: str, smaller: str) -> None:
    gap = Interval((low + high) / 2, low, high)
    assert reproduce_modes.judge(gap, 0.1, larger_is_better=True) == larger
    assert reproduce_modes.judge(gap, 0.1, larger_is_better=False) == smaller


def test_ratios_are_paired() -> None:
    base = np.array([10.0, 11.0, 12.0])
    found = ratio_of(2 * base, base)
    assert found == pytest.approx((2.0, 2.0, 2.0))


def test_counts_are_put_in_words() -> None:
    assert in_words(["yes", "yes"], "rows") == "both rows"
    assert in_words(["yes"] * 3, "rows") == "all 3 rows"
    assert in_words(["yes", "no"], "rows") == "1 of 2 rows"
    assert in_words(["yes", "no", "cannot tell"], "rows") == "1 of 3 rows (1 cannot be told)"
    assert in_words([], "rows") == "0 of 0 rows"


def check_verdicts(rows: Table, text: str) -> None:
    """Check that no verdict lacks a side, and that the counts that are printed sum to the number of rows."""
    for row in rows:
        sides = [row[name] for name in ("paper", "theory", "limit") if row[name]]
        found = bool(row["simulated"] and sides) or bool(row["paper"] and row["theory"])
        assert found or row["agrees"] in ("", "cannot tell"), row
        # An interval that holds nearly anything agrees with nothing.
        if row["agrees"] == "yes" and row["ci_low"] and row["ci_high"] and row["paper"] and "inside" in row["note"]:
            assert float(row["ci_high"]) - float(row["ci_low"]) <= float(row["paper"])
    counted = [line for line in text.splitlines() if re.fullmatch(r"\d+ rows: .*", line)]
    assert len(counted) == 1
    total, *counts = map(int, re.findall(r"\d+", counted[0]))
    assert total == sum(counts) == len(rows)


# multi-bin ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder, and what was printed."""
    folder = tmp_path_factory.mktemp("reproduce") / "a" / "multi-bin"
    out = io.StringIO()
    with pytest.raises(SystemExit) as left, redirect_stdout(out):
        main(["reproduce", "multi-bin", "-o", str(folder), "--quick", "--quiet"])
    assert left.value.code == 0
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def multi_bin(told: tuple[Path, str]) -> Path:
    return told[0]


def test_every_verdict_of_multi_bin_has_two_sides_and_is_counted(told: tuple[Path, str]) -> None:
    folder, text = told
    rows = table(folder)
    check_verdicts(rows, text)
    check_origins(rows)
    check_screen(text)
    claims = re.findall(r"where theory says for (both|all \d+|\d+ of \d+) curves", " ".join(text.split()))
    assert len(claims) == 2
    for experiment, claim in zip(("fig4", "fig9"), claims, strict=True):
        one = [row for row in rows if row["experiment"] == experiment and row["setting"].endswith("one server")]
        known = sum(bool(row["simulated"] and row["theory"]) for row in one)
        assert (2 if claim == "both" else int(re.findall(r"\d+", claim)[0])) <= known


def test_multi_bin_writes_cubes_figures_and_the_comparison(multi_bin: Path) -> None:
    figures = {file.stem for file in multi_bin.glob("*.png")}
    assert figures == {file.stem for file in multi_bin.glob("*.pdf")}
    assert {name.partition("-")[0] for name in figures} == {"fig3", "fig4", "fig6", "fig8", "fig9a", "fig9b", "fig11"}
    cubes = {file.stem for file in multi_bin.glob("*.nc")}
    assert cubes == {f"multi-bin-fig{n}" for n in (3, 4, 6, 8, 9, 11)} | {"multi-bin-fig11-endless"}
    assert not list(multi_bin.glob("*part*"))
    rows = table(multi_bin)
    assert tuple(rows[0]) == COLUMNS
    assert {row["experiment"] for row in rows} == {"fig3", "fig4", "fig6", "fig8", "fig9", "fig11"}
    assert {row["agrees"] for row in rows} <= {"", "yes", "no", "cannot tell"}


def test_a_quick_run_is_labelled_everywhere(multi_bin: Path) -> None:
    assert all(row["note"].startswith("quick run") for row in table(multi_bin))
    for file in multi_bin.glob("*.nc"):
        assert "quick run" in read_cube(file).attrs["title"]


def test_theorem_4_2_lies_in_its_intervals(multi_bin: Path) -> None:
    rows = [row for row in table(multi_bin) if row["experiment"] == "fig3" and row["theory"] and row["simulated"]]
    assert [float(row["theory"]) for row in rows] == pytest.approx([6.447, 8.434, 9.400, 9.970, 10.347], abs=6e-4)
    for row in rows:
        assert row["paper"] == ""
        assert row["agrees"] == "yes"
        assert float(row["ci_low"]) <= float(row["theory"]) <= float(row["ci_high"])
        assert "Bonferroni: each 99 %" in row["note"]


def test_what_differs_from_the_paper_is_shown(multi_bin: Path) -> None:
    rows = {(row["experiment"], row["setting"]): row for row in table(multi_bin)}
    limit = rows["fig3", "ever more bins"]
    assert (limit["paper"], limit["agrees"]) == ("12.3", "no")
    assert float(limit["theory"]) == pytest.approx(128 / 10.5, rel=1e-5)
    assert "erratum" in limit["note"]
    oracle = rows["fig11", "oracle, k = 4 against 1"]
    assert (oracle["paper"], oracle["agrees"]) == ("1.45", "no")
    assert float(oracle["ci_low"]) > 1.45
    endless = rows["fig11", "predicted, k = 4 against 1, endless"]
    assert float(endless["theory"]) == pytest.approx(1.267, abs=1e-3)
    assert endless["paper"] == ""


def test_figures_8_and_9_hold(multi_bin: Path) -> None:
    rows = table(multi_bin)
    gains = {row["setting"]: row for row in rows if row["quantity"].startswith("gain over no binning")}
    assert len(gains) == 33
    assert "no" not in {row["agrees"] for row in gains.values()}
    assert gains["k = 2, p_e = 0.5"]["theory"] == "0"
    assert gains["k = 8, p_e = 0.5"]["agrees"] == "yes"
    bounds = [row for row in rows if "lower bound" in row["quantity"]]
    assert [float(row["theory"]) for row in bounds] == pytest.approx([3.402, 7.217, 9.904, 11.746], abs=6e-4)
    assert "no" not in {row["agrees"] for row in bounds}


def test_the_ratios_of_figure_6_are_the_papers(multi_bin: Path) -> None:
    rows = [row for row in table(multi_bin) if row["quantity"].startswith("ratio of saturation") and row["paper"]]
    assert [float(row["paper"]) for row in rows] == pytest.approx([1.210, 1.405, 1.553, 1.668, 1.746], abs=6e-4)
    for row in rows:
        assert float(row["simulated"]) == pytest.approx(float(row["paper"]), rel=0.03)


# modes --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trace") / "it's a trace.csv"
    rng = np.random.default_rng(2)
    seconds = np.cumsum(rng.exponential(0.18, 1500))
    rows = zip(seconds, rng.integers(1, 2000, 1500), rng.integers(1, 600, 1500), strict=True)
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t:.6f},{p},{o}\n" for t, p, o in rows))
    return file


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory, trace: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """The folder, what was printed, and the figures drawn; saving them all would take most of the time."""
    folder = tmp_path_factory.mktemp("modes")
    drawn: list[str] = []

    def draw(self: Reproduction, cube: xr.Dataset, drawings: Iterable[Drawing]) -> None:
        for name, file, options in drawings:
            registry.draw(name, cube, **options)
            drawn.append(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reproduction, "draw", draw)
        to, text = reproduction(folder, quick=True, workers=1)
        reproduce_modes.reproduce_modes(to, str(trace))
        yield folder, text.getvalue(), drawn


def test_modes_compares_on_three_workloads(modes: tuple[Path, str, list[str]]) -> None:
    folder, _, drawn = modes
    assert {file.stem for file in folder.glob("*.nc")} == {
        "modes-poisson",
        "modes-on-off",
        "modes-trace",
        "controller-step",
    }
    assert len(drawn) == len(set(drawn)) == 16
    rows = table(folder)
    assert tuple(rows[0]) == COLUMNS
    paired = [row for row in rows if " minus " in row["setting"]]
    # 5 pairs (one of dynamic against static is among those of the combination against all) and 4 quantities.
    assert len(paired) == (8 + 8 + 9) * 5 * 4
    assert {row["agrees"] for row in paired} <= {"yes", "no", "equal", "cannot tell"}
    assert {"yes", "no", "equal"} <= {row["agrees"] for row in paired}


def test_verdicts_of_modes_follow_from_their_intervals(modes: tuple[Path, str, list[str]]) -> None:
    for row in table(modes[0]):
        if " minus " not in row["setting"] or row["agrees"] not in ("yes", "no"):
            continue
        low, high = float(row["ci_low"]), float(row["ci_high"])
        larger_is_better = row["quantity"].startswith("throughput")
        assert (low > 0) or (high < 0)
        assert (row["agrees"] == "yes") == ((low > 0) == larger_is_better)


def test_modes_says_where_the_claim_holds_and_where_not(modes: tuple[Path, str, list[str]]) -> None:
    text = " ".join(modes[1].split())
    for name in ("Poisson", "on/off", "trace"):
        for piece in ("dynamic_only beats fifo_fixed", "multi_bin_dynamic beats multi_bin_only"):
            assert f"({piece}), {name}: " in text
        assert f"(multi_bin_dynamic beats all others, on all of it), {name}: " in text
    assert "fails at" in text
    assert "paper: with the queue full the signal settles at" in text
    assert "quick run" in text
    # The highest rates overload somebody: what holds there against all others is marked so.
    best = re.findall(r"the combination is best \(.*?\), \S+: (.*?)\. A claim holds", text)
    assert len(best) == 3
    assert all("*" in said for said in best)
    tables = re.findall(r"^multi_bin_dynamic against all others\n((?:  .*\n){4})", modes[1], re.MULTILINE)
    against_all = [line for table in tables for line in table.splitlines()]
    assert len(against_all) == 3 * 4
    assert all(line.rstrip().endswith(("*", "(*)")) for line in against_all)


def test_every_verdict_of_modes_has_two_sides_and_is_counted(modes: tuple[Path, str, list[str]]) -> None:
    check_verdicts(table(modes[0]), modes[1])
    check_origins(table(modes[0]))
    check_screen(modes[1])


def test_modes_say_that_static_batches_cannot_break_the_token_sla(modes: tuple[Path, str, list[str]]) -> None:
    assert " ".join(modes[1].split()).count("Static batches never break the SLA between tokens here") == 3


def test_without_a_trace_one_line_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHCUBE_DATA", str(tmp_path / "empty"))
    to, text = reproduction(tmp_path)
    assert reproduce_modes.trace_setting(to, None) is None
    assert "batchcube data fetch azure-conv-2023" in " ".join(text.getvalue().split())
    assert "--trace FILE" in " ".join(text.getvalue().split())


def test_a_trace_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said_by(capsys, "modes", "-o", str(tmp_path / "out"), "--trace", "nowhere.csv")
    assert (status, err) == (2, "batchcube: --trace nowhere.csv: no such file\n")
    assert not (tmp_path / "out").exists()


def test_a_trace_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "zero.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,0\n")
    status, _, err = said_by(capsys, "modes", "-o", str(tmp_path / "out"), "--trace", str(trace))
    assert status == 2
    assert err.startswith(f"batchcube: modes-trace: {trace}: row 2, column 'output_tokens': 0: must be")
    assert err.count("\n") == 1
    assert "(at " not in err
    assert not (tmp_path / "out").exists()


# The folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name, why in (
        ("file", "file: is a file, must be a folder"),
        ("file/below", "below: cannot be written: Not a dir"),
    ):
        status, _, err = said_by(capsys, "multi-bin", "-o", str(tmp_path / name), "--quick")
        assert status == 2
        assert err.count("\n") == 1
        assert why in err


def test_a_complete_cube_is_used_again(tmp_path: Path) -> None:
    to, _ = reproduction(tmp_path, quick=True, workers=1)
    _, first = to.run("multi-bin-fig11")
    written = (tmp_path / "multi-bin-fig11.nc").stat().st_mtime_ns
    _, again = to.run("multi-bin-fig11")
    assert (tmp_path / "multi-bin-fig11.nc").stat().st_mtime_ns == written
    assert again.attrs["created_utc"] == first.attrs["created_utc"]
    whole, _ = reproduction(tmp_path, workers=1)
    with pytest.raises(InputError, match="holds another sweep"):
        whole.run("multi-bin-fig11")


def test_rows_are_written_as_numbers_and_words(tmp_path: Path) -> None:
    to, text = reproduction(tmp_path)
    rows = [
        Row("one", "a, b", "x", 1.0, np.nan, 2.0, 1.5, 2.5, "no", 'said "so"'),
        Row("two", "c", "y", on_screen=False, origin=Origin("wait_mean_s", {"bins": [1, 4], "of": "d e"}, "a.nc")),
    ]
    to.tell("Title", Found(rows, ["A sentence."]), "Table 1")
    to.count_verdicts()
    to.name_others()
    to.write()
    first = ["one-a-b", "one", "a, b", "x", "1", "", "", "2", "1.5", "2.5", "no", 'said "so"', "Table 1", *[""] * 3]
    shows = f"batchcube show {tmp_path}/a.nc --select 'bins=[1, 4]' --select 'of=d e' -v wait_mean_s"
    second = ["two-c", "two", "c", "y", *[""] * 8, "Table 1", "a.nc", "bins=[1, 4]; of=d e", shows]
    again = "batchcube reproduce it"
    assert table(tmp_path) == [dict(zip(COLUMNS, [*row, again], strict=True)) for row in (first, second)]
    assert "A sentence." in text.getvalue()
    assert "differs: one, a, b: x" in text.getvalue()
    check_verdicts(table(tmp_path), text.getvalue())
    assert "2 rows: 1 no, 1 no verdict." in text.getvalue()
