"""Fitting laws to measured times, and how far the fits can be trusted."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from batchcube.calibration import laws
from batchcube.calibration.bent import BentLaw
from batchcube.calibration.laws import (
    STEP_TERMS,
    BatchLaw,
    Form,
    StepLaw,
    batch_law_of_steps,
    fit_batch_law,
    fit_batch_laws,
    fit_bent_step_law,
    fit_step_law,
    fit_step_laws,
    step_terms,
)
from batchcube.engine.policies.service import BATCH_FACTORS, batch_factor
from helpers.samples import SAMPLES, SPLITWISE_LAW

Floats = NDArray[np.float64]

ALL_LAWS = [("constant", 0.0), ("linear", 0.05), ("saturating", 0.8), ("power", 0.3)]


def synthetic(h: str, gamma: float, noise: float = 0.0, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Return batch sizes, lengths and seconds of a grid of 6 x 5 cells."""
    sizes, lengths = np.meshgrid([1.0, 2, 4, 8, 16, 32], [64.0, 128, 256, 512, 1024], indexing="ij")
    exact = 0.2 + 0.03 * lengths * batch_factor(sizes, h, gamma)
    return sizes, lengths, exact * (1 + noise * np.random.default_rng(seed).standard_normal(exact.shape))


def all_steps() -> Floats:
    """Return the terms of decode steps, of prefills and of steps with both in them."""
    b, context = (a.ravel() for a in np.meshgrid([1.0, 8, 32, 64], [64.0, 512, 2048], indexing="ij"))
    n, p = (a.ravel() for a in np.meshgrid([1.0, 4, 16], [64.0, 512, 2048], indexing="ij"))
    decodes = step_terms(b, b * context, 0, 0)
    prefills = step_terms(0, 0, n * p, n * p * p)
    mixed = step_terms(16, 16 * context, 256, 256 * context)
    return np.concatenate([decodes, prefills, mixed])


STEP_TRUTH = np.array([8e-3, 2e-4, 3e-7, 5e-5, 2e-8, 0.0])


def intervals_cover(fits: int, fit: Callable[[np.random.Generator], tuple[Floats, Floats, int]], truth: Floats) -> None:
    """Check that the 95 % t intervals of estimates, with errors and degrees of freedom, hold the truth as often."""
    covered = np.zeros(len(truth))
    for seed in range(fits):
        estimate, error, degrees = fit(np.random.default_rng(seed))
        covered += np.abs(estimate - truth) < stats.t.ppf(0.975, degrees) * error
    assert covered / fits == pytest.approx(np.full(len(truth), 0.95), abs=4.5 * np.sqrt(0.05 * 0.95 / fits))


