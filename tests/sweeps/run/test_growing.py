"""Cubes that grow: what is joined or extended is, bit for bit, what one run of all of it finds."""

import json
from copy import deepcopy

import numpy as np
import pytest

from batchcube.errors import InputError
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.differences import agree, compare_cubes
from batchcube.results.joining import parts_in_words
from batchcube.sweeps.run import growing
from batchcube.sweeps.run.assemble import tell_missing
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import BINS, CONTINUOUS, STEPS, TOKENS, laid

RATE = "workload.arrivals.rate_per_s"
LENGTHS = {
    "workload.lengths": {"distribution": "uniform", "low": 10, "high": 200},
    "workload.predictor": {"kind": "adjacent", "error_probability": 0.2},
    "workload.requests": 60,
}
MODES = {
    "static": {"policy.batch_size": 4},
    "small": {"policy.batch_size": 2},
    "greedy": {"policy.mode": "fifo_greedy", "policy.bins": 1, "policy.batch_size": 8},
}


def tables(rates=(0.5, 1.0), bins=(1, 4), modes=None, base=BINS, **changes):
    made = laid(base, LENGTHS if base is BINS else {})
    made["workload"]["arrivals"].pop("rate_per_s", None)
    made["axes"] = {"rate": {"path": RATE, "values": list(rates)}}
    if bins:
        made["axes"]["bins"] = {"path": "policy.bins", "values": list(bins)}
        made["policy"].pop("bins", None)
    if modes:
        made["axes"]["mode"] = {"points": {name: MODES[name] for name in modes}}
    return {"name": "grown", "seed": 5, "replications": 3, **made, **changes}


def sweep(*arguments, **options):
    return Sweep.model_validate(deepcopy(tables(*arguments, **options)), "sweep.toml")


def run(path, *arguments, **options):
    return run_sweep(sweep(*arguments, **options), path, backend="reference")


