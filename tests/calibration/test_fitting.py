"""Request logs of a real server, turned into a step law by simulating them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import intervals
from batchcube.calibration import prediction
from batchcube.calibration.coefficients import Coefficients, FittedLog, Raw, StepCoefficients, StepScatter
from batchcube.calibration.fitting import FITS, LogFit, fit_log
from batchcube.calibration.laws import law_of
from batchcube.calibration.logs import Log, read_log
from batchcube.calibration.logs.log import loop_of
from batchcube.calibration.opening import means_of, opened
from batchcube.calibration.prediction import (
    Server,
    fitted_part,
    predicted,
    replay,
    scattered,
    times_of_log,
    times_of_records,
)
from batchcube.calibration.scatter import Scatter, draw_time
from batchcube.calibration.stating import stated
from batchcube.engine.continuous import make_fleet, make_law, make_replica
from batchcube.engine.continuous.steps import STEP_TERMS, prefill_ticks
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.sweeps.spec.service import load
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
    log = Log(queued, empty, empty, empty, prompt, output, "0" * 64)
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


def closed(users: int, count: int, seed: int) -> Log:
    """Return the log of a closed loop on a server whose steps scatter around `TRUTH`, stamped to the microsecond."""
    rng, nothing = np.random.default_rng(seed), np.zeros(count)
    prompt, output = rng.integers(20, 1500, count), rng.integers(20, 250, count)
    asked = Log(nothing, nothing, nothing, nothing, prompt, output, "", loop=users)
    records = replay(asked, server(), make_law(*TRUTH))
    time = draw_time(Scatter(0.05, 0.0, 9e-3, (5.0, 5.0), 0.0), 1.2 * records.last_token.max() / TICKS_PER_S, rng)
    came, first, last = (
        time.ours(ticks / TICKS_PER_S).round(6) for ticks in (records.arrival, records.first_token, records.last_token)
    )
    return asked._replace(queued_s=came, first_token_s=first, last_token_s=last, loop=0)


@pytest.mark.parametrize("users", [1, 4, 8])
def test_a_closed_loop_is_replayed_as_one(users: int) -> None:
    off: dict[int, list[float]] = {0: [], users: []}
    for seed in range(3):
        log = closed(users, 100, seed)
        assert loop_of(log) == users
        for loop, errors in off.items():
            as_one = log._replace(loop=loop)
            simulated = times_of_records(as_one, replay(as_one, server(), make_law(*TRUTH)))
            errors.append(float(simulated.ttft_s.mean() / times_of_log(log).ttft_s.mean() - 1))
    assert np.mean(off[users]) == pytest.approx(0.0, abs=0.01)
    # With arrivals that stay where they are, requests of a busy server wait for half of a step more.
    assert users == 1 or np.mean(off[0]) > 0.04


def test_arrivals_that_wait_for_no_end_are_of_no_closed_loop() -> None:
    assert [loop_of(log) for log in (made(), made(seed=4), read_log(SAMPLES / "vllm-requests.jsonl"))] == [0, 0, 0]
    # One at a time, at even intervals, answers of many lengths.
    lone, each = 3.0 * np.arange(40), np.full(40, 100)
    first, last = lone + 0.1, lone + np.linspace(0.5, 2.0, 40)
    assert loop_of(Log(lone, lone, first, last, each, each, "")) == 0


def decode_s(law: StepCoefficients, decodes: float) -> float:
    """Return the seconds of a step of decodes, but for what they read."""
    assert law.decode is not None
    return float(np.interp(decodes, law.decode.requests, law.decode.s))


def coefficients(found: LogFit, log: Log) -> Coefficients:
    law, fitted = stated(found, log, None)
    raw = Raw(file="log", sha256=log.sha256)
    return Coefficients(name="log", label="measured", title="", source="", raw=raw, step_law=law, log=fitted)


def prior(**more: float) -> StepCoefficients:
    """Return a law that is somewhat faster than `TRUTH`, as tables are."""
    known = load("dynamic-batching-fig3").step_law
    assert known is not None
    terms = dict(zip(STEP_TERMS, (6e-3, 0.9e-4, 5.5e-8, 3.5e-5, 2e-9, 0.0), strict=True)) | more
    return known.model_copy(update=terms)


def test_the_law_behind_a_log_is_found_and_predicts_the_rest() -> None:
    log = made(noise=0.003)
    counted = []
    found = fit_log(log, server(), until=45, done=lambda: counted.append(1))
    assert 0 < len(counted) <= FITS
    assert found.requests == 45
    known = dict(zip(found.opening.names, zip(found.values, found.standard_errors, strict=True), strict=True))
    for name, truth in zip(STEP_TERMS, [*TRUTH, 0.0], strict=True):
        value, error = known[name]
        assert error > 0
        assert abs(value - truth) < 5 * error, name
    # What a step takes is told better than what it is made of.
    assert decode_s(found.law, 8) == pytest.approx(8.8e-3, rel=0.06)
    simulated = times_of_records(log, replay(log, server(), law_of(found.law)))
    rest = ~log.first(45)
    for measured, came in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(came[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.02)


def test_few_requests_and_a_prior_do() -> None:
    log = made(noise=0.003)
    found = fit_log(log, server(), until=15, prior=prior())
    simulated = times_of_records(log, replay(log, server(), law_of(found.law)))
    rest = ~log.first(15)
    for measured, came in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(came[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.05)
    law, fitted = stated(found, log, "tables")
    assert fitted.prior == "tables"
    # Nobody's errors are larger than they were before the log was read.
    assert (found.left_open <= 1.0 + 1e-9).all()
    assert law.errors is not None
    assert len(fitted.found) == len(law.errors.of)
    # Fifteen requests say nothing of the growth of attention.
    assert "c4_s_per_prefill_attention" in fitted.unsure


def test_lone_requests_of_one_length_tell_no_terms_apart() -> None:
    """A prefill of 512 tokens and steps of one decode are all that such a log has."""
    count = 30
    queued, empty = 3.0 * np.arange(count), np.zeros(count)
    log = Log(queued, empty, empty, empty, np.full(count, 512), np.full(count, 128), "")
    truth, rng = make_law(8e-3, 1e-4, 5e-8, 4e-5, 0.0), np.random.default_rng(4)
    times = scattered(log, server(), truth, draw_time(Scatter(0.02, 0.0, 9e-3, (5.0, 5.0), 0.0), 120.0, rng))
    log = log._replace(first_token_s=queued + times.ttft_s, last_token_s=queued + times.e2e_s)
    found = fit_log(log, server())
    _, fitted = stated(found, log, None)
    known = dict(zip(found.opening.names, zip(found.values, found.standard_errors, strict=True), strict=True))
    attention, error = known["c4_s_per_prefill_attention"]
    assert attention < 3 * error
    assert "knee" not in known
    prefills = {"c3_s_per_prefill_token", "c4_s_per_prefill_attention", "c5_s_per_prefill_step"}
    assert any(len(prefills & set(group)) > 1 for group in fitted.together)
    prefill, decodes = fitted.steps[-1], fitted.steps[0]
    # What they come to, it tells well.
    assert prefill.s == pytest.approx(8e-3 + 512 * 4e-5, abs=5 * prefill.standard_error_s)
    assert prefill.standard_error_s < 0.1 * prefill.s
    assert decodes.s == pytest.approx(8.1e-3 + 5e-8 * 576, abs=5 * decodes.standard_error_s)
    assert decodes.standard_error_s < 0.05 * decodes.s


def test_prefills_that_hide_behind_weights_at_first_are_followed() -> None:
    """Without a prior too: few tokens pass while weights are read, many take as long as each takes."""
    base, there = made(count=60), server(token_budget=2048)
    opening = opened(None, base, base.first(60))
    terms = {"c0_s": 8e-3, "c1_s_per_request": 1e-4, "c2_s_per_kv_token": 5e-8, "knee": 4e-5}
    truth = law_of(opening.at([terms.get(name, 0.0) for name in opening.names]))
    times = scattered(
        base, there, truth, draw_time(Scatter(0.03, 0.0, 1e-2, (1.0, 1.0), 0.0), 60.0, np.random.default_rng(1))
    )
    log = base._replace(first_token_s=base.queued_s + times.ttft_s, last_token_s=base.queued_s + times.e2e_s)
    found = law_of(fit_log(log, there).law)
    for tokens in (100, 300, 1200):
        seconds, known = (
            8.8e-3 + float(prefill_ticks(tokens, float(tokens) ** 2, 8, law)) / TICKS_PER_S for law in (found, truth)
        )
        # A law with nothing but c3, c4 and c5 is 10 % too slow at 100 tokens.
        assert seconds == pytest.approx(known, rel=0.05), tokens


def errors_and_intervals(count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fit the logs of servers that are as far off a prior as it says.

    Returns how many standard errors each way is off, (server, way), and whether the mean of each quantity of the
    requests that were not fitted lies in its interval of 95 %, (server, quantity).
    """
    rng, base = np.random.default_rng(6), made(count=60)
    off, held = [], []
    for seed in range(count):
        opening = opened(prior(), base, base.first(30))
        values = np.maximum(rng.normal(0.0, opening.width), opening.low)
        truth = law_of(opening.at(values))
        times = scattered(base, server(), truth, draw_time(Scatter(0.05, 0.01, 1e-2, (3.0, 3.0), 0.0), 60.0, rng))
        log = base._replace(first_token_s=base.queued_s + times.ttft_s, last_token_s=base.queued_s + times.e2e_s)
        found = fit_log(log, server(), until=30, prior=prior(), seed=seed)
        off.append((found.values - values) / found.standard_errors)
        rest = ~log.first(30)
        came = predicted(log, server(), coefficients(found, log), 40, seed)
        means = np.array([[np.nanmean(times[rest]) for times in one] for one in came])
        low, high = np.quantile(means, (0.025, 0.975), axis=0)
        seen = np.array([np.nanmean(quantity[rest]) for quantity in times])
        held.append((low <= seen) & (seen <= high))
    return np.array(off), np.array(held)


