"""`vllm bench serve` and SGLang's bench_serving, children of one script: arrays with a value for each request."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from batchcube.errors import InputError

from .fields import Entry, Fields, LeftOut
from .formats import Format

_ARRAYS = ("input_lens", "output_lens", "ttfts", "itls")
_OPTIONAL = ("errors", "start_times")
_AT_ONCE, _NOTE = "at_once", "note"


def _requests(run: Fields) -> Iterator[Fields]:
    """Return the requests of a run; one without start times is a closed loop where its options say so."""
    arrays = {name: run.items(name) for name in (*_ARRAYS, *(name for name in _OPTIONAL if run.has(name)))}
    count = len(arrays[_ARRAYS[0]])
    for name, values in arrays.items():
        if len(values) != count:
            problem = f"has {len(values)} values, {_ARRAYS[0]} has {count}: must be as many"
            raise InputError(problem, path=": ".join(filter(None, (run.place, name))))
    all_at_once = run.get("request_rate") in ("inf", float("inf"))
    at_once = run.count("max_concurrency") or count
    options: dict[str, Any] = {_AT_ONCE: min(at_once, count) if all_at_once else int(at_once == 1)}
    if run.has("max_concurrency"):
        options[_NOTE] = f"a closed loop of at most {at_once} requests: later ones waited for answers before them"
    if run.has("cached_tokens") and any(run.items("cached_tokens")):
        cached = "parts of prompts were found in the server's cache (cached_tokens): all are prefilled here"
        options[_NOTE] = "; ".join(filter(None, (options.get(_NOTE), cached)))
    where = f"{run.place}, " if run.place else ""
    for k, request in enumerate(zip(*arrays.values(), strict=True), start=1):
        yield Fields(dict(zip(arrays, request, strict=True)) | options, f"{where}request {k}", run.run)


def _entry(request: Fields) -> Entry | LeftOut:
    if request.has("errors") and request.values["errors"] != "":
        return "failed"
    if request.number("output_lens", least=0) == 0:
        return "failed"
    started = request.time("start_times") if request.has("start_times") else np.nan
    first = request.duration("ttfts")
    gaps = request.times("itls", least=0)
    sent = 0.0 if np.isnan(started) else started
    return Entry(
        request.tokens("input_lens"),
        request.tokens("output_lens"),
        started,
        sent + first,
        sent + first + sum(gaps),
        chunks=1 + len(gaps),
        at_once=request.count(_AT_ONCE),
        run=request.run,
        note=request.values.get(_NOTE, ""),
    )


VLLM_BENCH = Format(
    "vLLM: vllm bench serve --save-result --save-detailed",
    "client",
    (*_ARRAYS, "start_times|tokenizer_id|endpoint_type"),
    _entry,
    _requests,
    hint="was it written with --save-detailed?",
)
SGLANG = Format(
    "SGLang: bench_serving --output-details",
    "client",
    _ARRAYS,
    _entry,
    _requests,
    hint="was it written with --output-details?",
)
