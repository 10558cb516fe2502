"""Logs as the tools of others write them: the same requests out of every format."""

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from batchcube.calibration.logs import FORMATS, LogFormat, Reading, aligned, read_arrivals, read_log
from batchcube.errors import InputError
from helpers import logs
from helpers.logs import Request, some

REQUESTS = some()
ONE_AT_A_TIME = Reading(concurrency=1)


def put(folder: Path, content: bytes) -> Path:
    path = folder / "log"
    path.write_bytes(content)
    return path


def refusal(folder: Path, content: bytes, how: Reading = Reading()) -> str:  # noqa: B008 - immutable
    """Return the one line with which a file is refused, without its name."""
    path = put(folder, content)
    with pytest.raises(InputError) as caught:
        read_log(path, how)
    text = str(caught.value)
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


def end_to_end(requests: list[Request]) -> list[Request]:
    """Return requests, each sent when the one before it ends."""
    laid, at = [], 0.0
    for r in requests:
        laid.append(Request(at, at + r.first - r.sent, at + r.last - r.sent, r.prompt, r.output))
        at = laid[-1].last
    return laid


def test_every_format_has_a_sample() -> None:
    assert list(logs.FORMATS) == list(FORMATS) == list(get_args(LogFormat))


@pytest.mark.parametrize("name", logs.FORMATS)
def test_every_format_is_recognised_and_gives_the_same_requests(tmp_path: Path, name: LogFormat) -> None:
    written = logs.FORMATS[name]
    content = written.write(REQUESTS)
    log = read_log(put(tmp_path, content), Reading(None, None, 1 if name == "llmperf" else None))
    assert (log.format, log.clock) == (name, written.clock)
    assert (log.failed, log.cancelled, log.warm_up) == written[1:4]
    expected = np.array(REQUESTS if written.has_arrivals else end_to_end(REQUESTS))
    assert log.prompt_tokens.tolist() == expected[:, 3].tolist()
    assert log.output_tokens.tolist() == expected[:, 4].tolist()
    queued = np.array([0.001 * (1 + k % 3) for k in range(12)]) - 0.001 if name == "vllm-requests" else 0.0
    zero = expected[0, 0] + (0.001 if name == "vllm-requests" else 0.0)
    np.testing.assert_allclose(log.queued_s, expected[:, 0] - expected[0, 0] + queued, atol=2e-6)
    np.testing.assert_allclose(log.first_token_s, expected[:, 1] - zero, atol=2e-6)
    np.testing.assert_allclose(log.last_token_s, expected[:, 2] - zero, atol=2e-6)
    assert np.isfinite(log.scheduled_s).all() == (name in ("vllm-requests", "vllm-spans"))
    assert (log.arrival_s is not None) == (name == "vllm-requests")


@pytest.mark.parametrize("name", logs.FORMATS)
def test_a_format_can_be_forced_and_packed(tmp_path: Path, name: LogFormat) -> None:
    content = logs.FORMATS[name].write(REQUESTS)
    how = Reading(name, None, 1 if name == "llmperf" else None)
    plain = read_log(put(tmp_path, content), how)
    for packed in (gzip.compress(content), pa.compress(content, "zstd", asbytes=True)):
        log = read_log(put(tmp_path, packed), how)
        assert log.sha256 == plain.sha256
        np.testing.assert_array_equal(log.last_token_s, plain.last_token_s)
    assert "cannot be unpacked (gzip)" in refusal(tmp_path, gzip.compress(content)[:-9])


@pytest.mark.parametrize("name", logs.FORMATS)
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, name: LogFormat) -> None:
    content = logs.FORMATS[name].write(REQUESTS)
    table = name in ("lmbench", "blis", "plain")
    end = content.rindex(b",", 0, content.rindex(b",")) if table else len(content) * 2 // 3
    said = refusal(tmp_path, content[:end].rstrip(b"}\n"), ONE_AT_A_TIME)
    assert ("the file may be cut off" if table else "is not JSON (cut off?)") in said


@pytest.mark.parametrize("name", logs.FORMATS)
def test_workloads_are_what_has_arrivals(name: LogFormat) -> None:
    written = logs.FORMATS[name]
    content = written.write(REQUESTS)
    if not written.has_arrivals:
        with pytest.raises(InputError, match="has durations, but no arrival times: no workload"):
            read_arrivals(content)
        return
    found = read_arrivals(content, name)
    assert found is not None
    assert sum(found.left_out.values()) == sum(written[1:4])
    assert found.prompt_tokens.tolist() == [r.prompt for r in REQUESTS]
    sent = np.array(REQUESTS)[:, 0]
    np.testing.assert_allclose(found.arrival_s, sent - sent[0], atol=2.1e-3 if name == "vllm-requests" else 2e-6)


