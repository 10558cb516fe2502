import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from batchcube.errors import InputError
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.workloads import Empirical, Histogram, LengthDistribution, Mixture, Zipf
from helpers.samples import SAMPLES

ANY: TypeAdapter[Any] = TypeAdapter(LengthDistribution)
COUNT = 40_000

CONTINUOUS: dict[str, dict[str, Any]] = {
    "uniform": {"distribution": "uniform", "low": 1.0, "high": 20.0},
    "exponential": {"distribution": "exponential", "mean": 10.0},
    "lognormal": {"distribution": "lognormal", "mean": 100.0, "cv": 0.8},
    "histogram": {"distribution": "histogram", "edges": [0, 10, 15, 100], "counts": [3, 0, 7]},
}
VARIANCE = np.log1p(0.8**2)
SCIPY: dict[str, Any] = {
    "uniform": stats.uniform(1.0, 19.0),
    "exponential": stats.expon(scale=10.0),
    "lognormal": stats.lognorm(np.sqrt(VARIANCE), scale=100.0 * np.exp(-VARIANCE / 2)),
    "histogram": stats.rv_histogram(([3, 0, 7], [0, 10, 15, 100]), density=False),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_seconds_follow_the_scipy_distribution(name: str) -> None:
    lengths = ANY.validate_python({**CONTINUOUS[name], "unit": "seconds"})
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    assert drawn.prompt_tokens is None
    assert drawn.output_tokens is None
    assert drawn.service_s.shape == (COUNT,)
    theory = SCIPY[name]
    assert abs(drawn.service_s.mean() - theory.mean()) < 4.5 * theory.std() / np.sqrt(COUNT)
    with np.errstate(all="ignore"):
        assert stats.kstest(drawn.service_s, theory.cdf).pvalue > 1e-5


# Settings in tokens, with the mean that they state.
STATED: list[tuple[dict[str, Any], float]] = [
    ({"distribution": "constant", "value": 7.0}, 7.0),
    ({"distribution": "uniform", "low": 1.0, "high": 4.0}, 2.5),
    ({"distribution": "uniform", "low": 16.0, "high": 1024.0}, 520.0),
    *(({"distribution": "exponential", "mean": mean}, mean) for mean in (1.0, 1.25, 4.0, 211.0)),
    *(
        ({"distribution": "lognormal", "mean": mean, "cv": cv}, mean)
        for mean in (1.0, 1.25, 4.0, 4.4, 61.5)
        for cv in (0.01, 0.5, 1.0, 3.0)
    ),
    ({"distribution": "zipf", "exponent": 0.0, "largest": 9}, 5.0),
    ({"distribution": "histogram", "edges": [1, 11, 21], "counts": [1, 3]}, (5.5 + 3 * 15.5) / 4),
    (
        {
            "distribution": "mixture",
            "weights": [1.0, 3.0],
            "components": [
                {"distribution": "exponential", "mean": 2.5},
                {"distribution": "lognormal", "mean": 3.3, "cv": 0.7},
            ],
        },
        (2.5 + 3 * 3.3) / 4,
    ),
]


@pytest.mark.parametrize(("settings", "mean"), STATED)
def test_tokens_have_the_mean_that_is_stated(settings: dict[str, Any], mean: float) -> None:
    lengths = ANY.validate_python({**settings, "prompt": settings})
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    for tokens, least in ((drawn.output_tokens, 1), (drawn.prompt_tokens, 0)):
        assert tokens.dtype == np.int64
        assert tokens.min() >= least
        error = max(tokens.std(), np.sqrt(mean / COUNT)) / np.sqrt(COUNT)
        assert abs(tokens.mean() - mean) <= 4.5 * error * (tokens.std() > 0)


# Where draws have the mean that they say, not one that is stated.
SAID: list[dict[str, Any]] = [
    {"distribution": "zipf", "exponent": 1.1},
    {"distribution": "zipf", "exponent": 2.0, "largest": 50},
    {"distribution": "zipf", "largest": 1},
    {"distribution": "histogram", "edges": [0, 0.5, 3.7, 10.25, 40], "counts": [5, 3, 1, 0.5]},
    {
        "distribution": "mixture",
        "weights": [1.0, 3.0],
        "components": [
            {"distribution": "zipf", "largest": 9},
            {"distribution": "histogram", "edges": [0, 3, 7.5], "counts": [1, 1]},
        ],
    },
]


@pytest.mark.parametrize("settings", [*(of for of, _ in STATED), *SAID])
@pytest.mark.parametrize("least", [0, 1])
def test_draws_have_the_mean_that_is_said_of_them(settings: dict[str, Any], least: int) -> None:
    lengths = ANY.validate_python({**settings, "prompt": settings})
    drawn = lengths.draw(10 * COUNT, stream(2, 0, "lengths"), least)
    prompt, output = lengths.means(least)
    for tokens, mean in ((drawn.prompt_tokens, prompt), (drawn.output_tokens, output)):
        error = max(tokens.std(), np.sqrt(mean / COUNT / 10)) / np.sqrt(10 * COUNT)
        assert abs(tokens.mean() - mean) <= 4.5 * error * (tokens.std() > 0)
    stated = [mean for of, mean in STATED if of is settings]
    assert all(output == pytest.approx(mean, rel=1e-12) for mean in stated)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_seconds_have_the_mean_that_is_said_of_them(name: str) -> None:
    seconds = {**CONTINUOUS[name], "unit": "seconds"}
    prompt, mean = ANY.validate_python(seconds).means()
    assert np.isnan(prompt)
    assert mean == pytest.approx(SCIPY[name].mean(), rel=1e-12)
    both = {"distribution": "mixture", "unit": "seconds", "weights": [1, 3], "components": [seconds, seconds]}
    assert ANY.validate_python(both).means()[1] == pytest.approx(mean, rel=1e-12)


def test_means_over_kinds_with_their_prompts_and_over_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("in,out,s\n4,2,0.5\n0,5,1.5\n")
    rows = {"distribution": "empirical", "path": str(tmp_path / "rows.csv"), "column": "out"}
    kinds = [{**rows, "prompt_column": "in"}, {**rows, "prompt": {"distribution": "zipf", "exponent": 0, "largest": 9}}]
    assert ANY.validate_python(kinds[0]).means(0) == (2.0, 3.5)
    assert ANY.validate_python(kinds[1]).means(1) == (5.0, 3.5)
    both = {"distribution": "mixture", "weights": [1.0, 2.0], "components": kinds}
    assert ANY.validate_python(both).means() == pytest.approx((4.0, 3.5))
    assert ANY.validate_python({**rows, "column": "s", "unit": "seconds"}).means()[1] == 1.0
    # Drawn as prompts, rows of 0 have the least that prompts may have.
    of_prompts = {"distribution": "constant", "value": 1, "prompt": {**rows, "column": "out"}}
    assert ANY.validate_python(of_prompts).means(1) == (3.5, 1.0)


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 4.0])
def test_prompts_may_be_shorter_than_a_token_on_average(mean: float) -> None:
    for law in ({"distribution": "exponential", "mean": mean}, {"distribution": "lognormal", "mean": mean, "cv": 1.0}):
        lengths = ANY.validate_python({"distribution": "constant", "value": 1, "prompt": law})
        tokens = lengths.draw(COUNT, stream(1, 0, "lengths")).prompt_tokens
        assert abs(tokens.mean() - mean) < 4.5 * tokens.std() / np.sqrt(COUNT)


