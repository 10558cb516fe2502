import csv
import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube import documents
from batchcube.errors import InputError
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.workloads import rows
from batchcube.sweeps.workloads.resampling import resample
from batchcube.sweeps.workloads.rows import read_columns, read_lengths
from batchcube.sweeps.workloads.traces import RecordedTrace, TraceSettings, read_trace
from helpers import logs
from helpers.samples import SAMPLES

PLAIN = "arrival_s,prompt_tokens,output_tokens\n0.5,10,20\n0.5,0,1\n2.25,30,40\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,API log\n"
    "45,GPT-4,417,276,693,Conversation log\n"
    "118,ChatGPT,100,7,107,API log\n"
)
BURSTGPT_NEWER = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5.5,abc,1.25,ChatGPT,472,18,490,Conversation log\n"
    "45,,,GPT-4,417,276,693,API log\n"
)
MOONCAKE = "".join(
    json.dumps({"timestamp": t, "input_length": i, "output_length": o, "hash_ids": [0, 1]}) + "\n"
    for t, i, o in ((0, 6758, 500), (0, 7322, 490), (3000, 12, 1))
)
FORMATS = {
    "csv": PLAIN,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "burstgpt_newer": BURSTGPT_NEWER,
    "mooncake": MOONCAKE,
}

Write = Callable[[str | bytes], Path]


def read(
    path: Path, format: str = "auto", *, hashes: bool = False, priorities: bool = False, **more: Any
) -> RecordedTrace:
    settings = TraceSettings.model_validate({"path": str(path), "format": format, **more})
    return read_trace(settings, hashes=hashes, priorities=priorities)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(content: str | bytes) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def test_plain(write: Write) -> None:
    trace = read(write(PLAIN))
    assert trace.arrival_s.tolist() == [0.0, 0.0, 1.75]
    assert trace.prompt_tokens.tolist() == [10, 0, 30]
    assert trace.output_tokens.tolist() == [20, 1, 40]
    assert trace.predicted is None
    assert (trace.rows_read, trace.rows_dropped, trace.dropped_reasons) == (3, 0, {})


def test_plain_with_predictions_other_columns_and_windows_line_ends(write: Write) -> None:
    content = '\ufeffnote,arrival_s,predicted_tokens,output_tokens,prompt_tokens\r\n"a,b",1,7.5,3,2\r\n,2,0,4,2\r\n'
    trace = read(write(content), "csv")
    assert trace.predicted is not None
    assert trace.predicted.tolist() == [7.5, 0.0]
    assert trace.output_tokens.tolist() == [3, 4]


def test_azure_with_and_without_a_zone(write: Write) -> None:
    for zone in ("", "Z", "+00:00"):
        content = AZURE.replace("900,374", f"900{zone},374").replace("690,396", f"690{zone},396")
        trace = read(write(content))
        assert trace.arrival_s.tolist() == [0.0, 4.314579]
        assert trace.output_tokens.tolist() == [44, 109]


def test_burstgpt_failures_and_filters_are_counted(write: Write) -> None:
    path = write(BURSTGPT)
    trace = read(path)
    assert trace.arrival_s.tolist() == [0.0, 40.0, 113.0]
    assert trace.dropped_reasons == {"failed (0 response tokens)": 1}
    trace = read(path, model="ChatGPT", log_type="API log")
    assert trace.output_tokens.tolist() == [7]
    assert trace.arrival_s.tolist() == [0.0]
    assert trace.dropped_reasons == {"other model": 1, "other log type": 1, "failed (0 response tokens)": 1}
    assert (trace.rows_read, trace.rows_dropped) == (4, 3)


def test_burstgpt_newer_header(write: Write) -> None:
    trace = read(write(BURSTGPT_NEWER), "burstgpt")
    assert trace.arrival_s.tolist() == [0.0, 39.5]
    assert trace.prompt_tokens.tolist() == [472, 417]


def test_mooncake_is_in_milliseconds(write: Write) -> None:
    trace = read(write(MOONCAKE))
    assert trace.arrival_s.tolist() == [0.0, 0.0, 3.0]
    assert trace.output_tokens.tolist() == [500, 490, 1]


BAILIAN = "".join(
    json.dumps({"chat_id": n, "parent_chat_id": -1, "timestamp": t, "input_length": 100, "output_length": 20}) + "\n"
    for n, t in enumerate((0.0, 60.0, 61.114))
)


def test_the_names_of_mooncake_with_chats_are_in_seconds(write: Write) -> None:
    assert read(write(BAILIAN)).arrival_s.tolist() == [0.0, 60.0, 61.114]
    assert read(write(BAILIAN), "mooncake", unit="s").arrival_s.tolist() == [0.0, 60.0, 61.114]


