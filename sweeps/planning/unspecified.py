"""A specification for who has none: model and GPUs, or a law of one's own; a rate; and stated defaults for the rest."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from batchcube.calibration.coefficients import Coefficients, is_of_gpus, sha256_of, shipped_names
from batchcube.calibration.hardware import Deployment, folder_of, gpus, is_installed, short_name
from batchcube.engine.cache import cache_directory
from batchcube.engine.simulation import JOBS_AT_ONCE
from batchcube.errors import InputError, did_you_mean, found_in

from ..calibrate.hardware import derive
from ..files import write_text
from ..run.draws import Draws
from ..run.preparing import prepare
from ..run.simulate import Simulator
from ..spec.document import Sweep
from ..spec.service import load
from ..spec.settings import Point
from .defaults import LATENCIES
from .serving import known_of

SPAN_S = 120.0
"""Time that the requests of a replication arrive in, at least."""
LEAST_REQUESTS = 2000
AT_ONCE = 1000.0
"""Times the rate that is more than anything serves."""
WARMUP = 0.25
"""Part of it that is left out, as it begins with nobody there."""
# Output and prompt of the Azure conversation trace of 2023: mean tokens and coefficients of variation.
OUTPUT, PROMPT = (211.0, 0.77), (1155.0, 0.96)

REQUESTS = "workload.requests"
_CACHES = ("server.replica.kv_capacity_tokens", "server.replica.num_gpu_blocks")
_NEEDED = "without a `spec`, `rate` is needed, and `model` and `gpu`, or `coefficients`"


def unspecified(
    model: str | None,
    gpu: str | None,
    tensor_parallel: int | None,
    coefficients: str | os.PathLike[str] | None,
    lengths: str | os.PathLike[str] | None,
    trace: str | os.PathLike[str] | None,
    rate: float | None,
) -> dict[str, Any]:
    """Return the tables of a specification; `assumed_of` says what they assume.

    Raises InputError where model and GPU (or coefficients) or the rate are missing, or nothing is known of the pair.
    """
    if rate is None:
        raise InputError(f"is missing: {_NEEDED}", path="`rate`")
    name, title = _served_by(model, gpu, tensor_parallel, coefficients)
    if lengths is not None and trace is not None:
        raise InputError("has lengths of its own; leave `lengths` out", path="`trace`")
    if trace is not None:
        workload: dict[str, Any] = {"trace": {"path": os.path.abspath(trace)}}
    else:
        workload = {"arrivals": {"process": "poisson", "rate_per_s": rate}, "lengths": _lengths(lengths)}
    return {
        "name": "plan",
        "title": title,
        "workload": {**workload, "requests": max(LEAST_REQUESTS, round(SPAN_S * rate))},
        "policy": {"mode": "continuous"},
        "server": {"routing": "least_loaded", "service": {"coefficients": name}},
        "report": {"warmup_fraction": WARMUP},
    }


def assumed_of(points: Sequence[Point]) -> Iterator[str]:
    """Say, a line each, what was assumed at all points, as nothing took its place."""
    workloads = [point.workload for point in points]
    if all(getattr(workload.arrivals, "process", None) == "poisson" for workload in workloads):
        yield "Poisson arrivals"
    output = _lengths(None)
    prompt = output.pop("prompt")
    drawn = [{} if workload.lengths is None else workload.lengths.model_dump() for workload in workloads]
    said = []
    if all(prompt.items() <= (lengths.get("prompt") or {}).items() for lengths in drawn):
        said.append(f"prompts of {PROMPT[0]:g} tokens on average")
    if all(output.items() <= lengths.items() for lengths in drawn):
        said.append(f"outputs of {OUTPUT[0]:g}" + ("" if said else " tokens on average"))
    if said:
        yield (
            f"lengths: lognormal, {', '.join(said)}, as in the Azure conversation trace of 2023 (a file of lengths or "
            "a trace takes their place)"
        )
    known = {one.name: one for point in points if (one := known_of(point)) is not None}
    if silent := [name for name, one in known.items() if not is_of_gpus(one)]:
        yield f"a replica has one GPU: coefficients {', '.join(silent)} do not say how many"


def enough_requests(sweep: Sweep, rate: float) -> int:
    """Return the requests of a replication that are enough where nobody states them; raises InputError.

    They arrive in `LATENCIES` times the time that one takes in batches as full as they get, in the configuration where
    that is longest. That is seen where as many as come in a moment are there at once.
    """
    few = [
        point._replace(
            workload=point.workload.model_copy(update={"requests": LEAST_REQUESTS}),
            report=point.report.model_copy(update={"warmup_fraction": WARMUP, "warmup_requests": None}),
        )
        for point in sweep.grid.points
    ]
    prepared = prepare(replace(sweep, grid=sweep.grid._replace(points=tuple(few)), replications=1))
    draws = Draws(sweep.seed, 0)
    jobs = [draws.job(point, evenly_at=AT_ONCE * rate) for point in prepared.points]
    report = Simulator(prepared, "numba", JOBS_AT_ONCE).simulate(jobs, prepared.points)
    # None is served where all are turned away, which a plan finds out.
    longest = float(np.nanmax(report["service_mean_s"], initial=0.0))
    enough = max(LEAST_REQUESTS, rate * max(SPAN_S, LATENCIES * longest))
    # To two digits.
    unit = 10.0 ** (math.floor(math.log10(enough)) - 1)
    return round(math.ceil(enough / unit) * unit)


def require_limits(policy: Mapping[str, Any], server: Mapping[str, Any], varied: Collection[str]) -> None:
    """Raise InputError where coefficients bring no limits of a server along, and neither tables nor settings say them.

    What is `varied`, by path, is said.
    """
    service, replica = server.get("service"), server.get("replica")
    name = service.get("coefficients") if isinstance(service, dict) else None
    if not isinstance(name, str):
        return
    with found_in(file="plan"):
        if load(name).replica is not None:
            return
    said = {f"policy.{key}" for key in policy} | set(varied)
    said |= {f"server.replica.{key}" for key in replica} if isinstance(replica, dict) else set()
    lacking = [] if "policy.largest_batch" in said else ["policy.largest_batch=N"]
    if said.isdisjoint(_CACHES):
        lacking.append(f"{_CACHES[0]}=N")
    if lacking:
        these = " ".join(f"`settings` {setting}" for setting in lacking)
        raise InputError(
            f"has step times, and nothing of the server's limits: say them with {these}",
            path="`coefficients`",
            value=name,
        )


def _served_by(
    model: str | None, gpu: str | None, tensor_parallel: int | None, coefficients: str | os.PathLike[str] | None
) -> tuple[str, str]:
    """Return the coefficients that are meant, by their name or file, and what a plan with them is called."""
    if coefficients is not None:
        for argument, value in (("`gpu`", gpu), ("`tensor_parallel`", tensor_parallel)):
            if value is not None:
                raise InputError("says what `coefficients` say: leave out the one or the other", path=argument)
        name = os.fspath(coefficients)
        return (os.path.abspath(name), Path(name).stem) if name.endswith(".json") else (name, name)
    for argument, value in (("`model`", model), ("`gpu`", gpu)):
        if value is None:
            raise InputError(f"is missing: {_NEEDED}", path=argument)
    assert model is not None
    assert gpu is not None
    gpu, each = gpu.lower(), tensor_parallel or 1
    return coefficients_of(model, gpu, each), f"{Path(model).name} on {_in_words(gpu, each)}"


def coefficients_of(model: str, gpu: str, tensor_parallel: int) -> str:
    """Return the name of the coefficients of a model on GPUs, shipped, or the file where derived ones are kept.

    A folder with a config.json is what that says, whatever it is called.
    Raises InputError for a pair that nothing is known of.
    """
    shipped = {name: load(name) for name in shipped_names()}
    folder = folder_of(model)
    for name, known in shipped.items():
        if folder is None and known.label == "tables" and _is_of(known, model, gpu, tensor_parallel):
            return name
    if not is_installed():
        of = [known.provenance for known in shipped.values() if known.label == "tables"]
        ours = {short_name(str(one["model"])) for one in of}, {str(one["gpu"]).removesuffix("_sxm") for one in of}
        hints = [
            did_you_mean(given, sorted(names))
            for given, names in zip((short_name(model), gpu), ours, strict=True)
            if given not in names
        ]
        near = "".join(f" {hint}" for hint in hints if hint)
        raise InputError(
            f"no coefficients of this pair come with batchcube (batchcube calibrate list);{near} others are derived "
            "with aiconfigurator-core: pip install '.[hardware]' in the clone",
            path=f"`model` {model} `gpu` {gpu}",
        )
    called = f"{short_name(model)}-{tensor_parallel}x{gpu}"
    if folder is not None:
        called = f"{short_name(folder.name)}-{sha256_of(folder / 'config.json')[:8]}-{tensor_parallel}x{gpu}"
    measured = gpu if gpu in gpus() or f"{gpu}_sxm" not in gpus() else f"{gpu}_sxm"
    known = derive(Deployment(model, measured, tensor_parallel=tensor_parallel), called)
    cache = cache_directory()
    if cache is None:
        raise InputError(
            "nothing can be kept here; derive them with `batchcube calibrate hardware`, and name them in a `spec`",
            path=f"`model` {model} `gpu` {gpu}",
        )
    file = cache.parent / "tables" / f"{called}.json"
    if not file.exists() or file.read_text(encoding="utf-8") != known.text():
        write_text(file, known.text())
    return str(file)


def _is_of(known: Coefficients, model: str, gpu: str, tensor_parallel: int) -> bool:
    of = known.provenance
    same = short_name(str(of.get("model", ""))) == short_name(model) and of.get("gpu") in (gpu, f"{gpu}_sxm")
    others = {"pipeline_parallel", "data_parallel", "expert_parallel", "quantization", "kv_cache_dtype"} & set(of)
    return same and of.get("engine") == "vllm" and int(of.get("tensor_parallel", 1)) == tensor_parallel and not others


def _lengths(file: str | os.PathLike[str] | None) -> dict[str, Any]:
    if file is None:
        prompt = {"distribution": "lognormal", "mean": PROMPT[0], "cv": PROMPT[1]}
        return {"distribution": "lognormal", "mean": OUTPUT[0], "cv": OUTPUT[1], "prompt": prompt}
    return {"distribution": "empirical", "path": os.path.abspath(file), "prompt_column": "prompt_tokens"}


def _in_words(gpu: str, count: int) -> str:
    return f"one {gpu}" if count == 1 else f"{count} {gpu}"
