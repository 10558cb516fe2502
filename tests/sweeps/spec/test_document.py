import json
import math
import random
import tomllib
from collections.abc import Callable
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchcube.engine.policies import registry
from batchcube.errors import InputError
from batchcube.sweeps import presets
from batchcube.sweeps.run import samples
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep, laid_over, parse_toml, schema_text
from helpers.specifications import SMALL, laid

FIXED: dict[str, Any] = {
    "name": "fixed",
    "replications": 2,
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson", "rate_per_s": 0.5},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1, "high": 20.0},
    },
    "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 4},
    "server": {"service": {"law": "given"}},
}
DYNAMIC: dict[str, Any] = {
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson", "rate_per_s": 0.5},
        "lengths": {
            "distribution": "lognormal",
            "mean": 200.0,
            "cv": 1.0,
            "prompt": {"distribution": "lognormal", "mean": 400.0, "cv": 1.0},
        },
    },
    "policy": {
        "mode": "multi_bin_dynamic",
        "bins": 2,
        "largest_batch": 64,
        "memory": {"capacity_tokens": 40000},
        "sla": {"target_s": 0.05, "tolerance_s": 0.001},
    },
    "server": {"service": {"law": "linear", "a1_s_per_token": 0.03, "gamma": 0.007}},
}
TOML = f"""\
{SMALL}[axes.rate]
path = "workload.arrivals.rate_per_s"
start = 0.1
stop = 0.3
step = 0.1
"""


