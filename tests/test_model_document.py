"""Every example of docs/model.md gives what the page says, and every section that is cited is there.

Settings and tables are read from the page: columns that say what is given are simulated, the others compared.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from batchcube.engine import (
    Job,
    Setup,
    continuous,
    make_policy,
    make_reporting,
    make_trace,
    simulate,
    sort_into_bins,
)
from batchcube.engine.continuous import (
    ROUTINGS,
    DecodeTable,
    PrefillTable,
    make_fleet,
    make_law,
    make_replica,
    make_requests,
)
from batchcube.engine.continuous.model import ANYBODY, NOBODY
from batchcube.engine.continuous.run import totals_of
from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.engine.policies.bins import (
    assign_bins,
    distinct_edges,
    equal_mass_edges,
    exponential_edges,
    uniform_edges,
)
from batchcube.engine.policies.estimates import NOTHING, Observation, observe, read, smoothing, start_means, update
from batchcube.engine.policies.memory import memory_batch, memory_bound, no_memory_bound
from batchcube.engine.policies.service import formula, given, measured, piece_of, service_ticks
from batchcube.engine.policies.sla import Range, narrow, no_sla, sla_batch, sla_search
from batchcube.engine.policies.target import Control
from batchcube.engine.statistics import QUANTILES
from batchcube.engine.ticks import from_seconds
from batchcube.sweeps.workloads.predictors import Adjacent
from batchcube.sweeps.workloads.resampling import resample
from batchcube.sweeps.workloads.traces import RecordedTrace
from helpers.continuous import simulate_job

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "model.md"
TEXT = PAGE.read_text(encoding="utf-8")
BACKENDS = ("reference", "numba")
MILLISECOND = 10**9
"""In ticks of continuous batching."""

Row = dict[str, str]


class Example(NamedTuple):
    """What the page says of one example."""

    settings: dict[str, Any]
    tables: list[list[Row]]


def parse_table(lines: list[str]) -> list[Row]:
    cells = [[cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in lines]
    assert all(len(row) == len(cells[0]) for row in cells), lines
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def parse_example(body: str) -> Example:
    stated = re.search(r"^Given (.*?)\n\n", body, re.DOTALL | re.MULTILINE)
    settings = re.findall(r"`(\w+) = ([^`]+)`", stated[1]) if stated else []
    tables = re.findall(r"(?:^\|.*\n)+", body + "\n", re.MULTILINE)
    return Example(
        {name: value.strip('"') if '"' in value else float(value) for name, value in settings},
        [parse_table(table.splitlines()) for table in tables],
    )


EXAMPLES = {
    number: parse_example(body)
    for number, body in re.findall(r"^#{3,4} Example (\d+\.\d+):.*?\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
}


def value(text: str) -> float:
    """Return a number of the page; sums and fractions are worked out."""
    return float(eval(text, {"__builtins__": {}}, {"inf": math.inf}))


def values(text: str) -> list[float]:
    return [value(part) for part in text.split(",")] if text else []


def assert_agrees(text: str, found: float, what: object = "") -> None:
    """Compare with a number as it is printed: five digits and more may be rounded in the last."""
    if not text:
        assert math.isnan(found), what
        return
    decimals = re.fullmatch(r"\d+\.(\d+)", text)
    rounded = decimals is not None and len(text) > 5
    half = 0.5 * 10.0 ** -len(decimals[1]) if decimals and rounded else 0.0
    assert found == pytest.approx(value(text), rel=1e-5, abs=max(half, 1e-12)), what


# Whole batches ------------------------------------------------------------------------------------------------------


def control_of(settings: dict[str, Any], largest: int, bins: int) -> Control:
    """Build the controllers of an example; without any, the target is the largest batch."""
    mean, variance = settings.get("prior_mean", 1.0), settings.get("prior_variance", 0.0)
    return Control(
        smallest=1.0 if settings.keys() & {"target_s", "capacity_tokens"} else float(largest),
        largest=float(largest),
        sla=sla_search(
            settings.get("variant", "paper"),
            settings.get("signal", "tbt"),
            settings["target_s"],
            settings["tolerance_s"],
            settings["alpha"],
            settings["delta"],
        )
        if "target_s" in settings
        else no_sla(),
        memory=memory_bound("exact", settings["capacity_tokens"])
        if "capacity_tokens" in settings
        else no_memory_bound(),
        smoothing=smoothing(settings.get("kind", "ema"), observations=int(settings.get("observations", 20))),
        prior_tokens=np.full(bins, mean),
        prior_squares=np.full(bins, mean**2 + variance),
    )


POLICY_WORDS = ("max_wait_s", "service_order", "tail", "bin_choice")


def job_of(settings: dict[str, Any], rows: list[Row], warmup: int = 0) -> Job:
    """Build the replication of an example from its settings and the given columns of its table."""
    column = {name: [value(row[name]) for row in rows] for name in rows[0] if name not in RESULTS}
    size = int(settings.get("batch_size") or settings["largest_batch"])
    trace = make_trace(
        column["arrival"],
        output_tokens=np.array(column["output"], np.int64) if "output" in column else None,
        service_s=column.get("service"),
        predicted=column.get("predicted"),
    )
    of = np.array(column.get("bin", [0] * len(rows)), np.int32)
    bins = int(of.max()) + 1
    law = given(largest_batch=size)
    if "output" in column:
        law = formula(
            settings.get("a0_s", 0.0),
            settings.get("a1_s_per_token", 0.0),
            settings.get("law", "constant"),
            settings.get("gamma", 0.0),
            largest_batch=size,
        )
    policy = make_policy(
        settings["mode"],
        batch_size=size,
        completion=settings.get("completion", "batch"),
        **{name: settings[name] for name in POLICY_WORDS if name in settings},
    )
    reporting = make_reporting(
        horizon_s=settings.get("horizon_s", 100.0),
        windows=int(settings.get("windows", 1)),
        warmup_requests=warmup,
        request_sla_s=settings.get("request_sla_s"),
    )
    return Job(trace, sort_into_bins(of, bins), Setup(policy, law, control_of(settings, size, bins), reporting))


RESULTS = ("request", "start", "completion", "batch")


def served_as_stated(example: Example, backend: str) -> None:
    """Compare who is served when, in which batch."""
    rows = example.tables[0]
    records = simulate(job_of(example.settings, rows), backend=backend).records
    for i, row in enumerate(rows):
        found = [records.start[i], records.completion[i], records.batch[i]]
        if row["batch"]:
            assert found == [value(row["start"]) * 1e6, value(row["completion"]) * 1e6, value(row["batch"])], row
        else:
            assert found == [-1, -1, -1], row


def bins_as_stated(example: Example, backend: str) -> None:
    bins, service = [0, 2, 1, 1, 0, 1, 2], [10, 1, 1, 1, 1, 1, 1]
    rows = [
        {"arrival": str(i), "service": str(s), "bin": str(j)}
        for i, (j, s) in enumerate(zip(bins, service, strict=True))
    ]
    for choice, batches in (row.values() for row in example.tables[0]):
        job = job_of({**example.settings, "bin_choice": choice}, rows)
        batch = simulate(job, backend=backend).records.batch.tolist()
        assert [batch.index(number) for number in range(4)] == values(batches), choice


def reported_as_stated(example: Example, backend: str) -> None:
    """Compare a report with and without a warm-up, and its windows."""
    requests, variables, windows = example.tables
    served_as_stated(example, backend)
    for column, warmup in (("no warm-up", 0), ("warm-up of 1", 1)):
        report = simulate(job_of(example.settings, requests, warmup), backend=backend).report
        for row in variables:
            name, _, quantile = row["variable"].partition(" ")
            found = report[name][QUANTILES.index(int(quantile[2:-1]) / 100)] if quantile else report[name]
            assert_agrees(row[column], found, row)
    report = simulate(job_of(example.settings, requests), backend=backend).report
    for k, row in enumerate(windows):
        for name in list(row)[1:]:
            assert_agrees(row[name], report[name][k], (name, k))


def variables_as_stated(example: Example, backend: str) -> None:
    served_as_stated(example, backend)
    report = simulate(job_of(example.settings, example.tables[0]), backend=backend).report
    for row in example.tables[1]:
        assert_agrees(row["value"], report[row["variable"]], row)


def growth_as_stated(example: Example, backend: str) -> None:
    rows = [{"arrival": str(i), "service": "3"} for i in range(100)]
    report = simulate(job_of(example.settings, rows), backend=backend).report
    for row in example.tables[0]:
        assert_agrees(row["value"], report[row["variable"]], row)


# Rules of their own -------------------------------------------------------------------------------------------------


def ticks_as_stated(example: Example, _: str) -> None:
    for seconds, ticks in (row.values() for row in example.tables[0]):
        assert from_seconds(value(seconds)) == value(ticks)


class Drawn:
    """A generator that draws what the page says was drawn."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = numbers

    def integers(self, *_: Any) -> Any:
        whole = np.array(self.numbers, np.int64)
        return whole if whole.size > 1 else whole[0]

    def random(self, size: int) -> Any:
        return np.array(self.numbers[:size])


