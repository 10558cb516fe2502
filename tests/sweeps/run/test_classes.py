"""Classes of requests from the specification to the cube."""

from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.errors import InputError
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.joining import extend_cube
from batchcube.results.summary import print_summary, summary_table
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.single import simulate_one
from helpers.specifications import CONTINUOUS, TOKENS, laid
from helpers.step_sweeps import sweep

LONG = {"distribution": "constant", "value": 60, "prompt": {"distribution": "constant", "value": 200}}
SHORT = {
    "distribution": "uniform",
    "low": 1,
    "high": 30,
    "prompt": {"distribution": "uniform", "low": 1, "high": 50},
}
CLASSES: list[dict[str, Any]] = [
    {"name": "chat", "share": 0.75, "lengths": SHORT, "ttft_sla_s": 0.5, "tpot_sla_s": 0.03},
    {"name": "batch jobs", "share": 0.25, "lengths": LONG},
]
BASE = laid(
    CONTINUOUS,
    {
        "workload.lengths": None,
        "workload.classes": CLASSES,
        "workload.requests": 400,
        "report.request_sla_s": None,
    },
)


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return run_sweep(sweep(BASE), backend="reference")


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({**LONG, "value": 2**22}, "drew a length of 4.1943e+06 tokens"),
        ({**LONG, "value": 2**21}, "drew a request of 2097352 tokens"),
    ],
)
def test_lengths_that_are_too_large_are_said_of_their_class(lengths: dict[str, Any], said: str) -> None:
    tables = laid(BASE, {"workload.classes": [CLASSES[0], {**CLASSES[1], "lengths": lengths}]})
    with pytest.raises(InputError) as refused:
        prepare(sweep(tables))
    assert str(refused.value).startswith(f"sweep.toml: workload.classes[1].lengths: {said}")


def test_a_quantile_is_printed_class_by_class(cube: xr.Dataset) -> None:
    console = Console(file=StringIO(), width=100)
    print_summary(cube, console, ["class_ttft_quantile_s[0.99]", "latency_quantile_s[0.99]"])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("batch jobs") == printed.count("chat") == 1


def test_classes_are_a_dimension_of_the_cube(cube: xr.Dataset, tmp_path: Path) -> None:
    assert cube["class"].values.tolist() == ["chat", "batch jobs"]
    assert cube["class_ttft_quantile_s"].dims == ("replication", "class", "quantile")
    assert (cube["class_requests"].sum("class") == cube["measured"]).all()
    # What is promised nothing has no share over a limit, and all of it is good.
    assert cube["class_sla_violation_fraction"].isnull().values.tolist() == [[False, True]] * 3
    good = cube["class_goodput_requests_per_s"].sel({"class": "batch jobs"}) * cube["makespan_s"]
    np.testing.assert_allclose(good, cube["class_requests"].sel({"class": "batch jobs"}))
    # The goodput of all is that of the classes.
    np.testing.assert_allclose(cube["goodput_requests_per_s"], cube["class_goodput_requests_per_s"].sum("class"))
    # The mean over all is that of the classes, weighted.
    weighted = (cube["class_latency_mean_s"] * cube["class_requests"]).sum("class") / cube["measured"]
    np.testing.assert_allclose(weighted, cube["latency_mean_s"], rtol=1e-9)
    read = read_cube(write_cube(cube, tmp_path / "classes.nc"))
    xr.testing.assert_identical(read["class"], cube["class"])
    table = summary_table(read, ["class_requests", "latency_mean_s"])
    assert table["class"].tolist()[:2] == ["chat", "batch jobs"]


def test_a_cube_with_classes_is_extended(cube: xr.Dataset) -> None:
    joined = extend_cube(cube.isel(replication=slice(0, 2)), cube.isel(replication=slice(2, 3)))
    assert joined["class_requests"].equals(cube["class_requests"])