def test_older_names(tmp_path: Path) -> None:
    for content in (logs.aiperf(REQUESTS, old=True), logs.inference_perf(REQUESTS, old=True)):
        log = read_log(put(tmp_path, content))
        assert log.output_tokens.tolist() == [r.output for r in REQUESTS]
        assert log.last_token_s[-1] == pytest.approx(REQUESTS[-1].last - REQUESTS[0].sent)
    assert read_log(put(tmp_path, logs.blis(REQUESTS, header=False))).prompt_tokens[0] == REQUESTS[0].prompt


def test_what_was_left_out_and_whose_clock_it_is_are_said(tmp_path: Path) -> None:
    assert read_log(put(tmp_path, logs.aiperf(REQUESTS))).remarks() == [
        "1 failed, 1 cancelled, 1 warm-up requests left out: what they cost the server is not simulated",
        "times by the client's clock: network and tokeniser are in them",
    ]
    assert read_log(put(tmp_path, logs.vllm_requests(REQUESTS, aborted=0))).remarks() == []


def test_who_was_ended_by_a_stop_string_was_served(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in logs.vllm_requests(REQUESTS, aborted=0).splitlines()]
    rows[3]["aborted"] = True
    log = read_log(put(tmp_path, "\n".join(map(json.dumps, rows)).encode()))
    assert (len(log.queued_s), log.cancelled) == (12, 0)
    # Nothing tells it from one that its client gave up.
    (said,) = log.remarks()
    assert said.startswith("1 requests were ended from outside, by a stop string or their client")


# Durations only -----------------------------------------------------------------------------------------------------


def test_a_closed_loop_gives_the_arrivals_that_a_file_lacks(tmp_path: Path) -> None:
    log = read_log(put(tmp_path, logs.sglang(REQUESTS, max_concurrency=3)))
    took = [r.last - r.sent for r in REQUESTS]
    # Three are sent at once, the others when any of those under way ends.
    ends: list[float] = []
    for sent, lasts in zip(log.queued_s, took, strict=True):
        assert sent == pytest.approx(0.0 if len(ends) < 3 else sorted(ends)[-3])
        ends.append(sent + lasts)
    assert "no arrival times: reckoned for a closed loop of 3, each request sent" in log.remarks()[-1]
    at_once = read_log(put(tmp_path, logs.sglang(REQUESTS, max_concurrency=None)))
    assert not at_once.queued_s.any()
    np.testing.assert_allclose(np.sort(at_once.last_token_s), np.sort(took))


def test_runs_of_one_file_follow_one_another(tmp_path: Path) -> None:
    log = read_log(put(tmp_path, logs.sglang(REQUESTS[:3]) + logs.sglang(REQUESTS[3:], max_concurrency=None)))
    assert len(log.queued_s) == 12
    assert log.failed == 2
    assert (log.queued_s[3:] == log.last_token_s[:3].max()).all()
    assert "closed loop of 1, 10," in log.remarks()[-1]


def test_durations_without_a_closed_loop_are_refused(tmp_path: Path) -> None:
    paced = logs.sglang(REQUESTS, request_rate=2.0, max_concurrency=8)
    assert "no arrival times, and a replay needs these: `concurrency` N says how many" in refusal(tmp_path, paced)
    assert len(read_log(put(tmp_path, paced), Reading(concurrency=8)).queued_s) == 12
    old = json.loads(logs.vllm_bench(REQUESTS))
    del old["start_times"]
    assert "no arrival times" in refusal(tmp_path, json.dumps(old).encode())
    ended = logs.llmperf(REQUESTS)
    assert "no arrival times" in refusal(tmp_path, ended)
    said = refusal(tmp_path, ended, Reading(concurrency=2))
    assert "`concurrency` 2: its requests are not in the order in which they were sent" in said
    told = logs.vllm_bench(REQUESTS)
    assert "the file has arrival times" in refusal(tmp_path, told, ONE_AT_A_TIME)


# What is in a log beside times --------------------------------------------------------------------------------------