def windows_as_stated(example: Example, _: str) -> None:
    number = np.arange(4)
    trace = RecordedTrace(np.array([0.0, 1.0, 3.0, 6.0]), number, number + 1, None, "", 4, 0, {})
    for row in example.tables[0]:
        found = resample(
            trace,
            Drawn(values(row["drawn"])),
            method=row["resample"],
            requests=4,
            block_requests=2 if row["resample"] == "blocks" else None,
        )
        assert found.prompt_tokens.tolist() == values(row["rows"])
        assert found.arrival_s.tolist() == values(row["arrivals"])


def laws_as_stated(example: Example, _: str) -> None:
    for row in example.tables[0]:
        law = formula(1.0, 0.5, row["law"], 0.5 if row["law"] != "constant" else 0.0, largest_batch=4)
        assert_agrees(row["T"], service_ticks(int(row["b"]), int(row["L"]), law) / 1e6, row)


def table_as_stated(example: Example, _: str) -> None:
    outside = formula(0.5, 0.1, "linear", 0.4, largest_batch=4)
    law = measured(np.array([1, 3]), np.array([10, 30]), np.array([[1.0, 3.0], [2.0, 6.0]]), outside)
    for row in example.tables[0]:
        b, length = int(row["b"]), int(row["L"])
        assert service_ticks(b, length, law) == value(row["T"]) * 1e6, row
        assert law.extrapolated[b, piece_of(length, law)] == int(row["extrapolated"]), row


