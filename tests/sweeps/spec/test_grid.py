import math
from copy import deepcopy
from typing import Any

import pytest

from batchcube.errors import InputError
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.grid import setting_paths, unit_of, where

BASE: dict[str, Any] = {
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson"},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
    },
    "policy": {"mode": "multi_bin_only", "batch_size": 4},
    "server": {"service": {"law": "given"}},
}
BINS = {"path": "policy.bins", "values": [1, 2, 4]}
RATE = {"path": "workload.arrivals.rate_per_s", "values": [0.5, 1.0]}


def sweep(**axes: Any) -> Sweep:
    return Sweep.model_validate({**deepcopy(BASE), "axes": axes}, "sweep.toml")


def refusal(**axes: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        sweep(**axes)
    return str(caught.value).splitlines()


def labels(**axis: Any) -> tuple[Any, ...]:
    if "path" not in axis:
        axis["path"] = "workload.arrivals.rate_per_s"
    other = {"bins": BINS} if axis["path"] != "policy.bins" else {"rate": RATE}
    return next(a.labels for a in sweep(x=axis, **other).grid.axes if a.name == "x")


def test_axes_span_a_product_in_the_order_of_the_file() -> None:
    grid = sweep(bins=BINS, rate=RATE).grid
    assert grid.shape == (3, 2)
    assert [axis.name for axis in grid.axes] == ["bins", "rate"]
    found = [(p.policy.bins, p.workload.arrivals.rate_per_s) for p in grid.points]  # type: ignore[union-attr]
    assert found == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0), (4, 0.5), (4, 1.0)]
    assert where(grid.axes, (2, 0)) == "bins = 4, rate = 0.5"


def test_without_axes_there_is_one_point() -> None:
    tables = deepcopy(BASE)
    tables["policy"]["bins"] = 2
    tables["workload"]["arrivals"]["rate_per_s"] = 0.5
    grid = Sweep.model_validate(tables).grid
    assert grid.shape == ()
    assert len(grid.points) == 1


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ({"start": 0.1, "stop": 0.3, "step": 0.1}, (0.1, 0.2, 0.3)),
        ({"start": 1.0, "stop": 2.0, "num": 3}, (1.0, 1.5, 2.0)),
        ({"start": 3.0, "stop": 1.0, "step": -1.0}, (3.0, 2.0, 1.0)),
        ({"start": 2.0, "stop": 2.0, "num": 1}, (2.0,)),
        ({"path": "policy.bins", "start": 1, "stop": 7, "step": 3}, (1, 4, 7)),
        ({"path": "policy.bins", "start": 1, "stop": 3, "num": 3}, (1, 2, 3)),
        ({"path": "server.servers", "values": [1, "infinite"]}, (1, math.inf)),
        ({"path": "policy.tail", "values": ["flush", "drop"]}, ("flush", "drop")),
    ],
)
def test_ranges_include_their_stop_and_whole_ranges_stay_whole(axis: dict[str, Any], expected: tuple[Any, ...]) -> None:
    if axis.get("path", "").startswith(("server", "policy.tail")):
        found = next(a.labels for a in sweep(x=axis, bins=BINS, rate=RATE).grid.axes if a.name == "x")
    else:
        found = labels(**axis)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_labelled_points_set_several_settings_dotted_or_nested() -> None:
    axis = {
        "title": "batching mode",
        "points": {
            "fixed": {"policy": {"mode": "fifo_fixed", "batch_size": 8}},
            "two bins": {"policy.mode": "multi_bin_only", "policy.bins": 2, "policy.batch_size": 4},
        },
    }
    tables = {**deepcopy(BASE), "policy": {"tail": "drop"}, "axes": {"mode": axis, "rate": RATE}}
    grid = Sweep.model_validate(tables).grid
    first = grid.axes[0]
    assert (first.labels, first.long_name, first.labelled) == (("fixed", "two bins"), "batching mode", True)
    assert first.paths == ("policy.mode", "policy.batch_size", "policy.bins")
    found = [(p.policy.mode, p.policy.bins, p.policy.batch_size, p.policy.tail) for p in grid.points[::2]]
    assert found == [("fifo_fixed", 1, 8, "drop"), ("multi_bin_only", 2, 4, "drop")]