def test_chunks_of_several_tokens_are_said(tmp_path: Path) -> None:
    run = json.loads(logs.vllm_bench(REQUESTS))
    assert not any("chunk" in line for line in read_log(put(tmp_path, json.dumps(run).encode())).remarks())
    run["itls"] = [[sum(gaps[k : k + 3]) for k in range(0, len(gaps), 3)] for gaps in run["itls"]]
    log = read_log(put(tmp_path, json.dumps(run).encode()))
    chunks = sum(1 + len(gaps) for gaps in run["itls"][:-1])
    tokens = sum(r.output for r in REQUESTS)
    assert log.remarks()[-1].startswith(f"{tokens / chunks:.2f} tokens a chunk: speculative decoding")
    assert log.last_token_s[-1] == pytest.approx(REQUESTS[-1].last - REQUESTS[0].sent)


def test_a_closed_loop_of_vllms_benchmark_is_said(tmp_path: Path) -> None:
    run = json.loads(logs.vllm_bench(REQUESTS)) | {"max_concurrency": 4}
    log = read_log(put(tmp_path, json.dumps(run).encode()))
    assert any("a closed loop of at most 4 requests" in line for line in log.remarks())


def test_prompts_that_were_in_the_cache_are_said(tmp_path: Path) -> None:
    run = json.loads(logs.sglang(REQUESTS)) | {"cached_tokens": [0] * 12 + [5]}
    assert "(cached_tokens): all are prefilled here" in read_log(put(tmp_path, json.dumps(run).encode())).remarks()[2]


def test_tokens_that_nobody_counted_are_taken_from_chunks_and_characters(tmp_path: Path) -> None:
    log = read_log(put(tmp_path, logs.genai_perf(REQUESTS, usage=False)))
    assert log.output_tokens.tolist() == [r.output for r in REQUESTS]
    assert log.prompt_tokens.tolist() == [r.prompt for r in REQUESTS]
    assert "the answers have no usage" in log.remarks()[-1]


def test_events_that_were_split_or_are_no_data_count_once(tmp_path: Path) -> None:
    report = json.loads(logs.genai_perf(REQUESTS, usage=False))
    for entry in report["experiments"][0]["requests"][:-1]:
        entry["request_inputs"] = {
            "payload": json.dumps({"messages": [{"content": [{"type": "text", "text": "x" * 40}]}]})
        }
        second = entry["response_outputs"][2]["response"]
        entry["response_outputs"][2:3] = [
            {"response": second[:15]},
            {"response": second[15:]},
            {"response": ": ping\n\n"},
        ]
        at = entry["response_timestamps"]
        at[3:3] = [at[2] + 1, at[2] + 2]
    log = read_log(put(tmp_path, json.dumps(report).encode()))
    assert log.output_tokens.tolist() == [r.output for r in REQUESTS]
    assert set(log.prompt_tokens) == {10}


def test_a_trace_that_nobody_observed_is_a_workload_and_no_log(tmp_path: Path) -> None:
    lines = logs.blis(REQUESTS, header=False).decode().splitlines()
    names = lines[0].split(",")
    unseen = [lines[0]]
    for line in lines[1:-1]:
        row = dict(zip(names, line.split(","), strict=True))
        unseen.append(",".join((row | {"first_chunk_time_us": "0", "last_chunk_time_us": "0"}).values()))
    content = "\n".join(unseen).encode()
    found = read_arrivals(content)
    assert found is not None
    assert len(found.arrival_s) == 12
    assert "has arrivals, but no times of tokens: a workload" in refusal(tmp_path, content)


