"""Request logs of a real server: what is read of them, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from batchcube.calibration.logs import read_log
from batchcube.calibration.prediction import times_of_log
from batchcube.errors import InputError

GOOD = {"input_toks": 10, "output_toks": 5, "queued_ts": 1.0, "first_token_ts": 2.0, "last_token_ts": 3.0}


def write(path: Path, *entries: dict[str, object] | str) -> Path:
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


def test_a_log_is_sorted_by_arrival_and_starts_at_zero(tmp_path: Path) -> None:
    later = GOOD | {"queued_ts": 1.5, "scheduled_ts": 1.6, "output_toks": 7}
    log = read_log(write(tmp_path / "log.jsonl", later, "", GOOD))
    assert log.queued_s.tolist() == [0.0, 0.5]
    assert log.output_tokens.tolist() == [5, 7]
    assert log.first_token_s.tolist() == [1.0, 1.0]
    assert np.isnan(log.scheduled_s[0])
    assert log.scheduled_s[1] == pytest.approx(0.6)
    times = times_of_log(log)
    assert times.ttft_s.tolist() == [1.0, 0.5]
    assert times.tpot_s.tolist() == [0.25, pytest.approx(1 / 6)]
    assert times.e2e_s.tolist() == [2.0, 1.5]


def test_what_is_there_twice_or_of_several_servers_or_clocks_is_refused(tmp_path: Path) -> None:
    one, other = GOOD | {"request_id": "a"}, GOOD | {"request_id": "b"}
    assert len(read_log(write(tmp_path / "log.jsonl", one, other)).queued_s) == 2
    with pytest.raises(InputError, match=r"log\.jsonl: line 3: is the request of line 1 once more$"):
        read_log(write(tmp_path / "log.jsonl", one, other, one))
    # A name that comes again, at another time, is of another request.
    read_log(write(tmp_path / "log.jsonl", one, one | {"queued_ts": 1.5}))
    with pytest.raises(InputError, match=r"log\.jsonl: is of several models, m, n: a law is of one, take them apart$"):
        read_log(write(tmp_path / "log.jsonl", one | {"model": "m"}, other | {"model": "n"}))
    rows = ["arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s", "2026-01-01T00:00:00,9,5,.1,1"]
    read_log(write(tmp_path / "log.csv", *rows, "2026-01-01T02:00:00,9,5,.1,1"))
    with pytest.raises(InputError, match=r"log\.csv: row 2: times with a time zone and times without one are in one"):
        read_log(write(tmp_path / "log.csv", *rows, "2026-01-01T02:00:00+01:00,9,5,.1,1"))


def test_an_arrival_time_in_the_same_clock_will_do(tmp_path: Path) -> None:
    entry = {key: value for key, value in GOOD.items() if key != "queued_ts"} | {"arrival_time": 0.5}
    log = read_log(write(tmp_path / "log.jsonl", entry, entry))
    assert times_of_log(log).ttft_s.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{", "line 2: is not JSON"),
        ("3", "line 2: is no JSON object"),
        (GOOD | {"queued_ts": None}, "line 2: queued_ts = null: must be a number from -1000000000000 to"),
        ({"input_toks": 3}, "line 2: queued_ts or arrival_time is missing"),
        ({key: v for key, v in GOOD.items() if key != "last_token_ts"}, "line 2: last_token_ts is missing"),
        (GOOD | {"first_token_ts": 0.5}, "line 2: first token at 0.5 s is before queued at 1.0 s"),
        (GOOD | {"last_token_ts": 1.5}, "line 2: last token at 1.5 s is before first token at 2.0 s"),
        (GOOD | {"scheduled_ts": 2.5}, "line 2: first token at 2.0 s is before scheduled at 2.5 s"),
        (GOOD | {"output_toks": 0}, "line 2: output_toks = 0: must be a whole number from 1 to 2097152"),
        (GOOD | {"input_toks": "many"}, 'line 2: input_toks = "many": must be a whole number from 1 to 2097152'),
        (GOOD | {"input_toks": 1.9}, "line 2: input_toks = 1.9: must be a whole number"),
        (GOOD | {"input_toks": 1e300}, "line 2: input_toks = 1e+300: must be a whole number"),
        (GOOD | {"output_toks": 10**30}, "line 2: output_toks = 1000000000000000000000000000000: must be a whole"),
        (GOOD | {"input_toks": 2**20, "output_toks": 2**20 + 1}, "line 2: 2097153 tokens in and out: must be at most"),
        (GOOD | {"queued_ts": -(10**400)}, "must be a number from"),
        (GOOD | {"last_token_ts": 1e300}, "line 2: last_token_ts = 1e+300: must be a number from"),
        (GOOD | {"last_token_ts": float("inf")}, "line 2: last_token_ts = Infinity: must be a number from"),
        ("[" * 50_000, "line 2: is nested deeper than 24 levels"),
        ("[" * 30 + "]" * 30, "line 2: is nested deeper than 24 levels"),
        (GOOD | {"queued_ts": -1e12}, "not of one clock"),
    ],
)
def test_a_bad_log_is_one_clear_line(tmp_path: Path, entry: dict[str, object] | str, says: str) -> None:
    path = write(tmp_path / "log.jsonl", GOOD, entry)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_log(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_a_missing_or_empty_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl: cannot be read"):
        read_log(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="holds 1 requests: needs at least 2"):
        read_log(write(tmp_path / "one.jsonl", GOOD))