def same(cube, expected):
    """Whether two cubes hold the same, whatever else they say."""
    expected = expected.sel({name: cube[name] for name in cube.dims if name in expected.coords})
    return agree(compare_cubes(cube, expected)) and cube.sizes == expected.sizes


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        ({"rates": (0.5, 2.0)}, {"rates": (1.0,)}, {"rates": (0.5, 1.0, 2.0)}),
        ({"bins": (1,)}, {"bins": (4, 2)}, {"bins": (1, 2, 4)}),
        (
            {"bins": (), "modes": ("static", "greedy")},
            {"bins": (), "modes": ("small",)},
            {"bins": (), "modes": ("static", "greedy", "small")},
        ),
        ({"rates": (0.5,)}, {"rates": (0.5, 1.0)}, {"rates": (0.5, 1.0)}),
        (
            {"base": CONTINUOUS, "bins": (), "rates": (0.5,)},
            {"base": CONTINUOUS, "bins": (), "rates": (5.0,)},
            {"base": CONTINUOUS, "bins": (), "rates": (0.5, 5.0)},
        ),
    ],
)
def test_joined_is_what_one_run_of_all_finds(tmp_path, first, second, whole):
    run(tmp_path / "a.nc", **first)
    run(tmp_path / "b.nc", **second)
    joined = growing.join([tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "c.nc")
    expected = run(None, **whole)
    assert same(joined, expected)
    assert joined.attrs["specification"] == expected.attrs["specification"]
    # It goes on like any other: a run of the same adds replications, as it would have.
    longer = run(tmp_path / "c.nc", replications=4, **whole)
    assert same(longer, run(None, replications=4, **whole))
    assert [part["backend"] for part in json.loads(longer.attrs["parts"])] == ["reference"] * 3


def test_every_part_says_when_and_by_what_it_was_made(tmp_path):
    for name, rate in (("a", 0.5), ("b", 1.0), ("c", 2.0)):
        run(tmp_path / f"{name}.nc", rates=(rate,))
    growing.join([tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "ab.nc")
    joined = growing.join([tmp_path / "ab.nc", tmp_path / "c.nc"], tmp_path / "abc.nc")
    parts = json.loads(read_cube(tmp_path / "abc.nc").attrs["parts"])
    assert [part["holds"] for part in parts] == [
        {"rate": [rate], "bins": ["1", "4"], "replication": [0, 2]} for rate in ("0.5", "1", "2")
    ]
    sums = [read_cube(tmp_path / f"{name}.nc").attrs["content_sha256"] for name in "abc"]
    assert [part["content_sha256"] for part in parts] == sums
    assert {"created_utc", "batchcube_version", "backend", "versions"} <= set(parts[0])
    assert joined["rate"].values.tolist() == [0.5, 1.0, 2.0]
    assert parts_in_words(joined) == "joined of 3 cubes: rate 0.5; rate 1; rate 2"
    assert parts_in_words(read_cube(tmp_path / "a.nc")) == ""


def test_replications_are_joined(tmp_path):
    whole = run(tmp_path / "whole.nc", replications=4)
    for name, numbers in (("a", [0, 1]), ("b", [2, 3]), ("c", [1, 2]), ("d", [3])):
        write_cube(whole.isel(replication=numbers), tmp_path / f"{name}.nc")
    joined = growing.join([tmp_path / "b.nc", tmp_path / "c.nc", tmp_path / "a.nc"], tmp_path / "j.nc")
    assert same(joined, whole)
    assert joined.attrs["replications"] == 4
    with pytest.raises(InputError, match="replication 2 is in none of the cubes"):
        growing.join([tmp_path / "a.nc", tmp_path / "d.nc"], tmp_path / "k.nc")
    assert not (tmp_path / "k.nc").exists()


def test_what_was_missing_and_is_joined_is_not_told(tmp_path):
    whole = run(tmp_path / "whole.nc")
    holed = whole.isel(replication=[0, 2]).copy()
    tell_missing(holed)
    assert "replications 1 are missing" in holed.attrs["notes"]
    write_cube(holed, tmp_path / "holed.nc")
    joined = growing.join([tmp_path / "holed.nc", tmp_path / "whole.nc"], tmp_path / "j.nc")
    assert same(joined, whole)
    assert joined.attrs["notes"] == whole.attrs["notes"]


def test_what_does_not_belong_together_is_refused(tmp_path):
    a = tmp_path / "a.nc"
    run(a)

    def refused(message, cube=None, **changes):
        other, out = tmp_path / "other.nc", tmp_path / "out.nc"
        other.unlink(missing_ok=True)
        made = run(other, **{"rates": (4.0,), **changes}) if cube is None else cube
        if cube is not None:
            write_cube(made, other)
        with pytest.raises(InputError, match=message) as error:
            growing.join([a, other], out)
        assert "\n" not in str(error.value)
        assert not out.exists()

    refused("other.nc: seed = 6, of .*a.nc 5", seed=6)
    refused("is of another sweep: workload.requests = 60 against 70", workload={**tables()["workload"], "requests": 70})
    refused("other.nc: has the axes rate, .*a.nc rate, bins", bins=())
    refused("none of the cubes has rate = 0.5, bins = 8, replication = 0", bins=(8,))
    refused("none of the cubes has rate = 4, bins = 1, replication = 2", replications=2)
    there = read_cube(a).load()
    refused("batchcube_version = '0.0'", there.assign_attrs(batchcube_version="0.0"))
    moved = there.assign(latency_mean_s=there["latency_mean_s"] * 1.001)
    refused("latency_mean_s: differs between the cubes at the points that they both have", moved)
    refused(
        "was made with a wanted precision, which decided on its replications",
        there.assign_attrs(precision_looks="3", precision_wanted="2%", precision_reached=1, precision_level=0.9),
    )
    by_hand = there.assign_coords(rate=there["rate"].copy(data=[0.5, 4.0]))
    refused(r"holds other points than its specification \(axis rate\): batchcube join", by_hand)
    with pytest.raises(InputError, match="is there already"):
        growing.join([a, a], a)


@pytest.mark.parametrize(
    ("start", "settings", "whole"),
    [
        ({}, {"axes.rate.values": [2.0, 0.7]}, {"rates": (0.5, 0.7, 1.0, 2.0)}),
        ({}, {"axes.rate.values": [1.0, 2.0], "axes.bins.values": [2]}, {"rates": (0.5, 1.0, 2.0), "bins": (1, 2, 4)}),
        (
            {"bins": (), "modes": ("static", "greedy")},
            {"axes.mode.points.small": MODES["small"]},
            {"bins": (), "modes": ("static", "greedy", "small")},
        ),
    ],
)
def test_extended_is_what_one_run_of_all_finds(tmp_path, start, settings, whole):
    file = tmp_path / "cube.nc"
    run(file, **start)
    grown = growing.extend(file, settings, replications=4, backend="reference")
    expected = run(None, replications=4, **whole)
    assert same(grown, expected)
    assert same(read_cube(file), expected)
    assert (
        json.loads(read_cube(file).attrs["specification"]) == json.loads(expected.attrs["specification"])
        or "modes" in start
    )
    assert growing.extend(file, settings, replications=4, backend="reference") is None
    assert [path.name for path in tmp_path.iterdir()] == ["cube.nc"]


def test_only_what_is_not_there_is_simulated(tmp_path, monkeypatch):
    file, asked = tmp_path / "cube.nc", []
    run(file)
    real = growing.run_sweep
    monkeypatch.setattr(
        growing, "run_sweep", lambda part, *given, **options: asked.append(part) or real(part, *given, **options)
    )
    growing.extend(file, ["axes.rate.values=[1.0, 2.0]"], backend="reference")
    (part,) = asked
    assert [axis.labels for axis in part.grid.axes] == [(2.0,), (1, 4)]


def test_an_extension_that_was_stopped_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "cube.nc"
    before = run(file)
    monkeypatch.setattr(growing, "_joined", lambda parts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        growing.extend(file, ["axes.rate.values=[2.0]"], backend="reference")
    assert same(read_cube(file), before)
    monkeypatch.undo()
    monkeypatch.setattr("batchcube.sweeps.run.execution.Replications.work", lambda *given: 1 / 0)
    grown = growing.extend(file, ["axes.rate.values=[2.0]"], backend="reference")
    assert grown["rate"].values.tolist() == [0.5, 1.0, 2.0]
    monkeypatch.undo()
    # What another extension left behind is in nobody's way.
    run(tmp_path / "cube.nc.extended" / "more.nc", rates=(9.0,))
    assert growing.extend(file, ["axes.rate.values=[3.0]"], backend="reference")["rate"].values.tolist()[-1] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["cube.nc"]


def test_a_cube_of_somebody_else_beside_it_stays(tmp_path):
    file, other = tmp_path / "cube.nc", tmp_path / "cube.more.nc"
    run(file)
    theirs = run(other, rates=(9.0,))
    growing.extend(file, ["axes.rate.values=[2.0]"], replications=4, backend="reference")
    assert same(read_cube(other), theirs)


def test_nobody_else_writes_a_cube_while_it_is_extended(tmp_path, monkeypatch):
    file = tmp_path / "cube.nc"
    run(file)
    real, refused = growing.run_sweep, []

    def meanwhile(part, *given, **options):
        with pytest.raises(InputError, match=r"is being written by process"):
            growing.extend(file, replications=6, backend="reference")
        refused.append(True)
        return real(part, *given, **options)

    monkeypatch.setattr(growing, "run_sweep", meanwhile)
    growing.extend(file, ["axes.rate.values=[2.0, 3.0]", "axes.bins.values=[2]"], backend="reference")
    assert len(refused) == 2


def test_extensions_of_anything_but_axes_are_refused(tmp_path):
    file = tmp_path / "cube.nc"
    run(file)
    for setting in ("policy.batch_size=8", "axes.other.values=[1]", "seed=2", "axes.rate=1"):
        with pytest.raises(InputError, match=r"must be values or points of an axis that the cube has") as error:
            growing.extend(file, [setting], backend="reference")
        assert f"`settings` {setting}" in str(error.value)
    run(tmp_path / "modes.nc", bins=(), modes=("static",))
    with pytest.raises(InputError, match=r"is of another sweep: policy\.batch_size"):
        growing.extend(tmp_path / "modes.nc", {"axes.mode.points.static": MODES["small"]}, backend="reference")


def test_nothing_random_has_one_replication(tmp_path):
    fixed = laid(TOKENS, {"workload.arrivals": {"process": "deterministic", "rate_per_s": 1.0}})
    file = tmp_path / "cube.nc"
    run(file, base=fixed, bins=(), replications=20)
    grown = growing.extend(file, ["axes.rate.values=[2.0]"], backend="reference")
    assert same(grown, run(None, base=fixed, bins=(), rates=(0.5, 1.0, 2.0), replications=20))
    with pytest.raises(InputError, match="nothing in it is random"):
        growing.extend(file, replications=5, backend="reference")


def test_numbers_of_a_point_are_those_of_the_larger_grid_with_drawn_bins(tmp_path):
    whole = run(None, bins=(1, 2, 4), rates=(0.5, 1.0, 2.0))
    for rate in (0.5, 2.0):
        for bins in (1, 4):
            alone = run(None, bins=(bins,), rates=(rate,))
            here = whole.sel(rate=[rate], bins=[bins])
            for name in ("latency_mean_s", "throughput_requests_per_s", "busy_fraction", "batches"):
                if name in whole:
                    np.testing.assert_array_equal(alone[name], here[name])


def recorded(folder, points, **changes):
    """A sweep over two recorded traces, of which rows without a prompt are left out: 6 and 10 of 40."""
    for name, empty in (("a", 3), ("b", 5)):
        rows = [f"{k},{0 if k % 20 < empty else 5},{k % 7 + 1}" for k in range(40)]
        (folder / f"{name}.csv").write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
    made = laid(TOKENS, {"workload.requests": 8, "workload.arrivals": None, "workload.lengths": None})
    made["axes"] = {"trace": {"points": {name: trace(folder, *of) for name, of in points.items()}}}
    return Sweep.model_validate({**made, "name": "grown", "seed": 5, "replications": 2, **changes}, "sweep.toml")


def trace(folder, name, resample):
    return {"workload.trace": {"path": str(folder / name), "drop_empty_prompts": True, "resample": resample}}


def test_a_trace_more_with_rows_left_out_goes_on(tmp_path):
    file, new = tmp_path / "cube.nc", {"axes.trace.points.b": trace(tmp_path, "b.csv", "circular")}
    run_sweep(recorded(tmp_path, {"a": ("a.csv", "circular")}), file, backend="reference")
    growing.extend(file, new, backend="reference", trust_paths=True)
    grown = growing.extend(file, replications=3, backend="reference", trust_paths=True)
    whole = recorded(tmp_path, {"a": ("a.csv", "circular"), "b": ("b.csv", "circular")}, replications=3)
    expected = run_sweep(whole, backend="reference")
    assert same(grown, expected)
    assert grown.attrs["notes"] == expected.attrs["notes"]
    for said in ("a.csv: 6 of 40 rows dropped", "b.csv: 10 of 40 rows dropped"):
        assert said in grown.attrs["notes"]


def test_units_and_notes_are_those_of_the_whole(tmp_path):
    kinds = {
        "s": {
            "workload.lengths": {"distribution": "exponential", "unit": "seconds", "mean": 2.0},
            "server.service": {"law": "given"},
        },
        "tokens": {
            "workload.lengths": {"distribution": "exponential", "mean": 200.0},
            "server.service": {"law": "constant", "a1_s_per_token": 0.01},
        },
    }

    def of(*names):
        made = laid(TOKENS, {"workload.lengths": None, "server.service": None})
        made["axes"] = {"kind": {"points": {name: kinds[name] for name in names}}}
        return Sweep.model_validate({**made, "name": "grown", "seed": 5, "replications": 3}, "sweep.toml")

    file = tmp_path / "cube.nc"
    run_sweep(of("s"), file, backend="reference")
    grown = growing.extend(file, {"axes.kind.points.tokens": kinds["tokens"]}, backend="reference")
    expected = run_sweep(of("s", "tokens"), backend="reference")
    assert same(grown, expected)
    assert grown["bin_lower_edge"].attrs["units"] == "tokens or s"
    assert grown.attrs["notes"] == expected.attrs["notes"]
    assert "lengths are tokens at some points and seconds at others" in grown.attrs["notes"]


def test_what_is_true_of_a_part_only_is_not_told_of_the_whole(tmp_path):
    file, new = tmp_path / "cube.nc", {"axes.trace.points.windows": trace(tmp_path, "a.csv", "circular")}
    parts = run_sweep(recorded(tmp_path, {"parts": ("a.csv", "parts")}), file, backend="reference")
    assert "replications are successive parts" in parts.attrs["notes"]
    grown = growing.extend(file, new, backend="reference", trust_paths=True)
    assert "replications are successive parts" not in grown.attrs["notes"]
    assert "in windows that overlap" in grown.attrs["notes"]

    law = {"law": "steps", "c0_s": 0.02}
    laws = {"two": law, "one": {**law, "c3_s_per_prefill_token": 5e-5}}

    def of(*names):
        made = laid(STEPS, {"server.service": None})
        made["axes"] = {"law": {"points": {name: {"server.service": laws[name]} for name in names}}}
        return Sweep.model_validate({**made, "name": "grown", "seed": 5, "replications": 3}, "sweep.toml")

    for name in laws:
        run_sweep(of(name), tmp_path / f"{name}.nc", backend="reference")
    joined = growing.join([tmp_path / f"{name}.nc" for name in laws], tmp_path / "both.nc")
    assert joined.attrs["notes"] == run_sweep(of(*laws), backend="reference").attrs["notes"]
