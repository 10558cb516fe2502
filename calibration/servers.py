"""What a vLLM server says of its own settings: a dump of its configuration, its start-up log, its metrics as text.

Settings have the names of `LoggedServer`; `NAMES` says what vLLM calls them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batchcube.documents import parse_json, read_file
from batchcube.errors import InputError, found_in

NAMES = {
    "max_num_seqs": "most_running",
    "max_num_batched_tokens": "token_budget",
    "block_size": "block_tokens",
    "num_gpu_blocks": "num_gpu_blocks",
    "num_gpu_blocks_override": "num_gpu_blocks",
    "max_model_len": "max_model_len",
    "max_seq_len": "max_model_len",
    "max_num_active_seqs": "max_num_active_seqs",
    "scheduler_reserve_full_isl": "scheduler_reserve_full_isl",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive": "long_prefill_token_threshold_adaptive",
    "async_scheduling": "async_scheduling",
    "data_parallel_size": "replicas",
}
"""Settings of vLLM, and what they are called here."""
CACHED_TOKENS = "cached_tokens"
"""The KV cache as a start-up log says it: in tokens of all its blocks, of which one is never used."""
PARALLEL = {"tensor_parallel_size": "tensor_parallel", "pipeline_parallel_size": "pipeline_parallel"}
"""Those that say how many GPUs a replica has, and what the origin of coefficients calls them."""
ASYNC_SINCE = (0, 14)
"""The version of vLLM from which on steps are scheduled ahead unless it is told otherwise."""
LEAST_LOADED_SINCE = (0, 32)
"""The version whose balancer of data-parallel engines is known to be `least_loaded`.

Earlier ones balance engines of models with experts, `least_waiting`, and send requests to all others in turn.
"""
_OF_BLOCKS = ("block_size", "num_gpu_blocks", "num_gpu_blocks_override")
_EXPERTS = ("enable_expert_parallel", "is_moe_model")
"""Settings one of which is on where a model has experts: several engines of one step together."""
_REMARKS = {
    "enable_prefix_caching": "prefixes are cached, but no log says what is in prompts: nothing is found again here",
    "speculative_config": "decoding is speculative: steps that give several tokens are not simulated",
    "scheduling_policy": "requests have priorities, which a log does not give: they come in turn here",
}
"""What is said of further settings where they are on."""
_OFF = (None, False, "", "fcfs")
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
# In a log settings are listed as 'name': value, name=value or name="value".
_LISTED = re.compile(r"non-default args|with config:|cache_config_info")
_SETTING = re.compile(
    rf"\b({'|'.join([*NAMES, *PARALLEL, *_REMARKS, *_EXPERTS])})['\"]?\s*[:=]\s*['\"]?(\d+\b|[A-Za-z]+|{{)"
)
_LINES = {
    "vllm_version": re.compile(r"LLM engine \(v([\d.]+)|vLLM API server version ([\d.]+)"),
    CACHED_TOKENS: re.compile(r"KV cache size: ([\d,]+) tokens"),
    # Those of the device come first, then those that it swaps to.
    "num_gpu_blocks": re.compile(r"# \w+ blocks: (\d+)|num_gpu_blocks is: (\d+)"),
    "max_num_batched_tokens": re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)"),
    "max_model_len": re.compile(r"Maximum concurrency for ([\d,]+) tokens per request"),
}
"""Lines of a start-up log that give one setting."""


class Stated(NamedTuple):
    """Settings that a file states."""

    source: str
    """Name of the file."""
    values: dict[str, Any]
    """By the names of `LoggedServer`, or `CACHED_TOKENS`."""
    remarks: tuple[str, ...]
    """What else it says that matters, a line each."""
    parallel: dict[str, int]
    """By the values of `PARALLEL`."""


def read_server_config(path: str | Path) -> Stated:
    """Read settings out of a dump of vLLM's configuration, JSON, however deep they lie there; null states nothing.

    Raises InputError, one line with the file, for what is no JSON object, a setting that is stated twice and differs,
    a value that it cannot have, and where none is stated.
    """
    with found_in(file=path):
        document = parse_json(read_file(path))
        if not isinstance(document, dict):
            raise InputError("is no JSON object")
        found: dict[str, Any] = {}
        for name, value in _leaves(document):
            if name in found and found[name] != value:
                raise InputError(f"is {json.dumps(found[name])} and {json.dumps(value)} in one file", path=name)
            found[name] = value
        return _stated(path, found)


def read_server_log(path: str | Path) -> Stated:
    """Read settings out of vLLM's start-up log, or out of its metrics as text; what is said last holds.

    Where engines of one server have caches of several sizes the smallest counts. Raises InputError where no setting is
    found.
    """
    found: dict[str, Any] = {}
    caches: dict[str, set[int]] = {CACHED_TOKENS: set(), "num_gpu_blocks": set()}
    for line in read_file(path).decode("utf-8", errors="replace").splitlines():
        said = [
            (name, next(group for group in match.groups() if group).replace(",", ""))
            for name, pattern in _LINES.items()
            if (match := pattern.search(line))
        ]
        if _LISTED.search(line):
            said += _SETTING.findall(line)
        for name, word in said:
            value = _WORDS.get(word.lower(), int(word) if word.isdigit() else word)
            if name in caches and isinstance(value, int):
                caches[name].add(value)
            elif value is not None:
                found[name] = value
    remarks = []
    for name, sizes in caches.items():
        if sizes:
            found[name] = min(sizes)
        if len(sizes) > 1:
            remarks.append(f"caches differ ({name} from {min(sizes)} to {max(sizes)}): the smallest counts for all")
    if "num_gpu_blocks" in found:
        found.pop(CACHED_TOKENS, None)
    with found_in(file=path):
        stated = _stated(path, found)
    return stated._replace(remarks=(*stated.remarks, *remarks))


def _leaves(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is stated anywhere in a document and may be a setting."""
    for name, value in document.items():
        if name in NAMES or name in PARALLEL or name in _REMARKS or name in _EXPERTS or name == "vllm_version":
            if value is not None:
                yield name, value
        elif isinstance(value, dict):
            yield from _leaves(value)


