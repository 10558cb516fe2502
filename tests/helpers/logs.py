"""The same few requests as every format writes them, with some beside them that are to be left out."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

START_S = 1_764_000_000.0
"""When the clients' clocks begin."""


class Request(NamedTuple):
    """Seconds of one clock."""

    sent: float
    first: float
    last: float
    prompt: int
    output: int

    @property
    def tokens(self) -> list[float]:
        """When each token came, evenly."""
        return np.linspace(self.first, self.last, self.output).tolist() if self.output > 1 else [self.first]

    @property
    def gaps(self) -> list[float]:
        return np.diff(self.tokens).tolist()


def some(count: int = 12, seed: int = 5) -> list[Request]:
    """Return requests in order; whole milliseconds, so that no format rounds them."""
    rng = np.random.default_rng(seed)
    sent = np.cumsum(rng.integers(50, 400, count)) / 1000
    ttft, decode = rng.integers(30, 200, count) / 1000, rng.integers(200, 2000, count) / 1000
    output = rng.integers(2, 40, count)
    return [
        Request(START_S + a, START_S + a + t, START_S + a + t + d, int(p), int(o))
        for a, t, d, p, o in zip(sent, ttft, decode, rng.integers(20, 900, count), output, strict=True)
    ]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{json.dumps(value)}\n" for value in values).encode()


def _table(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def vllm_requests(requests: Sequence[Request], *, offset: float = 300.0, aborted: int = 1) -> bytes:
    """Arrivals on the wall's clock, all else on one of its own, `offset` before it, 1 to 3 ms later."""
    rows: list[dict[str, Any]] = [
        {
            "request_id": f"r{k}",
            "input_toks": r.prompt,
            "output_toks": r.output,
            "arrival_time": r.sent,
            "queued_ts": r.sent - offset + 0.001 * (1 + k % 3),
            "scheduled_ts": r.sent - offset + 0.004,
            "first_token_ts": r.first - offset,
            "last_token_ts": r.last - offset,
        }
        for k, r in enumerate(requests)
    ]
    return _lines(rows + [rows[0] | {"output_toks": 0, "aborted": True}] * aborted)


def bench_serving(requests: Sequence[Request], *, starts: bool, **more: Any) -> dict[str, Any]:
    run: dict[str, Any] = {
        "input_lens": [r.prompt for r in requests] + [7],
        "output_lens": [r.output for r in requests] + [0],
        "ttfts": [r.first - r.sent for r in requests] + [0.0],
        "itls": [*(r.gaps for r in requests), []],
        "generated_texts": ["x"] * len(requests) + [""],
        "errors": [""] * len(requests) + ["Connection reset"],
    }
    return run | ({"start_times": [r.sent for r in requests] + [0.0]} if starts else {}) | more


def vllm_bench(requests: Sequence[Request]) -> bytes:
    return _json(bench_serving(requests, starts=True, request_rate=4.0, max_concurrency=None, tokenizer_id="t"))


def sglang(requests: Sequence[Request], request_rate: float | str = "inf", max_concurrency: int | None = 1) -> bytes:
    options = {"backend": "sglang", "request_rate": request_rate, "max_concurrency": max_concurrency}
    return _lines([bench_serving(requests, starts=False, **options)])


def guidellm(requests: Sequence[Request]) -> bytes:
    done = [
        {
            "request_id": str(k),
            "prompt_tokens": r.prompt,
            "output_tokens": r.output,
            "time_to_first_token_ms": (r.first - r.sent) * 1e3,
            "info": {
                "timings": {
                    "targeted_start": r.sent - 0.01,
                    "request_start": r.sent,
                    "first_token_iteration": r.first,
                    "last_token_iteration": r.last,
                    "token_iterations": r.output,
                    "request_end": r.last + 0.01,
                }
            },
        }
        for k, r in enumerate(requests)
    ]
    broken = {"info": {"timings": {"request_start": START_S}}, "prompt_tokens": None, "output_tokens": None}
    benchmarks = [{"requests": {"successful": done, "errored": [broken], "incomplete": [broken, broken]}}]
    return json.dumps({"metadata": {"version": 1}, "benchmarks": benchmarks}, indent=2).encode()


def aiperf(requests: Sequence[Request], *, old: bool = False) -> bytes:
    """As of 2026; `old`, as of 2025."""
    phase, start, ttft = (
        ("credit_phase", "timestamp_ns", "ttft")
        if old
        else ("benchmark_phase", "request_start_ns", "time_to_first_token")
    )

    def one(r: Request) -> dict[str, Any]:
        return {
            "metadata": {start: round(r.sent * 1000) * 10**6, phase: "profiling", "conversation_id": "c"},
            "metrics": {
                "input_sequence_length": {"value": r.prompt, "unit": "tokens"},
                "output_sequence_length": {"value": r.output, "unit": "tokens"},
                ttft: {"value": (r.first - r.sent) * 1e3, "unit": "ms"},
                "request_latency": {"value": (r.last - r.sent) * 1e3, "unit": "ms"},
                "inter_chunk_latency": {"value": [1e3 * gap for gap in r.gaps], "unit": "ms"},
            },
            "error": None,
        }

    done = [one(r) for r in requests]
    metadata = done[0]["metadata"]
    cancelled = {"metadata": metadata, "metrics": {}, "error": {"code": 499, "type": "RequestCancellationError"}}
    failed = {"metadata": metadata, "metrics": {}, "error": {"code": 500, "type": "ServerError"}}
    warm_up = done[0] | {"metadata": metadata | {phase: "warmup"}}
    # In the order in which requests ended.
    return _lines([warm_up, cancelled, *sorted(done, key=lambda d: d["metrics"]["request_latency"]["value"]), failed])


def genai_perf(requests: Sequence[Request], *, usage: bool = True) -> bytes:
    def event(content: Any) -> dict[str, str]:
        return {"response": f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"}

    def ns(at: float) -> int:
        return round(at * 1e6) * 1000

    entries = []
    for r in requests:
        stamps = [ns(r.sent) + 1, *map(ns, r.tokens), ns(r.last) + 5, ns(r.last) + 9]
        said = [event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})]
        said += [event({"choices": [{"delta": {"content": "ab"}}]}) for _ in r.tokens]
        counts = {"prompt_tokens": r.prompt, "completion_tokens": r.output} if usage else None
        said += [event({"choices": [], "usage": counts}), event("[DONE]")]
        payload = json.dumps({"messages": [{"role": "user", "content": "x" * (4 * r.prompt)}]})
        entries.append(
            {
                "timestamp": ns(r.sent),
                "request_inputs": {"payload": payload},
                "response_timestamps": stamps,
                "response_outputs": said,
            }
        )
    entries.append({"timestamp": ns(START_S), "response_timestamps": [], "response_outputs": []})
    return _json({"experiments": [{"experiment": {"mode": "concurrency", "value": 1}, "requests": entries}]})