def test_shares_and_lengths_are_those_of_the_classes() -> None:
    (plan,) = prepare(sweep(laid(BASE, {"workload.requests": 20_000}))).points
    job = Draws(1, 0).job(plan)
    assert job.classes is not None
    chat = job.classes.of == 0
    # 4 standard errors of a share.
    assert chat.mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 20_000))
    assert set(job.requests.output[~chat].tolist()) == {60}
    assert set(job.requests.prompt[~chat].tolist()) == {200}
    assert set(job.requests.output[chat].tolist()) == set(range(1, 31))
    assert job.requests.output[chat].mean() == pytest.approx(15.5, abs=4 * 8.66 / np.sqrt(15_000))


def test_priorities_are_those_of_the_classes_and_change_no_draw() -> None:
    first = deepcopy(CLASSES)
    first[1]["priority"] = -3
    tables = laid(BASE, {"workload.classes": first, "server.replica.scheduling_policy": "priority"})
    ((one,), (two,)) = (prepare(sweep(given)).points for given in (BASE, tables))
    plain, ranked = Draws(1, 0).job(one), Draws(1, 0).job(two)
    assert plain.classes is not None
    assert not plain.requests.priority.any()
    assert (ranked.requests.priority == np.where(plain.classes.of == 1, -3, 0)).all()
    for name in ("arrival", "prompt", "output"):
        assert (getattr(plain.requests, name) == getattr(ranked.requests, name)).all()


def test_the_classes_of_requests_do_not_depend_on_lengths_or_rates() -> None:
    other = deepcopy(CLASSES)
    other[0]["lengths"] = LONG
    tables = laid(BASE, {"workload.classes": other, "workload.arrivals.rate_per_s": 2.0})
    ((one,), (two,)) = (prepare(sweep(given)).points for given in (BASE, tables))
    first, second = Draws(1, 0).job(one), Draws(1, 0).job(two)
    assert first.classes is not None
    assert second.classes is not None
    np.testing.assert_array_equal(first.classes.of, second.classes.of)


def test_a_replication_says_the_class_of_every_request() -> None:
    found = simulate_one(sweep(BASE), {}, backend="reference")
    counts = found.requests["class"].value_counts()
    assert found.report["class_requests"].tolist() == [counts[0], counts[1]]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"workload.classes": [CLASSES[0]]},
            "workload.classes: their shares sum to 0.75: must sum to 1",
        ),
        (
            {"workload.classes": [CLASSES[0], {**CLASSES[1], "name": "chat"}]},
            'workload.classes[1].name = "chat": is the name of another class already',
        ),
        (
            {"workload.classes": [{"name": "chat", "share": 1.0}]},
            "workload.classes[0].lengths: is missing",
        ),
        (
            {"workload.classes": [{**CLASSES[0], "share": 1.0, "lengths": {"distribution": "constant", "value": 9}}]},
            "workload.classes[0].lengths.prompt: is missing; mode continuous needs prompts",
        ),
        (
            {"workload.classes": [{**CLASSES[0], "share": 1.0, "lengths": {**LONG, "value": 1.5}}]},
            "workload.classes[0].lengths.value = 1.5: must be a whole number of tokens, 1 or more",
        ),
        (
            {"workload.classes": [{**CLASSES[0], "share": 1.0, "ttft_sla_s": 3e6}]},
            "workload.classes[0].ttft_sla_s = 3000000.0: must be <= 2305843 in mode continuous",
        ),
        (
            {"workload.lengths": LONG},
            "workload.lengths: classes have their own; remove it or workload.classes",
        ),
        (
            {"workload.classes": []},
            "workload.classes: must not be empty",
        ),
    ],
)
def test_a_mistake_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep(laid(BASE, settings))
    assert str(caught.value) == f"sweep.toml: {line}"


def test_whole_batches_have_no_classes() -> None:
    with pytest.raises(InputError, match=r"workload.classes: mode fifo_greedy would ignore them; used by continuous"):
        sweep(laid(TOKENS, {"workload.lengths": None, "workload.classes": CLASSES}))


def test_all_points_have_the_same_classes() -> None:
    one = [{**CLASSES[0], "share": 1.0}]
    axes = {"mix": {"points": {"two": {"workload.classes": CLASSES}, "one": {"workload.classes": one}}}}
    with pytest.raises(InputError, match=r"workload.classes: must have the same names, in the same order, at every"):
        sweep(laid({**BASE, "axes": axes}, {"workload.classes": None}))
