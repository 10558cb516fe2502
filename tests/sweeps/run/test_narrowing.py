"""Runs that add replications until intervals are narrow enough."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results import labelled
from batchcube.results.cube import read_cube
from batchcube.results.precision import Precision, level, looked_at
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import execution, replicating
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from helpers.cubes import check_cube
from helpers.progress import Heard

SWEEP: dict[str, Any] = {
    "name": "narrow",
    "replications": 8,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson"},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
    },
    "policy": {"mode": "multi_bin_only", "batch_size": 4, "bins": 2},
    "server": {"service": {"law": "given"}},
    "axes": {"arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [0.05, 0.1]}},
}
LATENCY = Precision(("latency_mean_s=3%",), 200)
LENGTHS = {"distribution": "constant", "value": 6, "prompt": {"distribution": "constant", "value": 2}}
CLASSES: dict[str, Any] = {
    "replications": 8,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson", "rate_per_s": 6.0},
        "classes": [{"name": name, "share": share, "lengths": LENGTHS} for name, share in (("a", 0.98), ("b", 0.02))],
    },
    "policy": {"mode": "continuous", "largest_batch": 8},
    "server": {
        "replica": {"kv_capacity_tokens": 100_000, "token_budget": 512},
        "service": {"law": "steps", "c0_s": 0.02, "c1_s_per_request": 0.001},
    },
    "report": {"request_sla_s": 100.0, "windows": 4},
}
"""Nobody is late, and one request of fifty is of the second class."""


def sweep(**changes: Any) -> Sweep:
    return Sweep.model_validate(SWEEP | changes)


def relative_half(cube: xr.Dataset, name: str = "latency_mean_s") -> float:
    found = labelled.mean_interval(cube[name])
    return float(((found["high"] - found["mean"]) / found["mean"]).max())


def same_data(first: xr.Dataset, second: xr.Dataset) -> None:
    xr.testing.assert_equal(first, second)
    for name in ("precision_wanted", "precision_looks", "precision_reached", "precision_level", "notes"):
        assert first.attrs[name] == second.attrs[name]


def test_replications_are_added_until_all_points_are_narrow() -> None:
    said = Heard()
    cube = run_sweep(sweep(), precision=LATENCY, progress=said)
    check_cube(cube, "cube")
    looked = looked_at(cube)
    count = cube.sizes["replication"]
    assert looked == (8, 12, 18, 27, 41, 62, 93, 140)[: len(looked)]
    assert looked[-1] == count == cube.attrs["replications"]
    assert 1 < len(looked) < 8
    assert cube.attrs["precision_reached"] == 1
    assert cube.attrs["precision_level"] == level(8)
    assert relative_half(cube) <= 0.03
    before = cube.isel(replication=slice(looked[-2]))
    assert relative_half(before) > 0.03
    # All of it is the cube of as many replications.
    plain = run_sweep(sweep(replications=count))
    xr.testing.assert_equal(cube, plain)
    assert relative_half(plain) < relative_half(cube)
    assert len(said.texts) == len(looked)
    assert said.texts[0].startswith("look at 8 replications: latency_mean_s ± ")
    assert "(arrival_rate_per_s = 0.05) is the widest; about " in said.texts[0]
    assert said.texts[-1].endswith("all intervals are narrow enough")


def test_a_budget_ends_it_and_more_continues_it(tmp_path: Path) -> None:
    target = tmp_path / "cube.nc"
    cut = run_sweep(sweep(), target, precision=LATENCY._replace(most=10))
    assert looked_at(cut) == (8, 10)
    assert cut.attrs["precision_reached"] == 0
    assert "this was not reached: latency_mean_s ± " in cut.attrs["notes"]
    more = run_sweep(sweep(), target, precision=LATENCY)
    assert looked_at(more)[:3] == (8, 10, 12)
    assert more.attrs["precision_reached"] == 1
    assert "this was not reached" not in more.attrs["notes"]
    whole = run_sweep(sweep(), precision=LATENCY)
    xr.testing.assert_equal(more, whole)
    same_data(read_cube(target), more)
    again = run_sweep(sweep(), target, precision=LATENCY)
    same_data(again, more)


def test_a_cube_of_a_plain_run_is_continued(tmp_path: Path) -> None:
    target = tmp_path / "cube.nc"
    run_sweep(sweep(replications=15), target)
    cube = run_sweep(sweep(), target, precision=LATENCY)
    assert looked_at(cube)[:2] == (15, 23)
    assert cube["latency_mean_s"].attrs["first_look"] == 15
    wide = run_sweep(sweep(), target, precision=Precision(("50%",)))
    assert wide.sizes == cube.sizes
    assert wide.attrs["precision_wanted"] == "50%"
    longer = run_sweep(sweep(replications=cube.sizes["replication"] + 2), target)
    assert longer["latency_mean_s"].attrs["first_look"] == 15
    assert looked_at(longer) == looked_at(cube)
    assert longer.attrs["precision_level"] == level(15)
    assert f", and more without, {longer.sizes['replication']} in all" in longer.attrs["notes"]
    assert "until intervals are narrow enough" not in longer.attrs["notes"]
    check_cube(longer, "cube")
    # Whoever looks again goes on from the looks there were.
    again = run_sweep(sweep(), target, precision=LATENCY)
    assert looked_at(again) == (*looked_at(cube), cube.sizes["replication"] + 2)
    assert again["latency_mean_s"].attrs["first_look"] == 15


def test_what_was_stopped_continues_with_the_same_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopLater(Silent):
        def say(self, text: str) -> None:
            if text.startswith("look at 12"):
                raise KeyboardInterrupt

    target = tmp_path / "cube.nc"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep(), target, precision=LATENCY, progress=StopLater())
    assert not target.exists()

    simulated: list[int] = []
    real = replicating.Replications.work

    def work(self: Any, *arguments: Any) -> bool:
        simulated.extend(r for r in self.wanted if r not in self.finished)
        return real(self, *arguments)

    monkeypatch.setattr(replicating.Replications, "work", work)
    cube = run_sweep(sweep(), target, precision=LATENCY)
    assert min(simulated) == 12
    same_data(cube, run_sweep(sweep(), precision=LATENCY))


def test_shares_are_meant_in_points_and_several_variables_together() -> None:
    wanted = Precision(("utilisation=0.01", "latency_quantile_s[0.95]=10%"), 100)
    cube = run_sweep(sweep(), precision=wanted)
    found = labelled.mean_interval(cube["utilisation"])
    assert float((found["high"] - found["mean"]).max()) <= 0.01
    assert relative_half(cube.sel(quantile=0.95), "latency_quantile_s") <= 0.1
    usual = run_sweep(sweep(), precision=Precision(("30%",), 100))
    assert usual.attrs["precision_reached"] == 1


@pytest.mark.parametrize(("limit", "last"), [(1000.0, 27), (0.5, 27)])
def test_a_share_that_is_the_same_in_all_is_looked_at_until_so_many_requests_would_show_another(
    limit: float, last: int
) -> None:
    report = {"request_sla_s": limit, "warmup_fraction": 0.5}
    said = Heard()
    few = Precision(("request_sla_violation_fraction=0.002",), 200)
    cube = run_sweep(sweep(report=report), precision=few, progress=said)
    share = cube["request_sla_violation_fraction"].values
    assert (share == share.flat[0]).all()
    assert cube.sizes["replication"] == last
    # Of two equal points the first: -ln(chance) over 8 times 100 requests.
    chance = 0.5 - 0.5 * level(8)
    assert f"request_sla_violation_fraction ± {1.0 - chance ** (1.0 / 800):.2g} (" in said.texts[0]
    assert "of about normal values they hold in 95 %" in cube.attrs["notes"]
    # A part of nothing is never reached, and the first look says so.
    said = Heard()
    half = Precision(("request_sla_violation_fraction=50%",), 12)
    part = run_sweep(sweep(report=report), precision=half, progress=said)
    assert part.attrs["precision_reached"] == (limit < 1.0)
    advice = "0 in all, and no width is a part of it: ask for points, such as request_sla_violation_fraction=0.005)"
    assert (advice in said.texts[0]) == (advice in part.attrs["notes"]) == (limit > 1.0)


@pytest.mark.parametrize(
    ("share", "width", "counted"),
    [
        ("class_sla_violation_fraction", 0.02, "class_requests"),
        ("window_request_sla_violation_fraction", 0.01, "window_completions"),
    ],
)
def test_a_share_of_a_class_or_window_is_out_of_its_own_requests(share: str, width: float, counted: str) -> None:
    cube = run_sweep(Sweep.model_validate(CLASSES), precision=Precision((f"{share}={width}",), 200))
    assert cube.attrs["precision_reached"] == 1
    assert (cube[share].fillna(0.0) == 0.0).all()
    came = cube[counted].cumsum("replication").isel(replication=[look - 1 for look in looked_at(cube)])
    # None in so many is seen with the chance of a bound where the share is as large as the width.
    enough = math.log(0.5 - 0.5 * level(8)) / math.log1p(-width)
    *before, last = came.min(came.dims[-1]).values
    assert before
    assert max(before) < enough <= last


def test_what_is_no_share_of_requests_and_always_0_is_narrow() -> None:
    precision = Precision(("recomputed_token_fraction=5%",))
    cube = run_sweep(Sweep.model_validate(CLASSES), precision=precision)
    assert (cube["recomputed_token_fraction"] == 0.0).all()
    assert looked_at(cube) == (8,)


def test_memory_is_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = execution._size
    monkeypatch.setattr(
        execution,
        "_size",
        lambda plan, replications, *rest, **kept: real(plan, replications, *rest, **kept)._replace(
            peak_bytes=replications
        ),
    )
    monkeypatch.setattr(execution, "memory_bytes", lambda: 12.0)
    cube = run_sweep(sweep(), precision=LATENCY)
    assert looked_at(cube) == (8, 12)
    assert cube.attrs["precision_reached"] == 0


def test_fewer_than_eight_replications_are_not_looked_at() -> None:
    cube = run_sweep(sweep(replications=2), precision=Precision(("latency_mean_s=99%",)))
    assert looked_at(cube) == (8,)
    assert cube.attrs["replications"] == 8


@pytest.mark.parametrize(
    ("precision", "changes", "message"),
    [
        (Precision(("preemptions=1",)), {}, "`precision` preemptions: has no values in this sweep"),
        (Precision(("request_sla_violation_fraction=0.1",)), {}, "has no values in this sweep: needs report.request"),
        (Precision(("goodput_fraction=0.1",)), {}, "goodput_fraction: has no values in this sweep: needs a limit"),
        (Precision(("tpot_mean_s=1%",)), {}, "has no values in this sweep: needs tokens"),
        (Precision(("class_latency_mean_s=1%",)), {}, "has no values in this sweep: needs workload.classes"),
        (Precision(("latency_quantile_s[0.7]=1%",)), {}, "no such quantile; cubes have 0.5, 0.9, 0.95, 0.99"),
        (Precision(("2%",), 5), {}, "`max_replications` 5: must be >= 8"),
        (
            Precision(("2%",)),
            {
                "workload": SWEEP["workload"]
                | {
                    "arrivals": {"process": "deterministic"},
                    "lengths": {"distribution": "constant", "unit": "seconds", "value": 2.0},
                }
            },
            "nothing is random",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_run(
    precision: Precision, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_sweep(sweep(**changes), tmp_path / "cube.nc", precision=precision)
    assert not [*tmp_path.iterdir()]


def test_what_is_kept_is_counted_among_all_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real = replicating.Replications.tell

    def tell(self: Any, store: Any) -> str:
        told.append(real(self, store))
        return told[-1]

    monkeypatch.setattr(replicating.Replications, "tell", tell)
    run_sweep(sweep(), tmp_path / "cube.nc", precision=Precision(("latency_mean_s=0.01%",), 18))
    said = [re.match(r"(\d+ of \d+) replications", one) for one in told]
    assert [*dict.fromkeys(one[1] for one in said if one)] == ["8 of 8", "8 of 12", "12 of 12", "12 of 18", "18 of 18"]