def test_spans_of_jaeger_and_of_a_console(tmp_path: Path) -> None:
    spans = []
    for line in logs.vllm_spans(REQUESTS).splitlines():
        spans += json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    jaeger, console = [], []
    for span in spans:
        start = int(span["startTimeUnixNano"])
        values = {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}
        values = {key: int(value) if "usage" in key else value for key, value in values.items()}
        tags = [{"key": key, "type": "float64", "value": value} for key, value in values.items()]
        jaeger.append({"operationName": span["name"], "startTime": start // 1000, "tags": tags})
        date = np.datetime_as_string(np.datetime64(start, "ns"), unit="us") + "Z"
        console.append({"name": span["name"], "start_time": str(date), "attributes": values})
    for content in (json.dumps({"data": [{"spans": jaeger}]}), json.dumps(console)):
        log = read_log(put(tmp_path, content.encode()))
        assert log.format == "vllm-spans"
        np.testing.assert_allclose(log.queued_s, np.array(REQUESTS)[:, 0] - REQUESTS[0].sent, atol=2e-6)


# Clocks -------------------------------------------------------------------------------------------------------------


def test_arrivals_are_laid_on_the_clock_of_the_queue(tmp_path: Path) -> None:
    log = read_log(put(tmp_path, logs.vllm_requests(REQUESTS, offset=-4e5)))
    assert log.arrival_s is not None
    np.testing.assert_allclose(log.queued_s - log.arrival_s, [0.001 * (k % 3) for k in range(12)], atol=1e-6)


def test_a_workload_has_the_arrivals_that_a_replay_has(tmp_path: Path) -> None:
    content = logs.vllm_requests(REQUESTS, offset=-4e5)
    log, found = read_log(put(tmp_path, content)), read_arrivals(content)
    assert found is not None
    np.testing.assert_array_equal(found.arrival_s, log.came_s)
    assert (found.arrival_s != log.queued_s - log.queued_s[0]).any()


def test_one_bad_stamp_does_not_move_a_clock() -> None:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(0.1, 400))
    queued = arrival + 55.0 + rng.exponential(0.01, 400)
    stamped = arrival.copy()
    stamped[7] += 3.0
    found = aligned(stamped, queued)
    assert (found <= queued).all()
    # All but a hundredth are off by what a hundredth of them wait at most.
    np.testing.assert_allclose(np.delete(found - arrival - 55.0, 7), 0.0, atol=4e-4)


# Columns of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "columns", "per_s"),
    [
        ("t,p,o,f,e", {"arrival": "t", "ttft": "f", "e2e": "e"}, 1),
        ("t_ms,p,o,f_ms,e_ms", {"arrival": "t_ms", "ttft": "f_ms", "e2e": "e_ms"}, 1000),
        ("t,p,o,f,e", {"arrival": "t:us", "ttft": "f:us", "e2e": "e:us"}, 10**6),
    ],
)
def test_columns_can_be_named_with_their_unit(tmp_path: Path, header: str, columns: dict[str, str], per_s: int) -> None:
    rows = [f"{4 * per_s},10,3,{2 * per_s},{6 * per_s}", f"{per_s},11,5,{per_s},{3 * per_s}"]
    named = columns | {"prompt_tokens": "p", "output_tokens": "o"}
    log = read_log(put(tmp_path, "\n".join([header, *rows, ""]).encode()), Reading(columns=named))
    assert log.queued_s.tolist() == [0.0, 3.0]
    assert log.first_token_s.tolist() == [1.0, 5.0]
    assert log.last_token_s.tolist() == [3.0, 9.0]
    assert log.output_tokens.tolist() == [5, 3]


def test_stamps_dates_and_times_per_token(tmp_path: Path) -> None:
    text = (
        '{"at": "2026-01-01T00:00:00", "prompt_tokens": 3, "output_tokens": 5, "first": "2026-01-01T00:00:01", '
        '"tpot_ms": 500}\n'
        '{"at": "2026-01-01T00:00:10", "prompt_tokens": 3, "output_tokens": 1, "first": "2026-01-01T00:00:12", '
        '"tpot_ms": 0}\n'
    )
    log = read_log(put(tmp_path, text.encode()), Reading(columns={"arrival": "at", "first_token": "first"}))
    assert log.first_token_s.tolist() == [1.0, 12.0]
    assert log.last_token_s.tolist() == [3.0, 12.0]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (Reading(columns={"arival": "t"}), "`column` arival: must be one of arrival, scheduled, first_token"),
        (Reading(columns={"arrival": "t:weeks"}), "`column` t:weeks: unit 'weeks' must be one of s, ms, us, ns"),
        (Reading("aiperf", {"arrival": "t"}), "`column`: names columns, and aiperf has its own"),
        (Reading("excel"), "`format` excel: must be one of vllm-requests, vllm-bench"),  # type: ignore[arg-type]
        (Reading(columns={"prompt_tokens": "p"}), "row 1: p is missing"),
    ],
)
def test_bad_options(tmp_path: Path, how: Reading, says: str) -> None:
    assert says in refusal(tmp_path, logs.plain(REQUESTS), how)


# Bad files ----------------------------------------------------------------------------------------------------------