def mooncake(*times: float | str, output: int = 1) -> str:
    return "".join(f'{{"timestamp": {t}, "input_length": 10, "output_length": {output}}}\n' for t in times)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            mooncake(0, 0.5, 7000),
            "row 2, column 'timestamp': has decimals, and whole ms would not: state workload.trace",
        ),
        (mooncake("0.0", "60.0", "61.0"), "row 1, column 'timestamp': has decimals"),
        (
            mooncake(*range(100)),
            "in ms these were 1e+03 requests/s on average, hardly from 0.01 to 200, in s 1: state workload.tr",
        ),
        (PLAIN + "1e8,1,1\n", "in s these were 3e-08 requests/s on average"),
        (
            "arrival_s,prompt_tokens,output_tokens\n1700000000000,1,1\n1700000000500,1,1\n",
            "row 1, column 'arrival_s': 1.7e+12 s",
        ),
        (
            "arrival_s,prompt_tokens,output_tokens\n2024-05-10T00:00:00,1,1\n",
            "must be a number; or state workload.trace.unit",
        ),
    ],
)
def test_times_that_are_hardly_in_their_unit_are_refused_until_it_is_stated(
    write: Write, content: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(write(content))
    assert message in str(caught.value)
    assert '"s", "ms", "us", "ns", or "date"' in str(caught.value)


def test_every_unit(write: Write) -> None:
    for unit, per_s in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        content = f"arrival_s,prompt_tokens,output_tokens\n{1_700_000_000 * per_s},1,1\n{1_700_000_060 * per_s},1,1\n"
        assert read(write(content), unit=unit).arrival_s.tolist() == [0.0, 60.0]
    dated = "arrival_s,prompt_tokens,output_tokens\n2024-05-10T00:00:00,10,5\n2024-05-10T00:00:01.5,10,5\n"
    assert read(write(dated), unit="date").arrival_s.tolist() == [0.0, 1.5]
    assert read(write(mooncake(*range(100))), unit="s").arrival_s[-1] == 99.0
    with pytest.raises(InputError, match="must be a date and time"):
        read(write(PLAIN), unit="date")
    with pytest.raises(InputError, match="spans more than"):
        read(write(dated.replace("2024-05-10T00:00:00", "1700-05-10T00:00:00")), unit="date")


def test_packed_files_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    import pyarrow as pa

    for name, codec in (("t.csv.gz", "gzip"), ("t.zst", "zstd"), ("t.csv", "gzip")):
        with pa.CompressedOutputStream(str(tmp_path / name), codec) as stream:
            stream.write(PLAIN.encode())
        trace = read(tmp_path / name)
        assert trace.arrival_s.tolist() == [0.0, 0.0, 1.75]
        assert trace.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(InputError, match=rf"cannot be unpacked \({codec}\)"):
            read(tmp_path / name)


def test_a_file_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"0" * 40_000_000))
    monkeypatch.setattr(documents, "LARGEST_FILE", 1_000_000)
    monkeypatch.setattr(rows, "LARGEST_FILE", 1_000_000)
    with pytest.raises(InputError, match="holds more than 1000000 bytes once unpacked"):
        read(tmp_path / "bomb.gz")
    (tmp_path / "large").write_bytes(b"0" * 1_000_001)
    with pytest.raises(InputError, match="is larger than 1000000 bytes"):
        read(tmp_path / "large")