def refusal(tables: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        Sweep.model_validate(tables, "sweep.toml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("workload.arrivals.rate_per_s", -3, "workload.arrivals.rate_per_s = -3: must be >"),
        ("workload.arrivals.rate_per_s", math.nan, "workload.arrivals.rate_per_s = nan: must be a finite number"),
        ("workload.arrivals.rate_per_s", "8", 'workload.arrivals.rate_per_s = "8": must be a number'),
        ("workload.arrivals.rate_per_s", True, "workload.arrivals.rate_per_s = true: must be a number"),
        ("workload.arrivals.rate_per_s", 10**400, "workload.arrivals.rate_per_s = an integer beyond 10^40"),
        ("workload.arrivals.process", "poison", 'workload.arrivals.process = "poison": must be one of "poisson"'),
        ("workload.arrivals.process", None, "workload.arrivals.process: is missing; must be one of"),
        ("workload.arrivals", None, "workload.arrivals: is missing"),
        ("workload.arrivals", 3, "workload.arrivals = 3: must be a table"),
        ("workload.requests", 2.5, "workload.requests = 2.5: must be a whole number"),
        ("workload.requests", 0, "workload.requests = 0: must be >= 1"),
        ("workload.request", 5, "workload.request: no such setting; did you mean requests?"),
        ("workload", 3, "workload = 3: must be a table"),
        ("axes", 3, "axes = 3: must be a table"),
        ("axes", [{"path": "policy.bins"}], 'axes = [{path = "policy.bins"}]: must be a table'),
        ("workloads", {}, "workloads: no such setting; did you mean workload?"),
        ("workload.lengths.unit", "tokens", 'server.service.law = "given": needs service times in seconds'),
        ("workload.trace", {"path": "x.csv"}, "workload.arrivals: a recorded trace has its own"),
        ("policy.bins", 0, "policy.bins = 0: must be >= 1"),
        ("policy.bins", True, "policy.bins = true: must be a whole number"),
        ("policy.mode", "multi-bin-only", 'policy.mode = "multi-bin-only": must be "fifo_fixed", "fifo_greedy"'),
        ("policy.mode", None, "policy.mode: is missing"),
        ("policy.batch_size", None, "policy.batch_size: is missing; mode multi_bin_only needs it"),
        ("policy.batch_size", 10**30, "policy.batch_size = 1000000000000000000000000000000: must be <="),
        ("policy.sla", {"target_s": 1.0, "tolerance_s": 0.1}, "policy.sla: mode multi_bin_only would ignore it"),
        ("policy.mode", "fifo_fixed", "policy.bins = 2: must be 1: mode fifo_fixed has no bins"),
        ("policy.edges", {"kind": "explicit"}, 'policy.edges.values: is missing; kind = "explicit" needs it'),
        (
            "policy.edges",
            {"kind": "explicit", "values": [1, 3, 2]},
            "policy.edges.values = [1.0, 3.0, 2.0]: must increase from edge to edge",
        ),
        (
            "policy.edges",
            {"kind": "explicit", "values": [1, 3, 5, 9]},
            "policy.edges.values = [1.0, 3.0, 5.0, 9.0]: must hold policy.bins + 1 = 3 edges, not 4",
        ),
        ("policy.edges", {"sample": "prefix"}, 'policy.edges.sample = "prefix": only a recorded trace uses it'),
        ("policy.edges", {"values": [1.0, 2.0]}, 'policy.edges.values = [1.0, 2.0]: kind = "equal_mass" would ignore'),
        (
            "workload.predictor",
            {"kind": "confusion", "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
            "workload.predictor.matrix: is 3 x 3, but there are 2 bins",
        ),
        ("workload.predictor", {"kind": "confusion", "matrix": [[1], [1]]}, "workload.predictor"),
        ("workload.predictor", {"kind": "column"}, 'workload.predictor.kind = "column": needs a recorded trace'),
        ("server.servers", 0, 'server.servers = 0: must be a whole number from 1 to 100000, or "infinite"'),
        ("server.service", {}, "server.service.law: is missing; must be one of coefficients, constant, given"),
        ("server.service", {"coefficients": ""}, 'server.service.coefficients = "": must not be empty'),
        ("server.service", {"coefficients": 3}, "server.service.coefficients = 3: must be text"),
        ("server.service", {"law": "coefficients"}, "server.service.coefficients: is missing"),
        (
            "server.service",
            {"coefficients": "x.json", "h": "cubic"},
            'server.service.h = "cubic": must be "chosen", "constant", "linear", "saturating", "power" or "table"',
        ),
        (
            "server.service",
            {"coefficients": "x.json", "prompt_tokens": -1},
            "server.service.prompt_tokens = -1: must be >= 0",
        ),
        (
            "server.service",
            {"coefficients": "x.json", "draw": 1},
            "server.service.draw = 1: must be true or false",
        ),
        (
            "server.service",
            {"coefficients": "x.json", "a0_s": 0.1},
            "server.service.a0_s: no such setting; allowed here: coefficients, draw, h, law, prompt_tokens",
        ),
        (
            "server.service",
            {"coefficients": "x.json", "law": "linear"},
            "server.service.coefficients: no such setting; allowed here: a0_s, a1_s_per_token, gamma, law",
        ),
        (
            "server.service",
            {"coefficients": "x.json", "h": "table", "draw": True},
            'server.service.draw = true: h = "table" has no coefficients to draw',
        ),
        ("server.service", None, "server.service: is missing"),
        ("server.completion", "own", 'server.completion = "own": needs tokens'),
        ("report.token_sla_s", 0.05, "report.token_sla_s = 0.05: needs tokens"),
        ("report", {"warmup_requests": 100}, "report.warmup_requests = 100: must be < 100"),
        (
            "report",
            {"warmup_requests": 1, "warmup_fraction": 0.5},
            "report.warmup_fraction = 0.5: give warmup_requests",
        ),
        ("seed", -1, "seed = -1: must be >= 0"),
        ("seed", "one", 'seed = "one": must be a whole number'),
        ("replications", 0, "replications = 0: must be >= 1"),
        ("name", 3, "name = 3: must be text"),
    ],
)
def test_a_mistake_is_one_line_with_its_path(path: str, value: Any, line: str) -> None:
    lines = refusal(laid(FIXED, {path: value}))
    assert len(lines) == len(set(lines))
    assert any(found.startswith(f"sweep.toml: {line}") for found in lines), lines


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("policy.smallest_batch", 65, "policy.smallest_batch = 65: must be <= policy.largest_batch = 64"),
        ("policy.max_wait_s", 1.0, "policy.max_wait_s: mode multi_bin_dynamic would ignore it"),
        ("policy.batch_size", 8, "policy.batch_size: mode multi_bin_dynamic would ignore it"),
        ("policy.memory.capacity_tokens", 0, "policy.memory.capacity_tokens = 0: must be > 0"),
        ("policy.memory", {}, "policy.memory.capacity_tokens: is missing (or give max_bytes"),
        ("policy.memory.max_bytes", 1e9, "policy.memory.max_bytes = 1000000000.0: give capacity_tokens, or"),
        ("policy.memory", {"max_bytes": 2.0}, "policy.memory.model_bytes: is missing; goes with max_bytes"),
        (
            "policy.memory",
            {"max_bytes": 2.0, "model_bytes": 3.0, "kv_bytes_per_token": 1.0},
            "policy.memory.max_bytes = 2.0: must be > policy.memory.model_bytes",
        ),
        ("policy.memory.margin_tokens", 5.0, 'policy.memory.margin_tokens = 5.0: rule = "exact" would ignore it'),
        ("policy.memory.rule", "margin", 'policy.memory.rule = "margin": needs margin_tokens or margin_fraction'),
        ("policy.memory.overflow_probability", 1.0, "policy.memory.overflow_probability = 1.0: must be < 1"),
        (
            "report",
            {"memory_capacity_tokens": 9},
            "report.memory_capacity_tokens = 9.0: must be policy.memory.capacity",
        ),
        (
            "policy.memory",
            {"max_bytes": 9.0, "model_bytes": 1.0, "kv_bytes_per_token": 2.0, "rule": "margin", "margin_tokens": 4.0},
            "policy.memory.margin_tokens = 4.0: must be < 4.0, the tokens that fit",
        ),
        ("policy.sla.target_s", None, "policy.sla.target_s: is missing"),
        ("policy.sla.tolerance_s", 0.05, "policy.sla.tolerance_s = 0.05: must be < policy.sla.target_s = 0.05"),
        ("policy.sla", {"variant": "heuristic", "target_s": 1, "tolerance_s": 0, "alpha": 8}, "policy.sla.alpha = 8: "),
        ("policy.estimates", {"kind": "window", "weight": 0.2}, 'policy.estimates.weight = 0.2: kind = "window" would'),
        ("server.servers", "infinite", 'server.servers = "infinite": mode multi_bin_dynamic needs finitely many'),
        ("server.service.gamma", None, "server.service.gamma: is missing"),
        ("server.service.law", "constant", "server.service.gamma: no such setting"),
    ],
)
def test_a_mistake_in_a_controlled_mode_is_one_line_with_its_path(path: str, value: Any, line: str) -> None:
    lines = refusal(laid(DYNAMIC, {path: value}))
    assert any(found.startswith(f"sweep.toml: {line}") for found in lines), lines


