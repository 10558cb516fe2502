from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from batchcube.engine.policies.bins import assign_bins
from batchcube.errors import InputError
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.workloads import (
    CONFUSION_MATRICES,
    Adjacent,
    Column,
    Confusion,
    LognormalError,
    Oracle,
)
from batchcube.sweeps.workloads.predictors import ONE_BIN, Predictor
from batchcube.sweeps.workloads.rows import read_lengths
from helpers.samples import SAMPLES

ANY: TypeAdapter[Any] = TypeAdapter(Predictor)
EDGES = np.array([1.0, 10.0, 20.0, 40.0, 100.0])
LENGTHS = np.tile(np.array([5.0, 15.0, 30.0, 70.0]), 10_000)


def test_oracle_knows() -> None:
    predicted, bins = Oracle(kind="oracle").predict(LENGTHS, EDGES, stream(1, 0, "predictor"))
    np.testing.assert_array_equal(predicted, LENGTHS)
    assert bins is None


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_adjacent_errs_to_each_neighbour_with_the_given_probability(p: float) -> None:
    prediction = Adjacent(kind="adjacent", error_probability=p).predict(LENGTHS, EDGES, stream(1, 0, "predictor"))
    assert prediction.bin is not None
    for true_bin in range(4):
        shift = prediction.bin[assign_bins(LENGTHS, EDGES) == true_bin] - true_bin
        for step, exists in ((-1, true_bin > 0), (1, true_bin < 3)):
            expected = p if exists else 0.0
            error = np.sqrt(expected * (1 - expected) / shift.size)
            assert abs(np.mean(shift == step) - expected) <= 4.5 * error
        assert set(np.unique(shift)) <= {-1, 0, 1}


def test_errors_at_a_small_probability_are_errors_at_a_larger_one() -> None:
    few, many = (
        Adjacent(kind="adjacent", error_probability=p).predict(LENGTHS, EDGES, stream(1, 0, "predictor")).bin
        for p in (0.1, 0.3)
    )
    assert few is not None
    assert many is not None
    wrong = few != assign_bins(LENGTHS, EDGES)
    np.testing.assert_array_equal(few[wrong], many[wrong])


@pytest.mark.parametrize("name", ["lmsys-2", "lmsys-4", "lmsys-8"])
@pytest.mark.parametrize("by_size", [False, True])
def test_confusion_rows_are_reproduced(name: str, by_size: bool) -> None:
    counts = np.array(CONFUSION_MATRICES[name])
    bins, each = len(counts), 20_000
    edges = np.linspace(0.0, 80.0, bins + 1)
    length = np.repeat((edges[:-1] + edges[1:]) / 2, each)
    predictor = Confusion(kind="confusion", matrix="lmsys" if by_size else name)
    predicted, chosen = predictor.predict(length, edges, stream(2, 0, "predictor"))
    assert chosen is not None
    assert chosen.dtype == np.int32
    np.testing.assert_array_equal(assign_bins(predicted, edges), chosen)
    found = np.zeros((bins, bins))
    np.add.at(found, (assign_bins(length, edges), chosen), 1 / each)
    expected = counts / counts.sum(axis=1, keepdims=True)
    assert np.all(np.abs(found - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / each))


def test_the_papers_accuracies_follow_from_its_matrices() -> None:
    # Table 1 of arXiv 2412.04504.
    for name, accuracy in (("lmsys-2", 0.8614), ("lmsys-4", 0.6297), ("lmsys-8", 0.4229)):
        counts = np.array(CONFUSION_MATRICES[name])
        assert np.trace(counts) / counts.sum() == pytest.approx(accuracy, abs=2e-3)


def test_a_matrix_may_have_zeros_anywhere() -> None:
    predictor = Confusion(kind="confusion", matrix=((0.0, 0.0, 7.0), (3.0, 0.0, 0.0), (0.0, 0.1, 0.0)))
    length = np.repeat([1.0, 3.0, 5.0], 1000)
    chosen = predictor.predict(length, np.array([0.0, 2.0, 4.0, 6.0]), stream(1, 0, "predictor")).bin
    np.testing.assert_array_equal(chosen, np.repeat([2, 0, 1], 1000))


@pytest.mark.parametrize(
    "predictor",
    [Confusion(kind="confusion", matrix="lmsys-4"), Confusion(kind="confusion", matrix=((1.0, 0.0), (0.0, 1.0)))],
)
def test_a_matrix_of_another_size_is_refused_but_one_bin_needs_none(predictor: Confusion) -> None:
    with pytest.raises(InputError, match="must be K x K"):
        predictor.predict(LENGTHS, EDGES[:-1], stream(1, 0, "predictor"))
    prediction = predictor.predict(LENGTHS, ONE_BIN, stream(1, 0, "predictor"))
    assert prediction.bin is not None
    assert not prediction.bin.any()
    assert np.ptp(prediction.predicted) == 0