def test_columns_can_be_named(write: Write) -> None:
    content = "arrived_at,num_prefill_tokens,num_decode_tokens,guess\n0.0,300,40,7\n4.0,350,100,8\n"
    columns = {"arrival": "arrived_at", "prompt_tokens": "num_prefill_tokens", "output_tokens": "num_decode_tokens"}
    trace = read(write(content), columns=columns)
    assert (trace.arrival_s.tolist(), trace.prompt_tokens.tolist()) == ([0.0, 4.0], [300, 350])
    assert (trace.predicted, trace.unused_columns) == (None, ("guess",))
    predicted = read(write(content), columns={**columns, "predicted_tokens": "guess"}).predicted
    assert predicted is not None
    assert predicted.tolist() == [7.0, 8.0]
    row = '{"input_toks":10,"output_toks":5,"arrival_time_ns":%d}\n'
    nanoseconds = row % 0 + row % 1_500_000_000
    columns = {"arrival": "arrival_time_ns", "prompt_tokens": "input_toks", "output_tokens": "output_toks"}
    assert read(write(nanoseconds), columns=columns, unit="ns").arrival_s.tolist() == [0.0, 1.5]
    # One column of a published format may have another name.
    renamed = MOONCAKE.replace('"timestamp"', '"at"')
    assert read(write(renamed), columns={"arrival": "at"}).arrival_s.tolist() == [0.0, 0.0, 3.0]
    for bad, message in (
        ({**columns, "arrival": "x"}, "no column 'x': has 'input_toks', 'output_toks', 'arrival_time_ns'; workload"),
        ({**columns, "arrival": "input_toks"}, "one column is named twice"),
    ):
        with pytest.raises(InputError, match=message):
            read(write(nanoseconds), columns=bad)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a,b,c", "no columns 'arrival_s', 'prompt_tokens', 'output_tokens': has 'a', 'b', 'c'"),
        (
            "arrival,prompt_tokens,outputs",
            "no columns 'arrival_s' (did you mean arrival?), 'output_tokens' (did you mean outputs?): has 'arrival', "
            "'prompt_tokens', 'outputs'",
        ),
        (
            "TIMESTAMP,ContextTokens,Generated",
            "format not recognised; nearest is azure, without 'GeneratedTokens' (did you mean Generated?): has "
            "'TIMESTAMP', 'ContextTokens', 'Generated'",
        ),
        (
            "timestamp,input_length,out",
            "format not recognised; nearest is mooncake, without 'output_length': has 'timestamp', 'input_length', "
            "'out'",
        ),
        (
            "timestamp,input_length,turn",
            "format not recognised; nearest is bailian, without 'output_length': has 'timestamp', 'input_length', "
            "'turn'",
        ),
        ("timestamp,x,y", "no columns 'arrival_s', 'prompt_tokens', 'output_tokens': has 'timestamp', 'x', 'y'"),
        (
            "a,b,c,d,e,f,g,h,i,j,arrival_s",
            "no columns 'prompt_tokens', 'output_tokens': has 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', ...",
        ),
    ],
)
def test_unknown_columns_are_told_from_the_nearest_layout(write: Write, header: str, said: str) -> None:
    file = write(f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    with pytest.raises(InputError) as caught:
        read(file)
    advice = "workload.trace.columns names others (arrival, prompt_tokens, output_tokens)"
    assert str(caught.value) == f"{file}: {said}; {advice}"


def test_blanks_around_columns_do_not_count_and_other_separators_are_refused(write: Write) -> None:
    assert read(write(PLAIN.replace(",", ", "))).prompt_tokens.tolist() == [10, 0, 30]
    for separator in ";\t|":
        with pytest.raises(InputError, match="its columns are separated by"):
            read(write(PLAIN.replace(".", ",").replace(",", separator)))


def test_rows_are_sorted_on_request_and_counted(write: Write) -> None:
    content = "arrival_s,prompt_tokens,output_tokens\n9,1,1\n5,1,2\n7,1,3\n5,1,4\n"
    with pytest.raises(InputError, match=r"earlier than the row before it: .* workload.trace.sort = true sorts them"):
        read(write(content))
    trace = read(write(content), sort=True)
    assert trace.arrival_s.tolist() == [0.0, 0.0, 2.0, 4.0]
    assert trace.output_tokens.tolist() == [2, 4, 3, 1]
    assert trace.rows_out_of_order == 2
    assert read(write(content), sort=True, start_s=1.0).output_tokens.tolist() == [3, 1]
    assert read(write(PLAIN), sort=True).rows_out_of_order == 0
    mixed = BURSTGPT.replace("\n5,ChatGPT", "\n200,ChatGPT")
    assert read(write(mixed), sort=True, model="ChatGPT").output_tokens.tolist() == [7, 18]


def test_empty_prompts_are_dropped_on_request_and_counted(write: Write) -> None:
    trace = read(write(PLAIN), drop_empty_prompts=True)
    assert trace.prompt_tokens.tolist() == [10, 30]
    assert (trace.rows_dropped, trace.dropped_reasons) == (1, {"without a prompt (0 tokens)": 1})


def test_columns_that_are_not_used_are_told(write: Write) -> None:
    assert read(write(MOONCAKE)).unused_columns == ("hash_ids",)
    assert read(write(BURSTGPT)).unused_columns == ("Model", "Total tokens", "Log Type")
    assert read(write(BURSTGPT), model="GPT-4").unused_columns == ("Total tokens", "Log Type")
    assert read(write(AZURE)).unused_columns == ()


def test_the_unit_that_only_a_layout_tells_is_said(write: Write) -> None:
    assert [read(write(text)).assumed_unit for text in (MOONCAKE, BURSTGPT, AZURE)] == ["ms", "s", ""]
    assert read(write(MOONCAKE), unit="ms").assumed_unit == ""
    assert read(write("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,5\n")).assumed_unit == ""


def test_the_cube_says_what_was_dropped_sorted_and_not_used(tmp_path: Path) -> None:
    rows = ((5000, 10), (0, 10), (9000, 0))
    lines = [{"timestamp": t, "input_length": i, "output_length": 5, "hash_ids": [1], "a\nb": 1} for t, i in rows]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = {"path": str(tmp_path / "t.jsonl"), "sort": True, "drop_empty_prompts": True}
    document = {
        "workload": {"trace": trace},
        "policy": {"mode": "continuous", "largest_batch": 4},
        "server": {"service": {"law": "steps", "c0_s": 0.01}, "replica": {"kv_capacity_tokens": 1000}},
    }
    prepared = prepare(Sweep.model_validate(document))
    assert prepared.requests == 2
    about = [note.removeprefix(f"{trace['path']}: ") for note in prepared.notes if note.startswith(str(trace["path"]))]
    assert about == [
        "1 of 3 rows dropped: 1 without a prompt (0 tokens)",
        "rows sorted: 1 were earlier than the row before",
        "times taken to be in ms (workload.trace.unit states it): 0.2 requests/s on average",
        "columns not used: 'hash_ids' (shared prefixes are computed anew; server.replica.enable_prefix_caching = true "
        "finds them), 'a\\nb'",
    ]
    trace["drop_empty_prompts"] = False
    with pytest.raises(InputError, match=r"1 of 3 prompts have no tokens: .* workload.trace.drop_empty_prompts = true"):
        prepare(Sweep.model_validate(document))


def test_window_and_limit(write: Write) -> None:
    rows = "".join(f"{n + 100},1,{n + 1}\n" for n in range(10))
    path = write("arrival_s,prompt_tokens,output_tokens\n" + rows)
    trace = read(path, start_s=2, stop_s=7, limit=3)
    assert trace.output_tokens.tolist() == [3, 4, 5]
    assert trace.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert trace.dropped_reasons == {"outside the window": 5, "past the row limit": 2}
    assert trace.rows_read == trace.rows_dropped + trace.arrival_s.size == 10


def row(text: str) -> str:
    return PLAIN + text + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("\ufeff", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a text file"),
        (b"\xff\xfe\xfa,b\n1,2\n", "not UTF-8"),
        ("a,b,c\n1,2,3\n", "no columns 'arrival_s', "),
        ('{"a": [1]}\n', "output_tokens); it may be a log, of no format that is known (docs/logs.md)"),
        ("arrival_s,prompt_tokens,output_tokens\n", "has a header but no rows"),
        ("arrival_s,arrival_s,prompt_tokens,output_tokens\n1,1,1,1\n", "'arrival_s' occurs more than once"),
        (row("3,1"), "row 4 has 2 columns: must have 3"),
        (row("3,1,1,1"), "row 4 has 4 columns: must have 3"),
        (row("x,1,1"), "row 4, column 'arrival_s': invalid value 'x': must be a number"),
        (row("1e999,1,1"), "row 4, column 'arrival_s'"),
        (row("3,1,"), "row 4, column 'output_tokens': missing"),
        (row("3,nan,1"), "row 4, column 'prompt_tokens': missing"),
        (row("inf,1,1"), "row 4, column 'arrival_s': inf"),
        (row("3,1,0"), "row 4, column 'output_tokens': 0: must be a whole number from 1"),
        (row("3,1,-5"), "row 4, column 'output_tokens': -5"),
        (row("3,-1,5"), "row 4, column 'prompt_tokens': -1: must be a whole number from 0"),
        (row("3,1,2.5"), "row 4, column 'output_tokens': 2.5"),
        (row("3,1,2097153"), "to 2097152"),
        (row("3,2097152,1"), "row 4: prompt and output are 2097153 tokens: at most 2097152"),
        (row("1,1,1"), "row 4, column 'arrival_s': earlier than the row before"),
        (row("1e300,1,1"), "must be at most"),
        (PLAIN.replace("\n0.5,10", "\n-0.5,10"), "row 1, column 'arrival_s': -0.5: must be >= 0"),
        (
            PLAIN.replace("tokens\n", "tokens,predicted_tokens\n").replace("0\n", "0,-1\n").replace(",1\n", ",1,1\n"),
            ">= 0",
        ),
        (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), "row 2, column 'TIMESTAMP': 'yesterday': must be"),
        (AZURE.replace("18:15:50.9951690", "18:15:50.9951690+00:00"), "like row 1, without a zone"),
        (AZURE.replace("15:50", "15:40"), "row 2, column 'TIMESTAMP': earlier than the row before"),
        (AZURE.replace(",109", ",0"), "row 2, column 'GeneratedTokens': 0"),
        (BURSTGPT.replace(",18,", ",-1,"), "row 1, column 'Response tokens': -1"),
        (MOONCAKE + "{", "row 4 is not a JSON object"),
        (MOONCAKE + '{"timestamp": 9000}\n', "row 4, column 'input_length': missing"),
        (
            MOONCAKE + '{"delay": 500, "input_length": 5, "output_length": 5}\n',
            "row 4, column 'timestamp': missing: must be a number of ms; rows with delay in its place are later turns",
        ),
        (MOONCAKE.replace("500", '"many"'), "row 1, column 'output_length': \"many\" is not a number"),
        (MOONCAKE.replace("3000", "-3000"), "row 3, column 'timestamp': -3000"),
        ("[1]\n", "format not recognised"),
        ("{1}\n", "is not JSON"),
        ("[workload]\n", "is not JSON: must be JSON, as which it begins ([), JSON lines or CSV"),
    ],
)
def test_bad_files_get_one_line_that_says_where(write: Write, content: str | bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "azure"}, "no column"),
        ({"model": "GPT-4"}, "need format = 'burstgpt'"),
        ({"start_s": 5.0, "stop_s": 5.0}, "no rows left of 3: 3 outside the window"),
        ({"start_s": 100.0}, "no rows left of 3: 3 outside the window"),
    ],
)
def test_bad_options(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(PLAIN), **options)