def test_a_reported_capacity_must_be_that_in_force_where_it_follows_from_bytes() -> None:
    in_bytes = laid(DYNAMIC, {"policy.memory": {"max_bytes": 201.0, "model_bytes": 1.0, "kv_bytes_per_token": 2.0}})
    lines = refusal(laid(in_bytes, {"report": {"memory_capacity_tokens": 9}}))
    assert any("report.memory_capacity_tokens = 9.0: must be 100.0, the tokens" in line for line in lines), lines
    Sweep.model_validate(laid(in_bytes, {"report": {"memory_capacity_tokens": 100}}))


@pytest.mark.parametrize("value", ["01:02:00", "2024-01-01", "2024-01-01T01:02:03Z"])
@pytest.mark.parametrize("replaced", [False, True])
def test_dates_and_times_are_refused_wherever_they_are(tmp_path: Path, value: str, replaced: bool) -> None:
    file = tmp_path / "sweep.toml"
    points = '[axes.t.points.a]\n"policy.max_wait_s" = 1.0\n' if replaced else ""
    file.write_text(TOML.replace("batch_size = 4", f"batch_size = 4\nmax_wait_s = {value}") + points)
    with pytest.raises(InputError) as caught:
        Sweep.from_toml(file)
    shown = tomllib.loads(f"x = {value}")["x"].isoformat()
    assert f"policy.max_wait_s = {shown}: is a date or time" in str(caught.value)
    file.write_text(TOML)
    with pytest.raises(InputError, match=r"workload.lengths.counts\[1\] = .*: is a date or time"):
        Sweep.from_toml(file, [f"workload.lengths.counts=[1, {value}]"])


