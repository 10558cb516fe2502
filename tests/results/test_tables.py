"""Tables for people: what fits beside each other, what goes first, and that no word is cut."""

import io
import re

import pytest
from rich.console import Console

from batchcube.results.tables import Column, columns_of, fitted, print_table

NAMES = ["LLaMA-65B", "LLaMA3-70B (PD fusion), with a long description of it"]


def printed(columns, width, **options):
    console = Console(width=width, file=io.StringIO())
    left = print_table(console, columns, **options)
    return console.file.getvalue(), [column.name for column in left]


def columns(**options):
    return [
        Column("model", NAMES, words=True),
        Column("queue", ["steady", "cannot tell"], words=True, short=["", "(*)"]),
        Column("throughput_requests_per_s", ["4.0 ± 0.7", "12.9 ± 1.9"]),
        Column("latency_mean_s", ["2.7 ± 1.1 (*)", "23 ± 16"], 2),
        Column("ttft_mean_s", ["0.092 ± 0.009", "10 [0, 20]"], 1),
    ]


def test_everything_stands_in_a_row_where_there_is_room():
    text, left = printed(columns(), 200)
    head, rule, first, second = text.splitlines()
    assert left == []
    assert head.split() == ["model", "queue", "throughput_requests_per_s", "latency_mean_s", "ttft_mean_s"]
    assert set(rule) == {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}
    assert re.split(r"\s{2,}", second) == [NAMES[1], "cannot tell", "12.9 ± 1.9", "23 ± 16", "10 [0, 20]"]
    assert first.index("0.092") + len("0.092 ± 0.009") == len(first) == len(rule)


@pytest.mark.parametrize(("width", "gone"), [(80, []), (70, ["ttft_mean_s"]), (50, ["latency_mean_s", "ttft_mean_s"])])
def test_columns_go_in_their_order_and_are_named(width, gone):
    text, left = printed(columns(), width, hint="--wide shows them")
    assert left == gone
    assert max(map(len, text.splitlines())) <= width
    said = f"{width} columns have no room for {', '.join(gone)}: --wide shows them"
    assert (said in " ".join(text.split())) == bool(gone)
    assert "(*)" in text
    assert "cannot tell" not in text


def test_words_lose_whole_words_and_numbers_nothing():
    model, _, throughput = fitted(columns()[:3], 45)
    assert model.cells == [NAMES[0], "LLaMA3-70B (PD fusion)\N{HORIZONTAL ELLIPSIS}"]
    assert list(throughput.cells) == ["4.0 ± 0.7", "12.9 ± 1.9"]


def test_a_first_word_that_is_too_long_loses_its_end():
    (only,) = fitted([Column("name", ["a" * 50, "short"], words=True)], 20)
    assert only.cells == ["a" * 19 + "\N{HORIZONTAL ELLIPSIS}", "short"]


def test_headers_break_at_underscores_and_spaces_only_where_there_is_no_room():
    one = [Column("throughput_requests_per_s", ["4.0"]), Column("mean time between tokens", ["5"])]
    assert len(printed(one, 100)[0].splitlines()) == 3
    narrow = printed(one, 30)[0].splitlines()
    assert [line.strip() for line in narrow[:3]] == [
        "throughput_  mean time",
        "requests_    between",
        "per_s     tokens",
    ]


def test_sections_stand_above_their_rows():
    text, _ = printed(columns_of(("a", "b"), [("1", "2"), ("3", "4")], words=("a",)), 40, sections={1: "below"})
    assert [line.strip() for line in text.splitlines()[2:]] == ["1  2", "below", "3  4"]


def test_columns_of_no_rows_are_empty():
    assert columns_of(("a", "b"), []) == [Column("a", []), Column("b", [])]