def test_no_such_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path)
    with pytest.raises(InputError):
        read(Path("a\0b"))


def test_columns_and_lengths(write: Write) -> None:
    path = write("kind,n,m\na,1,5\nb,2,6\na,3,7\n")
    assert read_columns(path, ("n", "m"), {"kind": "a"})["m"].tolist() == [5.0, 7.0]
    assert read_lengths(path, "n", "m", limit=2).prompt_tokens.tolist() == [5, 6]  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no row with kind = 'c': has 'a', 'b'"):
        read_columns(path, ("n",), {"kind": "c"})
    with pytest.raises(InputError, match="named twice"):
        read_lengths(path, "n", "n")
    with pytest.raises(InputError, match="no column 'q'"):
        read_lengths(path, "q")
    with pytest.raises(
        InputError, match=r"no columns 'p', 'q': has .*; workload\.lengths names others \(column, prompt"
    ):
        read_lengths(path, "p", "q")


# Real files -----------------------------------------------------------------------------------------------------


def gaps(trace: RecordedTrace) -> tuple[float, float]:
    gap = np.diff(trace.arrival_s)
    return (trace.arrival_s.size - 1) / trace.arrival_s[-1], float(gap.std() / gap.mean())


def test_azure_conversation_trace(shared_data: Path) -> None:
    trace = read(shared_data / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv")
    assert trace.arrival_s.size == 19_366
    assert trace.rows_dropped == 0
    rate, cv = gaps(trace)
    assert rate == pytest.approx(5.53, abs=0.005)
    assert cv == pytest.approx(1.09, abs=0.005)
    assert trace.prompt_tokens.mean() == pytest.approx(1155, abs=1)
    assert trace.output_tokens.mean() == pytest.approx(211, abs=1)
    assert trace.sha256 == "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8"


def test_mooncake_trace(shared_data: Path) -> None:
    trace = read(shared_data / "mooncake" / "conversation_trace.jsonl")
    assert trace.arrival_s.size == 12_031
    rate, cv = gaps(trace)
    assert rate == pytest.approx(3.40, abs=0.005)
    assert cv == pytest.approx(3.03, abs=0.005)


def hashed(*rows: tuple[int, list[Any]]) -> str:
    return "".join(
        json.dumps({"timestamp": k, "input_length": p, "output_length": 5, "hash_ids": ids}) + "\n"
        for k, (p, ids) in enumerate(rows)
    )


def test_hashes_say_what_prompts_contain(write: Write) -> None:
    file = write(hashed((1000, [7, 9]), (512, [7]), (1030, [7, 3, 4]), (1000, [3, 9])))
    trace = read(file, unit="s", hashes=True)
    assert trace.content is not None
    assert trace.unused_columns == ()
    ids, begin = trace.content.ids.tolist(), trace.content.begin.tolist()
    assert begin == [0, 2, 3, 6, 8]
    # An id counts with all before it: 9 after 3 is not 9 after 7.
    assert ids[0] == ids[2] == ids[3]
    assert len(set(ids)) == 6
    assert (trace.content.tokens.tolist(), trace.content.tokens_each) == ([1000, 512, 1030, 1000], 512)
    window = read(file, unit="s", hashes=True, start_s=1.0, stop_s=3.0).content
    assert window is not None
    assert window.begin.tolist() == [0, 1, 4]
    assert window.ids[0] == window.ids[1]
    assert read(file, unit="s").content is None
    assert read(write(PLAIN), hashes=True).content is None


def test_the_last_part_of_a_prompt_may_have_no_hash(write: Write) -> None:
    trace = read(write(hashed((40, [1, 2]), (32, [1, 2]))), unit="s", hashes=True, hash_tokens=16)
    assert trace.content is not None
    assert trace.content.tokens.tolist() == [32, 32]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (((1100, [7]), (512, [7])), "row 1, column 'hash_ids': 1 ids for 1100 tokens: must be 3, of 512 tokens each"),
        (((512, [7]), (512, [7, 8])), "row 2, column 'hash_ids': 2 ids for 512 tokens: must be 1"),
        (((512, [7]), (300, [7])), "row 2, column 'hash_ids': 7 stands for 300 tokens, in row 1 for 512"),
        (((512, [7]), (512, ["a"])), "row 2, column 'hash_ids': [\"a\"]: must be a list of whole numbers"),
        (((512, [7]), (512, [1.5])), "row 2, column 'hash_ids': [1.5]: must be a list of whole numbers"),
        (((512, [7]), (512, [None])), "row 2, column 'hash_ids': an id is missing"),
    ],
)
def test_wrong_hashes_are_refused(write: Write, rows: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        read(write(hashed(*rows)), unit="s", hashes=True)
    assert said in str(refused.value)


def test_tokens_of_hashes_are_refused_where_there_are_none(write: Write) -> None:
    said = r"workload.trace.hash_tokens = 48: there is no column 'hash_ids' of JSON lines"
    with pytest.raises(InputError, match=said):
        read(write(PLAIN), hashes=True, hash_tokens=48)


RANKED = "arrival_s,prompt_tokens,output_tokens,priority\n0.5,10,20,-3\n2.0,30,40,0\n1.0,1,1,7\n"


def test_priorities_are_read_where_they_are_asked_for(write: Write) -> None:
    file = write(RANKED)
    trace = read(file, priorities=True, sort=True)
    assert trace.priority is not None
    assert trace.priority.tolist() == [-3, 7, 0]
    assert trace.unused_columns == ()
    drawn = resample(trace, stream(1, 0, "window"), method="circular", requests=2)
    assert drawn.priority is not None
    assert dict(zip(drawn.prompt_tokens.tolist(), drawn.priority.tolist(), strict=True)).items() <= {
        (10, -3),
        (1, 7),
        (30, 0),
    }
    unread = read(file, sort=True)
    assert (unread.priority, unread.unused_columns) == (None, ("priority",))


@pytest.mark.parametrize("bad", ["0.5", "1e12", "high"])
def test_wrong_priorities_are_refused(write: Write, bad: str) -> None:
    with pytest.raises(InputError, match=r"row 3, column 'priority': .*must be a"):
        read(write(RANKED.replace(",7", f",{bad}")), priorities=True)


def test_a_row_that_is_drawn_again_has_content_of_its_own(write: Write) -> None:
    trace = read(write(hashed((512, [7]), (1024, [7, 8]))), unit="s", hashes=True)
    drawn = resample(trace, stream(1, 0, "window"), method="blocks", requests=40, block_requests=2)
    assert drawn.content is not None
    content = drawn.content
    first = content.ids[content.begin[:-1]]
    # Both rows of a block that is drawn for the n-th time begin with the same id, which no other block has.
    assert first[::2].tolist() == first[1::2].tolist()
    assert len(set(first.tolist())) == 20


@pytest.mark.parametrize(
    ("name", "requests"),
    [("BurstGPT_1_first30_rows", 30), ("BurstGPT_1_dense_120", 120), ("BurstGPT_1_span30s_120", 120)],
)
def test_burstgpt_cuts(shared_data: Path, name: str, requests: int) -> None:
    trace = read(shared_data / "burstgpt" / f"{name}.csv")
    assert trace.rows_read == requests
    assert trace.arrival_s.size + sum(trace.dropped_reasons.values()) == requests
    assert np.all(trace.arrival_s == np.floor(trace.arrival_s))


# Samples of our own in their layouts --------------------------------------------------------------------------------


def rows_of(name: str) -> list[dict[str, Any]]:
    """Read a sample again, by the standard library."""
    lines = (SAMPLES / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines)) if name.endswith(".csv") else list(map(json.loads, lines))


