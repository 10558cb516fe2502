"""NVIDIA's clients: AIPerf, and GenAI-Perf before it."""

from collections.abc import Iterator
from typing import Any

from batchcube.documents import parse_json
from batchcube.errors import InputError

from .fields import PER_S, Entry, Fields, LeftOut
from .formats import Format

_CANCELLED = 499
_UNITS = {"sec": "s"} | {unit: unit for unit in PER_S}
_CHARACTERS = 4
"""Of a token, roughly."""


def _aiperf(request: Fields) -> Entry | LeftOut:
    if request.get("metadata.benchmark_phase", "metadata.credit_phase") == "warmup":
        return "warm_up"
    if request.get("metadata.was_cancelled") is True or request.get("error.code") == _CANCELLED:
        return "cancelled"
    if request.has("error"):
        return "failed"

    def duration(*names: str) -> float:
        path, _ = request.find(*(f"metrics.{name}" for name in names))
        unit = request.get(f"{path}.unit")
        if not isinstance(unit, str) or unit not in _UNITS:
            raise request.wrong(f"{path}.unit", unit, f"must be one of {', '.join(_UNITS)}")
        return request.duration(f"{path}.value", unit=_UNITS[unit])

    sent = request.time("metadata.request_start_ns", "metadata.timestamp_ns", unit="ns")
    gaps = request.get("metrics.inter_chunk_latency.value")
    return Entry(
        request.tokens("metrics.input_sequence_length.value"),
        request.tokens("metrics.output_sequence_length.value"),
        sent,
        sent + duration("time_to_first_token", "ttft"),
        sent + duration("request_latency"),
        chunks=1 + len(gaps) if isinstance(gaps, list) else 0,
    )


AIPERF = Format(
    "AIPerf: profile_export.jsonl",
    "client",
    ("metadata.request_start_ns|metadata.timestamp_ns", "metrics"),
    _aiperf,
)


def _genai_perf_requests(report: Fields) -> Iterator[Fields]:
    for experiment in report.within("experiments"):
        yield from experiment.within("requests")


def _genai_perf(request: Fields) -> Entry | LeftOut:
    stamps, answers = request.times("response_timestamps", unit="ns"), request.items("response_outputs")
    if len(stamps) != len(answers):
        problem = f"has {len(stamps)} values, response_outputs has {len(answers)}: must be as many"
        raise InputError(problem, path=f"{request.place}: response_timestamps")
    spoken: list[float] = []
    usage = None
    for stamp, answer in zip(stamps, answers, strict=True):
        for chunk in _chunks(answer):
            usage = _inside(chunk, "usage") or usage
            if _says(chunk) and (not spoken or spoken[-1] != stamp):
                spoken.append(stamp)
    if not spoken:
        return "failed"
    counts = Fields(usage if isinstance(usage, dict) else {}, f"{request.place}: usage")
    told = counts.has("prompt_tokens") and counts.has("completion_tokens")
    return Entry(
        counts.tokens("prompt_tokens") if told else max(1, round(_characters(request) / _CHARACTERS)),
        counts.tokens("completion_tokens") if told else len(spoken),
        request.time("timestamp", unit="ns"),
        spoken[0],
        spoken[-1],
        chunks=len(spoken) if told else 0,
        note=""
        if told
        else f"the answers have no usage (stream_options.include_usage asks for it): prompts taken to have a token for "
        f"{_CHARACTERS} characters, answers one for each chunk",
    )


def _chunks(answer: Any) -> list[Any]:
    """Return what a response says: server-sent events hold JSON each, `[DONE]` and empty ones nothing.

    An event that is split over two responses came with the first of them.
    """
    text = answer.get("response", answer) if isinstance(answer, dict) else answer
    if not isinstance(text, str):
        return [text]
    found: list[Any] = []
    for event in text.split("\n"):
        data = event.strip().removeprefix("data:").strip()
        if data and data != "[DONE]":
            try:
                found.append(parse_json(data))
            except InputError:
                found.extend([data] if event.startswith("data:") else [])
    return found


def _inside(chunk: Any, name: str) -> Any:
    return chunk.get(name) if isinstance(chunk, dict) else None


def _says(chunk: Any) -> bool:
    """Say whether a chunk has any text."""
    if not isinstance(chunk, dict):
        return bool(chunk)
    if "text_output" in chunk:
        return bool(chunk["text_output"])
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = _inside(choice, "text") or _inside(choice, "delta") or _inside(choice, "message")
    if isinstance(said, dict):
        return any(said.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
    return bool(said)


def _characters(request: Fields) -> int:
    """Return the characters of a prompt."""
    inputs = request.get("request_inputs.payload", "request_inputs")
    if isinstance(inputs, list) and inputs:
        inputs = inputs[0]
    if isinstance(inputs, str):
        try:
            inputs = parse_json(inputs)
        except InputError:
            return len(inputs)
    prompt = inputs
    for name in ("messages", "prompt", "text_input", "inputs"):
        if _inside(inputs, name) is not None:
            prompt = inputs[name]
            break
    return _length(prompt)


def _length(prompt: Any) -> int:
    """Return the characters of text, of messages, or of parts of one that have text."""
    if isinstance(prompt, list):
        return sum(map(_length, prompt))
    if isinstance(prompt, dict):
        return _length(prompt.get("content", prompt.get("text")))
    return len(prompt) if isinstance(prompt, str) else 0


GENAI_PERF = Format("GenAI-Perf: profile_export.json", "client", ("experiments",), _genai_perf, _genai_perf_requests)
