import pytest

from batchcube.errors import printable
from batchcube.results.text import counted, did_you_mean, one_of, shortened, suggestion


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \N{GREEK SMALL LETTER ALPHA}, \N{MINUS SIGN}1", "plain \N{GREEK SMALL LETTER ALPHA}, \N{MINUS SIGN}1"),
        ("\x1b]0;owned\x07\x1b[31mred", "\\x1b]0;owned\\x07\\x1b[31mred"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202eright to left\u2028\ud800\x9b", "\\u202eright to left\\u2028\\ud800\\x9b"),
        (3.5, "3.5"),
    ],
)
def test_what_nobody_sees_is_spelled_out(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_spaces_stay_and_long_text_is_cut() -> None:
    assert printable("a\N{NO-BREAK SPACE}b\N{THIN SPACE}c") == "a\N{NO-BREAK SPACE}b\N{THIN SPACE}c"
    assert shortened("word " * 30) == ("word " * 30)[:59].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    assert shortened("word") == "word"


def test_names_are_listed_and_suggested() -> None:
    names = ("latency_mean_s", "wait_mean_s", "utilisation")
    assert one_of(names) == "latency_mean_s, wait_mean_s or utilisation"
    assert one_of(names[:1]) == "latency_mean_s"
    assert did_you_mean("latency_men_s", names[:1]) == "did you mean latency_mean_s?"
    assert did_you_mean("requests", names) == ""
    assert did_you_mean(7, names) == ""
    assert suggestion("utilization", names) == "must be one of latency_mean_s, wait_mean_s, utilisation"
    many = [*names, *(f"window_{number}" for number in range(20))]
    assert suggestion("utilization", many) == "did you mean utilisation?"
    assert suggestion("", many) == f"must be one of {', '.join(many)}"


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(n, "point") for n in (0, 1, 2, 1000)] == ["0 points", "1 point", "2 points", "1,000 points"]