def test_a_sample_with_dates_is_read() -> None:
    rows, trace = rows_of("azure.csv"), read(SAMPLES / "azure.csv")
    dates = [datetime.fromisoformat(row["TIMESTAMP"][:-1]) for row in rows]
    assert (dates[-1] - dates[0]).days == 0
    assert dates[-1].day == 1 != dates[0].day
    seconds = [(date - dates[0]).total_seconds() for date in dates]
    np.testing.assert_allclose(trace.arrival_s, seconds, rtol=0, atol=1e-6)
    assert trace.prompt_tokens.tolist() == [int(row["ContextTokens"]) for row in rows]
    assert trace.output_tokens.tolist() == [int(row["GeneratedTokens"]) for row in rows]
    assert (trace.rows_read, trace.rows_dropped) == (200, 0)


def test_a_sample_in_milliseconds_is_read() -> None:
    rows, trace = rows_of("mooncake.jsonl"), read(SAMPLES / "mooncake.jsonl")
    assert trace.arrival_s.tolist() == [row["timestamp"] / 1000 for row in rows]
    assert trace.prompt_tokens.tolist() == [row["input_length"] for row in rows]
    assert trace.output_tokens.tolist() == [row["output_length"] for row in rows]


def test_a_sample_in_whole_seconds_is_read_without_its_failures() -> None:
    rows, trace = rows_of("burstgpt.csv"), read(SAMPLES / "burstgpt.csv")
    served = [row for row in rows if row["Response tokens"] != "0"]
    assert (trace.rows_read, trace.rows_dropped) == (60, 6)
    assert sum(trace.dropped_reasons.values()) == 6
    assert np.all(trace.arrival_s == np.floor(trace.arrival_s))
    assert np.diff(trace.arrival_s).tolist() == np.diff([float(row["Timestamp"]) for row in served]).tolist()
    assert trace.output_tokens.tolist() == [int(row["Response tokens"]) for row in served]


