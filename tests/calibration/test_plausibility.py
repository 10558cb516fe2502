"""Which tables are flagged: every sign by a table that must show it, and by an honest one that looks alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from batchcube.calibration import plausibility
from batchcube.calibration.cells import Cells, join
from batchcube.calibration.plausibility import is_plausible, judge, judge_fits
from batchcube.calibration.tables import Fits, read_cells
from helpers.samples import SAMPLES

Floats = NDArray[np.float64]

_GRID = np.meshgrid([1.0, 2, 4, 8, 16], [64.0, 128, 256, 512, 1024], indexing="ij")
SIZES, LENGTHS = (a.ravel() for a in _GRID)
EXACT = 0.3 + 0.02 * LENGTHS * (1 + 0.03 * (SIZES - 1))


def batches(seconds: Floats, **more: Any) -> Cells:
    return Cells.of("batch", seconds, batch_size=SIZES, output_tokens=LENGTHS, **more)


def decodes(seconds: Floats, sizes: list[float], **more: Any) -> Cells:
    return Cells.of("decode", seconds, batch_size=sizes, **more)


def noisy(exact: Floats, noise: float, seed: int = 0) -> Floats:
    return exact * (1 + noise * np.random.default_rng(seed).standard_normal(exact.shape))


def repeated(exact: Floats, noise: float, draws: int, seed: int) -> dict[str, Any]:
    """Return mean, standard deviation and number of draws of every cell."""
    samples = exact * (1 + noise * np.random.default_rng(seed).standard_normal((draws, *exact.shape)))
    return {"seconds": samples.mean(axis=0), "std_s": samples.std(axis=0, ddof=1), "repetitions": draws}


def signs(cells: Cells, level: str = "flag") -> list[str]:
    found = judge(cells)
    flagged = [finding.sign for finding in found if finding.level == "flag"]
    assert [finding.sign for finding in found][: len(flagged)] == flagged  # flags come first
    assert is_plausible(found) == (not flagged)
    assert all(finding.text and "\n" not in finding.text for finding in found)
    assert not any(finding.text.startswith(finding.sign) for finding in found)  # the sign is printed before the text
    return [finding.sign for finding in found if finding.level == level]


def test_nothing_speaks_against_a_good_measurement() -> None:
    assert judge(batches(**repeated(EXACT, 0.02, draws=5, seed=1))) == []


# Scatter proportional to the mean


@pytest.mark.parametrize("digits", [2, 3, 5, 12])
def test_one_fraction_of_the_mean_everywhere_is_no_scatter(digits: int) -> None:
    mean = np.round(noisy(EXACT, 0.02), digits)
    step = 10.0**-digits
    cells = batches(mean, std_s=np.round(0.07 * mean, digits), repetitions=5, resolution_s=step, std_resolution_s=step)
    assert signs(cells) == ["scatter proportional to the mean"]


@pytest.mark.parametrize("draws", [2, 5, 30])
@pytest.mark.parametrize("digits", [2, 12])
def test_standard_deviations_of_draws_scatter_themselves(draws: int, digits: int) -> None:
    for seed in range(8):
        known = repeated(EXACT, 0.07, draws, seed)
        step = 10.0**-digits
        rounded = {name: np.round(known[name], digits) for name in ("seconds", "std_s")}
        cells = batches(**rounded, repetitions=draws, resolution_s=step, std_resolution_s=step)
        assert "scatter proportional to the mean" not in signs(cells)


def test_rounding_can_make_honest_deviations_look_proportional() -> None:
    """Times near 1 s that scatter by 2 %, printed to 0.01 s: most deviations read 0.02, and that says nothing."""
    exact = np.full(9, 1.0) + np.arange(9) * 0.001
    cells = Cells.of(
        "decode",
        noisy(exact, 0.01),
        batch_size=np.arange(1.0, 10),
        std_s=np.full(9, 0.02),
        repetitions=5,
        resolution_s=0.01,
        std_resolution_s=0.01,
    )
    assert "scatter proportional to the mean" not in signs(cells)
    # Printed to a digit more, the same would be too much of a coincidence.
    assert "scatter proportional to the mean" in signs(
        cells._replace(std_s=0.02 * cells.seconds, std_resolution_s=1e-3)
    )


def test_proportional_deviations_of_few_cells_prove_nothing() -> None:
    cells = batches(noisy(EXACT, 0.02))
    few = cells._replace(std_s=0.07 * cells.seconds, repetitions=np.full(25, 5.0)).where(np.arange(25) < 3)
    assert "scatter proportional to the mean" not in signs(few)


def test_no_deviation_at_all_is_no_repetition() -> None:
    mean = noisy(EXACT, 0.02)
    assert signs(batches(mean, std_s=0.0, repetitions=5)) == ["no scatter"]
    # One cell that did vary, or cells that were measured once: there is nothing to compare.
    some = np.where(np.arange(25) == 7, 0.01, 0.0)
    assert signs(batches(mean, std_s=some, repetitions=5)) == []
    assert "no scatter" not in signs(batches(mean, std_s=0.0, repetitions=1))
    assert "no scatter" not in signs(batches(mean))


def test_a_deviation_of_0_says_nothing_where_rounding_makes_it() -> None:
    """0.3 % of 1.6 s is 0.005 s: only longer times would have shown it with two digits."""
    seconds = np.array([0.5, 1.0, 1.5, 1.61, 1.81, 2.02, 2.3])
    cells = decodes(seconds, np.arange(1.0, 8).tolist(), std_s=0.0, repetitions=5, std_resolution_s=0.01)
    assert "no scatter" not in signs(cells)
    assert "no scatter" in signs(cells._replace(seconds=seconds + 0.2))  # 1.7 s is the fourth
    assert "no scatter" in signs(cells._replace(std_resolution_s=1e-3))
    assert "no scatter" not in signs(cells.where(seconds > 1.6)._replace(std_resolution_s=0.01))


# Scatter too even


def even(wobble: float, repetitions: int, seed: int = 5) -> Cells:
    """Return times whose standard deviation is 5 % of the mean, give or take a share of itself."""
    mean = noisy(EXACT, 0.03, seed)
    return batches(mean, std_s=noisy(0.05 * mean, wobble, seed + 1), repetitions=repetitions)


@pytest.mark.parametrize("repetitions", [3, 5, 30])
def test_deviations_that_agree_too_well_are_flagged(repetitions: int) -> None:
    scatter = 1 / np.sqrt(2 * (repetitions - 1))
    assert signs(even(scatter / 4, repetitions)) == ["scatter too even"]
    assert signs(even(scatter, repetitions)) == []
    (finding,) = judge(even(0.05, 5))
    assert finding.text.startswith("the standard deviations of 25 batch times are 5.07 % of the mean, give or take 5.4")
    assert finding.text.endswith("of themselves: measured ones would scatter by about 35 %")


def test_deviations_are_compared_with_those_of_their_kind_and_of_enough_cells() -> None:
    assert signs(even(0.05, 5).where(np.arange(25) < 3)) == []
    parts = [even(0.05, 5), Cells.of("prefill", [0.1, 0.3], std_s=[0.04, 0.01], repetitions=5, batch_size=[1, 4])]
    assert signs(join(parts)) == ["scatter too even"]


def test_rounding_can_make_honest_deviations_even() -> None:
    cells = even(0.05, 5)
    std = np.round(cells.std_s, 2)
    assert "scatter too even" in signs(cells)
    # Every deviation may be anything up to half a unit of the last digit away.
    coarse = cells._replace(std_s=0.05 * cells.seconds, std_resolution_s=float(np.max(std)))
    assert "scatter too even" not in signs(coarse)


# Points exactly on a line


def test_points_exactly_on_a_line_are_computed() -> None:
    """A different line for each batch size, and no law that they share: nothing else gives them away."""
    odd = 0.3 + 0.02 * LENGTHS * noisy(np.ones(5), 0.3, seed=3).repeat(5)
    assert signs(batches(odd)) == ["points exactly on a line"]
    assert signs(batches(np.round(odd, 3), resolution_s=1e-3)) == ["points exactly on a line"]
    assert signs(batches(noisy(odd, 0.01))) == []


@pytest.mark.parametrize("points", [3, 40, 3000])
def test_a_line_passes_points_up_to_their_last_digit_and_not_beyond(points: int) -> None:
    # Every other point is too high; a line between passes all when that is no more than twice the tolerance.
    x, tolerance = np.arange(points, dtype=float) ** 1.5, np.full(points, 1e-3)
    for steps, passes in ((1.999, True), (2.001, False)):
        y = 0.25 * x + steps * tolerance * (np.arange(points) % 2)
        assert plausibility._fits_a_line(x - 1.0, y, tolerance) is passes


def test_five_lines_out_of_six_are_enough() -> None:
    odd = 0.3 + 0.02 * LENGTHS * noisy(np.ones(5), 0.3, seed=3).repeat(5)
    odd[:5] = noisy(odd[:5], 0.05)
    found = [finding for finding in judge(batches(odd)) if finding.sign == "points exactly on a line"]
    assert len(found) == 1
    assert found[0].text.startswith("4 of 5 lines over the length are straight to the last digit")


def test_honest_points_on_a_line_within_their_last_digit_are_luck() -> None:
    """Printed to 0.1 s, times of a second or two lie on a line whatever they scatter."""
    sizes = [1.0, 2, 3, 4, 5]
    cells = decodes(np.array([1.0, 1.1, 1.2, 1.3, 1.4]), sizes, std_s=0.03, repetitions=5)
    assert "points exactly on a line" in signs(cells._replace(resolution_s=1e-4))
    assert "points exactly on a line" not in signs(cells._replace(resolution_s=0.1))


def test_three_points_on_a_line_prove_nothing() -> None:
    assert "points exactly on a line" not in signs(decodes(np.array([1.0, 2, 3]), [1.0, 2, 3]))
    assert "points exactly on a line" in signs(decodes(np.array([1.0, 2, 3, 4, 5]), [1.0, 2, 3, 4, 5]))


# Nothing left to explain


@pytest.mark.parametrize("shape", ["linear", "power"])
def test_a_law_that_explains_everything_made_the_table(shape: str) -> None:
    exact = EXACT if shape == "linear" else 0.3 + 0.02 * LENGTHS * SIZES**0.4
    assert "R2 = 1" in signs(batches(exact))
    assert "R2 = 1" not in signs(batches(noisy(exact, 0.001)))


def test_a_step_law_that_explains_everything_made_the_table() -> None:
    b, p = (a.ravel() for a in np.meshgrid([1.0, 2, 8, 32], [16.0, 128, 700], indexing="ij"))
    exact = 0.02 + 1e-4 * b**1.5
    law = 0.02 + 1e-4 * b + 1e-7 * b * p
    assert "R2 = 1" in signs(Cells.of("decode", law, batch_size=b, prompt_tokens=p, kv_tokens=b * p))
    # Smooth, but not by this law.
    assert "R2 = 1" not in signs(Cells.of("decode", exact, batch_size=b, prompt_tokens=p, kv_tokens=b * p))


def test_as_many_coefficients_as_cells_explain_everything_honestly() -> None:
    few = np.isin(np.arange(25), [0, 6, 12])
    assert "R2 = 1" not in signs(batches(noisy(EXACT, 0.05)).where(few))
    tau, sizes = np.array([0.021, 0.022, 0.024, 0.028]), [1.0, 2, 4, 8]
    for count in (2, 3):
        assert "R2 = 1" not in signs(decodes(tau[:count], sizes[:count]))
    assert "R2 = 1" in signs(decodes(tau, sizes))


# Closer to a law than the scatter allows

CLOSE = "closer to a law than the scatter allows"


@pytest.mark.parametrize("repetitions", [3, 10])
def test_means_that_follow_a_law_too_closely_for_their_scatter_are_flagged(repetitions: int) -> None:
    """10 % of scatter in every run, and means that are off by a tenth of what that leaves."""
    error = 0.1 / np.sqrt(repetitions)
    std = repeated(EXACT, 0.1, repetitions, seed=7)["std_s"]
    close = batches(noisy(EXACT, error / 10, seed=8), std_s=std, repetitions=repetitions)
    assert signs(close) == [CLOSE]
    (finding,) = judge(close)
    assert "25 means are within 0." in finding.text
    assert "standard errors of the law linear of whole batches" in finding.text
    assert signs(close._replace(seconds=noisy(EXACT, error, seed=8))) == []


def test_how_close_a_law_is_says_nothing_where_the_scatter_is_not_known() -> None:
    known = repeated(EXACT, 0.1, 5, seed=7)
    close = batches(noisy(EXACT, 0.004, seed=8), std_s=known["std_s"], repetitions=5)
    assert signs(close) == [CLOSE]
    one_unknown = np.where(np.arange(25) == 3, np.nan, known["std_s"])
    assert signs(close._replace(std_s=one_unknown)) == []
    assert signs(close._replace(repetitions=np.where(np.arange(25) == 3, 1.0, 5.0))) == []
    assert signs(close._replace(std_s=np.where(np.arange(25) == 3, 0.0, known["std_s"]))) == []
    # Printed to whole seconds, the means may be far from what they were.
    assert CLOSE not in signs(close._replace(resolution_s=1.0))


# Falling times


def test_times_that_fall_throughout_are_flagged_and_one_dip_is_noted() -> None:
    sizes = [1.0, 2, 4, 8, 16]
    falling = decodes(np.array([0.05, 0.046, 0.041, 0.037, 0.03]), sizes)
    assert signs(falling) == ["latency falls with size"]
    dip = decodes(np.array([0.05, 0.052, 0.046, 0.06, 0.07]), sizes)
    assert signs(dip) == []
    assert "dips" in signs(dip, "note")


def test_a_wobble_does_not_hide_that_times_fall() -> None:
    sizes = [1.0, 2, 4, 8, 16, 32]
    seconds = np.array([1.0, 0.8, 0.803, 0.6, 0.45, 0.3])
    assert signs(decodes(seconds, sizes)) == ["latency falls with size"]
    seconds[2] = 0.82  # a rise by more than 2 %: something switches
    assert signs(decodes(seconds, sizes)) == []
    assert "dips" in signs(decodes(seconds, sizes), "note")


def test_falling_within_the_scatter_is_not_falling() -> None:
    sizes = [1.0, 2, 4, 8, 16]
    seconds = np.array([0.0512, 0.0509, 0.0505, 0.0503, 0.0501])
    stated = {"std_s": 0.002, "std_resolution_s": 1e-3, "repetitions": 3}
    for cells in (decodes(seconds, sizes), decodes(seconds, sizes, **stated)):
        assert signs(cells) == []
        assert "dips" not in signs(cells, "note")
    # A fall by a third is none either where each mean is known to a quarter only.
    wide = decodes(np.array([0.06, 0.055, 0.05, 0.045, 0.04]), sizes, std_s=0.0128, repetitions=3)
    assert "latency falls with size" not in signs(wide)
    assert "latency falls with size" in signs(wide._replace(std_s=np.full(5, 0.002)))


def test_cells_of_different_kinds_make_no_line() -> None:
    """Prefills of large batches are quicker than whole small ones: that is not more work in less time."""
    whole = decodes(np.array([1.0, 1.1, 1.25]), [1.0, 2, 4])
    prefills = Cells.of("prefill", [0.1, 0.2, 0.4], batch_size=[8.0, 16, 32])
    joined = join([whole, prefills])
    assert signs(joined) == []
    assert "dips" not in signs(joined, "note")
    assert "dips" in signs(joined._replace(kind=np.full(6, "decode")), "note")


# Repetitions and wide scatter


def test_too_few_repetitions_are_flagged_and_not_knowing_is_noted() -> None:
    mean = noisy(EXACT, 0.02)
    for repetitions in (1, 2):
        assert signs(batches(mean, repetitions=repetitions)) == ["too few repetitions"]
    assert signs(batches(mean, repetitions=3)) == []
    mixed = np.where(np.arange(25) < 12, 1, 5)
    assert signs(batches(mean, repetitions=mixed)) == []
    assert signs(batches(mean, repetitions=mixed), "note") == ["repetitions"]
    assert signs(batches(mean, repetitions=np.where(np.arange(25) < 13, 1, 5))) == ["too few repetitions"]
    assert signs(batches(mean)) == []
    assert signs(batches(mean), "note") == ["repetitions"]


def test_wide_scatter_is_noted() -> None:
    known = repeated(EXACT, 0.02, draws=5, seed=2)
    known["std_s"][[3, 7]] = 0.4 * known["seconds"][[3, 7]]
    (finding,) = judge(batches(**known))
    assert (finding.level, finding.sign) == ("note", "wide scatter")
    assert finding.text.startswith("2 of 25 cells scatter by more than 30 % of their mean")


# False alarms


def honest(seed: int, tails: str = "normal") -> Cells:
    """Return a table as somebody might measure it: any law, grid, noise, number of repetitions and rounding."""
    rng = np.random.default_rng(seed)
    sizes = 2.0 ** np.arange(rng.integers(3, 7))
    lengths = 2.0 ** np.arange(rng.integers(4, 7), rng.integers(8, 12))
    b, n = (a.ravel() for a in np.meshgrid(sizes, lengths, indexing="ij"))
    growth = rng.choice([0.0, 0.01, 0.3])
    exact = rng.uniform(0, 0.5) + rng.uniform(0.01, 0.05) * n * (1 + growth * (b - 1)) ** rng.uniform(0.5, 1)
    draws = int(rng.integers(3, 11))
    unit = rng.standard_normal((draws, b.size))
    if tails == "lognormal":
        unit = (np.exp(0.7 * unit) - np.exp(0.245)) / np.sqrt(np.exp(0.98) - np.exp(0.49))
    samples = exact * (1 + rng.uniform(0.01, 0.05) * unit)
    mean, std = samples.mean(axis=0), samples.std(axis=0, ddof=1)
    digits = int(rng.choice([2, 3, 4, 12]))
    mean, std, step = np.maximum(np.round(mean, digits), 10.0**-digits), np.round(std, digits), 10.0**-digits
    told = {"std_s": std, "repetitions": draws, "std_resolution_s": step} if rng.random() < 0.7 else {}
    step_s = {"kind": "batch", "output_tokens": n} if rng.random() < 0.5 else {"kind": "decode", "prompt_tokens": n}
    return Cells.of(seconds=mean, batch_size=b, resolution_s=step, **step_s, **told)


@pytest.mark.parametrize("tails", ["normal", "lognormal"])
def test_honest_tables_are_hardly_ever_flagged(tails: str) -> None:
    flagged = [seed for seed in range(120) if signs(honest(seed, tails))]
    assert len(flagged) <= 1, flagged


@pytest.mark.parametrize("tails", ["normal", "lognormal"])
def test_honest_scatter_is_never_too_even(tails: str) -> None:
    """Where a flag has a chance of 1 in 10,000, 1,000 tables show none."""
    tables = (honest(seed, tails) for seed in range(1000))
    assert sum(bool([*plausibility._scatter(cells)]) for cells in tables) == 0


# Tables of fits


def test_fits_show_no_points_but_signs_of_their_own() -> None:
    fits = Fits(np.array([0.9, 0.99]), np.array([15.0, 20]), np.array([0.1, 0.2]))
    (note,) = judge_fits(fits)
    assert (note.level, note.sign) == ("note", "fits")
    assert note.text.startswith("the table holds 2 fitted lines")
    perfect = judge_fits(fits._replace(r_squared=np.array([0.9, 1.0])))
    assert [(one.level, one.sign) for one in perfect] == [("flag", "R2 = 1"), ("note", "fits")]
    assert perfect[0].text == "1 of the lines leave nothing unexplained"
    falling = judge_fits(fits._replace(slope=np.array([0.1, -0.2])))
    assert [(one.level, one.sign) for one in falling] == [("flag", "latency falls with size"), ("note", "fits")]


def test_a_file_of_falling_lines_is_read_and_flagged(tmp_path: Path) -> None:
    path = tmp_path / "fits.csv"
    header = "task,model_id,precision,gpu,num_gpus,tp,ep,dp,c0_ms,c1_ms_per_seq,r2"
    path.write_text(f"{header}\nchat,m,fp8,H100,1,1,1,1,30.3,-0.13,0.82\n")
    fits = read_cells(path).fits
    assert fits is not None
    assert not is_plausible(judge_fits(fits))


# Samples in the layouts of real tables


def test_a_sample_that_nobody_measured_is_flagged() -> None:
    (cells,) = read_cells(SAMPLES / "latency-grid.csv").systems.values()
    assert {"scatter proportional to the mean", "points exactly on a line"} <= set(signs(cells))
    texts = " ".join(finding.text for finding in judge(cells))
    assert "7 % of the mean in all 30 cells" in texts
    assert "lines over the length are straight" in texts


@pytest.mark.parametrize(
    ("name", "systems"),
    [
        ("ml-energy", 3),
        ("sarathi-decode", 1),
        ("sarathi-prefill", 1),
        ("sarathi-chunks", 4),
        ("sarathi-hybrid", 1),
        ("splitwise", 2),
    ],
)
def test_samples_with_honest_scatter_are_not_flagged(name: str, systems: int) -> None:
    table = read_cells(SAMPLES / f"{name}.csv")
    assert len(table.systems) == systems
    assert {name: signs(cells) for name, cells in table.systems.items() if signs(cells)} == {}


def test_a_sample_of_fits_is_not_flagged() -> None:
    fits = read_cells(SAMPLES / "ml-energy-fits.csv").fits
    assert fits is not None
    assert fits.slope.size == 10
    assert is_plausible(judge_fits(fits))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("vllm-meta.json", "is a log of requests (JSON), must be a CSV of times"),
        ("vllm-requests.jsonl", "is a log of requests (JSON), must be a CSV of times"),
        ("vllm-timeseries.csv", "is a log over time (t, prompt_throughput, gen_throughput"),
    ],
)
def test_samples_of_logs_are_refused_with_a_clear_line(file: str, says: str) -> None:
    refused_in_a_line(SAMPLES / file, says)


def refused_in_a_line(path: Path, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_cells(path)
    assert str(caught.value).startswith(f"{path}: {says}")
    assert "\n" not in str(caught.value)


# Real tables


def test_a_published_table_that_nobody_measured_is_flagged_twice(shared_data: Path) -> None:
    table = read_cells(shared_data / "calibration" / "implausible" / "qwen3_1_7b_latency_grid.csv")
    (cells,) = table.systems.values()
    assert {"scatter proportional to the mean", "points exactly on a line"} <= set(signs(cells))
    texts = " ".join(finding.text for finding in judge(cells))
    assert "7 % of the mean in all 30 cells" in texts
    assert "lines over the length are straight" in texts


@pytest.mark.parametrize(
    ("file", "systems"),
    [
        ("ml_energy/itl_vs_batch_flat.csv", 66),
        ("sarathi_osdi24/figure-2_decode.csv", 1),
        ("sarathi_osdi24/figure-2_prefill.csv", 1),
        ("sarathi_osdi24/figure-9_chunking-overhead.csv", 4),
        ("sarathi_osdi24/table-2_results.csv", 1),
        ("splitwise_sim/perf_model.csv", 8),
    ],
)
def test_real_measurements_are_not_flagged(shared_data: Path, file: str, systems: int) -> None:
    table = read_cells(shared_data / "calibration" / file)
    assert len(table.systems) == systems
    assert {name: signs(cells) for name, cells in table.systems.items() if signs(cells)} == {}


def test_the_real_files_above_are_all_that_there_are(shared_data: Path) -> None:
    assert len(list((shared_data / "calibration" / "sarathi_osdi24").glob("*.csv"))) == 4


def test_real_fits_are_not_flagged(shared_data: Path) -> None:
    fits = read_cells(shared_data / "calibration" / "ml_energy" / "itl_linear_fits.csv").fits
    assert fits is not None
    assert fits.slope.size == 57
    assert is_plausible(judge_fits(fits))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("vllm_meta_RTXPRO6000_Llama-3.1-8B.json", "is a log of requests (JSON), must be a CSV of times"),
        ("vllm_requests_RTXPRO6000_Llama-3.1-8B.jsonl", "is a log of requests (JSON), must be a CSV of times"),
        ("vllm_timeseries_RTXPRO6000_Llama-3.1-8B.csv", "is a log over time (t, prompt_throughput, gen_throughput"),
    ],
)
def test_real_logs_are_refused_with_a_clear_line(shared_data: Path, file: str, says: str) -> None:
    refused_in_a_line(shared_data / "calibration" / "llmservingsim" / file, says)
