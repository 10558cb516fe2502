import pytest

from batchcube.errors import printable
from batchcube.results.text import counted, in_percent, shortened, told_apart


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


def test_one_of_a_thing_is_no_plural() -> None:
    assert [counted(n, "point") for n in (0, 1, 2, 1000)] == ["0 points", "1 point", "2 points", "1,000 points"]


def test_shares_are_told_in_plain_digits() -> None:
    shares = (0.00123, 0.0996, 0.5, 0.998, 1.0, 14.2, -0.02, -1.5)
    assert [*map(in_percent, shares)] == ["0.12 %", "10 %", "50 %", "100 %", "100 %", "1420 %", "-2 %", "-150 %"]


def test_texts_that_are_cut_short_stay_different() -> None:
    path = "/data/of/somebody/with/long/names/of/folders/"
    assert told_apart(["a", "b" * 30], 10) == ["a", "bbbbbbbbb\N{HORIZONTAL ELLIPSIS}"]
    assert told_apart(["abc", "abx"], 1) == ["a\N{HORIZONTAL ELLIPSIS}c", "a\N{HORIZONTAL ELLIPSIS}x"]
    assert told_apart([f"{path}one.csv", f"{path}two.csv"], 20) == ["/data/of/s…rs/one.csv", "/data/of/s…rs/two.csv"]
    middle = [f"{'a' * 30}{k}{'b' * 30}" for k in range(3)]
    assert len(set(told_apart([*middle, middle[0]], 10))) == 3
