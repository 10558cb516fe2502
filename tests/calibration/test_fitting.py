"""Request logs of a real server, turned into a step law by simulating them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batchcube.calibration import fitting
from batchcube.calibration.fitting import Server, fit_log, replay, times_of_log, times_of_records
from batchcube.calibration.logs import Log, read_log
from batchcube.engine.continuous import make_fleet, make_law, make_replica
from batchcube.engine.continuous.model import TICKS_PER_S
from helpers.samples import SAMPLES, VLLM_LAW

TRUTH = np.array([8e-3, 1e-4, 5e-8, 4e-5, 2e-9])


def server(**more: int) -> Server:
    settings = {"most_running": 16, "token_budget": 512, "capacity_tokens": 10**6} | more
    return Server(make_replica(make_law(1e-3), **settings), make_fleet())


def made(count: int = 90, noise: float = 0.0, seed: int = 3) -> Log:
    """Return the log of a server whose law is `TRUTH`, with every time off by a little."""
    rng = np.random.default_rng(seed)
    queued = np.cumsum(rng.exponential(0.12, count))
    queued -= queued[0]
    prompt, output = rng.integers(20, 1500, count), rng.integers(20, 250, count)
    empty = np.zeros(count)
    log = Log(queued, empty, empty, empty, prompt, output, "")
    records = replay(log, server(), make_law(*TRUTH))
    first, last = records.first_token / TICKS_PER_S, records.last_token / TICKS_PER_S
    scatter = 1 + noise * rng.standard_normal((2, count))
    first = queued + (first - queued) * scatter[0]
    last = np.maximum(first, queued + (last - queued) * scatter[1])
    return log._replace(scheduled_s=records.scheduled / TICKS_PER_S, first_token_s=first, last_token_s=last)


def test_a_replay_with_the_true_law_gives_the_log_again() -> None:
    log = made()
    records = replay(log, server(), make_law(*TRUTH))
    for measured, simulated in zip(times_of_log(log), times_of_records(log, records), strict=True):
        np.testing.assert_allclose(simulated, measured, rtol=1e-9)


def test_the_law_behind_a_log_is_found_and_predicts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_STARTS", 10)
    monkeypatch.setattr(fitting, "_STARTS_AGAIN", 2)
    log = made(noise=0.003)
    counted = []
    found = fit_log(log, server(), until=45, done=lambda: counted.append(1))
    assert len(counted) == fitting.FITS
    assert found.requests == 45
    # What every step costs, and every prefill token, is told well; the other terms within their errors.
    assert found.coefficients[[0, 3]] == pytest.approx(TRUTH[[0, 3]], rel=0.05)
    sure = [name not in found.unsure for name in fitting.FITTED]
    z = (found.coefficients - TRUTH) / found.standard_errors
    assert (np.abs(z[sure]) < 6).all()
    simulated = times_of_records(log, replay(log, server(), make_law(*found.coefficients)))
    rest = ~log.first(45)
    for measured, predicted in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(predicted[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.02)


def test_a_term_that_nothing_in_the_log_moves_is_called_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_STARTS", 4)
    monkeypatch.setattr(fitting, "_STARTS_AGAIN", 1)
    log = made(count=40)
    short = log._replace(prompt_tokens=np.ones(40, np.int64))
    records = replay(short, server(), make_law(*TRUTH))
    short = short._replace(
        first_token_s=records.first_token / TICKS_PER_S, last_token_s=records.last_token / TICKS_PER_S
    )
    # Prompts of one token: their attention is nothing beside a step.
    assert "c4_s_per_prefill_attention" in fit_log(short, server()).unsure


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="20 requests to fit to: needs at least 30"):
        fit_log(made(count=40), server(), until=20)
    with pytest.raises(ValueError, match="its KV capacity is too small"):
        fit_log(made(count=40), server(capacity_tokens=400))
    log = made(count=40)
    instant = log._replace(first_token_s=log.queued_s, last_token_s=log.queued_s)
    with pytest.raises(ValueError, match="no time between queued, first and last token"):
        fit_log(instant, server())


def predicted_from_its_first(requests: int, path: Path, most_running: int, token_budget: int) -> NDArray[np.float64]:
    """Fit a log to its first requests, predict the others, and return the law."""
    log = read_log(path)
    limits = {"most_running": most_running, "token_budget": token_budget, "capacity_tokens": 10**6}
    there = server(**limits)
    found = fit_log(log, there, until=requests)
    simulated = times_of_records(log, replay(log, there, make_law(*found.coefficients)))
    rest = ~log.first(requests)
    for measured, predicted in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(predicted[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.02)
        assert np.nanquantile(predicted[rest], 0.9) == pytest.approx(np.nanquantile(measured[rest], 0.9), rel=0.04)
    return found.coefficients


def test_a_real_vllm_run_is_predicted_from_its_first_third(shared_data: Path) -> None:
    folder = shared_data / "calibration" / "llmservingsim"
    predicted_from_its_first(100, folder / "vllm_requests_RTXPRO6000_Llama-3.1-8B.jsonl", 128, 2048)


def test_a_sample_of_a_log_is_predicted_from_its_first_third() -> None:
    law = predicted_from_its_first(40, SAMPLES / "vllm-requests.jsonl", 16, 512)
    assert law[0] == pytest.approx(VLLM_LAW[0], rel=0.05)
    log = read_log(SAMPLES / "vllm-requests.jsonl")
    assert np.diff(log.queued_s).min() >= 0
    assert (log.scheduled_s >= log.queued_s).all()
    assert len(log.queued_s) == 120