def inference_perf(requests: Sequence[Request], *, old: bool = False) -> bytes:
    def one(r: Request) -> dict[str, Any]:
        # Clients that tokenise chunks anew count too many.
        answer: dict[str, Any] = {"output_tokens": r.output, "output_token_times": r.tokens}
        if old:
            info = answer | {"input_tokens": r.prompt}
        else:
            counted = {"prompt_tokens": r.prompt, "completion_tokens": r.output}
            answer |= {"output_tokens": 2 * r.output, "chunk_times": r.tokens, "server_usage": counted}
            info = {"request_metrics": {"text": {"input_tokens": r.prompt + 3}}, "response_metrics": answer}
        return {"start_time": r.sent, "end_time": r.last, "request": "{}", "info": info, "error": None}

    failed = {"start_time": START_S, "end_time": START_S, "info": {}, "error": {"error_type": "Timeout"}}
    return _json([*map(one, requests), failed])


def llmperf(requests: Sequence[Request]) -> bytes:
    done = [
        {
            "error_code": None,
            "error_msg": "",
            "inter_token_latency_s": 0.1,
            "ttft_s": r.first - r.sent,
            "end_to_end_latency_s": r.last - r.sent,
            "number_input_tokens": r.prompt,
            "number_output_tokens": r.output,
        }
        for r in requests
    ]
    return _json([*done, {"error_code": 500, "error_msg": "no"}])