def edges_as_stated(example: Example, _: str) -> None:
    for row in example.tables[0]:
        bins, of = int(row["bins"]), row["of"]
        if row["kind"] == "equal_mass":
            edges = distinct_edges(equal_mass_edges(values(of), bins))
        elif row["kind"] == "uniform":
            edges = uniform_edges(*values(of), bins)
        else:
            mean, size = map(int, re.findall(r"\d+", of))
            edges = exponential_edges(1 / mean, size, bins)
        stated = row["edges"].split(", ")
        assert len(edges) == len(stated), row
        for text, edge in zip(stated, edges, strict=True):
            assert_agrees(text, edge, row)


def sorted_as_stated(example: Example, _: str) -> None:
    predicted = [value(row["predicted"]) for row in example.tables[0]]
    assert assign_bins(predicted, np.array([1.0, 6.5, 34.0])).tolist() == [int(row["bin"]) for row in example.tables[0]]


def errors_as_stated(example: Example, _: str) -> None:
    rows, edges = example.tables[0], np.array([0.0, 10.0, 20.0, 30.0])
    true = np.array([value(row["true length"]) for row in rows])
    predictor = Adjacent(kind="adjacent", error_probability=0.2)
    found = predictor.predict(true, edges, Drawn([value(row["U"]) for row in rows]))
    assert assign_bins(true, edges).tolist() == [int(row["true bin"]) for row in rows]
    assert found.bin is not None
    assert found.bin.tolist() == [int(row["predicted bin"]) for row in rows]
    assert found.predicted.tolist() == [value(row["predicted length"]) for row in rows]


def memory_as_stated(example: Example, _: str) -> None:
    for row in example.tables[0]:
        margin = value(row["L0"]) if row["rule"] == "margin" else 0.0
        memory = memory_bound(row["rule"], value(row["η"]), 0.05, margin)
        m, v, before = value(row["m"]), value(row["v"]), value(row["b_prev"])
        if row["rule"] == "buffer":
            assert_agrees(row["L0"], memory.quantile * math.sqrt(before * v), row)
        assert memory_batch(m, v, before, 1.0, 256.0, memory) == value(row["b_mem"]), row