@pytest.mark.parametrize(
    ("axes", "line"),
    [
        ({"x": {**RATE, "values": [1, 2, -3]}}, "axes.x.values[2] = -3: must be >"),
        ({"x": {**RATE, "values": []}}, "axes.x.values = []: must not be empty"),
        ({"x": {**RATE, "values": [1, math.nan]}}, "axes.x.values[1] = nan: must be a finite number"),
        ({"x": {**RATE, "values": [1, 2, 1.0]}}, "axes.x.values[2] = 1.0: is there already as values[0]"),
        ({"x": {**RATE, "values": [1, "a"]}}, 'axes.x.values = [1, "a"]: must be all numbers or all text'),
        ({"x": {**RATE, "values": [1, True]}}, "axes.x.values = [1, true]: must be all numbers or all text"),
        ({"x": {**RATE, "values": [[1]]}}, "axes.x.values[0] = [1]: must be a number, text, true or false"),
        ({"x": {**RATE, "values": 3}}, "axes.x.values = 3: must be a list"),
        ({"x": {"values": [1]}}, "axes.x.path: is missing"),
        ({"x": {}}, "axes.x.path: is missing"),
        ({"x": 3}, "axes.x = 3: must be a table"),
        ({"x": {**RATE, "valeus": [1]}}, "axes.x.valeus: no such setting; did you mean values?"),
        ({"x": {**RATE, "start": 1}}, "axes.x: give values, or start, stop and num or step, not both"),
        ({"x": {"path": RATE["path"], "start": 1}}, "axes.x: a range needs start, stop, and either num or step"),
        ({"x": {"path": RATE["path"], "start": 1, "stop": 2, "step": 0}}, "axes.x.step = 0: must lead from start"),
        ({"x": {"path": RATE["path"], "start": 1, "stop": 2, "step": -1}}, "axes.x.step = -1: must lead from start"),
        ({"x": {"path": RATE["path"], "start": 0, "stop": 1, "step": 1e-9}}, "axes.x.step = 1e-09: gives more than"),
        ({"x": {"path": RATE["path"], "start": 0, "stop": math.inf, "num": 2}}, "axes.x.stop = inf: must be a finite"),
        (
            {"x": {**RATE, "path": "workload.arivals.rate"}},
            'axes.x.path = "workload.arivals.rate": no such setting; did you mean',
        ),
        ({"x": {**RATE, "path": "policy.servers"}}, 'axes.x.path = "policy.servers": no such setting; did you mean'),
        ({"x": {**RATE, "path": "policy.batch_size"}}, "policy.batch_size = 4: axes.x sets it at every point"),
        ({"x": {**RATE, "path": "report.windows"}}, 'axes.x.path = "report.windows": must be the same over the whole'),
        ({"replication": BINS}, "axes.replication: cannot be the name of an axis"),
        ({"n": BINS}, "axes.n: cannot be the name of an axis"),
        ({"mean": BINS}, "axes.mean: cannot be the name of an axis"),
        ({"queue": BINS}, "axes.queue: cannot be the name of an axis"),
        ({"latency_mean_s": BINS}, "axes.latency_mean_s: cannot be the name of an axis"),
        ({"two words": BINS}, 'axes."two words": cannot be the name of an axis'),
        ({"a": BINS, "b": BINS}, "axes.b: policy.bins is set by axes.a already"),
        ({"x": {"points": {}}}, "axes.x.points = {}: must not be empty"),
        ({"x": {"points": {"a": {"policy.mod": 3}}}}, "axes.x.points.a.policy.mod = 3: no such setting"),
        ({"x": {"points": {"a": 3}}}, "axes.x.points.a = 3: must be a table"),
        ({"x": {"points": {"a": {}}, "path": "policy.bins"}}, "axes.x.path: does not go with labelled points"),
        ({"x": {"points": {"a b": {"policy.bins": -1}}}}, 'axes.x.points."a b".policy.bins = -1: must be >= 1'),
        (
            {"x": {"path": "workload.lengths.low", "start": 0.1, "stop": 9.0, "num": 2000}, "y": BINS, "z": RATE}
            | {"w": {"path": "policy.max_wait_s", "start": 1.0, "stop": 2.0, "num": 1000}},
            "axes: span 12000000 points: must be at most 100000",
        ),
    ],
)
def test_a_mistake_in_an_axis_is_one_line_with_its_path(axes: dict[str, Any], line: str) -> None:
    if "w" in axes:
        tables = deepcopy(BASE)
        del tables["workload"]["lengths"]["low"]
        with pytest.raises(InputError) as caught:
            Sweep.model_validate({**tables, "axes": axes}, "sweep.toml")
        lines = str(caught.value).splitlines()
    else:
        lines = refusal(**axes)
    assert any(found.startswith(f"sweep.toml: {line}") for found in lines), lines


def test_every_combination_is_validated_and_told_once() -> None:
    lines = refusal(
        rate=RATE, bins=BINS, mode={"points": {"a": {}, "b": {"policy.tail": "drop", "policy.max_wait_s": -1}}}
    )
    assert lines == ["sweep.toml: axes.mode.points.b.policy.max_wait_s = -1: must be > 0"]
    lines = refusal(rate=RATE, bins=BINS, order={"path": "policy.edges.kind", "values": ["uniform", "explicit"]})
    assert lines == ['sweep.toml: policy.edges.values: is missing; kind = "explicit" needs it']


