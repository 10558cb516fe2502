"""What is reported by class, by worked example."""

import numpy as np
import pytest

from batchcube.engine import simulate
from batchcube.engine.continuous import (
    Job,
    Setup,
    make_classes,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.errors import InputError
from batchcube.results.variables import REGISTRY

NAN = float("nan")


def job(of: list[int] | None, *, report: dict[str, float] | None = None, **limits: list[float | None]) -> Job:
    """Five requests on a replica with room for one at a time, in steps of 1 s; the first is warm-up.

    request       0   1   2   3   4
    arrival       0   0   0   0   0 s
    output        1   2   3   1   9     the last can never fit
    first token   1   2   4   7   - s
    last token    1   3   6   7   - s
    """
    replica = make_replica(make_law(1.0), most_running=1, token_budget=8, capacity_tokens=4, block_tokens=1)
    reporting = make_reporting(horizon_s=10.0, windows=1, warmup_requests=1, **(report or {}))
    requests = make_requests([0.0] * 5, [1] * 5, [1, 2, 3, 1, 9])
    none: list[float | None] = [None] * 3
    given = {"request_sla_s": none, "ttft_sla_s": none, "tpot_sla_s": none} | limits
    setup = Setup(replica, make_fleet(), reporting)
    classes = None if of is None else make_classes(of, **given)
    return Job(requests, np.zeros(5, np.int32), setup, classes)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_by_hand(backend: str) -> None:
    report = simulate(job([0, 0, 1, 0, 1], ttft_sla_s=[5.0, 3.5, None]), backend).report
    expected = {
        "class_requests": [2, 1, 0],
        "class_missed": [0, 1, 0],
        "class_wait_mean_s": [(1 + 6) / 2, 3, NAN],
        "class_latency_mean_s": [(3 + 7) / 2, 6, NAN],
        "class_ttft_mean_s": [(2 + 7) / 2, 4, NAN],
        "class_tbt_mean_s": [1, 1, NAN],
        # Of class 0 request 3 is late; of class 1 one is late and one was turned away; class 2 is promised nothing.
        "class_sla_violation_fraction": [1 / 2, 1, NAN],
        "class_goodput_requests_per_s": [1 / 7, 0, 0],
        "class_latency_quantile_s": [[3, 7, 7, 7], [6] * 4, [NAN] * 4],
        "class_ttft_quantile_s": [[2, 7, 7, 7], [4] * 4, [NAN] * 4],
        "class_tpot_quantile_s": [[1] * 4, [1] * 4, [NAN] * 4],
    }
    for made in (report, REGISTRY):
        assert {name for name in made if name.startswith("class_")} == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(report[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("limits", "late"),
    [
        ({"request_sla_s": [6.0, None, None]}, 1),
        ({"request_sla_s": [7.0, None, None]}, 0),
        ({"request_sla_s": [2.9, None, None]}, 2),
        ({"ttft_sla_s": [1.0, None, None]}, 2),
        # A request of one token has no time per output token, and keeps every limit on it.
        ({"tpot_sla_s": [0.9, None, None]}, 1),
        ({"tpot_sla_s": [1.0, None, None]}, 0),
        ({"tpot_sla_s": [0.9, None, None], "request_sla_s": [6.0, None, None]}, 2),
    ],
)
def test_a_request_must_keep_every_limit(limits: dict[str, list[float | None]], late: int) -> None:
    report = simulate(job([0, 0, 1, 0, 1], **limits)).report
    assert report["class_sla_violation_fraction"][0] == late / 2
    assert report["class_goodput_requests_per_s"][0] == pytest.approx((2 - late) / 7)


@pytest.mark.parametrize(
    ("report", "good"),
    [
        # Of requests 1, 2 and 3, with first tokens after 2, 4 and 7 s, last ones after 3, 6 and 7, 1 s between tokens.
        ({"ttft_sla_s": 4.0}, 2),
        ({"ttft_sla_s": 3.9}, 1),
        ({"tpot_sla_s": 0.9}, 1),
        ({"request_sla_s": 6.0}, 2),
        # 1 is out by the time between tokens, 3 by that to the first: only together they leave nobody.
        ({"ttft_sla_s": 4.0, "tpot_sla_s": 0.9}, 0),
        ({"ttft_sla_s": 9.0, "tpot_sla_s": 1.0, "request_sla_s": 9.0}, 3),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_goodput_is_of_all_that_arrived(backend: str, report: dict[str, float], good: int) -> None:
    found = simulate(job(None, report=report), backend).report
    # The last one was turned away, and the first is warm-up.
    assert (found["measured"], found["missed"]) == (3, 1)
    assert found["goodput_fraction"] == good / 4
    assert found["goodput_requests_per_s"] == pytest.approx(good / 7)


def test_limits_of_all_and_of_a_class_hold_together() -> None:
    """Request 1 is of class 0, whose limit on the first token it exceeds; request 3, too, is over that of all."""
    found = simulate(
        job([0, 0, 1, 0, 1], ttft_sla_s=[1.5, None, None], report={"request_sla_s": 6.9}), "reference"
    ).report
    assert found["goodput_fraction"] == 1 / 4
    # Of class 1, request 2 is in time and request 4 was turned away; nobody is of class 2.
    np.testing.assert_array_equal(found["class_sla_violation_fraction"], [1, 1 / 2, np.nan])
    assert found["class_goodput_requests_per_s"].sum() == pytest.approx(found["goodput_requests_per_s"])
    none = simulate(job([0, 0, 1, 0, 1]), "reference").report
    assert np.isnan(none["goodput_fraction"])


def test_sums_of_long_times_are_exact() -> None:
    """A single class has what the report says of all requests, past 32 bits of nanoseconds."""
    rng = np.random.default_rng(5)
    requests = make_requests(np.sort(rng.uniform(0, 1e3, 400)), rng.integers(1, 9, 400), rng.integers(1, 9, 400))
    replica = make_replica(make_law(1.7), most_running=3, token_budget=8, capacity_tokens=400)
    setup = Setup(replica, make_fleet(), make_reporting(horizon_s=1e3, windows=1))
    classes = make_classes(np.zeros(400), [None], [None], [None])
    report = simulate(Job(requests, np.zeros(400, np.int32), setup, classes)).report
    for name in ("latency_mean_s", "wait_mean_s", "ttft_mean_s", "tbt_mean_s"):
        np.testing.assert_allclose(report[f"class_{name}"], [report[name]], rtol=1e-9, err_msg=name)
    for name in ("latency_quantile_s", "ttft_quantile_s", "tpot_quantile_s"):
        np.testing.assert_allclose(report[f"class_{name}"], [report[name]], rtol=0.01, err_msg=name)
    assert report["class_goodput_requests_per_s"] == [pytest.approx(report["throughput_requests_per_s"])]


def test_classes_of_other_requests_are_refused() -> None:
    with pytest.raises(InputError, match=r"of\[1\] = 3: must be in 0..2"):
        job([0, 3, 0, 0, 0])
    with pytest.raises(InputError, match=r"classes\.of has 4 entries, arrival has 5: must be equal"):
        simulate(job([0, 0, 0, 0]))