# Resampling -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> RecordedTrace:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(size=500) * np.repeat([0.1, 3.0], 250))
    number = np.arange(500)
    return RecordedTrace(arrival - arrival[0], number, number + 1, number / 2, "", 500, 0, {})


def window_rng(replication: int) -> np.random.Generator:
    return stream(1, replication, "window")


def test_without_resampling_it_is_the_trace_itself(recorded: RecordedTrace) -> None:
    window = resample(recorded, window_rng(0), method="none", rate_scale=2.0)
    np.testing.assert_array_equal(window.arrival_s, recorded.arrival_s / 2)
    assert resample(recorded, window_rng(0), method="none", requests=7).output_tokens.tolist() == list(range(1, 8))


def test_circular_windows_follow_the_trace_around_its_end(recorded: RecordedTrace) -> None:
    size, starts = 500, set()
    for replication in range(30):
        window = resample(recorded, window_rng(replication), method="circular", requests=300)
        rows = window.prompt_tokens
        starts.add(int(rows[0]))
        np.testing.assert_array_equal(np.diff(rows) % size, 1)
        assert window.predicted is not None
        np.testing.assert_array_equal(window.predicted, rows / 2)
        assert window.arrival_s[0] == 0
        inner = np.diff(rows) == 1
        np.testing.assert_allclose(
            np.diff(window.arrival_s)[inner], np.diff(recorded.arrival_s)[rows[:-1][inner]], atol=1e-9
        )
        np.testing.assert_allclose(np.diff(window.arrival_s)[~inner], recorded.arrival_s[-1] / 499)
    assert len(starts) > 20