def test_times_per_token_are_long_enough_for_a_microsecond() -> None:
    lines = refusal(laid(DYNAMIC, {"server.service.a1_s_per_token": 5e-324}))
    assert lines == ["sweep.toml: server.service.a1_s_per_token = 5e-324: must be >= 1e-12"]


def test_a_rate_that_takes_too_long_is_named() -> None:
    slow = Sweep.model_validate(laid(FIXED, {"workload.arrivals.rate_per_s": 1e-9}), "sweep.toml")
    with pytest.raises(InputError) as caught:
        prepare(slow)
    assert str(caught.value) == (
        "sweep.toml: workload.requests = 100 with workload.arrivals.rate_per_s = 1e-09: arrive, or are served, within "
        "about 1e+11 s: must be at most 4503599627 s"
    )


def test_every_mistake_is_told_once() -> None:
    lines = refusal(laid(FIXED, {"policy.bins": -1, "seed": 1, "workload.arrivals.rate_per_s": -3}))
    assert sorted(lines) == [
        "sweep.toml: policy.bins = -1: must be >= 1",
        "sweep.toml: workload.arrivals.rate_per_s = -3: must be >= 1e-09",
    ]


def test_valid_tables_become_a_sweep_and_whole_numbers_stand_for_floats() -> None:
    sweep = Sweep.model_validate(FIXED)
    (point,) = sweep.grid.points
    assert sweep.replications == 2
    assert point.policy.bins == 2
    assert point.workload.lengths is not None
    assert point.workload.lengths.low == 1.0  # type: ignore[union-attr]
    assert Sweep.model_validate(DYNAMIC).grid.points[0].policy.memory is not None


def test_a_sweep_comes_back_from_its_own_text() -> None:
    sweep = Sweep.model_validate(tomllib.loads(TOML))
    again = Sweep.model_validate(json.loads(sweep.text()))
    assert again.grid == sweep.grid
    assert again.identity() == sweep.identity()
    assert Sweep.model_validate({**sweep.document, "replications": 99}).identity() == sweep.identity()
    assert Sweep.model_validate({**sweep.document, "seed": 99}).identity() != sweep.identity()


@pytest.mark.parametrize("tables", [{"axes": 3}, {"axes": [{"path": "policy.bins"}]}, {"workload": 3}, {"server": []}])
def test_settings_are_laid_over_tables_only(tables: dict[str, Any]) -> None:
    (name,) = tables
    with pytest.raises(InputError, match=rf"^sweep.toml: {name} = .*: must be a table$"):
        laid_over(tables, "sweep.toml", Path.cwd(), ())