def test_every_whole_number_of_a_range_is_as_likely_and_exponentials_have_no_memory() -> None:
    uniform = ANY.validate_python({"distribution": "uniform", "low": 3.0, "high": 6.0})
    shares = np.bincount(uniform.draw(COUNT, stream(1, 0, "lengths")).output_tokens)[3:] / COUNT
    assert np.all(np.abs(shares - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / COUNT))
    assert shares.size == 4
    tokens = (
        ANY.validate_python({"distribution": "exponential", "mean": 4.0}).draw(COUNT, stream(1, 0, "x")).output_tokens
    )
    for beyond in range(1, 8):
        here = tokens[tokens >= beyond]
        assert abs((here == beyond).mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / here.size)


@pytest.mark.parametrize("law", [{"distribution": "exponential"}, {"distribution": "lognormal", "cv": 0.8}])
def test_a_longer_mean_makes_no_request_shorter(law: dict[str, Any]) -> None:
    drawn = [
        ANY.validate_python({**law, "mean": mean}).draw(1000, stream(1, 0, "lengths")).output_tokens
        for mean in (1.0, 1.1, 2.0, 2.1, 50.0, 51.0)
    ]
    for shorter, longer in itertools.pairwise(drawn):
        assert (shorter <= longer).all()


def test_lognormal_tokens_keep_the_cv() -> None:
    tokens = ANY.validate_python({"distribution": "lognormal", "mean": 20.0, "cv": 0.8}).draw(
        400_000, stream(1, 0, "lengths")
    )
    assert tokens.output_tokens.std() / 20.0 == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"distribution": "constant", "value": 4.5}, [(("value",), "must be a whole number of tokens, 1 or more")]),
        ({"distribution": "constant", "value": 0.0}, [(("value",), "must be a whole number of tokens, 1 or more")]),
        (
            {"distribution": "uniform", "low": 0.0, "high": 9.5},
            [((name,), "must be a whole number of tokens, 1 or more") for name in ("low", "high")],
        ),
        (
            {"distribution": "exponential", "mean": 0.5, "prompt": {"distribution": "exponential", "mean": 0.5}},
            [(("mean",), "must be >= 1: every length is at least 1 token")],
        ),
        (
            {
                "distribution": "mixture",
                "weights": [1, 1],
                "components": [
                    {"distribution": "constant", "value": 2, "prompt": {"distribution": "constant", "value": 0.5}},
                    {
                        "distribution": "lognormal",
                        "mean": 0.9,
                        "cv": 1,
                        "prompt": {"distribution": "uniform", "low": 0, "high": 2},
                    },
                ],
            },
            [
                (("components", 0, "prompt", "value"), "must be a whole number of tokens, 0 or more"),
                (("components", 1, "mean"), "must be >= 1: every length is at least 1 token"),
            ],
        ),
    ],
)
def test_what_whole_tokens_cannot_keep_is_refused(settings: dict[str, Any], problems: list[Any]) -> None:
    assert list(ANY.validate_python(settings).problems_in_tokens(1)) == problems


