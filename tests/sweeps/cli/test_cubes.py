from pathlib import Path

import pytest

from batchcube.results.cube import read_cube, write_cube
from helpers.command_line import Answer
from helpers.widths import check_width


def test_show_prints_intervals(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "show", cube, "-v", "throughput_requests_per_s").out
    assert "A small sweep" in out
    assert "±" in out


HINT = "--wide shows them, or -v NAME"


@pytest.mark.parametrize(
    "options",
    [(), ("-v", "latency_quantile_s", "-v", "bin_wait_mean_s", "--all"), ("--select", "arrival_rate_per_s=0.2")],
)
def test_show_fits_eighty_columns_and_cuts_no_word(
    cube: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    wide = Answer(capsys, "show", cube, *options).out
    monkeypatch.setenv("COLUMNS", "80")
    narrow = Answer(capsys, "show", cube, *options).out
    monkeypatch.delenv("COLUMNS")
    assert Answer(capsys, "show", cube, *options).out == narrow, "a pipe is 80 columns wide"
    check_width(narrow, f"{wide} columns have no room for: {HINT}")


def test_show_says_what_had_no_room_and_shows_it_when_asked(
    cube: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    narrow = Answer(capsys, "show", cube).out
    assert "60 columns have no room for" in narrow
    assert HINT in " ".join(narrow.split())
    wide = Answer(capsys, "show", cube, "--wide").out
    assert "no room" not in wide
    assert max(map(len, wide.splitlines())) > 60
    for name in ("throughput_requests_per_s", "latency_mean_s", "utilisation", "batch_size_mean"):
        assert name in wide
    asked = Answer(capsys, "show", cube, "-v", "utilisation", "-v", "latency_mean_s", "-v", "wait_mean_s").out
    assert "no room" not in asked
    assert "utilisation" in asked


def test_show_says_by_how_much_controls_narrow(
    spec: str, cube: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Answer(capsys, "show", cube, "--controls").out
    assert "controls: used with 20 replications or more, intervals are plain" in few
    assert "Student t interval" in " ".join(few.split())
    many = ("--set", "replications=20", "--set", "workload.requests=50", "-o", "many.nc", "--quiet")
    assert Answer(capsys, "run", spec, *many).status == 0
    variables = ("-v", "latency_mean_s", "-v", "unserved", "-v", "latency_quantile_s[0.5]")
    plain, out = (Answer(capsys, "show", "many.nc", *variables, *with_).out for with_ in ((), ("--controls",)))
    assert "controls" not in plain
    assert "half of the 95 % Student t interval over 20 replications" in " ".join(plain.split())
    assert "half of the 95 % control variates interval over 20 replications" in " ".join(out.split())
    monkeypatch.setenv("COLUMNS", "200")
    *_, head, mean, share, quantile = Answer(capsys, "show", "many.nc", *variables, "--controls").out.splitlines()
    assert head.startswith(
        "controls: drawn_gap_ratio, drawn_output_ratio; widths of intervals over those of plain ones:"
    )
    low, high = map(float, mean.removeprefix("  latency_mean_s: ").split(" to "))
    assert 0.0 < low < 1.0 < high < 1.3, "what explains little costs degrees of freedom"
    assert share == "  unserved: plain"
    assert quantile.startswith("  latency_quantile_s [0.5]: ")
    assert out != plain


def test_show_says_whom_quantiles_leave_out(spec: str, cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ("-v", "latency_quantile_s[0.95]")
    told = "times and their quantiles are of the others"
    assert told not in " ".join(Answer(capsys, "show", cube, *shown).out.split())
    dropped = ("--set", 'policy.tail="drop"', "--set", "replications=1", "-o", "dropped.nc", "--quiet")
    assert Answer(capsys, "run", spec, *dropped).status == 0
    assert told in " ".join(Answer(capsys, "show", "dropped.nc", *shown).out.split())


def test_cubes_of_other_shapes_are_compared_in_a_few_lines(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorter = cube.with_name("shorter.nc")
    write_cube(read_cube(cube).isel(replication=[0, 1]), shorter)
    short = Answer(capsys, "compare", cube, shorter)
    assert short.status == 1
    assert "of the coordinates and variables (replication 3 against 2)\n" in short.out
    assert "latency_mean_s" not in short.out
    assert "latency_mean_s" in Answer(capsys, "compare", cube, shorter, "--all").out


def test_show_selects_points(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Answer(capsys, "show", cube).out
    part = Answer(capsys, "show", cube, "--select", "arrival_rate_per_s=0.2", "--select", "bins=[1]").out
    (row,), (alone,) = (
        [line.split()[:6] for line in text.splitlines() if line.split()[:2] == ["1", "0.2"]] for text in (whole, part)
    )
    assert alone == row
    assert "1 point, " in part
    for wrong, said in (
        ("speed=1", "--select speed: no such axis; the cube has bins, arrival_rate_per_s"),
        ("bins=7", "--select bins=7: must be one of 1, "),
        ("bins=[]", "--select bins: needs a value"),
        ("bins", "--select bins: must be name=value"),
    ):
        assert said in Answer(capsys, "show", cube, "--select", wrong).mistake