def test_errors_are_those_of_other_logs_and_predictions_hold() -> None:
    off, held = errors_and_intervals(6)
    assert 0.4 < np.sqrt(np.mean(off**2)) < 1.6
    # Quantities of one server go together: one may miss.
    assert held.all(axis=1).sum() >= 5


def test_intervals_of_what_follows_no_law_of_a_fit() -> None:
    """Steps that grow with the square root of the batch, fitted without a prior: means and p99 in intervals of 90 %."""
    outside = intervals.Case("square root", 100, False, 0.01)
    found = [one for number in range(4) for one in intervals.predictions(outside, number)]
    for statistic in ("TPOT mean", "TTFT p99"):
        held = [one.held for one in found if one.statistic == statistic]
        assert len(held) == 12
        # Of twelve, eight at least with a chance of 99.6 %, were they all apart.
        assert sum(held) >= 8, statistic
    assert max(abs(one.error) for one in found if one.statistic == "TPOT mean") < 0.06


def test_another_run_may_be_faster_or_slower_all_along() -> None:
    log = made(count=40)
    law = prior().model_copy(update={"errors": None})
    scatter = StepScatter(step=0.0, drift=0.05, step_s=1e-2, drift_lasts_s=[1e-3, 1e-3], ttft_s=0.0)
    fitted = FittedLog(requests=40, fitted_to=20, rms={}, unsure=[], scatter=scatter)
    known = Coefficients(name="log", label="measured", title="", source="", step_law=law, log=fitted)
    own = known.model_copy(update={"raw": Raw(file="log", sha256=log.sha256)})
    assert fitted_part(own, log) == 20
    assert fitted_part(known, log) == 0
    spread = {
        name: np.std([np.nanmean(times.tpot_s) for times in predicted(log, server(), one, 100)])
        for name, one in (("own", own), ("other", known))
    }
    tpot = np.nanmean(times_of_records(log, replay(log, server(), law_of(law))).tpot_s)
    # A drift that is forgotten at once says nothing of the mean of one run.
    assert spread["own"] < 0.01 * tpot
    assert spread["other"] == pytest.approx(0.05 * tpot, rel=0.4)


