"""`batchcube why`: the story of a row, on 80 columns, and what is said of names that are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchcube.results.claims import Row, named, write_rows
from helpers.command_line import Answer

ROWS = [
    Row(
        "Fig. 4",
        f"{server}, {rate}/s",
        "TBT (ms)",
        paper=45.1,
        simulated=49.07,
        ci_low=48.77,
        ci_high=49.37,
        agrees="no",
        note="against the printed line; agrees: within 5 % of it; assumed: " + "Poisson arrivals, a cap of 256, " * 4,
        source="[DB] Figure 4, dynamic line",
        cube="dynamic-fig4.nc",
        selection="server=dynamic; arrival_rate_per_s=6.4",
        command="batchcube show out/dynamic/dynamic-fig4.nc --select server=dynamic -v tbt_mean_s",
        again=f"batchcube reproduce dynamic -o {folder} --quick",
    )
    for server, rate in (("dynamic", "6.4"), ("static", "6.4"), ("static", "6"))
    for folder in ["out/a-folder-of-a-long-name/and-one-below-it"]
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "out/dynamic").mkdir(parents=True)
    (tmp_path / "out/dynamic/comparison.csv").write_text(write_rows(named(ROWS)))
    return tmp_path


def test_a_row_tells_its_whole_story_on_80_columns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Answer(capsys, "why", "fig4-dynamic-6.4")
    assert said.status == 0
    assert max(map(len, said.out.splitlines())) <= 80
    together = " ".join(said.out.split())
    for part in (
        "[DB] Figure 4, dynamic line",
        "differs: simulated 49.07 [48.77, 49.37] against paper 45.1; the rule: within 5 % of it",
        "selection server=dynamic; arrival_rate_per_s=6.4",
        "batchcube reproduce dynamic -o out/a-folder-of-a-long-name/and-one-below-it \\ --quick",
        "batchcube show out/dynamic/dynamic-fig4.nc --select server=dynamic -v \\ tbt_mean_s",
    ):
        assert part in together


def test_without_a_row_all_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Answer(capsys, "why")
    assert said.out.splitlines() == [
        "out/dynamic/comparison.csv",
        *(f"  fig4-{name}: no" for name in ("dynamic-6.4", "static-6.4", "static-6")),
    ]


def test_words_are_enough_where_one_row_has_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Answer(capsys, "why", "static", "6").out.startswith("fig4-static-6\n")
    two = Answer(capsys, "why", "6.4").mistake
    assert two == "row 6.4: 2 rows have these words: fig4-dynamic-6.4, fig4-static-6.4"


def test_a_near_miss_is_told_what_it_may_have_meant(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake = Answer(capsys, "why", "fig4-dynamik-6.4").mistake
    assert mistake.startswith("row fig4-dynamik-6.4: no such row; did you mean fig4-dynamic-6.4")
    assert Answer(capsys, "why", "nothing-like-it").mistake.endswith("no such row; `batchcube why` names all 3")


def test_a_row_of_two_comparisons_is_chosen_by_its_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = here / "out/dynamic-quick"
    other.mkdir()
    (other / "comparison.csv").write_text(write_rows(named(ROWS)))
    name = "fig4-static-6"
    both = "out/dynamic/comparison.csv, out/dynamic-quick/comparison.csv"
    assert Answer(capsys, "why", name).mistake == f"row {name}: is in {both}: choose with --from"
    assert Answer(capsys, "why", name, "--from", "out/dynamic-quick").out.startswith(name)
    assert Answer(capsys, "why", name, "--from", other / "comparison.csv").out.startswith(name)


def test_without_a_comparison_one_line_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "batchcube reproduce writes one" in Answer(capsys, "why", "fig4").mistake
    assert Answer(capsys, "why", "fig4", "--from", "nowhere.csv").mistake.startswith("nowhere.csv: cannot be read")


def test_shells_complete_names_of_rows(here: Path) -> None:
    asked = {"_BATCHCUBE_COMPLETE": "complete_bash", "COMP_WORDS": "batchcube why fig4-s", "COMP_CWORD": "2"}
    command = [Path(sys.executable).parent / "batchcube"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fig4-static-6.4", "fig4-static-6"]