def test_a_mistake_at_every_point_is_told_once_with_its_count() -> None:
    tables = deepcopy(BASE)
    tables["policy"] = {"mode": "multi_bin_only", "max_wait_s": "x", "batch_size": 4}
    many = {"path": "workload.arrivals.rate_per_s", "start": -1000.0, "stop": -1.0, "num": 1000}
    labelled = {f"p{i}": {"policy.bins": -i} for i in range(50)}
    with pytest.raises(InputError) as caught:
        Sweep.model_validate({**tables, "axes": {"rate": many, "p": {"points": labelled}}}, "sweep.toml")
    assert str(caught.value).splitlines() == [
        "sweep.toml: axes.rate.values[0] = -1000.0: must be >= 1e-09 (and 999 more like it)",
        "sweep.toml: axes.p.points.p0.policy.bins = 0: must be >= 1 (and 49 more like it)",
        'sweep.toml: policy.max_wait_s = "x": must be a number',
    ]


def test_a_mistake_that_says_another_number_at_each_point_is_told_once() -> None:
    tables = deepcopy(BASE)
    tables["policy"] = {"mode": "dynamic_only", "smallest_batch": 5000, "sla": {"target_s": 1, "tolerance_s": 0}}
    tables["server"]["service"] = {"law": "given"}
    tables["policy"]["sla"]["signal"] = "latency"
    most = {"path": "policy.largest_batch", "start": 1, "stop": 1000, "step": 1}
    with pytest.raises(InputError) as caught:
        Sweep.model_validate({**tables, "axes": {"most": most, "rate": RATE}}, "sweep.toml")
    assert str(caught.value).splitlines() == [
        "sweep.toml: policy.smallest_batch = 5000: must be <= policy.largest_batch = 1 (and 999 more like it)"
    ]


@pytest.mark.parametrize(
    ("service", "line"),
    [
        ({"law": "constant", "a1_s_per_token": "abc"}, 'server.service.a1_s_per_token = "abc": must be a number'),
        ({"law": "constant", "a1_s_per_token": math.nan}, "server.service.a1_s_per_token = nan: must be a finite"),
        ({"a1_s_per_token": -1.0, "law": "constant"}, "server.service.a1_s_per_token = -1.0: must be >= 1e-12"),
        ({"law": "no such", "a1_s_per_token": 0.1}, 'server.service.law = "no such": must be one of'),
        ("abc", 'server.service = "abc": must be a table'),
        (3, "server.service = 3: must be a table"),
    ],
)
def test_what_labelled_points_replace_is_validated_too(service: Any, line: str) -> None:
    tables = deepcopy(BASE)
    tables["workload"]["lengths"]["unit"] = "tokens"
    tables["server"]["service"] = service
    points = {
        "a": {"server.service": {"law": "constant", "a1_s_per_token": 0.01}},
        "b": {"server.service.law": "linear", "server.service.gamma": 0.1, "server.service.a1_s_per_token": 0.01},
    }
    with pytest.raises(InputError) as caught:
        Sweep.model_validate({**tables, "axes": {"s": {"points": points}, "rate": RATE, "bins": BINS}}, "sweep.toml")
    (found,) = str(caught.value).splitlines()
    assert found.startswith(f"sweep.toml: {line}")


def test_what_labelled_points_replace_need_not_go_together() -> None:
    tables = deepcopy(BASE)
    tables["workload"]["lengths"] = {"distribution": "uniform", "low": 5.0, "high": 2.0, "cv": 1.0}
    tables["server"]["service"] = {"law": "constant", "a1_s_per_token": 0.01}
    points = {
        "u": {"workload.lengths": {"low": 1.0, "high": 3.0, "distribution": "lognormal"}},
    }
    with pytest.raises(InputError, match="no such setting"):
        Sweep.model_validate({**tables, "axes": {"s": {"points": points}, "rate": RATE, "bins": BINS}})
    del tables["workload"]["lengths"]["cv"]
    points["u"]["workload.lengths"]["distribution"] = "uniform"
    grid = Sweep.model_validate({**tables, "axes": {"s": {"points": points}, "rate": RATE, "bins": BINS}}).grid
    assert len(grid.points) == 6


def test_sections_are_shared_by_the_points_that_have_them_in_common() -> None:
    points = sweep(bins=BINS, rate=RATE).grid.points
    assert points[0].workload is points[2].workload
    assert points[0].policy is points[1].policy
    assert points[0].server is points[5].server


def test_thousands_of_points_are_all_there() -> None:
    many = sweep(
        bins={"path": "policy.bins", "start": 1, "stop": 100, "step": 1}, rate={**RATE, "values": list(range(1, 61))}
    )
    assert len(many.grid.points) == 6000


def test_settings_name_their_units() -> None:
    assert setting_paths()["workload.arrivals.rate_per_s"][0] == "1/s"
    assert "workload.lengths.prompt.mean" in setting_paths()
    units = {
        "target_s": "s",
        "capacity_tokens": "tokens",
        "a1_s_per_token": "s/token",
        "bins": "1",
        "max_bytes": "byte",
    }
    assert {name: unit_of(name) for name in units} == units