def updates_as_stated(example: Example, _: str) -> None:
    for row in example.tables[0]:
        sla = sla_search(row["variant"], "tbt", 50e-3, 1e-3, 16, 4)
        span = Range(value(row["b_low"]), value(row["b_high"]))
        found = narrow(span, value(row["τ̄ (ms)"]) * 1000, value(row["b̄"]), 1.0, 256.0, sla)
        assert found == (value(row["new b_low"]), value(row["new b_high"])), row
        assert sla_batch(found, 1.0, 256.0) == value(row["b_SLA"]), row


def search_as_stated(example: Example, _: str) -> None:
    for target, batches in (row.values() for row in example.tables[0]):
        sla, span, batch = sla_search("paper", "tbt", value(target) / 1000, 1e-3, 16, 4), Range(1.0, 256.0), 128.0
        for stated in values(batches):
            assert batch == stated, target
            span = narrow(span, (30 + 0.22 * batch) * 1000, batch, 1.0, 256.0, sla)
            batch = sla_batch(span, 1.0, 256.0)


def running_means(kind: str, observations: list[Observation], weight: float, window: int) -> list[Observation]:
    """Return the running means after each observation."""
    settings, state, found = smoothing(kind, weight, window), start_means(), []
    for k, new in enumerate(observations):
        oldest = observations[k - window] if k >= window else NOTHING
        state = update(state, new, oldest, settings)
        found.append(Observation(*(read(total, state, settings) for total in state.total)))
    return found


def averages_as_stated(example: Example, _: str) -> None:
    rows = example.tables[0]
    seen = [observe(value(row["observation"]), 1, 1, 1) for row in rows]
    for name in list(rows[0])[1:]:
        kind, number = re.findall(r"ema|window|[\d.]+", name)
        weight, window = (float(number), 1) if kind == "ema" else (1.0, int(number))
        means = running_means(kind, seen, weight, window)
        for row, mean in zip(rows, means, strict=True):
            assert_agrees(row[name], mean.signal, (name, row))


def moments_as_stated(example: Example, _: str) -> None:
    rows = example.tables[0]
    batches = [[int(tokens) for tokens in values(row["tokens of the batch"])] for row in rows]
    seen = [observe(1.0, len(batch), sum(batch), sum(t * t for t in batch)) for batch in batches]
    for row, one, mean in zip(rows, seen, running_means("window", seen, 1.0, 2), strict=True):
        assert (one.tokens / 1024, one.squares / 1024) == (value(row["mean of p + o"]), value(row["mean of (p + o)²"]))
        assert (mean.tokens, mean.squares - mean.tokens**2) == (value(row["m"]), value(row["v"]))


# Continuous batching ------------------------------------------------------------------------------------------------

REPLICA = {
    "prefill",
    "scheduler_reserve_full_isl",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "max_num_active_seqs",
    "max_model_len",
    "enable_prefix_caching",
    "scheduling_policy",
    "async_scheduling",
}


WORDS = {"nobody": NOBODY, "anybody": ANYBODY}


def step_job_of(
    settings: dict[str, Any], rows: list[Row], routing: str = "round_robin", warmup: int = 0
) -> continuous.Job:
    """Build the replication of an example of continuous batching."""
    largest = int(settings["largest_batch"])
    replica = make_replica(
        make_law(**{name: settings[name] for name in STEP_TERMS if name in settings}, **settings.get("tables", {})),
        most_running=largest,
        token_budget=int(settings["token_budget"]),
        capacity_tokens=int(settings["kv_capacity_tokens"]),
        block_tokens=int(settings["block_tokens"]),
        **{name: settings[name] for name in REPLICA & set(settings)},
        control=control_of(settings, largest, 1) if "target_s" in settings else None,
    )
    reporting = continuous.make_reporting(
        horizon_s=settings.get("horizon_s", 1.0),
        windows=int(settings.get("windows", 1)),
        warmup_requests=warmup,
        request_sla_s=settings.get("request_sla_s"),
    )
    replicas, lockstep = int(settings.get("servers", 1)), bool(settings.get("lockstep", 0))
    fleet = make_fleet(replicas=replicas, routing=routing, bins=3, lockstep=lockstep)
    # Where it comes about it does not count.
    given = [value(row["arrival (ms)"]) / 1000 * (row.get("follows", "nobody") == "nobody") for row in rows]
    arrival_s = np.maximum.accumulate(given)
    tokens = ([int(row[name]) for row in rows] for name in ("prompt", "output"))
    bins = np.array([int(row.get("bin of 3", 0)) for row in rows], np.int32)
    priority, content = [int(row.get("priority", 0)) for row in rows], content_of(rows, int(settings["block_tokens"]))
    requests = make_requests(arrival_s, *tokens, priority=priority, content=content)
    if "follows" in rows[0]:
        whom = [WORDS.get(row["follows"]) or int(row["follows"]) for row in rows]
        requests = continuous.follow(requests, whom, [value(row["d (ms)"] or "0") / 1000 for row in rows])
    return continuous.Job(requests, bins, continuous.Setup(replica, fleet, reporting))


