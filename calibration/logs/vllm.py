"""What vLLM itself says of its requests: the fields of its RequestStateStats, and spans of OpenTelemetry."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np

from .fields import Entry, Fields, LeftOut
from .formats import Format

_STAMPS = ("queued_ts", "arrival_time"), ("first_token_ts",), ("last_token_ts",)
_PROMPT = ("input_toks", "num_prompt_tokens", "prompt_tokens")
_OUTPUT = ("output_toks", "num_generation_tokens", "output_tokens")


def _request(request: Fields) -> Entry | LeftOut:
    # One that a stop string ended was served like any other; nothing tells it from one that its client gave up.
    aborted = request.get("aborted") is True
    if aborted and request.number(*_OUTPUT, least=0) == 0:
        return "cancelled"
    own = request.has("arrival_time") and request.has("queued_ts")
    queued, first, last = (request.time(*names) for names in _STAMPS)
    return Entry(
        request.tokens(*_PROMPT),
        request.tokens(*_OUTPUT),
        queued,
        first,
        last,
        request.time("scheduled_ts") if request.has("scheduled_ts") else np.nan,
        request.time("arrival_time") if own else np.nan,
        ended=aborted,
    )


VLLM_REQUESTS = Format(
    "vLLM: RequestStateStats as JSON lines; what batchcube's policies log inside vLLM",
    "server",
    tuple("|".join(names) for names in (_PROMPT, _OUTPUT, *_STAMPS)),
    _request,
)


def _spans(value: Fields) -> Iterator[Fields]:
    """Return the spans of requests in what an OTLP file, a console or Jaeger holds of spans."""
    if value.has("resourceSpans"):
        scopes = (
            scope
            for resource in value.within("resourceSpans")
            for scope in resource.within("scopeSpans", "instrumentationLibrarySpans")
        )
        spans = [span for scope in scopes for span in scope.within("spans")]
        pairs = ("attributes", "key")
    elif value.has("data"):
        spans = [span for trace in value.within("data") for span in trace.within("spans")]
        pairs = ("tags", "key")
    else:
        spans, pairs = [value], ("attributes", "")
    for span in spans:
        attributes = _attributes(span, *pairs)
        if any(name.startswith("gen_ai.usage.") for name in attributes):
            yield Fields({**span.values, **attributes}, span.place)


def _attributes(span: Fields, name: str, key: str) -> dict[str, Any]:
    """Return the attributes of a span, which are an object or a list of keys and values."""
    if not span.has(name):
        return {}
    if not key:
        return dict(Fields(span.get(name), f"{span.place}: {name}").values)
    return {str(pair.get(key)): _value(pair.get("value")) for pair in span.within(name)}


def _value(value: Any) -> Any:
    """Return what a value of OTLP holds, in which whole numbers are text."""
    if not isinstance(value, dict):
        return value
    if "intValue" in value:
        try:
            return int(value["intValue"])
        except (TypeError, ValueError):
            return value["intValue"]
    return next(iter(value.values()), None)


def _span(span: Fields) -> Entry | LeftOut:
    start = _start(span)
    if span.number("gen_ai.usage.completion_tokens", least=0) == 0:
        return "failed"
    waited = "gen_ai.latency.time_in_queue"
    first = start + span.duration("gen_ai.latency.time_to_first_token")
    # The queue's time begins a little after the span: what it says of the first token holds.
    scheduled = min(start + span.duration(waited), first) if span.has(waited) else np.nan
    return Entry(
        span.tokens("gen_ai.usage.prompt_tokens"),
        span.tokens("gen_ai.usage.completion_tokens"),
        start,
        first,
        start + span.duration("gen_ai.latency.e2e"),
        scheduled,
    )


def _start(span: Fields) -> float:
    """Return when a span began: nanoseconds (OTLP), microseconds (Jaeger) or a date (console)."""
    path, value = span.find("startTimeUnixNano", "startTime", "start_time")
    if path == "start_time":
        try:
            return datetime.fromisoformat(value).timestamp()
        except (TypeError, ValueError, OverflowError):
            raise span.wrong(path, value, "must be a date and time") from None
    if path == "startTimeUnixNano" and isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise span.wrong(path, value, "must be a whole number of nanoseconds") from None
    return Fields({path: value}, span.place).time(path, unit="ns" if path == "startTimeUnixNano" else "us")


VLLM_SPANS = Format(
    "vLLM: OpenTelemetry spans (OTLP, Jaeger or console JSON)",
    "server",
    ("resourceSpans|data|attributes.gen_ai.usage.prompt_tokens",),
    _span,
    _spans,
)
