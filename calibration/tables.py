"""Measured batch times over (batch size, length), and the law T(b, L) = a0 + a1 * L * h(b) fitted to them."""

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

COLUMNS = ("batch_size", "length_tokens", "seconds")
LAWS = ("constant", "linear", "saturating", "power")
"""Names of h(b): 1, 1 + γ(b-1), 1 + γ(b-1)/b, b^γ; a simpler law stands before one with more freedom."""

_LARGEST_GAMMA = 100.0


class MeasuredTable(NamedTuple):
    """Batch times on a complete grid.

    ``batch_sizes`` (b,) and ``lengths`` (l,) tokens, both increasing; ``seconds`` (b, l); ``sha256`` of the file read.
    """

    batch_sizes: NDArray[np.int64]
    lengths: NDArray[np.int64]
    seconds: Floats
    sha256: str


class FittedLaw(NamedTuple):
    """The law T(b, L) = a0 + a1 * L * h(b) closest to the measurements, with what is known about its accuracy.

    A standard error is NaN where the coefficient ended on its limit 0 (or is no part of the law), and everywhere when
    there are no more measurements than coefficients. Residuals are relative: fitted / measured - 1.
    """

    a0_s: float
    a1_s_per_token: float
    h: str
    gamma: float
    r_squared: float
    a0_standard_error_s: float
    a1_standard_error_s_per_token: float
    gamma_standard_error: float
    worst_relative_residual: float
    measurements: int

    def seconds(self, batch_size: ArrayLike, length: ArrayLike) -> Floats:
        """Return T(b, L) in seconds, broadcast over both arguments."""
        factor = _batch_factor(np.asarray(batch_size, dtype=np.float64), self.h, self.gamma)
        return np.asarray(self.a0_s + self.a1_s_per_token * np.asarray(length, dtype=np.float64) * factor)


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> MeasuredTable:
    """Read a CSV of measured batch times with columns ``batch_size,length_tokens,seconds``.

    ``columns`` maps any of these names to the file's own, e.g. {"seconds": "mean_latency_sec"}; other columns are left
    alone. Rows come in any order; repeated measurements of one cell are averaged. Raises ValueError, one line naming
    the file and the row, unless the grid is complete, at least 2 x 2, of whole batch sizes and lengths >= 1, and the
    times are finite, > 0 and never fall with the length.
    """
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror or error}") from None
    cells: dict[tuple[int, int], list[float]] = {}
    for where, (batch, length, seconds) in _rows(name, data, columns or {}):
        cell = (_whole(where, "batch_size", batch), _whole(where, "length_tokens", length))
        cells.setdefault(cell, []).append(_positive(where, "seconds", seconds))
    batch_sizes = np.array(sorted({b for b, _ in cells}), dtype=np.int64)
    lengths = np.array(sorted({length for _, length in cells}), dtype=np.int64)
    if batch_sizes.size < 2 or lengths.size < 2:
        raise ValueError(
            f"{name}: {batch_sizes.size} batch sizes x {lengths.size} lengths: the grid must be at least 2 x 2"
        )
    for b in batch_sizes.tolist():
        for length in lengths.tolist():
            if (b, length) not in cells:
                raise ValueError(
                    f"{name}: no row for batch_size = {b}, length_tokens = {length}: the grid must be complete "
                    f"({batch_sizes.size} batch sizes x {lengths.size} lengths, {len(cells)} cells given)"
                )
    table = np.array([[np.mean(cells[b, n]) for n in lengths.tolist()] for b in batch_sizes.tolist()])
    falls = np.argwhere(np.diff(table, axis=1) < 0)
    if falls.size:
        i, j = falls[0]
        raise ValueError(
            f"{name}: batch_size = {batch_sizes[i]}: {table[i, j + 1]:g} s at length_tokens = {lengths[j + 1]} is "
            f"below {table[i, j]:g} s at {lengths[j]}: times must not fall with the length"
        )
    return MeasuredTable(batch_sizes, lengths, table, hashlib.sha256(data).hexdigest())


def fit_law(table: MeasuredTable, h: str) -> FittedLaw:
    """Fit a0 + a1 * L * h(b) to a measured table; see `fit_points`."""
    return fit_points(*_points(table), h)


