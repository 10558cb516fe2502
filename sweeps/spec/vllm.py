"""Settings by the names that they have in vLLM, taken for those that they have here."""

from collections.abc import Iterator, Mapping
from typing import Any

from batchcube.calibration.servers import NAMES
from batchcube.errors import InputError

_PATHS = {"most_running": "policy.largest_batch", "replicas": "server.servers"}
OF_VLLM = {
    **{name: _PATHS.get(own, f"server.replica.{own}") for name, own in NAMES.items()},
    "enable_prefix_caching": "server.replica.enable_prefix_caching",
    "scheduling_policy": "server.replica.scheduling_policy",
}
"""Path here by the name there."""
_OF_COEFFICIENTS = "is of coefficients here (server.service): batchcube calibrate hardware makes them"
ELSEWHERE = {
    "enable_chunked_prefill": 'is server.replica.prefill here, "chunked" or "separate"',
    "gpu_memory_utilization": "says how large the KV cache is, which is server.replica.kv_capacity_tokens here; "
    "batchcube calibrate hardware --gpu-memory-utilization reckons it",
    **dict.fromkeys(
        ("tensor_parallel_size", "pipeline_parallel_size", "enable_expert_parallel", "quantization", "kv_cache_dtype"),
        _OF_COEFFICIENTS,
    ),
}
"""What becomes of those that are no setting here."""
_TABLES = ("server", "server.replica")
"""Where vLLM's names may stand, besides alone."""


def path_here(path: str) -> str:
    """Return the path of a setting that is given by vLLM's name, alone or in a table of the server; others as it is.

    The name may be spelled as vLLM's options are: ``--max-num-seqs``.
    """
    table, _, name = path.rpartition(".")
    return OF_VLLM.get(_name(name), path) if table in ("", *_TABLES) else path


def told(path: str) -> str:
    """Return what is said of a path that is taken for another, "" where it is none."""
    own = path_here(path)
    return "" if own == path else f"{path} is {own} here"


def hint(name: str) -> str:
    """Return what vLLM's name, where it cannot be taken, is here; "" for other names."""
    known = _name(name)
    if known in OF_VLLM:
        return f"vLLM's {known} is {OF_VLLM[known]} here"
    return f"vLLM's {known} {ELSEWHERE[known]}" if known in ELSEWHERE else ""


def rename(document: Mapping[str, Any], source: str) -> list[str]:
    """Give what a specification states of a server by vLLM's names the names here, and return what is said of it.

    Raises InputError where a setting is stated by both names.
    """
    said = [*_rename(document, source, "")]
    axes = document.get("axes")
    for name, axis in axes.items() if isinstance(axes, dict) else ():
        if not isinstance(axis, dict):
            continue
        if isinstance(path := axis.get("path"), str) and told(path):
            axis["path"] = path_here(path)
            said.append(told(path))
        points = axis.get("points")
        for label, settings in points.items() if isinstance(points, dict) else ():
            if isinstance(settings, dict):
                said += _rename(settings, source, f"axes.{name}.points.{label}.")
    return list(dict.fromkeys(said))


def _rename(settings: Any, source: str, at: str) -> Iterator[str]:
    """Rename what is in the tables of the server, nested or with dotted keys; yield what is said of it."""
    for table in _TABLES:
        within = _table(settings, table.split("."))
        for name in list(within):
            path = f"{table}.{name}"
            if told(path):
                _put(settings, path, within.pop(name), source, at)
                yield told(path)
    for path in [path for path in settings if "." in path and told(path)]:
        _put(settings, path, settings.pop(path), source, at)
        yield told(path)


def _put(settings: Any, path: str, value: Any, source: str, at: str) -> None:
    own = path_here(path)
    *tables, name = own.split(".")
    within = settings
    for table in tables:
        within = within.setdefault(table, {})
        if not isinstance(within, dict):
            # Told as a mistake of its own.
            return
    if name in within or own in settings:
        raise InputError(f"is {own} here, which is stated too: remove one", file=source, path=f"{at}{path}")
    within[name] = value


def _table(settings: Any, names: list[str]) -> dict[str, Any]:
    """Return a table within another, an empty one where there is none."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


def _name(spelled: str) -> str:
    return spelled.removeprefix("--").replace("-", "_")