def test_files_are_read_with_settings_laid_over(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(TOML)
    overrides = ["policy.batch_size=8", "axes.rate.values=[1, 2]", "name=other", "workload.predictor={kind='oracle'}"]
    sweep = Sweep.from_toml(file, overrides)
    assert sweep.name == "other"
    assert {point.policy.batch_size for point in sweep.grid.points} == {8}
    assert sweep.grid.axes[1].labels == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "policy.bins=4",
            "`settings` policy.bins=4: axes.bins sets it at every point; use `settings` axes.bins.values=[...]",
        ),
        ("policy.bins", "`settings` policy.bins: must be path=value"),
        (".bins=4", "`settings` .bins=4: must have a dotted path, for instance policy.bins"),
        ({"..": 4}, "`settings` .. = 4: must have a dotted path, for instance policy.bins"),
        ({"policy.bins": 4}, '`settings` policy.bins = 4: axes.bins sets it at every point; use "axes.bins.values"'),
        ("name.x=4", '`settings` name.x=4: name = "small" is no table'),
        ("policy.batchsize=4", "policy.batchsize: no such setting; did you mean batch_size?"),
    ],
)
def test_a_bad_override_is_refused(tmp_path: Path, override: str | dict[str, Any], message: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(TOML)
    with pytest.raises(InputError) as caught:
        Sweep.from_toml(file, [override] if isinstance(override, str) else override)
    assert message in str(caught.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        "[workload.trace]\npath = 'trace.csv'\n[policy]\nmode = 'fifo_greedy'\nbatch_size = 4\n"
        "[server.service]\nlaw = 'table'\npath = 'times.csv'\n"
    )
    (point,) = Sweep.from_toml(file).grid.points
    assert point.workload.trace is not None
    assert point.workload.trace.path == str(tmp_path / "trace.csv")
    assert point.server.service.path == str(tmp_path / "times.csv")  # type: ignore[union-attr]


def test_a_trace_with_nothing_random_has_one_replication() -> None:
    tables = {
        "workload": {"trace": {"path": "/x.csv"}},
        "policy": {"mode": "fifo_greedy", "batch_size": 4},
        "server": {"service": {"law": "constant", "a1_s_per_token": 0.1}},
    }
    assert Sweep.model_validate(tables).replications == 1
    assert Sweep.model_validate(laid(tables, {"workload.trace.resample": "circular"})).replications == 20
    mixed = laid(tables, {"axes.r": {"path": "workload.trace.resample", "values": ["none", "circular"]}})
    assert "workload.trace.resample" in refusal(mixed)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89HDF\r\n\x1a\n\0", "is NetCDF, no TOML; batchcube show prints a cube"),
        (b"\x89PNG\r\n\x1a\n\0", "is no TOML: byte 0x89 at offset 0 is not UTF-8 text"),
        (b"name = \n", "is no TOML: line 1, column 8: Invalid value"),
        (TOML[:-10].encode() + b"[", "is no TOML: "),
        (b'[policy]\nmode = "fifo_greedy\nbins = 1\n', "is no TOML: line 2, column"),
        (b"a = 1\na = 2\n", "is no TOML: "),
        (b"x = " + b"[" * 5000, "is nested too deeply"),
        (b"[" + b"a." * 3000 + b"b]\nc = 1\n", "is nested too deeply"),
        (b"[" + b"a." * 30 + b"b]\nc = 1\n", "is nested deeper than"),
        (b"a . 'b.c'. " * 100_000 + b" a = 1\n", "is larger than 1000000 bytes"),
        (b"a . 'b.c'. " * 80_000 + b" a = 1\n", "is nested too deeply"),
        (b"", "policy.mode: is missing"),
    ],
)
def test_a_file_that_is_no_specification_is_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        Sweep.from_toml(file)
    assert all(line.startswith(f"{file}: ") for line in str(caught.value).splitlines())
    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_preset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Sweep.from_toml(tmp_path / "missing.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Sweep.from_toml(tmp_path)
    with pytest.raises(InputError, match="no preset of that name"):
        Sweep.from_toml("no-such-preset")


@pytest.mark.parametrize("name", presets.names())
def test_presets_have_a_title_and_parse(name: str) -> None:
    document = parse_toml(presets.read(name), name)
    assert document["name"] == name
    assert document["title"]
    with_trace = "trace" in document["workload"]
    overrides = ["workload.trace.path=/somewhere/trace.csv"] if with_trace else []
    assert Sweep.from_toml(name, overrides).grid.points


def test_the_published_schema_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the policies that a script has made known.
    monkeypatch.setattr(registry, "_registered", {})
    shipped = files("batchcube.sweeps").joinpath("schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "run: batchcube schema > sweeps/schema.json"


# Whatever it is given, the parser answers with a sweep or with a line for the user ----------------------------------


def answer(tables: Callable[[], dict[str, Any]]) -> Sweep | list[str]:
    """The sweep, or the lines that refuse it; whatever else is raised fails the test."""
    try:
        return Sweep.model_validate(tables(), "fuzz.toml")
    except InputError as error:
        return str(error).splitlines()


def is_proper(answered: Sweep | list[str]) -> bool:
    """A sweep comes back from its own text; a refusal has lines, each with the file's name."""
    if isinstance(answered, Sweep):
        return Sweep.model_validate(json.loads(answered.text())).grid == answered.grid
    return bool(answered) and all(line.startswith("fuzz.toml: ") and line.isprintable() for line in answered)


@given(st.binary(max_size=300))
def test_bytes_are_parsed_or_refused(content: bytes) -> None:
    assert is_proper(answer(lambda: parse_toml(content, "fuzz.toml")))


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_damaged_toml_is_parsed_or_refused(seed: int, wounds: int) -> None:
    dice = random.Random(seed)
    text = bytearray(TOML.encode())
    for _ in range(wounds):
        at = dice.randrange(len(text))
        match dice.randrange(4):
            case 0:
                text[at] = dice.randrange(256)
            case 1:
                del text[at : at + dice.randrange(1, 20)]
            case 2:
                text[at:at] = dice.choice(
                    [b"[", b"'", b"=", b"\n", b"9e9", b"-", b"{}", b"nan", b"true", b"1979-05-27"]
                )
            case _:
                text[at:at] = text[at : at + 30]
    assert is_proper(answer(lambda: parse_toml(bytes(text), "fuzz.toml")))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["policy.bins", "infinite", "multi_bin_only", "uniform", "table", 10**400]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def leaves(tables: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(tables, dict):
        return [path]
    return [path, *(leaf for key, value in tables.items() for leaf in leaves(value, (*path, key)))]


@given(st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
def test_any_value_anywhere_is_accepted_or_refused(data: st.DataObject) -> None:
    base: dict[str, Any] = data.draw(st.sampled_from([tomllib.loads(TOML), FIXED, DYNAMIC]))
    tables = deepcopy(base)
    for _ in range(data.draw(st.integers(1, 3))):
        places = [path for path in leaves(tables) if path]
        *above, last = data.draw(st.sampled_from(places))
        table = tables
        for key in above:
            table = table[key]
        rename: Callable[[str], str] = data.draw(st.sampled_from([lambda k: k, lambda k: k + "x", lambda k: k[:-1]]))
        table[rename(last)] = data.draw(anything)
    assert is_proper(answer(lambda: tables))


def test_the_samples_of_a_sweep_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLED", 250)
    tables = laid(FIXED, {"policy.edges": {"sample_size": 100}})
    tables["workload"]["lengths"] = {"distribution": "exponential", "unit": "seconds"}
    del tables["workload"]["requests"]
    axis = {"path": "workload.lengths.mean", "values": [1.0, 2.0]}
    # Numbers of requests share the samples of their lengths.
    counts = {"path": "workload.requests", "start": 100, "stop": 500, "step": 100}
    prepare(Sweep.model_validate({**tables, "axes": {"length": axis, "count": counts}}))
    axis["values"] = [1.0, 2.0, 3.0]
    with pytest.raises(
        InputError, match=r"policy.edges.sample_size = 100: .* at most 250 requests: .* \(at length = 3.0"
    ):
        prepare(Sweep.model_validate({**tables, "axes": {"length": axis, "count": counts}}))


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("workload.arrivals.process=poison", 'must be one of "poisson", .*; did you mean poisson\\?'),
        ("policy.mode=continous", 'must be "fifo_fixed", .*; did you mean continuous\\?'),
        (
            'server.service={coefficients="qwen3-8b-h100-tables"}',
            r"none of that name; did you mean qwen3-8b-h100-vllm-tables, .*\?",
        ),
    ],
)
def test_near_misses_of_names_are_told(setting: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"{hint}$"):
        Sweep.from_toml("continuous-rate", [setting])


@pytest.mark.parametrize("spelled", ["1e3", "1.0E3", "1000"])
def test_whole_numbers_may_be_given_with_an_exponent(spelled: str) -> None:
    sweep = Sweep.from_toml("modes-poisson", [f"workload.requests={spelled}"])
    assert {point.workload.requests for point in sweep.grid.points} == {1000}


def test_a_number_with_an_exponent_that_is_not_whole_stays_one() -> None:
    with pytest.raises(ValueError, match=r"workload\.requests = 0\.001: must be a whole number"):
        Sweep.from_toml("modes-poisson", ["workload.requests=1e-3"])
