"""GuideLLM's benchmarks.json."""

from collections.abc import Iterator

from batchcube.errors import InputError

from .fields import Entry, Fields, LeftOut
from .formats import Format

_OUTCOMES: dict[str, LeftOut | None] = {"successful": None, "errored": "failed", "incomplete": "cancelled"}
_OUTCOME = "outcome"


def _requests(report: Fields) -> Iterator[Fields]:
    for benchmark in report.within("benchmarks"):
        for outcome in _OUTCOMES:
            requests = benchmark.within(f"requests.{outcome}") if benchmark.has(f"requests.{outcome}") else []
            made = benchmark.count(f"metrics.request_totals.{outcome}")
            if made > len(requests):
                problem = f"holds {len(requests)} of {made} requests, a sample: a replay needs all"
                raise InputError(problem, path=f"{benchmark.place}: requests.{outcome}")
            for request in requests:
                yield Fields({**request.values, _OUTCOME: outcome}, request.place, request.run)


def _entry(request: Fields) -> Entry | LeftOut:
    left_out = _OUTCOMES[request.values[_OUTCOME]]
    if left_out is not None:
        return left_out
    sent = request.time("info.timings.request_start", "request_start_time", "start_time")
    first = ("info.timings.first_token_iteration", "first_token_time")
    last = ("info.timings.last_token_iteration", "last_token_time", "info.timings.request_end", "request_end_time")
    return Entry(
        request.tokens("prompt_tokens", "input_metrics.text_tokens"),
        request.tokens("output_tokens", "output_metrics.text_tokens"),
        sent,
        request.time(*first) if request.has(*first) else sent + request.duration("time_to_first_token_ms", unit="ms"),
        request.time(*last),
        chunks=request.count("info.timings.token_iterations"),
    )


GUIDELLM = Format("GuideLLM: benchmarks.json", "client", ("benchmarks",), _entry, _requests)
