"""Predictors: what the scheduler believes a request's output length, or its bin, is."""

from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from batchcube.engine.policies.bins import assign_bins
from batchcube.errors import InputError

from .settings import FloatArray, Settings

BinArray = npt.NDArray[np.int32]

# strict=False lets lists through; what they hold stays strict.
_Row = Annotated[tuple[Annotated[float, Field(ge=0, le=1e15)], ...], Field(strict=False)]
_Matrix = Annotated[tuple[_Row, ...], Field(strict=False)]

# Rows = true bin, columns = predicted bin: arXiv 2412.04504, Fig. 10 (BERT predictor on LMSYS-Chat-1M).
CONFUSION_MATRICES: dict[str, tuple[tuple[float, ...], ...]] = {
    "lmsys-2": ((25802, 4778), (3668, 26716)),
    "lmsys-4": ((12165, 2584, 490, 178), (2668, 8385, 3386, 724), (287, 2569, 8145, 4186), (82, 730, 4689, 9696)),
    "lmsys-8": (
        (5925, 1143, 410, 175, 53, 30, 13, 24),
        (1242, 3855, 1356, 643, 280, 127, 92, 49),
        (294, 1619, 3060, 1350, 601, 276, 149, 96),
        (147, 608, 1515, 2460, 1713, 796, 359, 120),
        (35, 170, 482, 1284, 2428, 1767, 1070, 251),
        (18, 64, 188, 615, 1683, 2267, 2154, 711),
        (7, 35, 110, 313, 915, 1902, 2998, 1329),
        (8, 32, 87, 220, 595, 1277, 2577, 2792),
    ),
}


ONE_BIN: FloatArray = np.array([0.0, np.inf])
"""Edges of a bin that holds everything."""


class Prediction(NamedTuple):
    """What the scheduler believes, each (request,)."""

    predicted: FloatArray
    """Predicted length; for a class predictor the middle of the predicted bin."""
    bin: BinArray | None
    """Predicted bin, 0..K-1, where the predictor gives one; None: the bin follows from `predicted`."""


def _of_bins(bins: BinArray, length: FloatArray, edges: FloatArray) -> Prediction:
    """Turn predicted bins into a prediction; in one bin there is one, unchanging, belief."""
    if len(edges) == 2:
        return Prediction(np.full(length.shape, length.mean() if length.size else 0.0), bins)
    with np.errstate(invalid="ignore"):
        middle = edges[:-1] / 2 + edges[1:] / 2
    # Open-ended bins are represented by their finite edge.
    middle = np.where(np.isfinite(middle), middle, np.where(np.isfinite(edges[:-1]), edges[:-1], edges[1:]))
    return Prediction(middle[bins], bins)


class _Predictor(Settings):
    """What is known of a predictor before it is asked."""

    draws: ClassVar[bool]
    """Whether it predicts at random."""
    looks_at_bins: ClassVar[bool]
    """Whether what it says depends on where the bins are cut: so of classes, not of lengths."""


class Oracle(_Predictor):
    """The scheduler knows the output length."""

    draws: ClassVar[bool] = False
    looks_at_bins: ClassVar[bool] = False
    kind: Literal["oracle"]

    def predict(
        self,
        true_length: FloatArray,
        edges: FloatArray,
        rng: np.random.Generator,
        column: FloatArray | None = None,
    ) -> Prediction:
        """Return the true lengths (request,); draws nothing."""
        return Prediction(true_length, None)


class Adjacent(_Predictor):
    """Neighbouring-bin errors: bin i becomes i-1 or i+1, each with the error probability (arXiv 2412.04504, 6.2)."""

    draws: ClassVar[bool] = True
    looks_at_bins: ClassVar[bool] = True
    kind: Literal["adjacent"]
    error_probability: float = Field(
        ge=0, le=0.5, description="probability of each neighbouring bin; an edge bin has one neighbour"
    )

    def predict(
        self,
        true_length: FloatArray,
        edges: FloatArray,
        rng: np.random.Generator,
        column: FloatArray | None = None,
    ) -> Prediction:
        """Return the predicted bins (request,); the requests that err at p also err at every larger p."""
        true_bin = assign_bins(true_length, edges)
        uniform = rng.random(true_length.size)
        down = (uniform < self.error_probability) & (true_bin > 0)
        up = (uniform >= 1 - self.error_probability) & (true_bin < len(edges) - 2)
        return _of_bins((true_bin - down + up).astype(np.int32), true_length, edges)


