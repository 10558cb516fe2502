from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from batchcube.errors import InputError
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.workloads import ArrivalProcess, Gamma, GammaWindows, OnOff, Poisson, Step
from batchcube.sweeps.workloads.arrivals import AtRate
from helpers.samples import SAMPLES

ANY: TypeAdapter[Any] = TypeAdapter(ArrivalProcess)
COUNT = 40_000

PROCESSES: dict[str, dict[str, Any]] = {
    "poisson": {"process": "poisson", "rate_per_s": 3.0},
    "deterministic": {"process": "deterministic", "rate_per_s": 3.0},
    "gamma": {"process": "gamma", "rate_per_s": 3.0, "cv": 2.5},
    "on_off": {"process": "on_off", "rate_per_s": 3.0, "on_off_ratio": 6, "mean_on_s": 5.0, "mean_off_s": 20.0},
    "silent_off": {
        "process": "on_off",
        "rate_per_s": 3.0,
        "on_off_ratio": "infinite",
        "mean_on_s": 5.0,
        "mean_off_s": 20.0,
    },
    "gamma_windows": {
        "process": "gamma_windows",
        "shapes": [0.5, 2.0, 0.1],
        "scales_s": [2.0, 0.25, 1.0],
        "window_s": 100.0,
    },
    "step": {"process": "step", "times_s": [0, 100, 200], "rates_per_s": [2, 0, 8.0]},
    "at_once": {"process": "at_once"},
}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_draws_that_many_in_order_and_the_same_again(name: str) -> None:
    process = ANY.validate_python(PROCESSES[name])
    for count in (0, 1, 2, 1000):
        drawn = process.draw(count, stream(1, 0, "arrivals"))
        assert drawn.shape == (count,)
        assert drawn.dtype == np.float64
        assert np.all(np.diff(drawn) >= 0)
        assert np.all(drawn >= 0)
    np.testing.assert_array_equal(process.draw(1000, stream(1, 0, "arrivals")), drawn)


@pytest.mark.parametrize("name", ["poisson", "deterministic", "gamma", "gamma_windows", "step"])
def test_fewer_requests_are_a_prefix(name: str) -> None:
    process = ANY.validate_python(PROCESSES[name])
    few, many = (process.draw(count, stream(1, 0, "arrivals")) for count in (700, 5000))
    np.testing.assert_array_equal(few, many[:700])


@pytest.mark.parametrize("name", ["poisson", "deterministic", "gamma"])
def test_twice_the_rate_halves_the_same_arrivals(name: str) -> None:
    slow = ANY.validate_python(PROCESSES[name])
    fast = ANY.validate_python({**PROCESSES[name], "rate_per_s": 6.0})
    assert isinstance(slow, AtRate)
    unit = slow.unit_arrivals(1000, stream(1, 0, "arrivals"))
    np.testing.assert_array_equal(slow.scale(unit), slow.draw(1000, stream(1, 0, "arrivals")))
    np.testing.assert_array_equal(fast.scale(unit) * 2, slow.scale(unit))


def test_mean_and_cv_of_gaps() -> None:
    for cv in (0.4, 1.0, 2.5):
        gaps = np.diff(Gamma(process="gamma", rate_per_s=3.0, cv=cv).draw(COUNT, stream(2, 0, "arrivals"))) * 3.0
        assert abs(gaps.mean() - 1) < 4.5 * cv / np.sqrt(COUNT)
        shape = cv**-2
        variance_of_square = cv**4 * (2 + 6 / shape)
        assert abs(((gaps - 1) ** 2).mean() - cv**2) < 4.5 * np.sqrt(variance_of_square / COUNT)
    gaps = np.diff(Poisson(process="poisson", rate_per_s=3.0).draw(COUNT, stream(2, 0, "arrivals"))) * 3.0
    assert abs(gaps.mean() - 1) < 4.5 / np.sqrt(COUNT)
    assert abs(gaps.var() - 1) < 4.5 * np.sqrt(8 / COUNT)