def test_lognormal_has_the_cv_it_is_given() -> None:
    lengths = ANY.validate_python({**CONTINUOUS["lognormal"], "unit": "seconds"})
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).service_s
    excess_kurtosis = float(SCIPY["lognormal"].stats("k"))
    error = 0.8 * np.sqrt((excess_kurtosis + 2.0) / (4.0 * COUNT))
    assert abs(drawn.std() / drawn.mean() - 0.8) < 5.0 * error


def test_zipf_frequencies() -> None:
    lengths = Zipf(distribution="zipf", exponent=1.1, largest=50)
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).output_tokens
    assert drawn is not None
    with np.errstate(all="ignore"):
        expected = lengths.scipy_distribution().pmf(np.arange(1, 51))
    found = np.bincount(drawn, minlength=51)[1:] / COUNT
    assert found.size == 50
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / COUNT))


def test_constant_and_an_independent_prompt() -> None:
    lengths = ANY.validate_python(
        {"distribution": "constant", "value": 7.0, "prompt": {"distribution": "uniform", "low": 10.0, "high": 30.0}}
    )
    assert lengths.gives_prompt
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    assert set(drawn.output_tokens.tolist()) == {7}
    assert set(drawn.prompt_tokens.tolist()) == set(range(10, 31))
    assert abs(drawn.prompt_tokens.mean() - 20.0) < 4.5 * np.sqrt((21**2 - 1) / 12 / COUNT)


def test_histogram_tokens_stay_in_their_bins() -> None:
    lengths = ANY.validate_python(CONTINUOUS["histogram"])
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).output_tokens
    # [0, 10): 0..9, where 0 counts as 1; nothing in [10, 15); then 15..99.
    assert set(drawn.tolist()) == set(range(1, 10)) | set(range(15, 100))
    assert abs(np.mean(drawn < 10) - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / COUNT)
    assert abs(np.mean(drawn == 1) - 0.06) < 4.5 * np.sqrt(0.06 * 0.94 / COUNT)


def test_mixture_weights_and_joint_prompts() -> None:
    lengths = ANY.validate_python(
        {
            "distribution": "mixture",
            "weights": [1.0, 3.0],
            "components": [
                {
                    "distribution": "constant",
                    "value": 5.0,
                    "prompt": {"distribution": "constant", "value": 1000.0},
                },
                {"distribution": "zipf", "largest": 4, "prompt": {"distribution": "constant", "value": 0.0}},
            ],
        }
    )
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    np.testing.assert_array_equal(drawn.output_tokens == 5, drawn.prompt_tokens == 1000)
    assert abs(np.mean(drawn.output_tokens == 5) - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / COUNT)
    assert set(drawn.prompt_tokens.tolist()) == {0, 1000}