class Confusion(_Predictor):
    """The predicted bin follows a confusion matrix: row = true bin, counts or probabilities."""

    draws: ClassVar[bool] = True
    looks_at_bins: ClassVar[bool] = True
    kind: Literal["confusion"]
    matrix: Literal["lmsys-2", "lmsys-4", "lmsys-8", "lmsys"] | _Matrix = Field(
        description='K x K numbers, or a matrix of arXiv 2412.04504, Fig. 10 by name; "lmsys" takes the one for K bins'
    )

    @model_validator(mode="after")
    def _square(self) -> "Confusion":
        if not isinstance(self.matrix, str):
            size = len(self.matrix)
            if size == 0 or any(len(row) != size for row in self.matrix):
                raise ValueError(
                    f"matrix has {size} rows of {[len(row) for row in self.matrix]} entries: must be K x K"
                )
            for number, row in enumerate(self.matrix):
                if sum(row) <= 0:
                    raise ValueError(f"row {number} of the matrix sums to 0: must be > 0")
        return self

    def probabilities(self, bins: int) -> FloatArray:
        """Return the matrix (bins, bins) with rows that sum to 1; raise InputError where it has another size."""
        matrix = self.matrix
        if isinstance(matrix, str):
            name = f"lmsys-{bins}" if matrix == "lmsys" else matrix
            if name not in CONFUSION_MATRICES:
                raise InputError(
                    f"has no matrix for {bins} bins, only for 2, 4 and 8",
                    path="workload.predictor.matrix",
                    value=repr(matrix),
                )
            matrix = CONFUSION_MATRICES[name]
        if len(matrix) != bins:
            raise InputError(
                f"is {len(matrix)} x {len(matrix)}, but there are {bins} bins",
                path="workload.predictor.matrix",
                allowed="must be K x K for the K bins that are left once equal edges are removed",
            )
        counts: FloatArray = np.array(matrix, dtype=np.float64)
        counts /= counts.sum(axis=1, keepdims=True)
        return counts

    def predict(
        self,
        true_length: FloatArray,
        edges: FloatArray,
        rng: np.random.Generator,
        column: FloatArray | None = None,
    ) -> Prediction:
        """Return the predicted bins (request,); one bin needs no matrix; raise InputError where the sizes differ."""
        bins = len(edges) - 1
        true_bin = assign_bins(true_length, edges)
        uniform = rng.random(true_length.size)
        predicted = np.zeros(true_length.size, np.int32)
        if bins > 1:
            cumulative = np.cumsum(self.probabilities(bins), axis=1)
            # Each row ends at exactly 1 from its last possible bin on, whatever the rounding of the sum.
            cumulative[cumulative >= cumulative[:, -1:]] = 1.0
            for threshold in cumulative.T[:-1]:
                predicted += uniform >= threshold[true_bin]
        return _of_bins(predicted, true_length, edges)


class LognormalError(_Predictor):
    """Unbiased multiplicative error: predicted = true * exp(sigma Z - sigma^2 / 2)."""

    draws: ClassVar[bool] = True
    looks_at_bins: ClassVar[bool] = False
    kind: Literal["lognormal"]
    sigma: float = Field(ge=0, le=10, description="standard deviation of the logarithm of the error")

    def predict(
        self,
        true_length: FloatArray,
        edges: FloatArray,
        rng: np.random.Generator,
        column: FloatArray | None = None,
    ) -> Prediction:
        """Return the predicted lengths (request,)."""
        with np.errstate(under="ignore"):
            error = np.exp(self.sigma * rng.standard_normal(true_length.size) - self.sigma**2 / 2)
        return Prediction(true_length * error, None)


class Column(_Predictor):
    """A real predictor's output, read from the trace or from the file of the lengths."""

    draws: ClassVar[bool] = False
    looks_at_bins: ClassVar[bool] = True
    kind: Literal["column"]
    content: Literal["length", "class"] = Field(
        default="length",
        description="what the column holds: predicted lengths, or classes 0..classes-1 that are the bins",
    )
    classes: int | None = Field(default=None, ge=1, description='number of classes (content = "class")')

    @model_validator(mode="after")
    def _classes_known(self) -> "Column":
        if (self.content == "class") != (self.classes is not None):
            raise ValueError("classes must be given with content = 'class', and only then")
        return self

    def predict(
        self,
        true_length: FloatArray,
        edges: FloatArray,
        rng: np.random.Generator,
        column: FloatArray | None = None,
    ) -> Prediction:
        """Return what the column (request,) says; raise InputError where it is missing or classes are not the bins."""
        if column is None:
            raise InputError(
                "the trace or lengths have no predicted column; name it (predicted_column), or use another predictor",
                path="workload.predictor.kind",
                value="'column'",
            )
        if self.content == "length":
            return Prediction(column, None)
        bins = len(edges) - 1
        if bins == 1:
            return _of_bins(np.zeros(true_length.size, np.int32), true_length, edges)
        if bins != self.classes:
            raise InputError(
                f"workload.predictor.classes = {self.classes}, but there are {bins} bins",
                allowed="must be equal (once equal edges are removed)",
            )
        bad = np.flatnonzero((column < 0) | (column >= bins) | (column != np.floor(column)))
        if bad.size:
            raise InputError(
                f"class {column[bad[0]]:g} in the column", path="workload.predictor", allowed=f"must be 0..{bins - 1}"
            )
        return _of_bins(column.astype(np.int32), true_length, edges)


Predictor = Annotated[Oracle | Adjacent | Confusion | LognormalError | Column, Field(discriminator="kind")]