@pytest.mark.parametrize("ratio", [6.0, 0.5, "infinite"])
def test_on_off_mean_rate_and_dispersion(ratio: Any) -> None:
    on_s, off_s, rate, count = 5.0, 20.0, 3.0, 30_000
    process = OnOff(process="on_off", rate_per_s=rate, on_off_ratio=ratio, mean_on_s=on_s, mean_off_s=off_s)
    on, off = process.phase_rates_per_s()
    assert (on * on_s + off * off_s) / (on_s + off_s) == pytest.approx(rate)
    assert off == pytest.approx(0.0 if ratio == "infinite" else on / ratio)
    # Counts in a long time T have variance rate T + 2 p (1-p) (on-off)^2 T / (1/on_s + 1/off_s).
    p, relaxation = on_s / (on_s + off_s), 1 / on_s + 1 / off_s
    dispersion = 1 + 2 * p * (1 - p) * (on - off) ** 2 / (relaxation * rate)
    last = [process.draw(count, stream(3, replication, "arrivals"))[-1] for replication in range(40)]
    error = np.sqrt(count * dispersion) / rate / np.sqrt(len(last))
    assert abs(np.mean(last) - process.nominal_span_s(count)) < 4.5 * error
    spread = np.std(last, ddof=1) / (np.sqrt(count * dispersion) / rate)
    assert 0.5 < spread < 1.6


def test_on_off_phases_stay_in_place_when_the_rate_changes() -> None:
    slow, fast = (
        OnOff(process="on_off", rate_per_s=rate, on_off_ratio="infinite", mean_on_s=1.0, mean_off_s=1.0).draw(
            5000, stream(1, 0, "arrivals")
        )
        for rate in (100.0, 200.0)
    )
    within = slow[slow < fast[-1]]
    silent = np.flatnonzero(np.diff(within) > 0.5)
    assert silent.size >= 3
    for start, end in zip(within[silent], within[silent + 1], strict=True):
        assert np.count_nonzero((fast > start + 0.1) & (fast < end - 0.1)) == 0


def test_step_rates_and_silence() -> None:
    process = Step(process="step", times_s=(0.0, 1000.0, 2000.0), rates_per_s=(2.0, 0.0, 8.0))
    drawn = process.draw(20_000, stream(4, 0, "arrivals"))
    before = np.count_nonzero(drawn < 1000)
    assert abs(before - 2000) < 4.5 * np.sqrt(2000)
    assert np.count_nonzero((drawn > 1000) & (drawn < 2000)) == 0
    after = np.count_nonzero((drawn >= 2000) & (drawn < 3000))
    assert abs(after - 8000) < 4.5 * np.sqrt(8000)
    assert process.nominal_span_s(2000 + 8000) == pytest.approx(3000)


def test_gamma_windows_have_their_own_rate_and_cv_and_come_round_again() -> None:
    shapes, scales = (0.5, 2.0), (0.2, 0.25)
    process = GammaWindows(process="gamma_windows", shapes=shapes, scales_s=scales, window_s=1000.0)
    drawn = process.draw(60_000, stream(5, 0, "arrivals"))
    for number in range(4):
        shape, mean = shapes[number % 2], shapes[number % 2] * scales[number % 2]
        mine = drawn[(drawn >= number * 1000.0) & (drawn < (number + 1) * 1000.0)]
        expected = 1000.0 / mean
        assert abs(mine.size - expected) < 4.5 * np.sqrt(expected / shape)
        gaps = np.diff(mine) / mean
        assert abs((gaps**2).mean() - (1 + 1 / shape)) < 5 * np.sqrt(
            (shape * (shape + 1) * (shape + 2) * (shape + 3) / shape**4 - (1 + 1 / shape) ** 2) / expected
        )


def test_gamma_windows_mean_rate_can_be_set() -> None:
    shapes, scales = (0.5, 2.0, 0.8), (20.0, 0.25, 45.0)
    process = GammaWindows(process="gamma_windows", shapes=shapes, scales_s=scales, window_s=50.0, rate_per_s=7.0)
    ends = [process.draw(20_000, stream(6, replication, "arrivals"))[-1] for replication in range(20)]
    assert np.mean(ends) == pytest.approx(20_000 / 7.0, rel=0.03)
    assert process.nominal_span_s(20_000) == pytest.approx(20_000 / 7.0, rel=0.03)