def test_mixture_of_seconds() -> None:
    parts = [{**CONTINUOUS["exponential"], "unit": "seconds"}, {**CONTINUOUS["uniform"], "unit": "seconds"}]
    lengths = Mixture.model_validate(
        {"distribution": "mixture", "unit": "seconds", "weights": [1.0, 1.0], "components": parts}
    )
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).service_s
    assert drawn is not None
    mean, square = (10 + 10.5) / 2, (200 + (1 + 20 + 400) / 3) / 2
    assert abs(drawn.mean() - mean) < 4.5 * np.sqrt((square - mean**2) / COUNT)


def test_empirical_rows_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("out,in,class\n" + "".join(f"{n},{n * 10},{n % 3}\n" for n in range(1, 101)))
    lengths = Empirical(
        distribution="empirical", path=str(path), column="out", prompt_column="in", predicted_column="class"
    )
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    assert drawn.output_tokens is not None
    assert drawn.prompt_tokens is not None
    assert drawn.predicted is not None
    np.testing.assert_array_equal(drawn.prompt_tokens, drawn.output_tokens * 10)
    np.testing.assert_array_equal(drawn.predicted, drawn.output_tokens % 3)
    assert abs(drawn.output_tokens.mean() - 50.5) < 4.5 * np.sqrt((100**2 - 1) / 12 / COUNT)
    first = Empirical(distribution="empirical", path=str(path), column="out", limit=10)
    assert set(first.draw(COUNT, stream(1, 0, "lengths")).output_tokens.tolist()) == set(range(1, 11))  # type: ignore[union-attr]


def test_empirical_seconds_and_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("t\n0.5\n")
    lengths = Empirical(distribution="empirical", path=str(path), column="t", unit="seconds")
    assert lengths.draw(3, stream(1, 0, "lengths")).service_s.tolist() == [0.5] * 3  # type: ignore[union-attr]
    path.write_text("t\n0.25\n0.25\n")
    assert lengths.draw(3, stream(1, 0, "lengths")).service_s.tolist() == [0.25] * 3  # type: ignore[union-attr]
    path.write_text("t\n-0.25\n0.25\n")
    with pytest.raises(InputError, match=r"row 1, column 't': -0\.25: must be > 0"):
        lengths.draw(3, stream(1, 0, "lengths"))


@pytest.mark.parametrize("name", ["low_column", "high_column", "count_column", "source"])
def test_what_to_read_of_a_file_is_refused_without_one(name: str) -> None:
    given = {"distribution": "histogram", "edges": [0, 1], "counts": [1], name: "alpha"}
    with pytest.raises(ValidationError, match=f"{name} says what to read of a file: needs path"):
        ANY.validate_python(given)


def test_a_histogram_of_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    lengths = Histogram(
        distribution="histogram", path=str(path), low_column="low", high_column="high", count_column="count"
    )
    for low, high in ((1, 2), (10, 11)):
        path.write_text(f"low,high,count\n{low},{high},3\n")
        drawn = lengths.draw(50, stream(1, 0, "lengths")).output_tokens
        assert drawn is not None
        assert low <= drawn.min() <= drawn.max() <= high


def test_sharegpt_lengths(shared_data: Path) -> None:
    path = shared_data / "lengths" / "sharegpt_8k_filtered_stats_llama2_tokenizer.csv"
    lengths = Empirical(
        distribution="empirical", path=str(path), column="num_decode_tokens", prompt_column="num_prefill_tokens"
    )
    table = lengths.table()
    assert table.prompt_tokens is not None
    assert table.length.size == 30_731
    assert table.length.mean() == pytest.approx(439, abs=1)
    assert table.prompt_tokens.mean() == pytest.approx(2340, abs=1)


def test_histogram_of_the_paper(shared_data: Path) -> None:
    path = str(shared_data / "burstgpt" / "burstgpt_paper_fig7_length_hist.csv")
    lengths = Histogram(distribution="histogram", path=path, source="chatgpt_conv")
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).output_tokens
    assert drawn is not None
    assert abs(drawn.mean() - 263) < 4.5 * drawn.std() / np.sqrt(COUNT) + 1
    with pytest.raises(InputError, match="overlaps"):
        Histogram(distribution="histogram", path=path).draw(1, stream(1, 0, "lengths"))
    with pytest.raises(InputError, match="has 'chatgpt_conv'"):
        Histogram(distribution="histogram", path=path, source="gpt").draw(1, stream(1, 0, "lengths"))