def test_parts_follow_each_other_and_share_nothing(recorded: RecordedTrace) -> None:
    parts = [resample(recorded, window_rng(r), method="parts", requests=120, replication=r) for r in range(4)]
    assert np.concatenate([part.prompt_tokens for part in parts]).tolist() == recorded.prompt_tokens[:480].tolist()
    for number, part in enumerate(parts):
        own = recorded.arrival_s[120 * number : 120 * (number + 1)]
        np.testing.assert_allclose(part.arrival_s, own - own[0])
    with pytest.raises(InputError, match="replication 4 would end at request 600, and the trace has 500"):
        resample(recorded, window_rng(4), method="parts", requests=120, replication=4)


@pytest.mark.parametrize("block", [None, 1, 40, 500])
@pytest.mark.parametrize("requests", [1, 300, 2000])
def test_blocks_keep_their_gaps(recorded: RecordedTrace, block: int | None, requests: int) -> None:
    window = resample(recorded, window_rng(0), method="blocks", requests=requests, block_requests=block)
    rows = window.prompt_tokens
    assert window.arrival_s.shape == (requests,)
    assert window.arrival_s[0] == 0
    assert np.all(np.diff(window.arrival_s) >= 0)
    length = 22 if block is None else block
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    assert np.all(breaks % length == 0)
    own = np.append(recorded.arrival_s[-1] / 499, np.diff(recorded.arrival_s))
    np.testing.assert_allclose(np.diff(window.arrival_s), own[rows[1:]], atol=1e-9)


@pytest.mark.parametrize("method", ["circular", "blocks"])
def test_a_replication_is_the_same_at_every_scale_and_again(recorded: RecordedTrace, method: Any) -> None:
    slow = resample(recorded, window_rng(3), method=method, requests=100)
    fast = resample(recorded, window_rng(3), method=method, requests=100, rate_scale=4.0)
    other = resample(recorded, window_rng(4), method=method, requests=100)
    np.testing.assert_array_equal(slow.arrival_s, fast.arrival_s * 4)
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens)
    assert not np.array_equal(slow.output_tokens, other.output_tokens)


