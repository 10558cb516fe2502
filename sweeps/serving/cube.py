"""A cube of what a server did, from its log: the variables of one simulated replication, but measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from batchcube.engine import continuous
from batchcube.engine.continuous import Job, Replica
from batchcube.engine.continuous.count import count_reference
from batchcube.engine.continuous.model import SERVED, blocks_of
from batchcube.engine.continuous.promises import count_promises
from batchcube.engine.continuous.reference import History, Step
from batchcube.engine.continuous.ticks import TICKS_PER_NANOSECOND
from batchcube.engine.policies.bins import assign_bins
from batchcube.engine.policies.estimates import EMA, FINER, UNIT, RunningMeans, Smoothing, start_means
from batchcube.engine.policies.target import Target
from batchcube.engine.statistics import Move
from batchcube.engine.tally import new_tally, row_of
from batchcube.engine.ticks import LARGEST_REQUEST
from batchcube.errors import InputError
from batchcube.results.provenance import MadeBy

from ..files import write_text
from ..run.assemble import assemble
from ..run.parts import cut
from ..run.preparing import Prepared, prepare, theory_of
from ..run.reports import Reports
from ..run.store import Part
from ..spec.document import Sweep
from ..spec.settings import ReplicaSettings
from .given import PREDICTED
from .log import HASHES, NANOSECONDS_PER_S, PRIORITY, REQUESTS, Decided, Written, read_served

_COLUMNS = {"input_toks": "prompt_tokens", "output_toks": "output_tokens", PREDICTED: "predicted_tokens"}
# Stands for an edge that is infinite.
_FAR = 1e12


def served_cube(folder: Path, trace: Path) -> xr.Dataset:
    """Build the cube of a log; its requests are written to `trace`, from which the cube's sweep would simulate them.

    Times begin with the first request. There are no gaps between tokens in it: a log does not hold them. Raises
    InputError for a folder that holds no log, and one in which nothing was served.
    """
    written = read_served(folder)
    if not written.requests:
        raise InputError("holds no request that is over", file=folder / REQUESTS)
    rows = sorted(written.requests, key=lambda row: float(row["queued_ts"]))
    # As in any trace the first request arrives at 0.
    zero_ns = _nanoseconds(rows[0], "queued")
    arrival_ns = np.array([_nanoseconds(row, "queued") - zero_ns for row in rows])
    tables = _tables(written, trace, zero_ns)
    columns = dict(_COLUMNS)
    if tables["server"]["replica"].get("scheduling_policy") == "priority":
        columns[PRIORITY] = PRIORITY
    if "hash_tokens" in tables["workload"]["trace"]:
        columns[HASHES] = HASHES
    lines = [
        json.dumps({"arrival_s": at_ns / NANOSECONDS_PER_S} | {name: row[own] for own, name in columns.items()})
        for row, at_ns in zip(rows, arrival_ns.tolist(), strict=True)
    ]
    write_text(trace, "\n".join(lines) + "\n")
    prepared = prepare(Sweep.model_validate(tables, str(folder)))
    point = prepared.points[0]
    assert isinstance(point.setup, continuous.Setup)
    predicted = np.array([float(row[PREDICTED]) for row in rows])
    requests = continuous.make_requests(
        arrival_ns / NANOSECONDS_PER_S,
        [row["input_toks"] for row in rows],
        [row["output_toks"] for row in rows],
        predicted,
    )._replace(arrival=arrival_ns * TICKS_PER_NANOSECOND)
    job = Job(requests, assign_bins(predicted, point.edges), point.setup)
    report = _report(job, rows, written.steps, zero_ns)
    vllm = f"vllm {written.about['vllm_version']}"
    made_by = [MadeBy(f"{vllm}, not simulated", "its own", vllm)]
    reports = Reports()
    reports.add(0, [Part(0, (0,), cut(report, prepared))])
    return assemble(_noted(prepared, written), reports, theory_of(prepared), made_by)


def _tables(written: Written, trace: Path, zero_ns: int) -> dict[str, Any]:
    """Return the specification that simulates what was served, with the limits of the server."""
    about = written.about
    limits = about["limits"]
    own = limits["settings"] | {
        "kv_capacity_tokens": limits["capacity_tokens"],
        "block_tokens": limits["block_tokens"],
    }
    # Blocks are the other way to say the capacity.
    names = set(ReplicaSettings.model_fields) - {"num_gpu_blocks"}
    known = {name: value for name, value in own.items() if name in names and value is not None}
    policy = {name: value for name, value in about["policy"].items() if name != "edges"}
    # What holds nobody back is no limit in a specification.
    for name, most in (
        ("max_num_active_seqs", policy["largest_batch"]),
        ("max_model_len", LARGEST_REQUEST),
        ("long_prefill_token_threshold", LARGEST_REQUEST),
    ):
        if known.get(name, 0) > most:
            del known[name]
    if not known.get("long_prefill_token_threshold"):
        known.pop("long_prefill_token_threshold_adaptive", None)
    each = limits["hash_tokens"]
    # An engine whose blocks are larger than those it hashes finds parts of them, which no simulation does.
    hashed = known["enable_prefix_caching"] and each % limits["block_tokens"] == 0
    hashed &= all(len(row[HASHES]) == row["input_toks"] // each for row in written.requests if hashed)
    if about["bins"] > 1:
        edges = np.clip(about["edges"], -_FAR, _FAR).tolist()
        policy |= {"bins": about["bins"], "edges": {"kind": "explicit", "values": edges}}
    else:
        policy = {name: value for name, value in policy.items() if name not in ("bins", "admission", "bin_choice")}
    server = {name: value for name, value in about["server"].items() if name not in ("servers", "routing")}
    last_ns = max(_nanoseconds(row, "last_token") for row in written.requests)
    span_s = (max(last_ns, *(row.at_ns for row in written.steps)) - zero_ns) / NANOSECONDS_PER_S
    report = {name: value for name, value in about["report"].items() if not name.startswith("warmup")}
    return {
        "name": "served",
        "title": f"Served by vLLM {about['vllm_version']}: {Path(about['specification']).name}",
        "replications": 1,
        "workload": {
            "trace": {"path": str(trace.resolve()), "format": "csv", "unit": "s"}
            | ({"hash_tokens": each} if hashed else {}),
            "predictor": {"kind": "column"},
        },
        "policy": policy,
        "server": {**server, "replica": known},
        "report": {**report, "horizon_s": span_s},
    }


def _report(job: Job, rows: list[dict[str, Any]], steps: list[Decided], zero_ns: int) -> dict[str, Any]:
    """Count what happened as a simulated replication is counted; return its variables, leading axis point."""
    times = {
        name: np.array([_nanoseconds(row, name) - zero_ns for row in rows]) * TICKS_PER_NANOSECOND
        for name in ("scheduled", "first_token", "last_token")
    }
    preemptions = np.array([row["preemptions"] for row in rows], np.int64)
    served, nowhere = np.full(len(rows), SERVED), np.zeros(len(rows), np.int64)
    records = continuous.new_records(job)._replace(**times, preemptions=preemptions, status=served, replica=nowhere)
    history = _history(steps, job.setup.replica, zero_ns)
    history.emitted.update({i: [] for i in range(len(rows))})
    tally = new_tally(continuous.CATALOGUE, 1, job.shape)
    # Nobody knows which of them would have gone on.
    ended = job.requests.prompt + job.requests.output >= job.setup.replica.max_model_len
    tally.totals[0, continuous.CATALOGUE.at("truncated")] = np.count_nonzero(ended)
    count_reference(job, records, history, 0, row_of(tally, 0))
    count_promises(job, records, np.zeros(len(rows), np.int64), row_of(tally, 0))
    return continuous.summarise(tally, [job])


def _history(steps: list[Decided], replica: Replica, zero_ns: int) -> History:
    """Return the steps of a log as the simulator's."""
    shown = {outcome.step: outcome for row in steps for outcome in row.seen}
    history = History()
    for row in steps:
        start = (row.at_ns - zero_ns) * TICKS_PER_NANOSECOND
        history.moves += [(start, Move(-1, 0, 0))] * row.preempted
        history.moves += [(start, Move(1, 0, 0))] * (row.batch - row.running + row.preempted)
        if (outcome := shown.get(row.step)) is None:
            continue
        target = Target(_means(row, replica.control.smoothing), row.memory_bound, row.sla_bound, row.cap)
        seen: dict[str, Any] = {
            "start": start,
            "duration": outcome.duration_ns * TICKS_PER_NANOSECOND,
            "decoding": outcome.decoding,
            "running": row.batch,
            "prefill_tokens": max(row.tokens - outcome.decoding, 0),
            "blocks": blocks_of(row.kv_tokens, replica.block_tokens),
            "tokens": row.kv_tokens,
            "target": target,
        }
        # What a log does not hold is 0.
        history.steps.append(Step(**dict.fromkeys(Step._fields, 0) | seen))
    return history


