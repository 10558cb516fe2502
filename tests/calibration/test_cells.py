"""Measured steps become cells, cells become fits and tables."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from batchcube.calibration.cells import (
    KINDS,
    Cells,
    as_table,
    cells_of_steps,
    fit_batches,
    fit_steps,
    join,
    table_error,
    terms_of,
)
from batchcube.calibration.laws import fit_step_law

Floats = NDArray[np.float64]


def steps(sizes: list[int], prompts: list[int], outputs: list[int], repetitions: int) -> Floats:
    """Return steps of c0 = 20 ms, 0.5 ms a request, 10 µs a KV token and 0.1 ms a prefill token, exactly."""
    step_s = np.full((len(sizes), len(prompts), len(outputs), repetitions, max(outputs)), np.nan)
    for i, b in enumerate(sizes):
        for j, p in enumerate(prompts):
            for k, o in enumerate(outputs):
                step_s[i, j, k, :, 0] = 0.02 + 1e-4 * b * p
                step_s[i, j, k, :, 1:o] = 0.02 + 5e-4 * b + 1e-5 * b * (p + np.arange(1, o))
    return step_s


def measured(step_s: Floats, sizes: list[int], prompts: list[int], outputs: list[int]) -> Cells:
    return cells_of_steps(np.array(sizes), np.array(prompts), np.array(outputs), step_s)


GRID = ([1, 4], [16, 32], [2, 5])


def test_unknown_fields_are_nan_and_known_ones_are_broadcast() -> None:
    cells = Cells.of("decode", [1.0, 2.0], batch_size=4, kv_tokens=[7, 8], resolution_s=0.1)
    assert cells.kind.tolist() == ["decode", "decode"]
    assert cells.batch_size.tolist() == [4, 4]
    assert cells.kv_tokens.tolist() == [7, 8]
    assert cells.resolution_s == 0.1
    for name in ("prompt_tokens", "output_tokens", "prefill_tokens", "std_s", "repetitions"):
        assert np.isnan(getattr(cells, name)).all()


def test_cells_are_joined_chosen_and_told_apart_by_kind() -> None:
    parts = [Cells.of(kind, [k + 1.0], batch_size=k, resolution_s=0.1**k) for k, kind in enumerate(KINDS)]
    joined = join(parts)
    assert joined.resolution_s == 1.0
    assert joined.seconds.tolist() == [1, 2, 3, 4]
    assert joined.where(joined.seconds > 2).kind.tolist() == ["decode", "step"]
    for k, kind in enumerate(KINDS):
        assert joined.only(kind).batch_size.tolist() == [k]
        assert joined.only(kind).resolution_s == 1.0


def test_a_measurement_gives_batches_decode_steps_and_prefills() -> None:
    cells = measured(steps(*GRID, repetitions=3), *GRID)
    assert {kind: int((cells.kind == kind).sum()) for kind in KINDS} == {
        "batch": 8,
        "prefill": 4,
        "decode": 8,
        "step": 0,
    }
    batch = cells.only("batch")
    here = (batch.batch_size == 4) & (batch.prompt_tokens == 32) & (batch.output_tokens == 5)
    by_hand = [0.02 + 1e-4 * 128, *(0.022 + 1e-5 * 4 * (32 + n) for n in (1, 2, 3, 4))]
    assert batch.seconds[here] == pytest.approx([sum(by_hand)])
    assert batch.repetitions.tolist() == [3] * 8
    assert batch.std_s == pytest.approx(np.zeros(8), abs=1e-12)
    decode = cells.only("decode")
    assert decode.seconds[here] == pytest.approx([np.mean(by_hand[1:])])
    # Steps that make tokens 2 to 5 read 33 to 36 tokens: 32 + 5 / 2 on average.
    assert decode.kv_tokens[here] == pytest.approx([4 * np.mean([33, 34, 35, 36])])
    prefill = cells.only("prefill")
    assert prefill.repetitions.tolist() == [6] * 4  # whatever was generated after it
    assert prefill.prefill_tokens.tolist() == [16, 32, 64, 128]
    assert prefill.seconds == pytest.approx(0.02 + 1e-4 * prefill.prefill_tokens)


def test_repetitions_scatter_by_their_standard_deviation() -> None:
    step_s = steps(*GRID, repetitions=3)
    factor = np.array([0.9, 1.0, 1.2])
    cells = measured(step_s * factor[:, None], *GRID)
    exact = measured(step_s, *GRID)
    batch = cells.only("batch")
    assert batch.seconds == pytest.approx(exact.only("batch").seconds * factor.mean())
    assert batch.std_s == pytest.approx(exact.only("batch").seconds * factor.std(ddof=1))


def test_runs_cut_short_are_left_out() -> None:
    step_s = steps(*GRID, repetitions=3)
    step_s[0, 0, 0, 1, 1] = np.nan  # the second run of one cell ended after its prefill
    step_s[1, 1] = np.nan  # four cells had no room
    cells = measured(step_s, *GRID)
    batch = cells.only("batch")
    assert batch.seconds.size == 6
    assert batch.repetitions.tolist() == [2, 3, 3, 3, 3, 3]
    assert cells.only("prefill").repetitions.tolist() == [6, 6, 6]
    step_s[:] = np.nan
    with pytest.raises(ValueError, match="no complete run of any cell"):
        measured(step_s, *GRID)


def test_one_repetition_has_no_standard_deviation() -> None:
    cells = measured(steps(*GRID, repetitions=1), *GRID)
    assert np.isnan(cells.only("batch").std_s).all()
    assert (cells.only("batch").repetitions == 1).all()


def test_steps_give_back_the_law_that_made_them() -> None:
    grid = ([1, 4, 16], [16, 64, 256], [2, 8])
    found = fit_steps(measured(steps(*grid, repetitions=2), *grid))
    assert found is not None
    law, used = found
    assert law.coefficients == pytest.approx([0.02, 5e-4, 1e-5, 1e-4, 0.0, 0.0], rel=1e-6, abs=1e-12)
    assert set(used.kind.tolist()) == {"prefill", "decode"}
    assert law.seconds(terms_of(used)) == pytest.approx(used.seconds)


def test_terms_of_steps_count_what_each_kind_does() -> None:
    cells = join(
        [
            Cells.of("decode", [1.0], batch_size=4, kv_tokens=100),
            Cells.of("decode", [1.0], batch_size=4),
            Cells.of("prefill", [1.0], batch_size=2, prompt_tokens=30, prefill_tokens=60),
            Cells.of("step", [1.0], batch_size=3, prefill_tokens=500, kv_tokens=90),
        ]
    )
    assert terms_of(cells).tolist() == [
        [1, 4, 100, 0, 0, 0],
        [1, 4, 0, 0, 0, 0],
        [1, 0, 0, 60, 60 * 30, 1],
        [1, 3, 90, 500, 0, 1],
    ]


def test_no_steps_or_too_few_give_no_step_law() -> None:
    assert fit_steps(Cells.of("batch", [1.0, 2.0], batch_size=[1, 2], output_tokens=[5, 9])) is None
    assert fit_steps(Cells.of("decode", [1.0, 2.0], batch_size=[2, 2])) is None
    assert fit_steps(Cells.of("decode", [1.0, 2.0], batch_size=[1, 2])) is not None


def test_each_prompt_length_has_laws_of_its_own() -> None:
    b, p, o = (a.ravel() for a in np.meshgrid([1.0, 2, 8], [16.0, 64], [10.0, 20, 50], indexing="ij"))
    cells = Cells.of("batch", 0.01 * p + 0.02 * o * (1 + 0.1 * (b - 1)), batch_size=b, prompt_tokens=p, output_tokens=o)
    few = Cells.of("batch", [1.0], batch_size=1, prompt_tokens=128, output_tokens=10)
    fits = fit_batches(join([cells, few]))
    assert [fit.prompt_tokens for fit in fits] == [16, 64]
    for fit in fits:
        assert fit.chosen == "linear"
        law = fit.laws["linear"]
        assert (law.a0_s, law.gamma) == pytest.approx((0.01 * fit.prompt_tokens, 0.1))
        assert (fit.cells.prompt_tokens == fit.prompt_tokens).all()
    (unknown,) = fit_batches(cells._replace(prompt_tokens=np.where(p == 16, np.nan, p)).where(p == 16))
    assert np.isnan(unknown.prompt_tokens)
    assert unknown.cells.seconds.size == 9


def test_a_complete_grid_is_a_table() -> None:
    b, o = (a.ravel() for a in np.meshgrid([4.0, 1, 2], [20.0, 10], indexing="ij"))
    cells = Cells.of("batch", o + b / 10, batch_size=b, output_tokens=o)
    table = as_table(cells)
    assert table is not None
    sizes, lengths, seconds = table
    assert sizes.tolist() == [1, 2, 4]
    assert lengths.tolist() == [10, 20]
    assert seconds == pytest.approx(np.array([[10.1, 20.1], [10.2, 20.2], [10.4, 20.4]]))
    assert as_table(cells.where(np.arange(6) != 3)) is None
    assert as_table(cells.where(b == 2)) is None
    assert as_table(cells.where(o == 10)) is None
    falls = cells._replace(seconds=np.where((b == 2) & (o == 20), 10.0, cells.seconds))
    assert as_table(falls) is None


def test_the_error_of_a_table_is_that_of_sizes_interpolated_between_neighbours() -> None:
    sizes, lengths = np.array([1, 2, 4]), np.array([10, 20, 40])
    exact = 0.1 + 0.02 * lengths * (1 + 0.1 * (sizes[:, None] - 1))
    assert table_error(sizes, lengths, exact) == pytest.approx(0.0, abs=1e-12)
    bent = exact.copy()
    bent[1, 1] *= 1.25
    # Of the three cells of the middle size one is wrong: it is predicted a fifth too low.
    assert table_error(sizes, lengths, bent) == pytest.approx(np.sqrt(0.2**2 / 3))
    assert np.isnan(table_error(sizes[:2], lengths[:2], exact[:2, :2]))


def test_intervals_of_the_step_law_cover_when_each_step_scatters_by_itself() -> None:
    # A mean over many decode steps is then quieter than a prefill's: one common scatter covered c3 and c4 in 77 %.
    truth = np.array([0.117, 0.0058, 1.06e-4, 4.36e-3, 3.3e-6, 0.0])
    sizes, prompts, outputs = [1, 2, 4, 8, 16], [16, 64, 128], [8, 24]
    exact = np.full((5, 3, 2, 3, 24), np.nan)
    for i, b in enumerate(sizes):
        for j, p in enumerate(prompts):
            for k, o in enumerate(outputs):
                exact[i, j, k, :, 0] = truth[0] + truth[3] * b * p + truth[4] * b * p * p
                exact[i, j, k, :, 1:o] = truth[0] + truth[1] * b + truth[2] * b * (p + np.arange(1, o))
    held = []
    for seed in range(150):
        noisy = exact * (1 + 0.03 * np.random.default_rng(seed).standard_normal(exact.shape))
        steps_seen = measured(noisy, sizes, prompts, outputs)
        steps_seen = steps_seen.where(steps_seen.kind != "batch")
        law = fit_step_law(terms_of(steps_seen), steps_seen.seconds)
        spread = student.ppf(0.975, steps_seen.seconds.size - len(law.free)) * law.standard_errors
        held.append((np.abs(law.coefficients - truth) <= spread)[:5])
    # Five standard errors of a share of 150.
    assert (np.mean(held, axis=0) > 0.95 - 5 * np.sqrt(0.95 * 0.05 / 150)).all()