def test_gamma_windows_from_the_paper_figure(shared_data: Path) -> None:
    path = str(shared_data / "burstgpt" / "burstgpt_paper_fig6_gamma_params_20min.csv")
    for service, shape_median, scale_median in (("conversation", 0.80, 45.0), ("api", 0.40, 3.8)):
        process = GammaWindows(process="gamma_windows", path=path, service=service)
        shape, rate = process.windows()
        assert shape.size == 54
        assert np.median(shape) == pytest.approx(shape_median, abs=0.05)
        assert np.median(1 / (shape * rate)) == pytest.approx(scale_median, rel=0.08)
        drawn = process.draw(3000, stream(1, 0, "arrivals"))
        assert drawn[-1] == pytest.approx(process.nominal_span_s(3000), rel=0.25)
    with pytest.raises(InputError, match="'api'"):
        GammaWindows(process="gamma_windows", path=path, service="nobody").draw(3, stream(1, 0, "arrivals"))


def test_gamma_windows_of_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "windows.csv"
    process = GammaWindows(process="gamma_windows", path=str(path), shape_column="shape", scale_column="scale")
    for shapes in ([0.5], [0.5, 2.0]):
        path.write_text("shape,scale\n" + "".join(f"{shape},1.0\n" for shape in shapes))
        assert process.windows()[0].tolist() == shapes


def test_gamma_windows_from_a_sample() -> None:
    path = SAMPLES / "burstgpt-gamma.csv"
    for service in ("conversation", "api"):
        process = GammaWindows(process="gamma_windows", path=str(path), service=service)
        rows = [row.split(",") for row in path.read_text().splitlines() if row.startswith(service)]
        shape, rate = process.windows()
        assert shape.tolist() == [float(row[3]) for row in rows]
        np.testing.assert_allclose(1 / (shape * rate), [float(row[4]) for row in rows], rtol=1e-9)
        drawn = process.draw(3000, stream(1, 0, "arrivals"))
        assert drawn[-1] == pytest.approx(process.nominal_span_s(3000), rel=0.25)
    with pytest.raises(InputError, match="'api'"):
        GammaWindows(process="gamma_windows", path=str(path), service="nobody").draw(3, stream(1, 0, "arrivals"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"process": "poisson", "rate_per_s": -3.0}, "greater than"),
        ({"process": "poisson", "rate_per_s": float("nan")}, "finite"),
        ({"process": "poisson", "rate_per_s": "3"}, "valid number"),
        ({"process": "poisson", "rate": 3.0}, "rate"),
        ({"process": "possion"}, "possion"),
        ({"process": "gamma", "rate_per_s": 1.0, "cv": 0.0}, "greater than"),
        ({**PROCESSES["on_off"], "mean_on_s": 0.0}, "greater than"),
        ({"process": "gamma_windows"}, "either path"),
        ({**PROCESSES["gamma_windows"], "path": "x.csv"}, "not both"),
        ({**PROCESSES["gamma_windows"], "shapes": [1.0]}, "must be as many"),
        ({**PROCESSES["gamma_windows"], "service": "api"}, "needs path"),
        ({"process": "step", "times_s": [0.0, 5.0], "rates_per_s": [1.0]}, "must be as many"),
        ({"process": "step", "times_s": [1.0], "rates_per_s": [1.0]}, "start at 0"),
        ({"process": "step", "times_s": [0.0, 2.0, 2.0], "rates_per_s": [1.0, 1.0, 1.0]}, "increase"),
        ({"process": "step", "times_s": [0.0], "rates_per_s": [0.0]}, "lasts for ever"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ANY.validate_python(settings)


def test_arrivals_beyond_the_clock_are_refused() -> None:
    with pytest.raises(InputError, match="raise the arrival rate"):
        Poisson(process="poisson", rate_per_s=1e-9).draw(1000, stream(1, 0, "arrivals"))
    with pytest.raises(InputError, match="longer phases"):
        OnOff(process="on_off", rate_per_s=1e-9, on_off_ratio=2.0, mean_on_s=1e-6, mean_off_s=1e-6).draw(
            1000, stream(1, 0, "arrivals")
        )


@pytest.mark.parametrize("name", ["shape_column", "scale_column", "service"])
def test_what_to_read_of_a_file_is_refused_without_one(name: str) -> None:
    given = {"process": "gamma_windows", "shapes": [1.0], "scales_s": [2.0], name: "alpha"}
    with pytest.raises(ValidationError, match=f"{name} says what to read of a file: needs path"):
        GammaWindows.model_validate(given)
