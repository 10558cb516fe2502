"""Reading measured times: grids for a sweep, and other people's files."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.calibration import fit_batch_laws, read_cells, read_table
from batchcube.calibration.cells import terms_of
from batchcube.calibration.tables import LAYOUTS
from helpers.samples import SAMPLES

GOOD = "batch_size,length_tokens,seconds\n2,200,2.5\n1,100,1.0\n1,200,2.0\n2,100,1.5\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Grids


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
        ("", "line 1: is empty: must be the names of the columns"),
        ("batch_size,length_tokens,seconds\n", "has no rows"),
        (GOOD.replace("2.5", "-2.5"), "line 2: seconds = '-2.5': must be a finite number > 0"),
        (GOOD.replace("2.5", "nan"), "line 2: seconds = 'nan': must be a finite number > 0"),
        (GOOD.replace("2.5", "inf"), "must be a finite number > 0"),
        (GOOD.replace("2.5", "2.5e300"), "line 2: seconds = '2.5e300': must be from 1e-15 to 1e+15"),
        (GOOD.replace("2.5", "5e-324"), "line 2: seconds = '5e-324': must be from 1e-15 to 1e+15"),
        (GOOD.replace("2.5", "fast"), "seconds = 'fast'"),
        (GOOD.replace("1,100,", "1.5,100,"), "line 3: batch_size = '1.5': must be a whole number >= 1"),
        (GOOD.replace("1,100,", "0,100,"), "batch_size = '0': must be a finite number > 0"),
        (GOOD.replace("1,100,", "1,1e300,"), "must be from 1e-15 to 1e+15"),
        (GOOD.replace("2,100,1.5\n", ""), "no row for batch_size = 2, length_tokens = 100: the grid must be complete"),
        (GOOD.replace("2,100,1.5\n", "2,100\n"), "line 5: has 2 fields: must have 3"),
        (
            GOOD.replace("1,200,2.0", "1,200,0.5"),
            "0.5 s at length_tokens = 200 is below 1 s at 100: times must not fall",
        ),
        (
            GOOD.replace("1,200,2.0", "1,200,2000"),
            "batch_size = 1: no engine takes 19.99 s for one token",
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


def test_splitwise_is_no_complete_grid(shared_data: Path) -> None:
    path = shared_data / "calibration" / "splitwise_sim" / "perf_model.csv"
    names = {"length_tokens": "token_size", "seconds": "e2e_time"}
    with pytest.raises(ValueError, match="no row for batch_size = 2, length_tokens = 256: the grid must be complete"):
        read_table(path, names)


def test_a_sample_of_its_layout_is_no_complete_grid() -> None:
    names = {"length_tokens": "token_size", "seconds": "e2e_time"}
    with pytest.raises(ValueError, match="no row for batch_size = 2, length_tokens = 256: the grid must be complete"):
        read_table(SAMPLES / "splitwise.csv", names)


def test_a_sample_of_a_grid_is_read_and_fitted() -> None:
    table = read_table(SAMPLES / "latency-grid.csv", {"length_tokens": "max_seq_len", "seconds": "mean_latency_sec"})
    assert table.batch_sizes.tolist() == [1, 2, 4, 8, 16, 32]
    assert table.lengths.tolist() == [64, 128, 256, 512, 1024]
    assert table.seconds[0].tolist() == [0.6, 1.1, 2.1, 4.1, 8.1]
    sizes, lengths = np.meshgrid(table.batch_sizes, table.lengths, indexing="ij")
    chosen, fits = fit_batch_laws(sizes, lengths, table.seconds)
    assert chosen == "saturating"
    assert fits[chosen].quality.r_squared > 0.99


def test_a_published_grid_is_read_and_fitted(shared_data: Path) -> None:
    path = shared_data / "calibration" / "implausible" / "qwen3_1_7b_latency_grid.csv"
    table = read_table(path, {"length_tokens": "max_seq_len", "seconds": "mean_latency_sec"})
    assert table.seconds.shape == (6, 5)
    sizes, lengths = np.meshgrid(table.batch_sizes, table.lengths, indexing="ij")
    chosen, fits = fit_batch_laws(sizes, lengths, table.seconds)
    assert chosen == "saturating"
    assert fits[chosen].quality.r_squared > 0.99


# Other people's files

SPLITWISE = "model,hardware,tensor_parallel,prompt_size,batch_size,token_size,prompt_time,token_time,e2e_time\n"
STEPS = "batch_num_tokens,batch_num_decode_tokens,batch_num_prefill_tokens,batch_execution_time"
EXAMPLES = {
    "batchcube": (GOOD, {"batch": 4}),
    "latency-grid": (
        "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials\n1,64,0.5,0.01,5\n2,64,0.6,0.02,5\n",
        {"batch": 2},
    ),
    "ml-energy": (
        "task,gpu_model,num_gpus,model_id,weight_precision,tensor_parallel,expert_parallel,data_parallel,avg_batch_size,"
        "median_itl_ms\nchat,H100,1,m,fp8,1,1,1,7.9,20.5\nchat,H100,1,m,fp8,1,1,1,15.8,21.5\n",
        {"decode": 2},
    ),
    "splitwise": (
        SPLITWISE + "m,h,8,512,1,128,50,20,2600\nm,h,8,512,2,128,60,21,2800\n",
        {"batch": 2, "prefill": 2, "decode": 2},
    ),
    "sarathi-steps": (
        STEPS + ",operation_time_per_token\n4,4,0,0.05,12.5\n8,8,0,0.06,7.5\n128,0,128,0.05,0.4\n",
        {"decode": 2, "prefill": 1},
    ),
    "sarathi-hybrid": (
        STEPS + ",per_token_time\n4,4,0,68.1,17\n1024,3,1021,217.6,0.2\n1024,0,1024,217.2,0.2\n",
        {"decode": 1, "step": 1, "prefill": 1},
    ),
    "sarathi-chunks": (
        "prefill_length,chunk_size,prefill_execution_time\n2047,512,435.5\n4095,512,900.5\n",
        {"prefill": 2},
    ),
}
FITS = "task,model_id,precision,gpu,num_gpus,tp,ep,dp,c0_ms,c1_ms_per_seq,r2\nchat,m,fp8,H100,1,1,1,1,30.3,0.13,0.82\n"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_is_found_by_its_columns_whatever_their_order(tmp_path: Path, name: str) -> None:
    text, kinds = EXAMPLES[name]
    table = read_cells(write(tmp_path, text))
    assert table.layout.name == name
    (cells,) = table.systems.values()
    assert dict(zip(*np.unique(cells.kind, return_counts=True), strict=True)) == kinds
    assert table.fits is None
    assert table.sha256 == hashlib.sha256(text.encode()).hexdigest()
    backwards = "\n".join(",".join(reversed(row.split(","))) for row in text.splitlines())
    (turned,) = read_cells(write(tmp_path, backwards)).systems.values()
    for one, other in zip(cells, turned, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_prompt_in_chunks_is_as_many_steps(tmp_path: Path) -> None:
    # Each step 10 ms, a token 0.1 ms, a token of a prompt with one of its context 20 ns.
    def ms(prompt: int, chunk: int) -> float:
        parts = [min(chunk, prompt - done) for done in range(0, prompt, chunk)]
        ends = np.cumsum(parts)
        return sum(10.0 + 0.1 * part + 2e-5 * part * end for part, end in zip(parts, ends.tolist(), strict=True))

    lengths = [512, 1024, 2048, 4096, 8192, 16384]
    rows = "".join(f"{length},512,{ms(length, 512)!r}\n" for length in lengths)
    table = read_cells(write(tmp_path, f"prefill_length,chunk_size,prefill_execution_time\n{rows}"))
    (cells,) = table.systems.values()
    assert cells.steps.tolist() == [1, 2, 4, 8, 16, 32]
    terms = terms_of(cells)
    assert terms[:, 3].tolist() == [512] * 6
    seconds = cells.seconds / cells.steps
    # Every term of the mean step, and no other: 0.01 + 1e-4 * 512 + 2e-8 * 512 * mean context.
    assert terms[:, 4] * 2e-8 + 1e-4 * terms[:, 3] + 0.01 == pytest.approx(seconds, rel=1e-9)


def test_every_layout_has_an_example() -> None:
    assert {*EXAMPLES, "ml-energy-fits"} == set(LAYOUTS)


def test_the_layout_that_needs_most_columns_wins_unless_one_is_asked_for(tmp_path: Path) -> None:
    text, _ = EXAMPLES["latency-grid"]
    rows = [
        f"{row},{more}" for row, more in zip(text.splitlines(), ("seconds,length_tokens", "9,7", "9,8"), strict=True)
    ]
    path = write(tmp_path, "\n".join(rows))
    assert read_cells(path).layout.name == "latency-grid"
    found = read_cells(path, layout="batchcube")
    assert found.layout.name == "batchcube"
    assert found.systems[""].seconds.tolist() == [9, 9]
    assert found.systems[""].output_tokens.tolist() == [7, 8]


def test_fits_are_no_measurements(tmp_path: Path) -> None:
    table = read_cells(write(tmp_path, FITS))
    assert table.fits is not None
    assert [column.tolist() for column in table.fits] == [[0.82], [30.3], [0.13]]
    assert not table.systems


def test_a_cell_holds_all_that_its_row_says(tmp_path: Path) -> None:
    (cells,) = read_cells(write(tmp_path, SPLITWISE + "m,h,8,512,2,128,60,21,2800\n")).systems.values()
    assert cells.kind.tolist() == ["batch", "prefill", "decode"]
    batch, prefill, decode = (cells.only(kind) for kind in ("batch", "prefill", "decode"))
    assert (batch.batch_size, batch.prompt_tokens, batch.output_tokens) == (2, 512, 128)
    assert batch.seconds == pytest.approx(2.8)
    assert (prefill.batch_size, prefill.prompt_tokens, prefill.prefill_tokens) == (2, 512, 1024)
    assert prefill.seconds == pytest.approx(0.06)
    assert np.isnan(prefill.output_tokens)
    # Half of the answer is there, on average.
    assert (decode.batch_size, decode.kv_tokens) == (2, 2 * (512 + 64))
    assert decode.seconds == pytest.approx(0.021)
    assert np.isnan(cells.std_s).all()
    assert np.isnan(cells.repetitions).all()


def test_tokens_say_whether_a_step_decodes_or_prefills(tmp_path: Path) -> None:
    (cells,) = read_cells(write(tmp_path, EXAMPLES["sarathi-hybrid"][0])).systems.values()
    found = {
        kind: (cells.only(kind).batch_size, cells.only(kind).prefill_tokens, cells.only(kind).seconds)
        for kind in ("decode", "step", "prefill")
    }
    assert found == {"decode": (4, 0, 0.0681), "step": (3, 1021, 0.2176), "prefill": (1, 1024, 0.2172)}
    assert cells.only("prefill").prompt_tokens == 1024
    with pytest.raises(ValueError, match=r"table\.csv: line 2: a step of neither decode nor prefill tokens"):
        read_cells(write(tmp_path, STEPS + ",per_token_time\n0,0,0,68.1,17\n"))


def test_rows_of_one_cell_are_its_repetitions(tmp_path: Path) -> None:
    """Five runs of one cell, and one of another: mean, standard deviation and number come from the rows."""
    runs = [50.0, 52.0, 47.0, 51.0, 49.0]
    text = SPLITWISE + "".join(f"m,h,8,512,1,128,{t},20,2600\n" for t in runs) + "m,h,8,512,4,128,90,20,2600\n"
    (cells,) = read_cells(write(tmp_path, text)).systems.values()
    prefill = cells.only("prefill")
    assert prefill.seconds == pytest.approx(np.array([np.mean(runs), 90]) * 1e-3)
    assert prefill.repetitions.tolist() == [5, 1]
    assert prefill.std_s[0] == pytest.approx(np.std(runs, ddof=1) * 1e-3)
    assert np.isnan(prefill.std_s[1])
    # As coarse as the times that they come from.
    assert (prefill.resolution_s, prefill.std_resolution_s) == (1e-3, 1e-3)


def test_a_table_of_means_says_itself_how_much_they_scatter(tmp_path: Path) -> None:
    cells = read_cells(write(tmp_path, EXAMPLES["latency-grid"][0])).systems[""]
    assert cells.std_s.tolist() == [0.01, 0.02]
    assert cells.repetitions.tolist() == [5, 5]
    assert (cells.resolution_s, cells.std_resolution_s) == (0.1, 0.01)


def test_rows_that_say_how_often_are_combined_and_leave_the_others_alone(tmp_path: Path) -> None:
    head = EXAMPLES["latency-grid"][0].splitlines()[0]
    rows = "1,64,0.5,0.01,5\n2,64,0.6,0.02,5\n2,64,0.9,0.05,3\n4,64,0.7,0.3,1\n4,64,0.9,0.1,1\n"
    cells = read_cells(write(tmp_path, f"{head}\n{rows}")).systems[""]
    assert cells.batch_size.tolist() == [1, 2, 4]
    assert cells.seconds == pytest.approx([0.5, (5 * 0.6 + 3 * 0.9) / 8, 0.8])
    assert cells.repetitions.tolist() == [5, 8, 2]
    pooled = np.sqrt((4 * 0.02**2 + 2 * 0.05**2) / 6)
    # Two rows of one repetition each: how they differ is all the scatter there is.
    assert cells.std_s == pytest.approx([0.01, pooled, np.std([0.7, 0.9], ddof=1)])


def test_marks_tell_layouts_apart_and_are_not_read(tmp_path: Path) -> None:
    text = EXAMPLES["sarathi-steps"][0].replace(",12.5", ",none")
    assert read_cells(write(tmp_path, text)).layout.name == "sarathi-steps"
    assert all("" not in times.fields for layout in LAYOUTS.values() for times in layout.times)
    with pytest.raises(ValueError, match="line 1: column 'per_token_time' is missing"):
        read_cells(write(tmp_path, text), layout="sarathi-hybrid")


@pytest.mark.parametrize(
    ("first", "second", "resolution"),
    [("1", "2", 1.0), ("1.5", "2", 0.1), ("1.25e-3", "2", 1e-5), ("15E1", "20e0", 1.0), ("0.12345678901", "2", 0.0)],
)
def test_the_last_printed_digit_is_the_resolution(tmp_path: Path, first: str, second: str, resolution: float) -> None:
    text = f"b,t\n1,{first}\n2, {second} \n"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        table = read_cells(write(tmp_path, text), columns={"batch_size": "b", "seconds": "t"}, unit=unit)
        cells = table.systems[""]
        assert cells.resolution_s == pytest.approx(resolution * scale)
        assert cells.seconds == pytest.approx(np.array([float(first), float(second)]) * scale)


def test_columns_are_mapped_by_hand(tmp_path: Path) -> None:
    text = "n,in,out,ms,sd,runs\n2,10,20,1500,30,4\n4,10,20,1800,20,4\n"
    columns = {"batch_size": "n", "length_tokens": "out", "prompt_tokens": "in", "seconds": "ms"}
    more = {"std": "sd", "repetitions": "runs"}
    table = read_cells(write(tmp_path, text), columns=columns | more, unit="ms")
    cells = table.systems[""]
    assert cells.kind.tolist() == ["batch", "batch"]
    assert cells.batch_size.tolist() == [2, 4]
    assert cells.prompt_tokens.tolist() == [10, 10]
    assert cells.output_tokens.tolist() == [20, 20]
    assert cells.seconds == pytest.approx([1.5, 1.8])
    assert cells.std_s == pytest.approx([0.03, 0.02])
    assert cells.repetitions.tolist() == [4, 4]
    del columns["length_tokens"]
    same = read_cells(write(tmp_path, text), columns={**columns, "output_tokens": "out"}, unit="ms").systems[""]
    assert same.output_tokens.tolist() == [20, 20]
    # Without a length it is the time of a step.
    steps = read_cells(write(tmp_path, text), columns=columns, unit="ms").systems[""]
    assert steps.kind.tolist() == ["decode", "decode"]
    # Each of its requests reads its prompt.
    assert steps.kv_tokens.tolist() == (steps.batch_size * 10).tolist()


def test_all_gpus_of_a_server_with_experts_share_its_layers(tmp_path: Path) -> None:
    head, row = EXAMPLES["ml-energy"][0].splitlines()[:2]
    columns = head.split(",")
    spread = dict(zip(columns, row.split(","), strict=True)) | {"num_gpus": "8", "expert_parallel": "8"}
    (origin,) = read_cells(write(tmp_path, "\n".join([head, ",".join(spread.values())]))).origins.values()
    assert origin == {
        "model": spread["model_id"],
        "gpu": spread["gpu_model"],
        "tensor_parallel": 8,
        "expert_parallel": 8,
    }


def test_systems_are_kept_apart_and_selected(tmp_path: Path) -> None:
    rows = [f"{m},{h},8,512,{b},128,60,21,2800\n" for m in ("a", "b") for h in ("x", "y") for b in (1, 2)]
    path = write(tmp_path, SPLITWISE + "".join(rows))
    assert list(read_cells(path).systems) == [
        f"model {m}, hardware {h}, tensor_parallel 8" for m in ("a", "b") for h in ("x", "y")
    ]
    one = read_cells(path, select={"model": "b", "hardware": "x"}).systems
    assert list(one) == ["model b, hardware x, tensor_parallel 8"]
    assert one["model b, hardware x, tensor_parallel 8"].only("batch").batch_size.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"table\.csv: no row has model = c, hardware = x$"):
        read_cells(path, select={"model": "c", "hardware": "x"})
    with pytest.raises(ValueError, match=r"`select` batch_size: must be one of model, hardware, tensor_parallel$"):
        read_cells(path, select={"batch_size": "1"})
    nothing = r"table\.csv: `select` model: the layout batchcube has no columns that name systems, so there is nothing"
    with pytest.raises(ValueError, match=nothing):
        read_cells(write(tmp_path, GOOD), select={"model": "c"})


def test_lines_may_end_as_on_any_machine(tmp_path: Path) -> None:
    wanted = read_cells(write(tmp_path, GOOD)).systems[""]
    for end in ("\r\n", "\r"):
        cells = read_cells(write(tmp_path, "\ufeff" + GOOD.replace("\n", end))).systems[""]
        assert cells.seconds.tolist() == wanted.seconds.tolist()


LATENCY = EXAMPLES["latency-grid"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "line 1: no known layout has these columns: a, b; map them by name, for instance `column`"),
        ("", "line 1: is empty: must be the names of the columns"),
        (" , \n1,2\n", "line 1: is empty: must be the names of the columns"),
        (GOOD.splitlines()[0] + "\n", "has no rows"),
        (GOOD.replace("2.5", "-2.5"), "line 2: seconds = '-2.5': must be a finite number > 0"),
        (GOOD.replace("2.5", "nan"), "line 2: seconds = 'nan': must be a finite number > 0"),
        (GOOD.replace("2.5", "fast"), "line 2: seconds = 'fast'"),
        (GOOD.replace("1,100,", "-1,100,"), "line 3: batch_size = '-1': must be a finite number"),
        (GOOD.replace("1,100,", "0,100,"), "line 3: batch_size = '0': must be a finite number > 0"),
        (GOOD.replace("1,100,", "1,0,"), "line 3: length_tokens = '0': must be a finite number > 0"),
        (GOOD.replace("1,100,", "1,many,"), "line 3: length_tokens = 'many': must be a finite number"),
        (GOOD.replace("2,100,1.5\n", "2,100\n"), "line 5: has 2 fields: must have 3"),
        (LATENCY.replace("0.01", "-1"), "line 2: std_latency_sec = '-1': must be a finite number >= 0"),
        (LATENCY.replace("0.02,5", "0.02,2.5"), "line 3: num_trials = '2.5': must be a whole number >= 1"),
        (FITS.replace("0.82", "good"), "line 2: r2 = 'good': must be a finite number"),
        ("batch_size,length_tokens,seconds,seconds\n1,1,1,1\n", "column 'seconds' is there twice"),
        ('batch_size,length_tokens,seconds\n1,"100,1\n', "is not CSV"),
        ("x" * 200_000, "is not CSV"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not a text file: must be CSV in UTF-8"),
        ('{"id": 1, "ttft": 0.5}\n{"id": 2, "ttft": 0.4}\n', "is a log of requests (JSON)"),
        ('\ufeff\n{"id":1,"ttft":0.5}\n', "is a log of requests (JSON)"),
        ("t,running,waiting,kv_cache_pct\n1,9,0,0.1\n", "is a log over time (t, running, waiting, kv_cache_pct)"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_cells(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"layout": "other"}, "`layout` other: must be one of ml-energy, ml-energy-fits, splitwise, sarathi-steps"),
        ({"layout": "latency-grid"}, "line 1: column 'mean_latency_sec' is missing: needs mean_latency_sec, batch"),
        ({"columns": {"batch": "b"}}, "`column` batch: must be one of batch_size, length_tokens, output_tokens"),
        ({"columns": {"seconds": "seconds"}}, "`column`: seconds and batch_size must be mapped"),
        ({"columns": {"batch_size": "batch_size", "seconds": "t"}}, "line 1: column 't' is missing"),
        (
            {"columns": {"batch_size": "batch_size", "seconds": "seconds"}, "unit": "min"},
            "`unit` min: must be one of s, ms, us",
        ),
        ({"unit": "ms"}, "`unit` ms: goes with columns mapped by name (`column`); layouts have their own"),
        (
            {"columns": {"batch_size": "batch_size", "seconds": "seconds"}, "layout": "batchcube"},
            "`layout` batchcube: must be left out where columns are mapped by name (`column`)",
        ),
        (
            {"columns": {"batch_size": "b", "seconds": "t", "length_tokens": "n", "output_tokens": "m"}},
            "`column`: length_tokens and output_tokens are two names of one thing: map one of them",
        ),
    ],
)
def test_what_a_file_cannot_be_read_as_is_one_clear_line(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_cells(path, **asked)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_a_missing_file_of_cells_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.csv: cannot be read: No such file"):
        read_cells(tmp_path / "gone.csv")


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet='0123456789.,-e"\r\n ', max_size=120)))
def test_no_file_of_cells_gets_more_than_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, junk: str | bytes
) -> None:
    head = b"batch_size,length_tokens,seconds\n" if isinstance(junk, str) else b""
    path = write(tmp_path_factory.getbasetemp(), head + (junk.encode() if isinstance(junk, str) else junk))
    try:
        table = read_cells(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right, and both are checked
    else:
        assert (table.systems[""].seconds > 0).all()