def content_of(rows: list[Row], block_tokens: int) -> continuous.Content | None:
    """Return what prompts contain, where letters name their blocks."""
    if "content" not in rows[0]:
        return None
    ids = [[ord(letter) for letter in row["content"].split()] for row in rows]
    return continuous.make_content(ids, [int(row["prompt"]) for row in rows], block_tokens)


def stepped_as_stated(example: Example, backend: str) -> None:
    """Compare when each request is admitted, emits, is done, and how often it is preempted."""
    rows = example.tables[0]
    records, _ = simulate_job(step_job_of(example.settings, rows), backend)
    for i, row in enumerate(rows):
        found = [records.arrival[i], records.scheduled[i], records.first_token[i], records.last_token[i]]
        stated = [row[name] for name in ("arrival (ms)", "scheduled", "first token", "last token")]
        assert found == [round(value(text) * MILLISECOND) if text else -1 for text in stated], row
        assert records.preemptions[i] == int(row["preemptions"]), row
        assert records.cached[i] == int(row.get("cached", 0)), row


def looped_as_stated(example: Example, backend: str) -> None:
    """Compare the report of a closed loop as well, with and without a warm-up."""
    requests, variables = example.tables
    stepped_as_stated(example, backend)
    for column, warmup in (("no warm-up", 0), ("warm-up of 2", 2)):
        report = simulate(step_job_of(example.settings, requests, warmup=warmup), backend).report
        for row in variables:
            assert_agrees(row[column], report[row["variable"]], row)


def bent_as_stated(example: Example, backend: str) -> None:
    """Take the tables of decodes and prefills into the step law."""
    nodes = [{name: [value(row[name]) for row in rows] for name in rows[0]} for rows in example.tables[:2]]
    tables = {"decode": DecodeTable(**nodes[0]), "prefill": PrefillTable(**nodes[1])}
    stepped_as_stated(Example(example.settings | {"tables": tables}, example.tables[2:]), backend)


def every_step_as_stated(example: Example, backend: str) -> None:
    """Compare a report and, as each step of 1 ms fills one window, every step."""
    requests, steps, variables = example.tables
    stepped_as_stated(example, backend)
    job = step_job_of(example.settings, requests)
    report = simulate(job, backend).report
    columns = {
        "KV tokens at the end": "window_kv_tokens_mean",
        "running": "window_batch_size_mean",
        "waiting, mean": "window_queue_length_mean",
        "preempted": "window_preemptions",
    }
    for k, step in enumerate(steps):
        assert int(step["from (ms)"]) == k
        for column, name in columns.items():
            assert_agrees(step[column], report[name][k], (name, k))
    for row in variables:
        assert_agrees(row["value"], report[row["variable"]], row)
    # What the steps did comes to the same.
    prefilled = dict.fromkeys(range(len(requests)), 0)
    for number, tokens in re.findall(r"(\d+): (\d+)", ", ".join(step["chunks"] for step in steps)):
        prefilled[int(number)] += int(tokens)
    for number, row in enumerate(requests):
        assert (prefilled[number] > int(row["prompt"])) == (row["preemptions"] != "0"), row
    again = 1 - sum(int(row["prompt"]) for row in requests) / sum(prefilled.values())
    assert report["recomputed_token_fraction"] == pytest.approx(again)
    totals = totals_of(simulate_job(job, backend)[1])
    assert totals.decode_tokens == sum(int(step["decodes"]) for step in steps)
    assert totals.decode_tokens + totals.prefills == sum(int(row["output"]) for row in requests)