def bench(**changed: Any) -> bytes:
    return json.dumps(json.loads(logs.vllm_bench(REQUESTS[:3])) | changed).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\0\0", "not a text file"),
        (b"[]", "format not recognised: must be one of vllm-requests"),
        (b'{"a": 1}\n', "format not recognised, has 'a': must be one of vllm-requests"),
        (b"a;b\n1;2\n", "format not recognised, has 'a;b'"),
        (b"trace_version: 2\nmode: real\n", "format not recognised"),
        (
            b'{"tokenizer_id": "t", "mean_ttft_ms": 3}',
            "nearest is vllm-bench, without input_lens, output_lens, ttfts, itls",
        ),
        (b'{"tokenizer_id": "t", "mean_ttft_ms": 3}', "itls (was it written with --save-detailed?)"),
        (
            b"t,prompt_tokens,output_tokens,ttft_s\n1,2,3,4\n",
            "nearest is plain, without arrival_s, e2e_s or e2e_ms or",
        ),
        (bench(ttfts=[0.1, 0.2]), "line 1: ttfts: has 2 values, input_lens has 4: must be as many"),
        (bench(ttfts=[0.1, -0.2, 0.1, 0]), "line 1, request 2: ttfts = -0.2: must be a number from 0"),
        (bench(itls=[[], [-1.0], [], []]), "line 1, request 2: itls[0] = -1.0: must be a number from 0"),
        (bench(itls=[[], 3, [], []]), "line 1, request 2: itls = 3: must be a list"),
        (bench(itls={}), "line 1: itls = {}: must be a list"),
        (bench(errors=["x"] * 4), "has no request but 4 failed"),
        (bench(errors=["", "x", "x", "x"]), "holds 1 requests beside 3 failed: needs at least 2"),
        (bench(input_lens=[1, 2, None, 4]), "line 1, request 3: input_lens = null: must be a whole number"),
        (bench()[:-1], "is not JSON (cut off?)"),
        (
            logs.aiperf(REQUESTS) + logs.vllm_requests(REQUESTS),
            "line 16: is of vllm-requests, but other requests of the file of aiperf",
        ),
        (
            logs.aiperf(REQUESTS).replace(b'"unit": "ms"', b'"unit": "h"', 1).replace(b"warmup", b"profiling"),
            'line 1: metrics.time_to_first_token.unit = "h": must be one of sec, s, ms, us, ns',
        ),
        (
            logs.aiperf(REQUESTS).replace(b"time_to_first_token", b"ttlt"),
            "metrics.time_to_first_token or metrics.ttft is missing",
        ),
        (
            logs.guidellm(REQUESTS).replace(b'"first_token_iteration": 17', b'"first_token_iteration": 16', 1),
            "benchmarks[0]: requests.successful[0]: first token at",
        ),
        (
            logs.guidellm(REQUESTS).replace(
                b'"requests"', b'"metrics": {"request_totals": {"successful": 99}}, "requests"'
            ),
            "requests.successful: holds 12 of 99 requests, a sample: a replay needs all",
        ),
        (
            logs.inference_perf(REQUESTS, old=True).replace(
                b'"output_token_times": [', b'"output_token_times": [], "x": [', 1
            ),
            "[0]: info.output_token_times = []: has no times: was the answer streamed?",
        ),
        (logs.lmbench(REQUESTS).replace(b",", b",,", 9), "row 1: has 10 columns, 11 in the header"),
        (logs.lmbench(REQUESTS) + b"1,2,", "row 14: has 3 columns, 6 in the header: the file may be cut off"),
        (logs.lmbench(REQUESTS) + b"1,2,x,1,1,1\n", 'row 14: ttft = "x": must be a number from 0'),
        (logs.vllm_spans(REQUESTS).replace(b'"1764', b'"x1764', 1), "must be a whole number of nanoseconds"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refusal(tmp_path, content)


# Real files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", range(4, 44, 4))
def test_lmbench_at_every_rate(shared_data: Path, rate: int) -> None:
    log = read_log(shared_data / "bench_formats" / "lmbench" / f"LMBench_sharegpt_output_{rate}.csv")
    assert (log.format, len(log.queued_s), log.failed) == ("lmbench", 252, 0)
    assert np.diff(log.queued_s).mean() == pytest.approx(1 / rate, rel=0.02)


def test_aiperf_of_2025(shared_data: Path) -> None:
    log = read_log(shared_data / "bench_formats" / "aiperf" / "profile_export_head40.jsonl")
    assert (log.format, len(log.queued_s), log.failed, log.cancelled) == ("aiperf", 29, 0, 11)
    assert set(log.prompt_tokens) == {550}
    assert log.notes == ()


def test_the_clocks_of_a_real_vllm_log(shared_data: Path) -> None:
    folder = shared_data / "calibration" / "llmservingsim"
    log = read_log(folder / "vllm_requests_RTXPRO6000_Llama-3.1-8B.jsonl")
    assert log.arrival_s is not None
    late = log.queued_s - log.arrival_s
    assert late.min() == 0.0
    assert late.max() == pytest.approx(0.108, abs=0.002)