@pytest.mark.slow
def test_of_many_servers_errors_and_intervals_hold_as_often_as_they_say() -> None:
    off, held = errors_and_intervals(60)
    # Ways that are cut off at 0 are off by less; of 60 standard normal values the root mean square is within 0.37 of 1.
    each = np.sqrt(np.mean(off**2, axis=0))
    assert (each < 1.4).all()
    assert 0.7 < np.sqrt(np.mean(off**2)) < 1.2
    assert np.mean(np.abs(off) < 2.0) > 0.92
    # 95 % less four standard errors of 60 servers.
    assert (held.mean(axis=0) > 0.84).all()


def test_a_client_s_clock_is_told_from_the_server() -> None:
    log = made(noise=0.003)
    late = log._replace(first_token_s=log.first_token_s + 0.05, last_token_s=log.last_token_s + 0.05, clock="client")
    found = fit_log(late, server())
    error = found.standard_errors[-1]
    assert found.client_s == pytest.approx(0.05, abs=5 * error)
    assert 0 < error < 0.02
    # It is in the prediction as it is in the draws around it.
    simulated = times_of_records(late, replay(late, server(), law_of(found.law)), found.client_s)
    draws = predicted(late, server(), coefficients(found, late), 40)
    for point, *drawn in zip(simulated, *draws, strict=True):
        means = [float(np.nanmean(values)) for values in drawn]
        assert min(means) < np.nanmean(point) < max(means)
    # A server's clock adds nothing.
    at_server = times_of_records(log, replay(log, server(), law_of(found.law)), found.client_s)
    np.testing.assert_allclose(simulated.ttft_s - at_server.ttft_s, found.client_s)