def test_blocks_have_the_mean_rate_of_the_trace(recorded: RecordedTrace) -> None:
    spans = [
        resample(recorded, window_rng(replication), method="blocks", block_requests=20).arrival_s[-1]
        for replication in range(200)
    ]
    # Blocks of 20 leave out few beginnings and ends, hence the tolerance beyond the error of the mean.
    assert abs(np.mean(spans) - recorded.arrival_s[-1]) < 4.5 * np.std(spans) / np.sqrt(200) + 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "circular", "requests": 501}, "from 1 to 500"),
        ({"method": "none", "requests": 0}, "from 1 to 500"),
        ({"method": "blocks", "requests": 0}, "must be >= 1"),
        ({"method": "blocks", "block_requests": 501}, "from 1 to 500"),
        ({"method": "circular", "block_requests": 5}, "needs resample = 'blocks'"),
        ({"method": "none", "rate_scale": 0.0}, "must be > 0"),
        ({"method": "none", "rate_scale": float("nan")}, "must be > 0"),
        ({"method": "none", "rate_scale": 1e-300}, "would last more than"),
    ],
)
def test_windows_that_do_not_fit_are_refused(recorded: RecordedTrace, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resample(recorded, window_rng(0), **options)


# Logs of servers ----------------------------------------------------------------------------------------------------


def test_a_log_is_a_workload(tmp_path: Path) -> None:
    requests = logs.some()
    sent = np.array(requests)[:, 0]
    path = tmp_path / "profile_export.jsonl"
    path.write_bytes(gzip.compress(logs.aiperf(requests)))
    trace = read(path)
    assert trace.output_tokens.tolist() == [r.output for r in requests]
    np.testing.assert_allclose(trace.arrival_s, sent - sent[0], atol=1e-6)
    assert (trace.rows_read, trace.rows_dropped) == (15, 3)
    assert trace.dropped_reasons == {"warm-up": 1, "cancelled": 1, "failed": 1}
    cut = read(path, "aiperf", start_s=sent[4] - sent[0] - 0.01, limit=5)
    assert cut.prompt_tokens.tolist() == [r.prompt for r in requests[4:9]]
    assert cut.dropped_reasons == trace.dropped_reasons | {"outside the window": 4, "past the row limit": 3}
    assert cut.arrival_s[0] == 0.0
    with pytest.raises(InputError, match="no rows left of 12: 1 warm-up, 1 cancelled, 1 failed, 12 outside the window"):
        read(path, start_s=1e6)


def test_hashes_and_priorities_of_a_log_are_read_where_its_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    rows = [json.loads(line) for line in logs.vllm_requests(logs.some(), aborted=0).splitlines()]
    for k, row in enumerate(rows):
        row |= {
            "priority": k % 2,
            "hash_ids": [0] if row["input_toks"] >= 16 else [],
            "input_toks": row["input_toks"] % 32,
        }
        row["hash_ids"] = row["hash_ids"][: row["input_toks"] // 16]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in reversed(rows)))
    named = {"arrival": "queued_ts", "prompt_tokens": "input_toks", "output_tokens": "output_toks"}
    trace = read(path, columns=named, sort=True, hashes=True, hash_tokens=16, priorities=True)
    assert trace.priority is not None
    assert trace.priority.tolist() == [k % 2 for k in range(12)]
    assert trace.content is not None


@pytest.mark.parametrize("name", logs.FORMATS)
def test_every_format_with_arrivals_is_a_workload(tmp_path: Path, name: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(logs.FORMATS[name].write(logs.some()))
    if logs.FORMATS[name].has_arrivals:
        # Columns of one's own are a trace like any other: who failed arrived.
        assert read(path).prompt_tokens.size == 12 + (name == "plain")
    else:
        with pytest.raises(InputError, match="log: has durations, but no arrival times: no workload"):
            read(path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "aiperf", "unit": "ms"}, "workload.trace.unit is for other formats: logs of aiperf have their own"),
        ({"format": "aiperf", "columns": {"arrival": "t"}}, "workload.trace.columns is for other formats"),
        ({"format": "guidellm"}, "line 1: is of aiperf, but other requests of the file of guidellm"),
        ({"model": "GPT-4"}, "filters on model and log_type need format = 'burstgpt'"),
        ({"format": "aiperf", "model": "GPT-4"}, "filters on model and log_type need format = 'burstgpt'"),
    ],
)
def test_what_a_log_has_of_its_own_is_not_for_others_to_say(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(logs.aiperf(logs.some()))
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert says in str(caught.value)


def test_images_are_counted_and_said(tmp_path: Path) -> None:
    rows = [f"2025-11-16 18:15:{10 + k}.0,{images},374,44" for k, images in enumerate((0, 2, 0, 3))]
    path = tmp_path / "azure.csv"
    path.write_text("\n".join(["TIMESTAMP,NumImages,ContextTokens,GeneratedTokens", *rows, ""]))
    trace = read(path)
    assert (trace.images, trace.with_images, trace.unused_columns) == (5, 2, ())
    assert read(path, limit=3).images == 2
    document = {
        "replications": 1,
        "workload": {"trace": {"path": str(path)}},
        "policy": {"mode": "continuous", "largest_batch": 4},
        "server": {"service": {"law": "steps", "c0_s": 0.01}, "replica": {"kv_capacity_tokens": 1000}},
    }
    prepared = prepare(Sweep.model_validate(document))
    assert any("2 of 4 requests have images, 5 in all: they take no time" in note for note in prepared.notes)


def test_any_of_bailians_columns_tells_its_unit(write: Write) -> None:
    for column in ("chat_id", "parent_chat_id", "turn"):
        rows = [{column: n, "timestamp": 0.5 * n, "input_length": 10, "output_length": 5} for n in range(4)]
        trace = read(write("".join(f"{json.dumps(row)}\n" for row in rows)))
        assert trace.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5]
