"""Clients whose requests are records of one list: llmperf and inference-perf."""

import numpy as np

from .fields import Entry, Fields, LeftOut
from .formats import Format


def _llmperf(request: Fields) -> Entry | LeftOut:
    if request.has("error_code") or request.number("number_output_tokens", least=0) == 0:
        return "failed"
    return Entry(
        request.tokens("number_input_tokens"),
        request.tokens("number_output_tokens"),
        np.nan,
        request.duration("ttft_s"),
        request.duration("end_to_end_latency_s"),
    )


LLMPERF = Format(
    "llmperf: individual_responses.json",
    "client",
    ("ttft_s|error_code", "end_to_end_latency_s|error_code", "number_output_tokens"),
    _llmperf,
    in_order=False,
)


def _inference_perf(request: Fields) -> Entry | LeftOut:
    if request.has("error"):
        return "failed"
    answer = "info.response_metrics"
    # What a client counts are chunks that it has tokenised anew: the server knows better.
    output = (f"{answer}.server_usage.completion_tokens", f"{answer}.output_tokens", "info.output_tokens")
    if request.number(*output, least=0) == 0:
        return "failed"
    stamps = (f"{answer}.output_token_times", "info.output_token_times", f"{answer}.chunk_times")
    times = request.times(*stamps)
    if not times:
        raise request.wrong(request.find(*stamps)[0], times, "has no times: was the answer streamed?")
    counted = request.get(f"{answer}.chunk_times")
    return Entry(
        request.tokens(
            f"{answer}.server_usage.prompt_tokens", "info.request_metrics.text.input_tokens", "info.input_tokens"
        ),
        request.tokens(*output),
        request.time("start_time"),
        times[0],
        times[-1],
        chunks=len(counted) if isinstance(counted, list) else len(times),
    )


INFERENCE_PERF = Format(
    "inference-perf: per_request_lifecycle_metrics.json",
    "client",
    ("start_time", "end_time", "info|error"),
    _inference_perf,
)