def _stated(path: str | Path, found: dict[str, Any]) -> Stated:
    """Return what is found by vLLM's names, with its default where a version has one; InputError where nothing is."""
    names = NAMES | {CACHED_TOKENS: CACHED_TOKENS}
    values = {
        names[name]: _count(name, value) if name in _OF_BLOCKS else value
        for name, value in found.items()
        if name in names
    }
    parallel = {PARALLEL[name]: _count(name, value) for name, value in found.items() if name in PARALLEL}
    if not values and not parallel:
        raise InputError("states no setting of a vLLM server", allowed=f"looked for {', '.join([*NAMES, *PARALLEL])}")
    several, experts = values.get("replicas", 1) > 1, any(found.get(name) not in _OFF for name in _EXPERTS)
    if several and experts:
        values["lockstep"] = True
    remarks = [text for name, text in _REMARKS.items() if found.get(name) not in _OFF]
    version = re.match(r"v?(\d+)\.(\d+)", str(found.get("vllm_version", "")))
    if version:
        number = int(version[1]), int(version[2])
        defaults: dict[str, Any] = {"async_scheduling": number >= ASYNC_SINCE}
        if several and number < LEAST_LOADED_SINCE:
            defaults["routing"] = "least_waiting" if experts else "round_robin"
        defaults = {name: value for name, value in defaults.items() if name not in values}
        values |= defaults
        remarks += [f"{name} is not stated: {value}, as of vLLM {version[0]}" for name, value in defaults.items()]
    if several and not experts and found.get("is_moe_model") is not False:
        routed = ", and its routing is least_waiting" if values.get("routing") == "round_robin" else ""
        remarks.append(f"if its model has experts its engines step together, lockstep{routed}")
    return Stated(Path(path).name, values, tuple(remarks), parallel)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError("must be a whole number >= 1", path=name, value=json.dumps(value))
    return value
