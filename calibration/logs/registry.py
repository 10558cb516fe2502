"""The formats by name, and which of them a file is of."""

from collections.abc import Mapping
from typing import Literal

from batchcube.errors import InputError

from .bench_serving import SGLANG, VLLM_BENCH
from .fields import Fields
from .formats import Format
from .guidellm import GUIDELLM
from .nvidia import AIPERF, GENAI_PERF
from .perf import INFERENCE_PERF, LLMPERF
from .sources import Source
from .tables import BLIS, LMBENCH, plain
from .vllm import VLLM_REQUESTS, VLLM_SPANS

RecordedFormat = Literal[
    "vllm-requests",
    "vllm-bench",
    "sglang",
    "guidellm",
    "aiperf",
    "genai-perf",
    "inference-perf",
    "llmperf",
    "lmbench",
    "blis",
    "vllm-spans",
]
LogFormat = Literal[RecordedFormat, "plain"]
PLAIN: LogFormat = "plain"

FORMATS: dict[LogFormat, Format] = {
    "vllm-requests": VLLM_REQUESTS,
    "vllm-bench": VLLM_BENCH,
    "sglang": SGLANG,
    "guidellm": GUIDELLM,
    "aiperf": AIPERF,
    "genai-perf": GENAI_PERF,
    "inference-perf": INFERENCE_PERF,
    "llmperf": LLMPERF,
    "lmbench": LMBENCH,
    "blis": BLIS,
    "vllm-spans": VLLM_SPANS,
    PLAIN: plain({}),
}
"""Formats in the order in which they are tried."""


def recognised(source: Source) -> LogFormat | None:
    """Return the format that the first values of a file are of, None where they are of none."""
    return next(filter(None, map(format_of_value, map(Fields, source.first()))), None)


def format_of_value(value: Fields) -> LogFormat | None:
    """Return the format that a value is of, None where it is of none."""
    return next((name for name, format in FORMATS.items() if not format.missing(value)), None)


def format_of(source: Source, name: LogFormat | None, columns: Mapping[str, str] | None) -> tuple[LogFormat, Format]:
    """Return the format of a file, by its content where none is named; raises InputError where that tells none."""
    if columns:
        if name not in (None, PLAIN):
            raise InputError(f"names columns, and {name} has its own: needs `format` {PLAIN}", path="`column`")
        return PLAIN, plain(columns)
    if name is not None and name not in FORMATS:
        raise InputError(f"must be one of {', '.join(FORMATS)}", path="`format`", value=name)
    name = name or recognised(source)
    if name is None:
        source.require_first()
        raise _unknown(source)
    return name, FORMATS[name]


def _unknown(source: Source) -> InputError:
    """Say that a file is of no format, and which is nearest."""
    known = f"must be one of {', '.join(FORMATS)} (`format`), or `column` arrival=NAME names the columns"
    values = [Fields(value) for value in source.first()]
    shares = {
        name: (1 - len(missing) / len(format.marks), missing)
        for name, format in FORMATS.items()
        for missing in [min((format.missing(value) for value in values), key=len, default=list(format.marks))]
    }
    nearest = max(shares, key=lambda name: shares[name][0])
    share, missing = shares[nearest]
    if not share:
        has = ", ".join(repr(column[:40]) for column in source.columns[:10])
        return InputError(f"format not recognised{f', has {has}' if has else ''}", allowed=known)
    hint = FORMATS[nearest].hint
    lacks = ", ".join(mark.replace("|", " or ") for mark in missing)
    return InputError(
        f"format not recognised; nearest is {nearest}, without {lacks}{f' ({hint})' if hint else ''}", allowed=known
    )
