"""Request logs of a real server: read, replayed, and turned into a step law by simulating them."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batchcube.calibration import logs
from batchcube.calibration.logs import Log, fit_log, read_log, replay, times_of_log, times_of_records
from batchcube.engine.continuous import Replica, make_law, make_replica
from batchcube.engine.continuous.model import TICKS_PER_S
from helpers.samples import SAMPLES, VLLM_LAW

TRUTH = np.array([8e-3, 1e-4, 5e-8, 4e-5, 2e-9])
GOOD = {"input_toks": 10, "output_toks": 5, "queued_ts": 1.0, "first_token_ts": 2.0, "last_token_ts": 3.0}


def server(**more: int) -> Replica:
    settings = {"most_running": 16, "token_budget": 512, "capacity_tokens": 10**6} | more
    return make_replica(make_law(1e-3), **settings)


def made(count: int = 90, noise: float = 0.0, seed: int = 3) -> Log:
    """Return the log of a server whose law is `TRUTH`, with every time off by a little."""
    rng = np.random.default_rng(seed)
    queued = np.cumsum(rng.exponential(0.12, count))
    queued -= queued[0]
    prompt, output = rng.integers(20, 1500, count), rng.integers(20, 250, count)
    empty = np.zeros(count)
    log = Log(queued, empty, empty, empty, prompt, output, "")
    records = replay(log, server(), TRUTH)
    first, last = records.first_token / TICKS_PER_S, records.last_token / TICKS_PER_S
    scatter = 1 + noise * rng.standard_normal((2, count))
    first = queued + (first - queued) * scatter[0]
    last = np.maximum(first, queued + (last - queued) * scatter[1])
    return log._replace(scheduled_s=records.scheduled / TICKS_PER_S, first_token_s=first, last_token_s=last)


def write(path: Path, *entries: dict[str, object] | str) -> Path:
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


def test_a_log_is_sorted_by_arrival_and_starts_at_zero(tmp_path: Path) -> None:
    later = GOOD | {"queued_ts": 1.5, "scheduled_ts": 1.6, "output_toks": 7}
    log = read_log(write(tmp_path / "log.jsonl", later, "", GOOD))
    assert log.queued_s.tolist() == [0.0, 0.5]
    assert log.output_tokens.tolist() == [5, 7]
    assert log.first_token_s.tolist() == [1.0, 1.0]
    assert np.isnan(log.scheduled_s[0])
    assert log.scheduled_s[1] == pytest.approx(0.6)
    times = times_of_log(log)
    assert times.ttft_s.tolist() == [1.0, 0.5]
    assert times.tpot_s.tolist() == [0.25, pytest.approx(1 / 6)]
    assert times.e2e_s.tolist() == [2.0, 1.5]


def test_an_arrival_time_in_the_same_clock_will_do(tmp_path: Path) -> None:
    entry = {key: value for key, value in GOOD.items() if key != "queued_ts"} | {"arrival_time": 0.5}
    log = read_log(write(tmp_path / "log.jsonl", entry, entry))
    assert times_of_log(log).ttft_s.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{", "line 2: is not JSON"),
        ("3", "line 2: is no JSON object"),
        (GOOD | {"queued_ts": None}, "line 2: queued_ts = null: must be a number from -1000000000000 to"),
        ({"input_toks": 3}, "line 2: queued_ts or arrival_time is missing"),
        ({key: v for key, v in GOOD.items() if key != "last_token_ts"}, "line 2: last_token_ts is missing"),
        (GOOD | {"first_token_ts": 0.5}, "line 2: first token at 0.5 s is before queued at 1.0 s"),
        (GOOD | {"last_token_ts": 1.5}, "line 2: last token at 1.5 s is before first token at 2.0 s"),
        (GOOD | {"scheduled_ts": 2.5}, "line 2: first token at 2.0 s is before scheduled at 2.5 s"),
        (GOOD | {"output_toks": 0}, "line 2: output_toks = 0: must be a whole number from 1 to 2097152"),
        (GOOD | {"input_toks": "many"}, 'line 2: input_toks = "many": must be a whole number from 1 to 2097152'),
        (GOOD | {"input_toks": 1.9}, "line 2: input_toks = 1.9: must be a whole number"),
        (GOOD | {"input_toks": 1e300}, "line 2: input_toks = 1e+300: must be a whole number"),
        (GOOD | {"output_toks": 10**30}, "line 2: output_toks = 1000000000000000000000000000000: must be a whole"),
        (GOOD | {"input_toks": 2**20, "output_toks": 2**20 + 1}, "line 2: 2097153 tokens in and out: must be at most"),
        (GOOD | {"queued_ts": -(10**400)}, "must be a number from"),
        (GOOD | {"last_token_ts": 1e300}, "line 2: last_token_ts = 1e+300: must be a number from"),
        (GOOD | {"last_token_ts": float("inf")}, "line 2: last_token_ts = Infinity: must be a number from"),
        ("[" * 50_000, "line 2: is nested deeper than 24 levels"),
        ("[" * 30 + "]" * 30, "line 2: is nested deeper than 24 levels"),
        (GOOD | {"queued_ts": -1e12}, "not of one clock"),
    ],
)
def test_a_bad_log_is_one_clear_line(tmp_path: Path, entry: dict[str, object] | str, says: str) -> None:
    path = write(tmp_path / "log.jsonl", GOOD, entry)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_log(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_a_missing_or_empty_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl: cannot be read"):
        read_log(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="holds 1 requests: needs at least 2"):
        read_log(write(tmp_path / "one.jsonl", GOOD))


def test_a_replay_with_the_true_law_gives_the_log_again() -> None:
    log = made()
    for measured, simulated in zip(times_of_log(log), times_of_records(log, replay(log, server(), TRUTH)), strict=True):
        np.testing.assert_allclose(simulated, measured, rtol=1e-9)


def test_the_law_behind_a_log_is_found_and_predicts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_STARTS", 10)
    monkeypatch.setattr(logs, "_STARTS_AGAIN", 2)
    log = made(noise=0.003)
    counted = []
    found = fit_log(log, server(), until=45, done=lambda: counted.append(1))
    assert len(counted) == logs.FITS
    assert found.requests == 45
    # What every step costs, and every prefill token, is told well; the other terms within their errors.
    assert found.coefficients[[0, 3]] == pytest.approx(TRUTH[[0, 3]], rel=0.05)
    sure = [name not in found.unsure for name in logs.STEP_TERMS]
    z = (found.coefficients - TRUTH) / found.standard_errors
    assert (np.abs(z[sure]) < 6).all()
    simulated = times_of_records(log, replay(log, server(), found.coefficients))
    rest = ~log.first(45)
    for measured, predicted in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(predicted[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.02)


def test_a_term_that_nothing_in_the_log_moves_is_called_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_STARTS", 4)
    monkeypatch.setattr(logs, "_STARTS_AGAIN", 1)
    log = made(count=40)
    short = log._replace(prompt_tokens=np.ones(40, np.int64))
    records = replay(short, server(), TRUTH)
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
    replica = make_replica(make_law(1e-3), **limits)
    found = fit_log(log, replica, until=requests)
    simulated = times_of_records(log, replay(log, replica, found.coefficients))
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