def fit_points(batch_sizes: ArrayLike, lengths: ArrayLike, seconds: ArrayLike, h: str) -> FittedLaw:
    """Fit a0 + a1 * L * h(b) to measurements (n,) by least squares of the relative residuals, a0, a1 and γ >= 0.

    Relative, because timings scatter in proportion to their size. ``h`` is one of `LAWS`. Raises ValueError for an
    unknown law, values that are not finite and > 0, fewer than 3 measurements (2 when ``h`` is constant), only one
    length, or, unless ``h`` is constant, only one batch size; and when the times do not grow with the length at all.
    """
    if h not in LAWS:
        raise ValueError(f"law = {h!r}: must be one of {', '.join(LAWS)}")
    b, length, y = (np.asarray(a, dtype=np.float64).ravel() for a in (batch_sizes, lengths, seconds))
    if not b.size == length.size == y.size:
        raise ValueError(
            f"measurements: {b.size} batch sizes, {length.size} lengths, {y.size} times: must be equally many"
        )
    for label, values in (("batch_size", b), ("length_tokens", length), ("seconds", y)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"measurements: every {label} must be finite and > 0")
    free = 2 if h == "constant" else 3
    if y.size < free or np.unique(length).size < 2 or (free == 3 and np.unique(b).size < 2):
        raise ValueError(
            f"measurements: {y.size} of {np.unique(b).size} batch sizes and {np.unique(length).size} lengths: law "
            f"{h} needs at least {free}, of 2 lengths{' and 2 batch sizes' if free == 3 else ''}"
        )
    a0, a1, gamma = _least_squares(b, length, y, h)
    if not a1 > 0:
        raise ValueError(f"measurements: the times do not grow with the length, so law {h} does not apply")
    factor = _batch_factor(b, h, gamma)
    fitted = a0 + a1 * length * factor
    errors = _standard_errors((a0, a1, gamma), b, length, y, h)
    spread = float(np.sum((y - y.mean()) ** 2))
    return FittedLaw(
        a0_s=a0,
        a1_s_per_token=a1,
        h=h,
        gamma=gamma,
        r_squared=1.0 - float(np.sum((y - fitted) ** 2)) / spread if spread > 0 else np.nan,
        a0_standard_error_s=errors[0],
        a1_standard_error_s_per_token=errors[1],
        gamma_standard_error=errors[2],
        worst_relative_residual=float(np.max(np.abs(fitted / y - 1))),
        measurements=int(y.size),
    )


def best_law(table: MeasuredTable) -> FittedLaw:
    """Fit the law whose h(b) predicts a left-out cell of the table best.

    The score is the root mean square of the relative error over all cells, each predicted from all the others. The
    first of `LAWS` within 1 % of the best score wins, so no freedom is taken that the measurements do not ask for.
    """
    b, length, y = _points(table)
    scores = []
    for h in LAWS:
        error = np.empty(y.size)
        for i in range(y.size):
            kept = np.arange(y.size) != i
            a0, a1, gamma = _least_squares(b[kept], length[kept], y[kept], h)
            error[i] = (a0 + a1 * length[i] * _batch_factor(b[i : i + 1], h, gamma)[0]) / y[i] - 1
        scores.append(float(np.sqrt(np.mean(error**2))))
    enough = 1.01 * min(scores) + 1e-9
    return fit_law(table, next(h for h, score in zip(LAWS, scores, strict=True) if score <= enough))


def _rows(name: str, data: bytes, columns: Mapping[str, str]) -> list[tuple[str, tuple[str, str, str]]]:
    """Return (file and line, the three texts) of every row."""
    for key in columns:
        if key not in COLUMNS:
            raise ValueError(f"{name}: columns.{key}: must be one of {', '.join(COLUMNS)}")
    wanted = [columns.get(column, column) for column in COLUMNS]
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = [field.strip() for field in next(reader, [])]
        for column in wanted:
            if header.count(column) != 1:
                found = "is there twice" if column in header else "is missing"
                has = ", ".join(header)[:120] or "nothing"
                raise ValueError(f"{name}: line 1: column {column!r} {found}: needs {', '.join(wanted)}; has {has!r}")
        at = [header.index(column) for column in wanted]
        rows = []
        for row in reader:
            where = f"{name}: line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"{where}: has {len(row)} fields: must have {len(header)}, as the header does")
            rows.append((where, (row[at[0]], row[at[1]], row[at[2]])))
    except UnicodeDecodeError:
        raise ValueError(f"{name}: is not a text file: must be CSV in UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{name}: line {reader.line_num}: is not CSV: {error}") from None
    if not rows:
        raise ValueError(f"{name}: has no rows: needs at least a 2 x 2 grid")
    return rows


