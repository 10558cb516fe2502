"""Reading measured batch times, and recovering the law behind them."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.calibration import MeasuredTable, best_law, fit_law, fit_points, read_table
from batchcube.calibration.tables import LAWS
from batchcube.engine.policies.service import BATCH_FACTORS, batch_factor

GOOD = "batch_size,length_tokens,seconds\n2,200,2.5\n1,100,1.0\n1,200,2.0\n2,100,1.5\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def synthetic(h: str, gamma: float, noise: float = 0.0, seed: int = 0) -> MeasuredTable:
    b = np.array([1, 2, 4, 8, 16, 32])
    lengths = np.array([64, 128, 256, 512, 1024])
    exact = 0.2 + 0.03 * lengths * batch_factor(b, h, gamma)[:, None]
    scatter = 1 + noise * np.random.default_rng(seed).standard_normal(exact.shape)
    return MeasuredTable(b, lengths, exact * scatter, "")


def test_rows_in_any_order_become_an_increasing_grid(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    table = read_table(path)
    assert table.batch_sizes.tolist() == [1, 2]
    assert table.lengths.tolist() == [100, 200]
    assert table.seconds.tolist() == [[1.0, 2.0], [1.5, 2.5]]
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.batch_sizes.dtype == table.lengths.dtype == np.int64


def test_columns_can_have_other_names_and_company(tmp_path: Path) -> None:
    path = write(tmp_path, "﻿b, L ,std,t\r\n1,10,9,1\r\n1,20,9,2\r\n\r\n4,10,9,3\r\n4,20,9,4\r\n")
    table = read_table(path, {"batch_size": "b", "length_tokens": "L", "seconds": "t"})
    assert table.seconds.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_repeated_measurements_are_averaged(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, GOOD + "1,100,2.0\n1,100,1.5\n"))
    assert table.seconds[0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            GOOD.replace("seconds", "ms"),
            "line 1: column 'seconds' is missing: needs batch_size, length_tokens, seconds",
        ),
        (GOOD.replace("length_tokens", "seconds"), "is missing"),
        ("batch_size,length_tokens,seconds,seconds\n", "column 'seconds' is there twice"),
        ("", "is missing"),
        ("batch_size,length_tokens,seconds\n", "has no rows"),
        (GOOD.replace("2.5", "-2.5"), "line 2: seconds = '-2.5': must be a finite number > 0"),
        (GOOD.replace("2.5", "nan"), "line 2: seconds = 'nan': must be a finite number > 0"),
        (GOOD.replace("2.5", "inf"), "must be a finite number > 0"),
        (GOOD.replace("2.5", "fast"), "seconds = 'fast'"),
        (GOOD.replace("1,100,", "1.5,100,"), "line 3: batch_size = '1.5': must be a whole number >= 1"),
        (GOOD.replace("1,100,", "0,100,"), "batch_size = '0': must be a finite number > 0"),
        (GOOD.replace("1,100,", "1,1e300,"), "must be a whole number"),
        (GOOD.replace("2,100,1.5\n", ""), "no row for batch_size = 2, length_tokens = 100: the grid must be complete"),
        (GOOD.replace("2,100,1.5\n", "2,100\n"), "line 5: has 2 fields: must have 3"),
        (
            GOOD.replace("1,200,2.0", "1,200,0.5"),
            "0.5 s at length_tokens = 200 is below 1 s at 100: times must not fall",
        ),
        (
            "batch_size,length_tokens,seconds\n1,100,1\n1,200,2\n",
            "1 batch sizes x 2 lengths: the grid must be at least",
        ),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not a text file: must be CSV in UTF-8"),
        ('batch_size,length_tokens,seconds\n1,"100,1\n', "is not CSV"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_a_missing_file_and_a_misspelt_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.csv: cannot be read: No such file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match=r"columns\.second: must be one of batch_size, length_tokens, seconds"):
        read_table(write(tmp_path, GOOD), {"second": "t"})


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet='0123456789.,-e"\n ', max_size=120)))
def test_no_file_gets_more_than_a_value_error(tmp_path_factory: pytest.TempPathFactory, junk: str | bytes) -> None:
    head = b"batch_size,length_tokens,seconds\n" if isinstance(junk, str) else b""
    path = write(tmp_path_factory.getbasetemp(), head + (junk.encode() if isinstance(junk, str) else junk))
    try:
        table = read_table(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right, and both are checked
    else:
        assert (table.seconds > 0).all()


def test_laws_are_the_engines() -> None:
    assert LAWS == BATCH_FACTORS


@pytest.mark.parametrize(("h", "gamma"), [("constant", 0.0), ("linear", 0.02), ("saturating", 0.8), ("power", 0.3)])
def test_an_exact_law_is_recovered_and_chosen(h: str, gamma: float) -> None:
    table = synthetic(h, gamma)
    law = fit_law(table, h)
    assert (law.a0_s, law.a1_s_per_token, law.gamma) == pytest.approx((0.2, 0.03, gamma), rel=1e-6)
    assert law.r_squared == pytest.approx(1.0)
    assert law.worst_relative_residual < 1e-7
    assert law.seconds(4, 256) == pytest.approx(table.seconds[2, 2])
    assert best_law(table).h == h


@pytest.mark.parametrize(("h", "gamma"), [("constant", 0.0), ("linear", 0.05), ("saturating", 0.8), ("power", 0.3)])
def test_noise_stays_within_the_standard_errors(h: str, gamma: float) -> None:
    laws = [fit_law(synthetic(h, gamma, noise=0.01, seed=seed), h) for seed in range(60)]
    truth = np.array([0.2, 0.03, gamma])
    found = np.array([(law.a0_s, law.a1_s_per_token, law.gamma) for law in laws])
    claimed = np.array(
        [(law.a0_standard_error_s, law.a1_standard_error_s_per_token, law.gamma_standard_error) for law in laws]
    )
    known = slice(0, 2 if h == "constant" else 3)
    z = ((found - truth) / claimed)[:, known]
    assert (np.abs(z) < 5).all()
    # The claimed error is the scatter that is seen: 60 seeds know it to about 9 %.
    assert z.std(axis=0) == pytest.approx(np.ones(z.shape[1]), abs=0.4)
    assert np.abs(z.mean(axis=0)) == pytest.approx(np.zeros(z.shape[1]), abs=5 / np.sqrt(60))
    assert all(0.005 < law.worst_relative_residual < 0.06 for law in laws)


def test_a_noisy_law_is_chosen_among_the_others() -> None:
    for h, gamma in (("linear", 0.2), ("saturating", 2.0), ("power", 0.5)):
        assert best_law(synthetic(h, gamma, noise=0.01, seed=4)).h == h


def test_coefficients_never_go_negative_and_say_so() -> None:
    b, lengths = np.meshgrid([1, 2, 4], [10, 20, 40], indexing="ij")
    # A time that grows faster than the length wants a0 < 0, one that falls with the batch size γ < 0.
    law = fit_points(b, lengths, 0.01 * lengths**1.3 / b**0.1, "power")
    assert (law.a0_s, law.gamma) == (0.0, 0.0)
    assert np.isnan([law.a0_standard_error_s, law.gamma_standard_error]).all()
    assert law.a1_standard_error_s_per_token > 0
    assert law.worst_relative_residual > 0.1


@pytest.mark.parametrize(
    ("batch_sizes", "lengths", "seconds", "h", "says"),
    [
        ([1, 2, 4], [9, 8, 7], [1, 2, 3], "cubic", "must be one of constant, linear, saturating, power"),
        ([1, 2], [9, 8], [1, 2, 3], "constant", "must be equally many"),
        ([1, 2, 4], [9, 9, 9], [1, 2, 3], "constant", "of 2 lengths"),
        ([1, 1, 1], [7, 8, 9], [1, 2, 3], "linear", "of 2 lengths and 2 batch sizes"),
        ([1, 2], [7, 8], [1, 2], "linear", "needs at least 3"),
        ([1, 2, 4], [7, 8, 9], [1, np.nan, 3], "linear", "every seconds must be finite and > 0"),
        ([1, 2, 4], [7, 8, 9], [3, 2, 1], "constant", "do not grow with the length"),
    ],
)
def test_measurements_that_fix_no_law_are_refused(
    batch_sizes: list[float], lengths: list[float], seconds: list[float], h: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        fit_points(batch_sizes, lengths, seconds, h)


def test_splitwise_measurements_give_a_law_within_a_few_percent(shared_data: Path) -> None:
    path = shared_data / "calibration" / "splitwise_sim" / "perf_model.csv"
    with path.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["model"], row["hardware"], row["tensor_parallel"], row["prompt_size"])
            == ("llama2-70b", "h100-80gb", "8", "512")
        ]
    batch, tokens, prompt_ms, token_ms = np.array(
        [[float(row[c]) for c in ("batch_size", "token_size", "prompt_time", "token_time")] for row in rows]
    ).T
    # Not the file's e2e_time: its long runs include some that stopped early (5 to 90 s for 4096 tokens).
    law = fit_points(batch, tokens, (prompt_ms + token_ms * (tokens - 1)) / 1e3, "linear")
    assert law.measurements == len(rows) == 75
    assert law.r_squared > 0.98
    assert law.a1_s_per_token == pytest.approx(0.0306, rel=0.03)
    assert law.gamma / law.gamma_standard_error > 10
    assert law.worst_relative_residual < 0.06


def test_splitwise_is_no_complete_grid(shared_data: Path) -> None:
    path = shared_data / "calibration" / "splitwise_sim" / "perf_model.csv"
    names = {"length_tokens": "token_size", "seconds": "e2e_time"}
    with pytest.raises(ValueError, match="no row for batch_size = 2, length_tokens = 256: the grid must be complete"):
        read_table(path, names)


def test_a_published_grid_is_read_and_fitted(shared_data: Path) -> None:
    path = shared_data / "calibration" / "implausible" / "qwen3_1_7b_latency_grid.csv"
    table = read_table(path, {"length_tokens": "max_seq_len", "seconds": "mean_latency_sec"})
    assert table.seconds.shape == (6, 5)
    law = best_law(table)
    assert law.h == "saturating"
    assert law.r_squared > 0.99