def _means(row: Decided, smoothing: Smoothing) -> RunningMeans:
    """Return running means that are read as a row's signal."""
    nothing = start_means()
    scale = FINER if smoothing.kind == EMA else max(row.signals, 1)
    return RunningMeans(row.signals, nothing.total._replace(signal=round(row.signal_us * UNIT * scale)))


def _noted(prepared: Prepared, written: Written) -> Prepared:
    """Add what must be said of numbers that were measured."""
    notes = [f"served by vLLM {written.about['vllm_version']}, not simulated; one run has no interval"]
    notes += [f"the server had {difference} as in its specification" for difference in written.about["differs"]]
    unlike = written.about["limits"]["not_simulated"]
    notes += [f"no simulation does what the server did: {what}" for what in unlike]
    if any(row.fault for row in written.steps):
        notes.append("the policy failed: from then on the static cap held, and requests were admitted by arrival")
    aborted = sum(bool(row.get("aborted")) for row in written.requests)
    if aborted:
        notes.append(f"{aborted} requests were ended from outside, and count with the tokens that they got")
    return prepared._replace(notes=(*notes, *prepared.notes))


def _nanoseconds(row: Mapping[str, Any], name: str) -> int:
    return round(float(row[f"{name}_ts"]) * NANOSECONDS_PER_S)