def test_a_sample_of_lengths_is_read_and_drawn_from() -> None:
    path = SAMPLES / "sharegpt.csv"
    lengths = Empirical(
        distribution="empirical", path=str(path), column="num_decode_tokens", prompt_column="num_prefill_tokens"
    )
    pairs = [tuple(map(int, row.split(",")[:2])) for row in path.read_text().splitlines()[1:]]
    table = lengths.table()
    assert table.prompt_tokens is not None
    assert list(zip(table.prompt_tokens.tolist(), table.length.tolist(), strict=True)) == pairs
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths"))
    assert drawn.prompt_tokens is not None
    assert drawn.output_tokens is not None
    # Prompt and output of one row stay together.
    assert set(zip(drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist(), strict=True)) <= set(pairs)


def test_a_sample_of_histograms_is_drawn_from() -> None:
    path = str(SAMPLES / "burstgpt-lengths.csv")
    lengths = Histogram(distribution="histogram", path=path, source="chatgpt_conv")
    drawn = lengths.draw(COUNT, stream(1, 0, "lengths")).output_tokens
    assert drawn is not None
    counts = np.round(1000 / (1 + (np.arange(12) - 4.0) ** 2))
    # The middle of each band of 50, to half a token.
    mean = float(np.average(50 * np.arange(12) + 25, weights=counts))
    assert abs(drawn.mean() - mean) < 4.5 * drawn.std() / np.sqrt(COUNT) + 0.5
    with pytest.raises(InputError, match="overlaps"):
        Histogram(distribution="histogram", path=path).draw(1, stream(1, 0, "lengths"))
    with pytest.raises(InputError, match="has 'chatgpt_conv'"):
        Histogram(distribution="histogram", path=path, source="gpt").draw(1, stream(1, 0, "lengths"))


def test_more_tokens_than_the_engine_holds_are_refused() -> None:
    for settings in (
        {"distribution": "constant", "value": 2_097_153.0},
        {"distribution": "constant", "value": 2e6, "prompt": {"distribution": "constant", "value": 1e6}},
        {"distribution": "exponential", "mean": 1e9},
    ):
        with pytest.raises(InputError, match="at most 2097152"):
            ANY.validate_python(settings).draw(10, stream(1, 0, "lengths"))
    with pytest.raises(InputError, match="service time"):
        ANY.validate_python({"distribution": "exponential", "mean": 1e9, "unit": "seconds"}).draw(
            100, stream(1, 0, "lengths")
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distribution": "uniform", "low": 3.0, "high": 3.0}, "low must be below high"),
        ({"distribution": "lognormal", "mean": 3.0, "cv": 5e-324}, "greater than or equal to 0.001"),
        ({"distribution": "uniform", "low": -1.0, "high": 3.0}, "greater than or equal to 0"),
        ({"distribution": "exponential", "mean": 0.0}, "greater than"),
        ({"distribution": "lognormal", "mean": 1.0, "cv": float("inf")}, "finite"),
        ({"distribution": "zipf", "largest": 0}, "greater than or equal to 1"),
        ({"distribution": "zipf", "unit": "seconds"}, "tokens"),
        ({"distribution": "mixture", "weights": [1.0], "components": []}, "at least 1"),
        ({"distribution": "mixture", "weights": [1.0, 2.0], "components": [{"distribution": "zipf"}]}, "as many"),
        (
            {
                "distribution": "mixture",
                "unit": "seconds",
                "weights": [1.0],
                "components": [{"distribution": "zipf"}],
            },
            "unit of the mixture",
        ),
        ({"distribution": "histogram"}, "either path"),
        ({"distribution": "histogram", "edges": [0, 1], "counts": [1, 2]}, "must be one more"),
        ({"distribution": "histogram", "edges": [2, 1], "counts": [1]}, "lower edge < upper edge"),
        ({"distribution": "histogram", "edges": [1, 2], "counts": [0]}, "not all zero"),
        ({"distribution": "histogram", "path": "x", "counts": [0]}, "not both"),
        ({"distribution": "empirical"}, "path"),
        ({"distribution": "exponential", "mean": 1.0, "unit": "hours"}, "seconds"),
        (
            {"distribution": "exponential", "mean": 1.0, "unit": "seconds", "prompt": {"distribution": "zipf"}},
            "prompt needs unit",
        ),
        (
            {"distribution": "zipf", "prompt": {"distribution": "zipf", "prompt": {"distribution": "zipf"}}},
            "no prompt of its own",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ANY.validate_python(settings)