def test_there_is_no_published_matrix_for_five_bins() -> None:
    with pytest.raises(InputError, match="only for 2, 4 and 8"):
        Confusion(kind="confusion", matrix="lmsys").predict(LENGTHS, np.arange(6.0), stream(1, 0, "predictor"))


def test_lognormal_error_is_unbiased() -> None:
    sigma = 0.5
    predicted, bins = LognormalError(kind="lognormal", sigma=sigma).predict(LENGTHS, EDGES, stream(1, 0, "predictor"))
    ratio = predicted / LENGTHS
    assert bins is None
    assert abs(ratio.mean() - 1) < 4.5 * np.sqrt(np.expm1(sigma**2) / ratio.size)
    assert abs(np.log(ratio).std() - sigma) < 4.5 * sigma / np.sqrt(2 * ratio.size)
    for least in (0.0, 5e-324):
        exact = LognormalError(kind="lognormal", sigma=least).predict(LENGTHS, EDGES, stream(1, 0, "predictor"))
        np.testing.assert_array_equal(exact.predicted, LENGTHS)


def test_column_passes_lengths_on_and_takes_classes_as_bins() -> None:
    rng = stream(1, 0, "predictor")
    length, column = np.array([5.0, 15.0, 70.0]), np.array([3.0, 0.0, 1.0])
    assert Column(kind="column").predict(length, EDGES, rng, column).predicted is column
    classes = Column(kind="column", content="class", classes=4)
    predicted, bins = classes.predict(length, EDGES, rng, column)
    assert bins is not None
    assert bins.tolist() == [3, 0, 1]
    assert predicted.tolist() == [70.0, 5.5, 15.0]
    assert classes.predict(length, ONE_BIN, rng, column).bin is not None
    with pytest.raises(InputError, match="have no predicted column"):
        classes.predict(length, EDGES, rng)
    with pytest.raises(InputError, match="classes = 4, but there are 3 bins"):
        classes.predict(length, EDGES[:-1], rng, column)
    for wrong in (4.0, -1.0, 0.5):
        with pytest.raises(InputError, match=r"must be 0\.\.3"):
            classes.predict(length, EDGES, rng, np.array([0.0, 0.0, wrong]))


def test_a_real_predictor_drives_the_bins(shared_data: Path) -> None:
    path = shared_data / "lengths" / "lmsys_predictions_warmup_multi_cls_1000K.csv"
    table = read_lengths(path, "output_token_length", predicted_column="predicted_length")
    assert table.length.size == 85_482
    edges = np.array([0.0, 42.0, 141.0, 294.0, 503.0, 1e6])
    prediction = Column(kind="column", content="class", classes=5).predict(
        table.length, edges, stream(1, 0, "predictor"), table.predicted
    )
    assert np.mean(prediction.bin == assign_bins(table.length, edges)) == pytest.approx(0.600, abs=0.001)


def test_a_sample_of_a_predictor_drives_the_bins() -> None:
    path = SAMPLES / "lmsys.csv"
    rows = [row.split(",") for row in path.read_text().splitlines()[1:]]
    table = read_lengths(path, "output_token_length", predicted_column="predicted_length")
    assert table.length.tolist() == [float(row[1]) for row in rows]
    edges = np.array([0.0, 42.0, 141.0, 294.0, 503.0, 1e6])
    prediction = Column(kind="column", content="class", classes=5).predict(
        table.length, edges, stream(1, 0, "predictor"), table.predicted
    )
    assert prediction.bin is not None
    assert prediction.bin.tolist() == [int(row[2]) for row in rows]
    # Right three times in four, of 400.
    accuracy = np.mean(prediction.bin == assign_bins(table.length, edges))
    assert accuracy == pytest.approx(0.75, abs=4.5 * np.sqrt(0.75 * 0.25 / 400))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "adjacent", "error_probability": 0.6}, "less than or equal to 0.5"),
        ({"kind": "confusion", "matrix": "lmsys-5"}, "lmsys-8"),
        ({"kind": "confusion", "matrix": [[1.0, 2.0], [1.0]]}, "must be K x K"),
        ({"kind": "confusion", "matrix": [[1.0, 2.0], [0.0, 0.0]]}, "row 1 of the matrix sums to 0"),
        ({"kind": "confusion", "matrix": [[1.0, -2.0], [0.0, 1.0]]}, "greater than or equal to 0"),
        ({"kind": "confusion", "matrix": []}, "must be K x K"),
        ({"kind": "lognormal", "sigma": -1.0}, "greater than or equal to 0"),
        ({"kind": "column", "content": "class"}, "classes must be given"),
        ({"kind": "column", "classes": 3}, "only then"),
        ({"kind": "orakel"}, "oracle"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ANY.validate_python(settings)