def _positive(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{where}: {column} = {text.strip()[:40]!r}: must be a finite number > 0")
    return value


def _whole(where: str, column: str, text: str) -> int:
    value = _positive(where, column, text)
    if value != int(value) or value > 2**53:
        raise ValueError(f"{where}: {column} = {text.strip()[:40]!r}: must be a whole number >= 1")
    return int(value)


def _points(table: MeasuredTable) -> tuple[Floats, Floats, Floats]:
    b, length = np.meshgrid(table.batch_sizes.astype(np.float64), table.lengths.astype(np.float64), indexing="ij")
    return b.ravel(), length.ravel(), table.seconds.ravel()


def _batch_factor(b: Floats, h: str, gamma: float) -> Floats:
    from batchcube.engine.policies.service import batch_factor

    return batch_factor(b, h, gamma)


def _least_squares(b: Floats, length: Floats, y: Floats, h: str) -> tuple[float, float, float]:
    """Return (a0, a1, γ), all >= 0, with the least sum of squared relative residuals."""
    ones = np.ones_like(y)
    if h == "constant":
        (a0, a1), _ = _non_negative([ones, length], y)
        return a0, a1, 0.0
    if h == "power":
        from scipy.optimize import minimize_scalar

        def misfit(gamma: float) -> float:
            return _non_negative([ones, length * b**gamma], y)[1]

        # The misfit can have more than one valley: bracket the deepest, then refine.
        grid = np.concatenate(([0.0], np.geomspace(1e-3, 8.0, 40)))
        deepest = int(np.argmin([misfit(g) for g in grid]))
        low, high = grid[max(deepest - 1, 0)], grid[min(deepest + 1, grid.size - 1)]
        gamma = float(minimize_scalar(misfit, bounds=(low, high), method="bounded", options={"xatol": 1e-11}).x)
        gamma = 0.0 if misfit(0.0) <= misfit(gamma) else gamma
        (a0, a1), _ = _non_negative([ones, length * b**gamma], y)
        return a0, a1, gamma
    # Linear in a0, a1 and a1 * γ.
    (a0, a1, grown), _ = _non_negative([ones, length, length * (_batch_factor(b, h, 1.0) - 1.0)], y)
    if grown > _LARGEST_GAMMA * a1:
        column = length * _batch_factor(b, h, _LARGEST_GAMMA)
        (a0, a1), _ = _non_negative([ones, column], y)
        return a0, a1, _LARGEST_GAMMA
    return a0, a1, grown / a1 if a1 > 0 else 0.0


def _non_negative(terms: list[Floats], y: Floats) -> tuple[list[float], float]:
    """Return the coefficients >= 0 of the terms with the least relative residuals, and the norm of these."""
    from scipy.optimize import nnls

    matrix = np.stack(terms, axis=1) / y[:, None]
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    solution, norm = nnls(matrix / scale, np.ones_like(y))
    return (solution / scale).tolist(), float(norm)


def _standard_errors(
    coefficients: tuple[float, float, float], b: Floats, length: Floats, y: Floats, h: str
) -> tuple[float, float, float]:
    """Return the standard errors of (a0, a1, γ) from the Jacobian at the fit; NaN for those held at a limit."""
    a0, a1, gamma = coefficients
    factor = _batch_factor(b, h, gamma)
    by_gamma = {
        "constant": np.zeros_like(b),
        "linear": b - 1.0,
        "saturating": (b - 1.0) / b,
        "power": factor * np.log(b),
    }[h]
    jacobian = np.stack([np.ones_like(y), length * factor, a1 * length * by_gamma], axis=1) / y[:, None]
    free = [i for i, value in enumerate(coefficients) if value > 0 and not (i == 2 and value >= _LARGEST_GAMMA)]
    errors = np.full(3, np.nan)
    spare = y.size - len(free)
    if spare > 0:
        residual = (a0 + a1 * length * factor) / y - 1
        scale = np.linalg.norm(jacobian[:, free], axis=0)
        covariance = np.linalg.pinv((jacobian[:, free] / scale).T @ (jacobian[:, free] / scale))
        errors[free] = np.sqrt(np.diag(covariance) * float(residual @ residual) / spare) / scale
    return float(errors[0]), float(errors[1]), float(errors[2])