def test_what_a_client_adds_is_drawn_with_the_law_that_it_is_hardly_told_from() -> None:
    # Lone prompts of a few lengths: what a step with a prefill takes, or what the client adds.
    count, rng = 40, np.random.default_rng(6)
    queued, empty = 3.0 * np.arange(count), np.zeros(count)
    prompt = rng.choice([256, 384, 512], count)
    log = Log(queued, empty, empty, empty, prompt, np.full(count, 64), "0" * 64, clock="client")
    time = draw_time(Scatter(0.03, 0.0, 9e-3, (5.0, 5.0), 0.0), 150.0, rng)
    times = scattered(log, server(), make_law(*TRUTH), time)
    late = 0.04 + queued
    log = log._replace(first_token_s=late + times.ttft_s, last_token_s=late + times.e2e_s)
    known = coefficients(fit_log(log, server()), log)
    assert known.step_law is not None
    error = known.step_law.standard_error("client")
    assert error is not None
    assert error > 2e-3
    # The sum of both is what such a log tells well.
    means = [float(drawn.ttft_s.mean()) for drawn in predicted(log, server(), known, 60)]
    assert np.std(means) < error / 2


def test_a_step_of_one_replica_has_its_share_of_the_others() -> None:
    # Three that decode side by side, and one whose prefill is in the middle of it.
    first, last, output = np.array([1.0, 1.0, 1.0, 2.0]), np.array([3.0, 3.0, 3.0, 2.0]), np.array([21, 21, 21, 1])
    nothing = np.full(4, np.nan)
    log = Log(np.array([0.0, 0.0, 0.0, 1.5]), nothing, first, last, np.array([100, 100, 100, 60]), output, "")
    alone, two = (means_of(log, log.first(4), replicas).terms[0] for replicas in (1, 2))
    np.testing.assert_allclose(alone, [20, 3 * 20, 3 * 20 * 110, 60, 3600, 1])
    np.testing.assert_allclose(two, [20, 2 * 20, 2 * 20 * 110, 30, 1800, 0.5])
    # Without a prior, terms are as open as a step is long over what is in it.
    widths = [
        dict(zip(one.names, one.width, strict=True)) for one in (opened(None, log, log.first(4), n) for n in (1, 2))
    ]
    assert widths[1]["c1_s_per_request"] == pytest.approx(1.5 * widths[0]["c1_s_per_request"])
    assert widths[1]["c2_s_per_kv_token"] == pytest.approx(1.5 * widths[0]["c2_s_per_kv_token"])


def test_of_a_prior_only_how_far_it_reaches_is_kept() -> None:
    known, log = load("llama-3.1-8b-h100-vllm-tables").step_law, made(count=20)
    assert known is not None
    law = opened(known, log, log.first(20)).law
    assert known.rms_by_kind
    assert known.quality.measurements > 0
    assert (law.rms_by_kind, law.quality.measurements, law.quality.rms_residual) == ({}, 0, None)
    assert law.ranges == known.ranges


def test_a_short_log_is_predicted_more_often_than_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    log = made(count=20)
    known = load("llama-3.1-8b-h100-vllm-tables")
    assert len(predicted(log, server(), known)) == 200
    monkeypatch.setattr(prediction, "_MOST_SERVED", 2000)
    assert len(predicted(log, server(), known)) == 100
    monkeypatch.setattr(prediction, "_MOST_SERVED", 20)
    assert len(predicted(log, server(), known)) == 60


