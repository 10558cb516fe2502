"""Rows of a comparison: what they are called, what they say, and what of a file is refused."""

import re
from pathlib import Path

import pytest

from batchcube.errors import InputError
from batchcube.results.claims import (
    COLUMNS,
    Origin,
    Row,
    count_verdicts,
    find_rows,
    named,
    read_comparison,
    write_rows,
)
from helpers.reports import DIFFERS

HEAD = ",".join(COLUMNS).encode() + b"\n"


def test_names_are_words_with_hyphens_and_stay_when_a_queue_is_marked_otherwise() -> None:
    rows = [
        Row("Fig. 4", "k = 1, 2.5/s, p_e = 0.01 (*)", "latency (s)"),
        Row("Table I", "LLaMA-65B, KV cache 120,000", "gain (%)"),
        Row("fig9", "k = 1", "throughput, exact (req/s)"),
        Row("fig9", "k = 1", "throughput, lower bound (req/s)"),
        Row("fig9", "a setting of many words", "x", row="short"),
    ]
    assert [row.row for row in named(rows)] == [
        "fig4-k-1-2.5-p_e-0.01",
        "table-i-llama-65b-kv-cache-120000",
        "fig9-k-1-throughput-exact",
        "fig9-k-1-throughput-lower-bound",
        "fig9-short",
    ]
    with pytest.raises(AssertionError, match="rows of one name"):
        named([rows[0], rows[0]])


def test_rows_are_found_by_name_before_they_are_found_by_words() -> None:
    rows = named(Row("fig6", setting, "ratio") for setting in ("k = 4", "k = 4 against 1", "k = 2 against 1"))
    assert [row.setting for row in find_rows(rows, "fig6-k-4")] == ["k = 4"]
    assert [row.setting for row in find_rows(rows, "Fig6 k 4")] == ["k = 4"]
    assert [row.setting for row in find_rows(rows, "against 2")] == ["k = 2 against 1"]
    assert len(find_rows(rows, "against")) == 2
    assert find_rows(rows, "fig6 5") == []


def test_a_row_tells_what_was_held_against_what_and_by_which_rule() -> None:
    assert DIFFERS.verdict() == "differs: simulated 49.07 [48.77, 49.37] against paper 45.1; the rule: within 5 % of it"
    assert DIFFERS.assumed == "Poisson arrivals; a cap of 256"
    assert DIFFERS.remarks == ["against the printed line"]
    assert [label for label, _ in DIFFERS.story()] == [
        *("setting", "quantity", "source", "verdict", "note", "assumed", "cube", "selection")
    ]


def test_without_a_rule_it_is_the_interval_and_without_a_claim_there_is_none() -> None:
    inside = Row("a", "b", "c", theory=2.0, simulated=2.1, ci_low=1.0, ci_high=3.0, agrees="yes")
    assert inside.verdict().endswith("against theory 2; the rule: what is claimed lies within the interval")
    assert Row("a", "b", "c", simulated=2.0).verdict().startswith("no verdict: simulated 2; nothing is claimed")
    alone = Row("a", "b", "c", paper=2.0, agrees="yes")
    assert alone.verdict() == "cannot be told: paper 2, and there is nothing on the other side"
    erratum = Row("a", "b", "c", paper=12.3, theory=12.19, agrees="no", note="erratum; agrees: to one decimal")
    assert erratum.verdict() == "differs: paper 12.3 and theory 12.19; the rule: to one decimal"


def test_counts_of_verdicts_sum_to_the_rows() -> None:
    assert count_verdicts([DIFFERS, DIFFERS, Row("a", "b", "c")]) == "2 no, 1 no verdict"
    assert count_verdicts([]) == "none"


def test_an_origin_keeps_the_cube_that_it_names() -> None:
    row = Row("a", "b", "c", origin=Origin("latency_mean_s"))
    assert row.of("first.nc").of("second.nc").origin == Origin("latency_mean_s", {}, "first.nc")
    assert DIFFERS.of("first.nc").origin is None


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = named([DIFFERS, Row("two", 'with "quotes", commas\nand lines', "c")])
    (tmp_path / "comparison.csv").write_text(write_rows(rows))
    again = read_comparison(tmp_path / "comparison.csv")
    assert write_rows(again) == write_rows(rows)
    assert again[0] == rows[0]


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"", "is no comparison"),
        (b"experiment,setting\n", "is no comparison"),
        (b"\xff\xfe", "is no table"),
        (",".join(COLUMNS).encode() + b"\na,b\n", "line 2: has 2 columns, must have 17"),
        (
            ",".join(COLUMNS).encode() + b"\n" + b"a," * 4 + b"much" + b"," * 12 + b"\n",
            "line 2: paper = much: must be a num",
        ),
        (
            ",".join(COLUMNS).encode() + b"\n" + b"," * 10 + b"maybe" + b"," * 6 + b"\n",
            "agrees = maybe: must be one of yes",
        ),
    ],
)
def test_what_is_no_comparison_is_refused_in_one_line(tmp_path: Path, content: bytes, mistake: str) -> None:
    (tmp_path / "comparison.csv").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(mistake)) as refused:
        read_comparison(tmp_path / "comparison.csv")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path))