@pytest.fixture
def nothing_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare thousands of fits the prediction of left-out measurements, which takes most of their time."""
    quality = laws._quality
    skipped = np.zeros(1)
    monkeypatch.setattr(
        laws, "_quality", lambda y, fitted, _, free, __: quality(y, fitted, lambda kept: skipped, free, None)
    )


# Whole batches


@pytest.mark.parametrize(("h", "gamma"), [("constant", 0.0), ("linear", 0.02), ("saturating", 0.8), ("power", 0.3)])
def test_an_exact_law_is_recovered_and_chosen(h: str, gamma: float) -> None:
    sizes, lengths, seconds = synthetic(h, gamma)
    law = fit_batch_law(sizes, lengths, seconds, h)
    assert (law.a0_s, law.a1_s_per_token, law.gamma) == pytest.approx((0.2, 0.03, gamma), rel=1e-6)
    assert law.quality.r_squared == pytest.approx(1.0)
    assert abs(law.quality.worst_residual) < 1e-7
    assert law.quality.leave_one_out_rms < 1e-7
    assert law.seconds(4, 256) == pytest.approx(seconds[2, 2])
    assert law.seconds(sizes, lengths) == pytest.approx(seconds)
    assert fit_batch_laws(sizes, lengths, seconds)[0] == h


@pytest.mark.usefixtures("nothing_left_out")
@pytest.mark.parametrize(("h", "gamma"), ALL_LAWS)
def test_noise_stays_within_the_standard_errors(h: str, gamma: float) -> None:
    fits = [fit_batch_law(*synthetic(h, gamma, noise=0.01, seed=seed), h) for seed in range(60)]
    truth = np.array([0.2, 0.03, gamma])
    found = np.array([(law.a0_s, law.a1_s_per_token, law.gamma) for law in fits])
    claimed = np.array([law.standard_errors for law in fits])
    known = slice(0, 2 if h == "constant" else 3)
    z = ((found - truth) / claimed)[:, known]
    assert (np.abs(z) < 5).all()
    # The claimed error is the scatter that is seen: 60 seeds know it to about 9 %.
    assert z.std(axis=0) == pytest.approx(np.ones(z.shape[1]), abs=0.4)
    assert np.abs(z.mean(axis=0)) == pytest.approx(np.zeros(z.shape[1]), abs=5 / np.sqrt(60))
    assert all(0.005 < abs(law.quality.worst_residual) < 0.06 for law in fits)


@pytest.mark.usefixtures("nothing_left_out")
@pytest.mark.parametrize(("h", "gamma"), ALL_LAWS)
def test_t_intervals_of_few_measurements_hold_the_coefficients_as_often_as_they_say(h: str, gamma: float) -> None:
    """Nine cells and up to three coefficients: with normal quantiles, 95 % intervals would hold only 90 %."""
    sizes, lengths = np.meshgrid([1.0, 4, 16], [64.0, 256, 1024], indexing="ij")
    exact = 1.0 + 0.03 * lengths * batch_factor(sizes, h, gamma)
    # The last is no coefficient but T(10, 2000), a cell that nobody measured.
    beyond = 1.0 + 0.03 * 2000 * float(batch_factor(10, h, gamma))
    truth = np.array([1.0, 0.03, *([] if h == "constant" else [gamma]), beyond])

    def fit(rng: np.random.Generator) -> tuple[Floats, Floats, int]:
        law = fit_batch_law(sizes, lengths, exact * (1 + 0.01 * rng.standard_normal(exact.shape)), h)
        estimates = [law.a0_s, law.a1_s_per_token, law.gamma][: len(truth) - 1]
        errors = law.standard_errors[: len(truth) - 1]
        return (
            np.array([*estimates, law.seconds(10, 2000)]),
            np.array([*errors, law.standard_error(10, 2000)]),
            (law.degrees_of_freedom),
        )

    intervals_cover(1000, fit, truth)


def test_degrees_of_freedom_are_measurements_less_free_coefficients() -> None:
    grid = synthetic("linear", 0.05, noise=0.01)
    assert [fit_batch_law(*grid, h).degrees_of_freedom for h in BATCH_FACTORS] == [28, 27, 27, 27]


@pytest.mark.parametrize(("h", "gamma"), ALL_LAWS)
def test_the_error_of_a_predicted_time_is_its_gradient_through_the_covariance(h: str, gamma: float) -> None:
    law = fit_batch_law(*synthetic(h, gamma, noise=0.02, seed=3), h)
    sizes, lengths = np.array([[1.0], [3], [40]]), np.array([16.0, 300, 4000])
    gradient = []
    for name in ("a0_s", "a1_s_per_token", "gamma"):
        step = 1e-6 * max(getattr(law, name), 1e-3)
        up, down = (law._replace(**{name: getattr(law, name) + sign * step}) for sign in (1, -1))
        gradient.append((up.seconds(sizes, lengths) - down.seconds(sizes, lengths)) / (2 * step))
    variance = np.einsum("iab,ij,jab->ab", gradient, law.covariance, gradient)
    assert law.standard_error(sizes, lengths) == pytest.approx(np.sqrt(variance), rel=1e-6)
    assert law.standard_error(3, 300) == pytest.approx(np.sqrt(variance)[1, 1], rel=1e-6)


def test_a_noisy_law_is_chosen_among_the_others() -> None:
    for h, gamma in (("linear", 0.2), ("saturating", 2.0), ("power", 0.5)):
        assert fit_batch_laws(*synthetic(h, gamma, noise=0.01, seed=4))[0] == h


def test_the_choice_is_the_simplest_law_that_predicts_left_out_cells_within_one_percent_of_the_best() -> None:
    """Where the batch size does not matter, more freedom always fits better; left-out cells mostly tell."""
    sizes, lengths = np.meshgrid([1.0, 4, 16], [64.0, 256, 1024], indexing="ij")
    chosen = []
    for seed in range(40):
        noise = 1 + 0.03 * np.random.default_rng(seed).standard_normal(sizes.shape)
        name, fits = fit_batch_laws(sizes, lengths, (0.2 + 0.03 * lengths) * noise)
        scores = {h: law.quality.leave_one_out_rms for h, law in fits.items()}
        assert name == next(h for h in BATCH_FACTORS if scores[h] <= 1.01 * min(scores.values()))
        fitted = {h: law.quality.rms_residual for h, law in fits.items()}
        assert fitted["constant"] >= max(fitted.values()) - 1e-9
        chosen.append(name)
    assert chosen.count("constant") >= 24


@pytest.mark.parametrize(("h", "gamma"), ALL_LAWS)
def test_the_left_out_error_is_that_of_a_plain_loop(h: str, gamma: float) -> None:
    sizes, lengths, seconds = (a.ravel()[::2] for a in synthetic(h, gamma, noise=0.05, seed=8))
    errors = []
    for i in range(seconds.size):
        others = fit_batch_law(*(np.delete(a, i) for a in (sizes, lengths, seconds)), h)
        errors.append(float(others.seconds(sizes[i], lengths[i])) / seconds[i] - 1)
    law = fit_batch_law(sizes, lengths, seconds, h)
    assert law.quality.leave_one_out_rms == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    assert law.quality.leave_one_out_rms > law.quality.rms_residual


def test_quality_names_the_worst_measurement() -> None:
    sizes, lengths, seconds = synthetic("linear", 0.05)
    seconds[3, 1] *= 1.2
    quality = fit_batch_law(sizes, lengths, seconds, "linear").quality
    assert (quality.measurements, quality.worst_at) == (30, 3 * 5 + 1)
    assert -0.2 < quality.worst_residual < -0.1
    assert quality.r_squared == pytest.approx(1.0, abs=0.01)


def test_coefficients_never_go_negative_and_say_so() -> None:
    b, lengths = np.meshgrid([1, 2, 4], [10, 20, 40], indexing="ij")
    # A time that grows faster than the length wants a0 < 0, one that falls with the batch size γ < 0.
    law = fit_batch_law(b, lengths, 0.01 * lengths**1.3 / b**0.1, "power")
    assert (law.a0_s, law.gamma) == (0.0, 0.0)
    assert np.isnan(law.standard_errors[[0, 2]]).all()
    assert law.standard_errors[1] > 0
    assert abs(law.quality.worst_residual) > 0.1
    assert law.free == (1,)
    assert law.degrees_of_freedom == 8
    assert not law.covariance[[0, 2]].any()


@pytest.mark.parametrize(("h", "largest"), [("linear", 100.0), ("saturating", 100.0), ("power", 8.0)])
def test_gamma_ends_at_a_limit_and_says_so(h: str, largest: float) -> None:
    b, lengths = np.meshgrid([1.0, 2, 4], [10.0, 20, 40], indexing="ij")
    law = fit_batch_law(b, lengths, 0.01 + 1e-3 * lengths * batch_factor(b, h, 1.3 * largest), h)
    assert law.gamma == largest
    assert np.isnan(law.standard_errors[2])
    assert 2 not in law.free
    assert not law.covariance[2].any()


def test_as_many_measurements_as_coefficients_leave_every_error_unknown() -> None:
    law = fit_batch_law([1, 1, 4], [100, 200, 200], [1.0, 1.8, 2.6], "linear")
    assert law.free == (0, 1, 2)
    assert law.seconds([1, 1, 4], [100, 200, 200]) == pytest.approx([1.0, 1.8, 2.6])
    assert np.isnan([*law.standard_errors, law.standard_error(2, 150), law.quality.leave_one_out_rms]).all()


def test_misfits_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(5)
    # Times that fall leave nothing to the term, steep ones nothing to the constant; the first term is a constant too.
    for slope in (-1.0, 0.0, 1.0):
        y = np.exp(slope * np.linspace(0.0, 3.0, 12)) * rng.uniform(0.8, 1.2, 12)
        terms = np.exp(np.outer([0.0, 0.1, 0.5, 2.0], np.linspace(0.0, 3.0, 12)))
        each = [laws._non_negative([np.ones(12), term], y)[1] for term in terms]
        np.testing.assert_allclose(laws._misfits(terms, y), each, rtol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_power_that_the_times_do_not_tell_is_the_least(seed: int) -> None:
    # Two kinds of measurements: any γ explains them as well as any other.
    b, length = np.tile([1.0, 8.0], 3), np.tile([100.0, 250.0], 3)
    y = np.tile([1.2, 2.5], 3) * (1 + 0.02 * np.random.default_rng(seed).standard_normal(6))
    *_, gamma = laws._least_squares(b, length, y, "power")
    assert 0.0 <= gamma <= 1e-3


def test_only_laws_that_the_batch_sizes_can_tell_are_fitted() -> None:
    chosen, fits = fit_batch_laws([4, 4, 4, 4], [10, 20, 30, 40], [1, 2.1, 2.9, 4])
    assert (chosen, list(fits)) == ("constant", ["constant"])
    chosen, fits = fit_batch_laws([1, 4], [10, 20], [1, 2])
    assert (chosen, list(fits)) == ("constant", ["constant"])
    with pytest.raises(ValueError, match="do not grow with the length"):
        fit_batch_laws([1, 2, 4], [7, 8, 9], [3, 2, 1])


@pytest.mark.parametrize(
    ("batch_sizes", "lengths", "seconds", "h", "says"),
    [
        ([1, 2, 4], [9, 8, 7], [1, 2, 3], "cubic", "must be one of constant, linear, saturating, power"),
        ([1, 2], [9, 8], [1, 2, 3], "constant", "must be equally many"),
        ([1, 2, 4], [9, 9, 9], [1, 2, 3], "constant", "of 2 lengths"),
        ([1, 1, 1], [7, 8, 9], [1, 2, 3], "linear", "of 2 lengths and 2 batch sizes"),
        ([1, 2], [7, 8], [1, 2], "linear", "needs at least 3"),
        ([1, 2, 4], [7, 8, 9], [1, np.nan, 3], "linear", "every seconds must be finite and > 0"),
        ([0, 2, 4], [7, 8, 9], [1, 2, 3], "linear", "every batch_size must be finite and > 0"),
        ([1, 2, 4], [7, np.inf, 9], [1, 2, 3], "linear", "every length_tokens must be finite and > 0"),
        ([1, 2, 4], [7, 8, 9], [3, 2, 1], "constant", "do not grow with the length"),
    ],
)
def test_measurements_that_fix_no_law_are_refused(
    batch_sizes: list[float], lengths: list[float], seconds: list[float], h: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        fit_batch_law(batch_sizes, lengths, seconds, h)


# Steps


def test_an_exact_step_law_is_recovered() -> None:
    terms = all_steps()
    law = fit_step_law(terms, terms @ STEP_TRUTH)
    assert law.coefficients == pytest.approx(STEP_TRUTH, rel=1e-6)
    assert law.free == (0, 1, 2, 3, 4)
    assert law.seconds(terms) == pytest.approx(terms @ STEP_TRUTH)
    assert law.quality.leave_one_out_rms < 1e-9


@pytest.mark.usefixtures("nothing_left_out")
def test_t_intervals_hold_all_five_terms_of_a_step_as_often_as_they_say() -> None:
    terms = all_steps()
    exact = terms @ STEP_TRUTH

    def fit(rng: np.random.Generator) -> tuple[Floats, Floats, int]:
        law = fit_step_law(terms, exact * (1 + 0.01 * rng.standard_normal(exact.size)))
        return law.coefficients[:5], law.standard_errors[:5], len(exact) - len(law.free)

    intervals_cover(2000, fit, STEP_TRUTH[:5])


def test_the_left_out_error_of_steps_is_that_of_a_plain_loop() -> None:
    terms = all_steps()
    seconds = terms @ STEP_TRUTH * (1 + 0.05 * np.random.default_rng(2).standard_normal(len(terms)))
    errors = []
    for i in range(len(terms)):
        others = fit_step_law(np.delete(terms, i, axis=0), np.delete(seconds, i))
        errors.append(float(others.seconds(terms[i])) / seconds[i] - 1)
    quality = fit_step_law(terms, seconds).quality
    assert quality.leave_one_out_rms == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)


def test_a_term_of_no_step_is_not_measured_and_one_that_wants_less_than_nothing_is_nothing() -> None:
    b = np.array([1.0, 2, 4, 8, 16])
    law = fit_step_law(step_terms(b, 100 * b * b, 0, 0), 0.02 + 0.002 * b - 1e-7 * 100 * b * b)
    assert law.coefficients[2] == 0.0
    assert np.isnan(law.coefficients[3:5]).all()
    assert np.isnan(law.standard_errors[2:]).all()
    assert law.free == (0, 1)
    assert (law.standard_errors[:2] > 0).all()
    # What was not measured counts for nothing in a prediction.
    assert law.seconds(step_terms(4, 0, 500, 500)) == law.seconds(step_terms(4, 0, 0, 0))


@pytest.mark.parametrize(
    ("terms", "seconds", "says"),
    [
        (np.ones((3, 4)), [1, 2, 3], r"shape \(3, 4\): must be \(3, 6\)"),
        (np.ones((2, 6)), [1, 2, 3], r"shape \(2, 6\): must be \(3, 6\)"),
        (step_terms([1, 2, 3], 0, 0, 0), [1, 0, 3], "every time must be finite and > 0"),
        (step_terms([1, 2, 3], 0, 0, 0), [1, np.nan, 3], "every time must be finite and > 0"),
        (step_terms([1, np.nan, 3], 0, 0, 0), [1, 2, 3], "every term must be finite and >= 0"),
        (step_terms([1, -2, 3], 0, 0, 0), [1, 2, 3], "every term must be finite and >= 0"),
        (np.zeros((0, 6)), [], "there are none"),
        (step_terms([3, 3, 3], 0, 0, 0), [1, 2, 3], "1 different steps cannot tell the terms c0_s, c1_s_per_request"),
        (step_terms([1, 2], [5, 9], 0, 0), [1, 2], "2 different steps cannot tell"),
        (step_terms([1, 2, 3], [7, 14, 21], 0, 0), [1, 2, 3], "cannot tell the terms .*c2_s_per_kv_token apart"),
    ],
)
def test_steps_that_fix_no_law_are_refused(terms: Floats, seconds: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit_step_law(terms, seconds)


def measured_steps(bend: float, constant: float) -> tuple[Floats, Floats]:
    """Return the terms and seconds of decodes and prefills: `bend` is what the square root of the batch takes."""
    b, kv = (grid.ravel() for grid in np.meshgrid([1.0, 2, 4, 8, 16, 32], [100.0, 400, 1600]))
    tokens = np.array([16.0, 32, 64, 128, 256, 512, 1024, 2048, 4096])
    terms = np.concatenate([step_terms(b, b * kv, 0, 0), step_terms(0, 0, tokens, tokens * tokens)])
    seconds = terms @ STEP_TRUTH + bend * np.sqrt(terms[:, 1]) + constant * terms[:, 5]
    return terms, seconds * (1 + 0.005 * np.random.default_rng(3).standard_normal(seconds.size))


@pytest.mark.parametrize(
    ("bend", "constant", "form"), [(0.0, 0.0, "straight"), (0.0, 0.02, "constant"), (0.02, 0.02, "bent")]
)
def test_the_form_of_the_step_law_is_that_of_the_steps(bend: float, constant: float, form: str) -> None:
    terms, seconds = measured_steps(bend, constant)
    chosen, laws = fit_step_laws(terms, seconds, np.where(terms[:, 1] > 0, terms[:, 1], np.nan))
    assert chosen == form
    assert list(laws) == list(get_args(Form))
    assert laws[chosen].quality.rms_residual < 0.01
    if form == "constant":
        assert laws["constant"].coefficients[5] == pytest.approx(constant, rel=0.3)
    law = laws["bent"]
    assert law.bent is not None
    assert law.seconds(terms) == pytest.approx(seconds, rel=0.05)
    assert law.bent.requests.tolist() == [0, 1, 2, 4, 8, 16, 32]


@pytest.mark.usefixtures("nothing_left_out")
def test_intervals_of_tables_hold_the_truth_as_often_as_they_say() -> None:
    """What every node takes from the measurements counts: with four numbers in place of them errors were half of it."""
    terms, _ = measured_steps(0.0, 0.0)
    prefills = np.geomspace(16.0, 8192.0, 24).round()
    before = np.tile([0.0, 1000, 4000], 8)
    terms = np.concatenate([terms[terms[:, 3] == 0], step_terms(0, 0, prefills, prefills * (prefills + before))])
    exact = terms @ STEP_TRUTH + 0.02 * np.sqrt(terms[:, 1]) + 0.02 * terms[:, 5]
    decoding = terms[:, 3] == 0
    truth = fit_bent_step_law(terms, exact).bent
    assert truth is not None
    # Decodes are the quieter ones.
    scatter = np.where(decoding, 0.004, 0.02)

    def tables(law: BentLaw) -> tuple[Floats, Floats]:
        """Return what the tables add to the measured steps, relative to what these take."""
        rest = terms[:, 4] * law.c4_s_per_prefill_attention + terms[:, 5] * law.c5_s_per_prefill_step
        seconds = law.seconds(*terms[:, 1:5].T)
        prefill = seconds - rest - law.decode_s[0]
        return (seconds / exact)[decoding], (prefill / exact)[~decoding]

    def fit(rng: np.random.Generator) -> tuple[Floats, Floats, int]:
        law = fit_bent_step_law(terms, exact * (1 + scatter * rng.standard_normal(exact.size)))
        assert law.bent is not None
        scales = [mine @ true / (true @ true) for mine, true in zip(tables(law.bent), tables(truth), strict=True)]
        # Nothing tells c5 from decode(0).
        c5 = law.bent.c5_s_per_prefill_step + law.bent.decode_s[0] - truth.decode_s[0]
        found = np.array([*scales, law.bent.c4_s_per_prefill_attention, c5])
        return found, law.standard_errors, law.degrees_of_freedom

    stated = np.array([1.0, 1.0, truth.c4_s_per_prefill_attention, truth.c5_s_per_prefill_step])
    intervals_cover(400, fit, stated)


def test_what_cannot_carry_a_table_has_none() -> None:
    terms, seconds = measured_steps(0.02, 0.0)
    for few in (terms[:, 1] < 3, (terms[:, 3] == 0) | (terms[:, 3] < 500), terms[:, 3] == 0):
        with pytest.raises(ValueError, match=r"cannot carry a table|cannot tell"):
            fit_bent_step_law(terms[few], seconds[few])
    law = fit_bent_step_law(terms, seconds)
    with pytest.raises(ValueError, match="the step law bends"):
        batch_law_of_steps(law)


# From steps to batches


def decode_law(noise: float = 0.0) -> StepLaw:
    """Return the step law of [DB], figure 3: τ = 30 + 0.22 b ms."""
    b = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256])
    tau = (30e-3 + 0.22e-3 * b) * (1 + noise * np.random.default_rng(5).standard_normal(b.size))
    return fit_step_law(step_terms(b, 0, 0, 0), tau)


def test_decode_steps_make_the_batch_law_of_the_paper() -> None:
    law = batch_law_of_steps(decode_law())
    assert (law.h, law.a0_s) == ("linear", 0.0)
    assert law.a1_s_per_token == pytest.approx(30.22e-3)
    assert law.gamma == pytest.approx(0.22 / 30.22)
    assert law.seconds(100, 50) == pytest.approx(50 * 52e-3)


def test_errors_of_steps_become_errors_of_batches() -> None:
    """A batch of b that makes one token is one step: the error of c0 + c1 b, however it is written."""
    step = decode_law(noise=0.02)
    law = batch_law_of_steps(step)
    b = np.array([1.0, 7, 100])
    x = np.stack([np.ones(3), b])
    variance = np.einsum("ib,ij,jb->b", x, step.covariance[:2, :2], x)
    assert law.standard_error(b, 1) == pytest.approx(np.sqrt(variance))
    assert np.isnan(law.standard_errors[0])
    assert (law.standard_errors[1:] > 0).all()


def test_steps_that_say_nothing_of_batches_are_refused() -> None:
    terms = all_steps()
    with pytest.raises(ValueError, match="grows with the KV tokens read"):
        batch_law_of_steps(fit_step_law(terms, terms @ STEP_TRUTH))
    tokens = np.array([128.0, 256, 512])
    with pytest.raises(ValueError, match="no measured step decodes"):
        batch_law_of_steps(fit_step_law(step_terms(0, 0, tokens, 0), 0.01 + 1e-4 * tokens))


def test_step_terms_are_broadcast_in_the_order_of_their_names() -> None:
    assert step_terms([1, 2], 30, 4, 5).tolist() == [[1, 1, 30, 4, 5, 1], [1, 2, 30, 4, 5, 1]]
    assert step_terms(1, 30, 0, 0).tolist() == [1, 1, 30, 0, 0, 0]
    assert len(STEP_TERMS) == 6


# Real measurements


def splitwise_law(path: Path, system: tuple[str, ...]) -> tuple[BatchLaw, int]:
    """Fit the linear law to one system: model, hardware, tensor_parallel and prompt_size."""
    with path.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["model"], row["hardware"], row["tensor_parallel"], row["prompt_size"]) == system
        ]
    batch, tokens, prompt_ms, token_ms = np.array(
        [[float(row[c]) for c in ("batch_size", "token_size", "prompt_time", "token_time")] for row in rows]
    ).T
    # Not the file's e2e_time: its long runs include some that stopped early (5 to 90 s for 4096 tokens).
    return fit_batch_law(batch, tokens, (prompt_ms + token_ms * (tokens - 1)) / 1e3, "linear"), len(rows)


def test_splitwise_measurements_give_a_law_within_a_few_percent(shared_data: Path) -> None:
    path = shared_data / "calibration" / "splitwise_sim" / "perf_model.csv"
    law, rows = splitwise_law(path, ("llama2-70b", "h100-80gb", "8", "512"))
    assert law.quality.measurements == rows == 75
    assert law.quality.r_squared > 0.98
    assert law.a1_s_per_token == pytest.approx(0.0306, rel=0.03)
    assert law.gamma / law.standard_errors[2] > 10
    assert abs(law.quality.worst_residual) < 0.06


def test_a_sample_in_their_layout_gives_back_the_law_that_made_it() -> None:
    law, rows = splitwise_law(SAMPLES / "splitwise.csv", ("nobody-7b", "fast", "8", "512"))
    a0, a1, growth = SPLITWISE_LAW
    assert law.quality.measurements == rows == 39
    assert abs(law.a0_s - a0) < 5 * law.standard_errors[0]
    assert abs(law.a1_s_per_token - a1) < 5 * law.standard_errors[1]
    assert abs(law.gamma - growth) < 5 * law.standard_errors[2]
    assert growth / law.standard_errors[2] > 10
    assert abs(law.quality.worst_residual) < 0.06