def routed_as_stated(example: Example, backend: str) -> None:
    rows = example.tables[0]
    for routing in ROUTINGS:
        records, _ = simulate_job(step_job_of(example.settings, rows, routing), backend)
        assert records.replica.tolist() == [int(row[routing]) for row in rows], routing


CHECKS: dict[str, Callable[[Example, str], None]] = {
    "1.1": ticks_as_stated,
    "1.2": served_as_stated,
    "1.3": windows_as_stated,
    "2.1": laws_as_stated,
    "2.2": table_as_stated,
    "2.3": served_as_stated,
    "3.1": served_as_stated,
    "3.2": served_as_stated,
    "3.3": served_as_stated,
    "3.4": served_as_stated,
    "3.5": served_as_stated,
    "3.6": bins_as_stated,
    "4.1": edges_as_stated,
    "4.2": sorted_as_stated,
    "5.1": errors_as_stated,
    "6.1": memory_as_stated,
    "6.2": served_as_stated,
    "7.1": updates_as_stated,
    "7.2": search_as_stated,
    "8.1": averages_as_stated,
    "8.2": moments_as_stated,
    "8.3": served_as_stated,
    "9.1": reported_as_stated,
    "9.2": variables_as_stated,
    "9.3": growth_as_stated,
    "10.1": stepped_as_stated,
    "10.2": every_step_as_stated,
    "10.3": stepped_as_stated,
    "10.4": stepped_as_stated,
    "10.5": stepped_as_stated,
    "10.6": stepped_as_stated,
    "10.7": stepped_as_stated,
    "10.8": stepped_as_stated,
    "10.9": stepped_as_stated,
    "10.10": stepped_as_stated,
    "10.11": routed_as_stated,
    "10.12": stepped_as_stated,
    "10.13": looped_as_stated,
    "10.14": stepped_as_stated,
    "10.15": bent_as_stated,
    "10.16": stepped_as_stated,
}
RULES = {"1.1", "1.3", "2.1", "2.2", "4.1", "4.2", "5.1", "6.1", "7.1", "7.2", "8.1", "8.2"}
"""Examples of a single rule, the same text for every backend."""


def test_every_example_is_checked() -> None:
    assert list(EXAMPLES) == list(CHECKS)
    assert all(example.tables for example in EXAMPLES.values())


@pytest.mark.parametrize(
    ("number", "backend"),
    [(number, backend) for number in CHECKS for backend in (BACKENDS[:1] if number in RULES else BACKENDS)],
)
def test_example(number: str, backend: str) -> None:
    CHECKS[number](EXAMPLES[number], backend)


# The page and those who cite it -------------------------------------------------------------------------------------

SECTIONS = [int(number) for number in re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE)]
CITATION = re.compile(r"docs/model\.md,[\s#]+sections?[\s#]+(\d+(?:(?:-|,[\s#]+|[\s#]+and[\s#]+)\d+)*)")
FOLDERS = ("engine", "sweeps", "calibration", "results", "figures", "front", "examples", "benchmarks", "tests")


def sources() -> dict[str, str]:
    """Return the text of every file that may cite the page, by name."""
    found = (path for folder in FOLDERS for kind in ("*.py", "*.toml") for path in sorted((ROOT / folder).rglob(kind)))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in found if path != Path(__file__)}


def test_sections_are_numbered_as_they_are_cited() -> None:
    assert list(range(1, 11)) == SECTIONS
    cited = 0
    for name, text in sources().items():
        for numbers in CITATION.findall(text):
            cited += 1
            assert {int(number) for number in re.findall(r"\d+", numbers)} <= set(SECTIONS), (name, numbers)
    assert cited >= 20


def test_the_page_is_cited_in_one_form() -> None:
    for name, text in sources().items():
        for found in re.finditer(r"(docs/)?\bmodel(?:\.md)?,?[\s#]+sections? ?\d", text):
            assert CITATION.match(text, found.start()), (name, found[0])
        assert len(re.findall(r"docs/model\.md", text)) == len(CITATION.findall(text)), name


def test_nothing_but_the_two_papers_is_referred_to() -> None:
    assert set(re.findall(r"\d{4}\.\d{5}", TEXT)) == {"2412.04504", "2503.05248"}
    assert "http" not in TEXT
