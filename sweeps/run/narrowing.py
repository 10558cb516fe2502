"""Adding replications until intervals are narrow enough: looks, and what each of them shows.

The cube stays rectangular: all points get as many replications, those that are narrow already too.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError
from batchcube.results.names import usual
from batchcube.results.precision import FEWEST, Precision, Wanted, level, looked_at, parse, schedule
from batchcube.results.statistics import mean_interval, unseen
from batchcube.results.text import in_percent
from batchcube.results.variables import FIRST_LOOK, REGISTRY

from ..progress import Progress
from ..spec.document import Sweep
from ..spec.grid import where
from ..spec.settings import draws_service
from .criteria import without_values
from .store import Report

if TYPE_CHECKING:
    import xarray as xr


_EVERY = ("measured", "missed")
_OUT_OF = {
    "request_sla_violation_fraction": _EVERY,
    "goodput_fraction": _EVERY,
    # Tokens of one request are late together.
    "token_sla_violation_fraction": _EVERY,
    "class_sla_violation_fraction": ("class_requests", "class_missed"),
    "window_request_sla_violation_fraction": ("window_completions",),
}
"""Shares of requests, and what counts those that they are shares of."""


class Narrowing:
    """Looks of one run: where they are, and which interval is the widest."""

    def __init__(self, sweep: Sweep, precision: Precision, held: "xr.Dataset | None") -> None:
        """Lay out the looks; `held` is the cube that is there already.

        Raises InputError for a precision that makes no sense, and where no number of replications narrows intervals.
        """
        self.texts = precision.texts
        self.wanted = parse(precision.texts, usual(stepwise=sweep.grid.points[0].simulation.STEPWISE))
        if not self.wanted:
            raise InputError("asks for nothing", path="`precision`", allowed="such as 2% or NAME=1%")
        if precision.most < FEWEST:
            raise InputError(f"must be >= {FEWEST}", path="`max_replications`", value=precision.most)
        if any(map(draws_service, sweep.grid.points)):
            text = "every replication has coefficients of its own: no number of them narrows what these leave open"
            raise InputError(text, path="`precision`", file=sweep.source)
        if sweep.replications == 1 and sweep.document["replications"] > 1:
            raise InputError("nothing is random: one replication says it all", path="`precision`", file=sweep.source)
        for wanted in self.wanted:
            if wanted.quantile is not None and wanted.quantile not in QUANTILES:
                known = ", ".join(f"{quantile:g}" for quantile in QUANTILES)
                raise InputError(f"no such quantile; cubes have {known}", path="`precision`", value=wanted.label)
            reasons = [without_values(wanted.name, point) for point in sweep.grid.points]
            if wanted.named and all(reasons):
                text = f"has no values in this sweep: {reasons[0]}"
                raise InputError(text, path="`precision`", value=wanted.label)
        self.axes, self.shape = sweep.grid.axes, sweep.grid.shape
        self.held = held
        self.looked = [] if held is None else list(looked_at(held))
        there = 0 if held is None else held.sizes["replication"]
        if self.looked and held is not None:
            self.first = int(held["requests"].attrs[FIRST_LOOK])
        else:
            self.first = max(there, min(max(sweep.replications, FEWEST), precision.most))
        self._source, self._there, self._most = sweep.source, there, max(precision.most, there)
        self.counts = self._counts()
        """At how many replications to look."""
        self._seen: dict[int, Report] = {}
        """What is looked at, of each replication that no cube holds."""
        self.missing = ""
        """Which interval is the widest still, in words; "" where all are narrow enough."""

    def _counts(self) -> list[int]:
        counts = [count for count in schedule(self.first, self._most) if count >= self._there]
        return [self._there, *counts] if self.looked and self._there not in counts else counts

    def limit(self, most: float) -> None:
        """Look at no more replications than there can be, the parts of a recorded trace.

        Raises InputError where these are too few to look at.
        """
        if most < FEWEST:
            text = f"looks begin at {FEWEST} replications, and the trace has {most} parts of workload.requests"
            raise InputError(text, path="`precision`", file=self._source)
        if most < self._most:
            self._most = int(most)
            self.counts = self._counts()

    def look(self, count: int, reports: Mapping[int, Report], progress: Progress) -> bool:
        """Look at so many replications, and say whether they are enough; `reports` has those that no cube holds."""
        names = {name for wanted in self.wanted for name in (wanted.name, *_OUT_OF.get(wanted.name, ()))}
        for number in sorted(reports):
            if number not in self._seen:
                self._seen[number] = {name: array for name, array in reports[number].items() if name in names}
        widest: tuple[float, str] = (0.0, "")
        for wanted in self.wanted:
            for ratio, text in self._widest(wanted):
                widest = max(widest, (ratio, text))
        self.missing = widest[1] if widest[0] > 1.0 else ""
        if count not in self.looked:
            self.looked.append(count)
        said = "all intervals are narrow enough"
        if self.missing:
            enough = f"; about {count * widest[0] ** 2:,.0f} would do" if widest[0] < np.inf else ""
            said = f"{self.missing} is the widest{enough}"
        progress.say(f"look at {count} replications: {said}")
        return not self.missing

    def _widest(self, wanted: Wanted) -> list[tuple[float, str]]:
        """Return the widest interval of a variable: half its width over that wanted, and the same in words."""
        values = self._values(wanted.name)
        if values is None or np.isnan(values).all():
            if wanted.named:
                raise InputError("has no values in this sweep", path="`precision`", value=wanted.label)
            return []
        if wanted.quantile is not None:
            values = values[..., QUANTILES.index(wanted.quantile)]
        values = np.moveaxis(values, 1, -1)
        there = ~np.isnan(values).all(axis=-1)
        found = mean_interval(values, -1, level(self.first), REGISTRY[wanted.name].bounds)
        half = np.maximum(found.high - found.estimate, found.estimate - found.low)
        if wanted.name in _OUT_OF:
            # Of a share that is the same in all, what so many requests would not have shown.
            half = np.where(half == 0.0, unseen(0.5 - 0.5 * level(self.first), self._came(wanted.name)), half)
        limit = wanted.width * (np.abs(found.estimate) if wanted.relative else 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(half == 0.0, 0.0, half / limit)
        ratio = np.where(there, np.where(np.isnan(ratio), np.inf, ratio), 0.0)
        at = np.unravel_index(int(ratio.argmax()), ratio.shape)
        is_part = wanted.relative and found.estimate[at] != 0.0
        width = in_percent(half[at] / abs(found.estimate[at])) if is_part else f"{half[at]:.2g}"
        said = [where(self.axes, tuple(map(int, np.unravel_index(at[0], self.shape))))] if self.axes else []
        if np.isinf(ratio[at]) and found.estimate[at] == 0.0:
            said.append(f"0 in all, and no width is a part of it: ask for points, such as {wanted.label}=0.005")
        return [(float(ratio[at]), f"{wanted.label} ± {width}" + (f" ({'; '.join(said)})" if said else ""))]

    def _came(self, share: str) -> NDArray[np.float64]:
        """Return of how many requests a share is, in all replications: (point,), and of each class or window."""
        every = [values.sum(axis=1) for values in map(self._values, _OUT_OF[share]) if values is not None]
        came: NDArray[np.float64] = np.maximum(np.sum(every, axis=0), 1.0)
        return came

    def _values(self, name: str) -> NDArray[np.float64] | None:
        """Return a variable of all replications, (point, replication, ...)."""
        parts = []
        if self.held is not None and name in self.held:
            kept = self.held[name].values
            parts.append(kept.reshape(-1, *kept.shape[len(self.shape) :]))
        new = [self._seen[number].get(name) for number in sorted(self._seen)]
        if any(part is None for part in new) or not (parts or new):
            return None
        parts += [np.stack([part for part in new if part is not None], axis=1)] if new else []
        return np.concatenate(parts, axis=1).astype(np.float64)