def test_tables_may_be_as_far_off_as_a_prior() -> None:
    known = load("llama-3.1-8b-h100-vllm-tables")
    assert known.step_law is not None
    log = made(count=20)
    point = np.nanmean(times_of_records(log, replay(log, server(), law_of(known.step_law))).tpot_s)
    means = np.array([np.nanmean(times.tpot_s) for times in predicted(log, server(), known)])
    # A host adds half a normal of 5 ms, 3.4 in the median, and more where it delays requests.
    assert point + 2.5e-3 < np.median(means) < point + 6e-3
    assert means.std() > 2e-3


def test_a_server_s_own_time_goes_there_and_back() -> None:
    scatter = Scatter(0.1, 0.05, 0.01, (2.0, 2.0), 0.0)
    time = draw_time(scatter, 20.0, np.random.default_rng(1))
    at = np.linspace(0.0, 30.0, 1000)
    np.testing.assert_allclose(time.ours(time.own(at)), at, atol=1e-9)
    assert (np.diff(time.own_s) > 0).all()
    # On average it runs as ours does: 0.1 of a step, and 0.05 for 2 of 20 seconds.
    ends = [draw_time(scatter, 20.0, np.random.default_rng(seed)).own_s[-1] for seed in range(400)]
    within = 20.0 * np.sqrt(0.1**2 * 0.01 / 20.0 + 0.05**2 * 2 * 2.0 / 20.0)
    assert np.mean(ends) == pytest.approx(20.0, abs=5 * within / 20.0)


def test_a_drift_lasts_as_long_as_nobody_knows() -> None:
    """How much the mean of a speed scatters hangs on it."""

    def spread(*lasts_s: float) -> float:
        scatter = Scatter(0.0, 0.05, 0.05, lasts_s, 0.0)
        return float(np.std([draw_time(scatter, 20.0, np.random.default_rng(k)).own_s[-1] for k in range(1000)]))

    def expected(lasts_s: NDArray[np.float64]) -> float:
        times = 20.0 / lasts_s
        return 0.05 * 20.0 * float(np.sqrt(np.mean(2.0 * (times - 1.0 + np.exp(-times)) / times**2)))

    # Standard deviations of a thousand values are within 2.2 % of theirs, somewhat more of long tails.
    for ends in ((1.0, 1.0), (1.0, 10.0), (10.0, 10.0)):
        assert spread(*ends) == pytest.approx(expected(np.geomspace(*ends, 100)), rel=0.12)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="9 requests to fit to: needs at least 10"):
        fit_log(made(count=40), server(), until=9)
    with pytest.raises(ValueError, match="its KV capacity is too small"):
        fit_log(made(count=40), server(capacity_tokens=400))
    log = made(count=40)
    instant = log._replace(first_token_s=log.queued_s, last_token_s=log.queued_s)
    with pytest.raises(ValueError, match="no time between queued, first and last token"):
        fit_log(instant, server())


def predicted_from_its_first(requests: int, path: Path, most_running: int, token_budget: int) -> StepCoefficients:
    """Fit a log to its first requests, predict the others, and return the law."""
    log = read_log(path)
    limits = {"most_running": most_running, "token_budget": token_budget, "capacity_tokens": 10**6}
    there = server(**limits)
    found = fit_log(log, there, until=requests)
    simulated = times_of_records(log, replay(log, there, law_of(found.law)))
    rest = ~log.first(requests)
    for measured, came in zip(times_of_log(log), simulated, strict=True):
        assert np.nanmean(came[rest]) == pytest.approx(np.nanmean(measured[rest]), rel=0.05)
        assert np.nanquantile(came[rest], 0.9) == pytest.approx(np.nanquantile(measured[rest], 0.9), rel=0.06)
    return found.law


def test_a_real_vllm_run_is_predicted_from_its_first_third(shared_data: Path) -> None:
    folder = shared_data / "calibration" / "llmservingsim"
    predicted_from_its_first(100, folder / "vllm_requests_RTXPRO6000_Llama-3.1-8B.jsonl", 128, 2048)


def test_a_sample_of_a_log_is_predicted_from_its_first_third() -> None:
    law = predicted_from_its_first(40, SAMPLES / "vllm-requests.jsonl", 16, 512)
    assert decode_s(law, 8) == pytest.approx(VLLM_LAW[0] + 8 * VLLM_LAW[1], rel=0.06)
    log = read_log(SAMPLES / "vllm-requests.jsonl")
    assert np.diff(log.queued_s).min() >= 0
    assert (log.scheduled_s >= log.queued_s).all()
    assert len(log.queued_s) == 120