def lmbench(requests: Sequence[Request]) -> bytes:
    rows = [
        {
            "prompt_tokens": r.prompt,
            "generation_tokens": r.output,
            "ttft": r.first - r.sent,
            "generation_time": r.last - r.first,
            "launch_time": r.sent,
            "finish_time": r.last,
        }
        for r in requests
    ]
    return _table([*rows, rows[0] | {"generation_tokens": 0}])


def blis(requests: Sequence[Request], *, header: bool = True) -> bytes:
    """A table, after the header that also comes in a file of its own."""

    def us(at: float) -> int:
        return round((at - START_S) * 1e6)

    rows: list[dict[str, Any]] = [
        {
            "request_id": k,
            "prefix_group": "",
            "prefix_length": 0,
            "input_tokens": r.prompt,
            "output_tokens": r.output,
            "server_input_tokens": 0,
            "arrival_time_us": us(r.sent) - 10,
            "send_time_us": us(r.sent),
            "first_chunk_time_us": us(r.first),
            "last_chunk_time_us": us(r.last),
            "num_chunks": r.output,
            "status": "ok",
            "error_message": "",
        }
        for k, r in enumerate(requests)
    ]
    # A prefix that requests share, counted apart; and one that the server counted.
    rows[0] |= {"prefix_group": "a", "prefix_length": 5, "input_tokens": requests[0].prompt - 5}
    rows[1] |= {"server_input_tokens": requests[1].prompt, "input_tokens": requests[1].prompt - 2}
    text = "trace_version: 2\ntime_unit: microseconds\nmode: real\nwarm_up_requests: 0\n---\n" if header else ""
    return text.encode() + _table([*rows, rows[0] | {"status": "timeout"}])


def vllm_spans(requests: Sequence[Request]) -> bytes:
    def attribute(key: str, value: float) -> dict[str, Any]:
        whole = isinstance(value, int)
        return {"key": key, "value": {"intValue": str(value)} if whole else {"doubleValue": value}}

    spans = [
        {
            "name": "llm_request",
            "startTimeUnixNano": str(round(r.sent * 1000) * 10**6),
            "attributes": [
                {"key": "gen_ai.request.id", "value": {"stringValue": "cmpl-1"}},
                attribute("gen_ai.usage.prompt_tokens", r.prompt),
                attribute("gen_ai.usage.completion_tokens", r.output),
                attribute("gen_ai.latency.time_in_queue", 0.001),
                attribute("gen_ai.latency.time_to_first_token", r.first - r.sent),
                attribute("gen_ai.latency.e2e", r.last - r.sent),
            ],
        }
        for r in requests
    ]
    other = {"name": "tokenize", "startTimeUnixNano": "5", "attributes": []}
    return _lines(
        [
            {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": part}]}]}
            for part in (spans[:3], [other], spans[3:])
        ]
    )


def plain(requests: Sequence[Request]) -> bytes:
    rows = [
        {
            "arrival_s": r.sent,
            "prompt_tokens": r.prompt,
            "output_tokens": r.output,
            "ttft_s": r.first - r.sent,
            "e2e_s": r.last - r.sent,
            "error": "",
        }
        for r in requests
    ]
    return _table([*rows, rows[-1] | {"error": "timeout"}])


class Written(NamedTuple):
    """Who writes a format, and what there is to leave out."""

    write: Callable[[Sequence[Request]], bytes]
    failed: int = 0
    cancelled: int = 0
    warm_up: int = 0
    clock: str = "client"
    has_arrivals: bool = True


FORMATS = {
    "vllm-requests": Written(vllm_requests, 0, 1, 0, "server"),
    "vllm-bench": Written(vllm_bench, 1),
    "sglang": Written(sglang, 1, has_arrivals=False),
    "guidellm": Written(guidellm, 1, 2),
    "aiperf": Written(aiperf, 1, 1, 1),
    "genai-perf": Written(genai_perf, 1),
    "inference-perf": Written(inference_perf, 1),
    "llmperf": Written(llmperf, 1, has_arrivals=False),
    "lmbench": Written(lmbench, 1),
    "blis": Written(blis, 1),
    "vllm-spans": Written(vllm_spans, clock="server"),
    "plain": Written(plain, 1),
}
