"""Arrival processes: when requests come, in seconds.

Every process draws its randomness in unit-rate (operational) time and only then maps it to seconds, so the same
stream at another rate gives the same arrivals, stretched: common random numbers across rates.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from batchcube.errors import InputError

from .rows import read_columns, remembered
from .sessions import ThinkTime, think_s
from .settings import FloatArray, Rate, Settings
from .traces import LATEST_S

MOST_PHASES = 5_000_000


def _checked(arrival_s: FloatArray) -> FloatArray:
    if arrival_s.size and not arrival_s[-1] <= LATEST_S:
        raise InputError(
            f"the last of {arrival_s.size} requests would arrive after more than {LATEST_S:g} s: "
            "raise the arrival rate or lower workload.requests",
            path="workload.arrivals",
        )
    return arrival_s


def _invert(operational: FloatArray, knot_s: FloatArray, knot_operational: FloatArray, rate: FloatArray) -> FloatArray:
    """Map operational time (expected arrivals so far) to seconds where the rate is constant between knots.

    `knot_s` and `knot_operational` have one more entry than `rate`; the last may be infinite.
    """
    # side="left": a value on a knot belongs to the piece before it, which therefore has a positive rate.
    piece = np.maximum(np.searchsorted(knot_operational, operational, side="left") - 1, 0)
    seconds = knot_s[piece] + (operational - knot_operational[piece]) / rate[piece]
    within: FloatArray = np.minimum(seconds, knot_s[piece + 1])
    return within


class AtRate(Settings):
    """A process whose arrivals at rate r are its unit-rate arrivals divided by r."""

    rate_per_s: Rate = Field(description="mean arrival rate, requests per second")

    @abstractmethod
    def unit_arrivals(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals (count,) at rate 1."""

    def scale(self, unit_arrivals: FloatArray) -> FloatArray:
        """Turn unit-rate arrivals (count,) into seconds; raise InputError beyond the 142 years the engine can hold."""
        with np.errstate(over="ignore", under="ignore"):
            return _checked(unit_arrivals / self.rate_per_s)

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw arrival times (count,) in seconds, non-decreasing."""
        return self.scale(self.unit_arrivals(count, rng))

    def nominal_span_s(self, count: int) -> float:
        """Return the expected time of arrival of the last of `count` requests, in seconds."""
        return count / self.rate_per_s


class Poisson(AtRate):
    """Poisson arrivals."""

    process: Literal["poisson"]

    def unit_arrivals(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals (count,) at rate 1."""
        return np.cumsum(rng.standard_exponential(count))


class Deterministic(AtRate):
    """One arrival every 1 / rate seconds, the first after one gap."""

    process: Literal["deterministic"]

    def unit_arrivals(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the arrivals (count,) at rate 1; draws nothing."""
        return np.arange(1.0, count + 1.0)


class Gamma(AtRate):
    """Renewal arrivals with Gamma gaps of a given coefficient of variation."""

    process: Literal["gamma"]
    cv: float = Field(ge=1e-3, le=100, description="coefficient of variation of the gaps; 1 is Poisson")

    def unit_arrivals(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the arrivals (count,) at rate 1."""
        shape = self.cv**-2
        return np.cumsum(rng.standard_gamma(shape, count)) / shape


class OnOff(Settings):
    """Poisson arrivals whose rate switches between two levels after exponential times: bursts.

    The path of the phases is in seconds and the same at every `rate_per_s`; the first phase is drawn from the
    stationary probabilities.
    """

    process: Literal["on_off"]
    rate_per_s: Rate = Field(description="mean arrival rate over both phases, requests per second")
    on_off_ratio: Annotated[float, Field(ge=1e-6, le=1e6)] | Literal["infinite"] = Field(
        description='rate while on / rate while off; "infinite": nothing arrives while off'
    )
    mean_on_s: float = Field(ge=1e-6, le=1e9, description="mean length of an on phase, seconds")
    mean_off_s: float = Field(ge=1e-6, le=1e9, description="mean length of an off phase, seconds")

    def phase_rates_per_s(self) -> tuple[float, float]:
        """Return the arrival rates (on, off) that give the mean rate, requests per second."""
        off_to_on = 0.0 if self.on_off_ratio == "infinite" else 1.0 / self.on_off_ratio
        on = self.rate_per_s * (self.mean_on_s + self.mean_off_s) / (self.mean_on_s + self.mean_off_s * off_to_on)
        return on, on * off_to_on

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw arrival times (count,) in seconds, non-decreasing; raise InputError for absurdly many phases."""
        operational = np.cumsum(rng.standard_exponential(count))
        starts_on = rng.random() * (self.mean_on_s + self.mean_off_s) < self.mean_on_s
        if count == 0:
            return operational
        lengths = np.array([self.mean_on_s, self.mean_off_s])
        rates = np.array(self.phase_rates_per_s())
        if not starts_on:
            lengths, rates = lengths[::-1], rates[::-1]
        with np.errstate(over="ignore"):
            cycles = operational[-1] / (lengths @ rates)
        if not cycles * 2 < MOST_PHASES:
            raise InputError(
                f"about {cycles * 2:.2g} on/off phases for {count} requests, at most {MOST_PHASES}: use "
                "longer phases or a higher rate",
                path="workload.arrivals",
            )
        # Phases are drawn in sequence after the arrivals, so how many are drawn at a time changes nothing.
        knot_s, knot_operational = [np.zeros(1)], [np.zeros(1)]
        while knot_operational[-1][-1] < operational[-1]:
            pairs = 16 + int(1.1 * cycles)
            phase_s = rng.standard_exponential((pairs, 2)) * lengths
            # The last knot leads each sum, so that the additions are the same whatever the chunks.
            knot_s.append(np.cumsum(np.append(knot_s[-1][-1], phase_s))[1:])
            knot_operational.append(np.cumsum(np.append(knot_operational[-1][-1], phase_s * rates))[1:])
        seconds, expected = np.concatenate(knot_s), np.concatenate(knot_operational)
        return _checked(_invert(operational, seconds, expected, np.tile(rates, seconds.size // 2)))

    def nominal_span_s(self, count: int) -> float:
        """Return the expected time of arrival of the last of `count` requests, in seconds."""
        return count / self.rate_per_s


class _Windows(NamedTuple):
    shape: FloatArray
    scale_s: FloatArray


@remembered(32)
def _read_windows(path: str, shape_column: str, scale_column: str, service: str | None) -> _Windows:
    columns = read_columns(path, (shape_column, scale_column), None if service is None else {"service": service})
    for name, values in columns.items():
        bad = np.flatnonzero(~((values >= 1e-4) & (values <= 1e9)))
        if bad.size:
            raise InputError(f"column {name!r} has {values[bad[0]]:g}", file=path, allowed="must be from 0.0001 to 1e9")
    return _Windows(columns[shape_column], columns[scale_column])


class GammaWindows(Settings):
    """Gamma gaps whose shape and scale change from window to window (BurstGPT, arXiv 2401.17644, Fig. 6).

    A gap has the shape of the window it begins in; what is left of it at a window's end runs on at the next
    window's rate, so every window has its own mean rate 1 / (shape * scale). After the last window comes the first.
    """

    process: Literal["gamma_windows"]
    shapes: tuple[Annotated[float, Field(ge=1e-4, le=1e9)], ...] | None = Field(
        default=None, min_length=1, strict=False, description="Gamma shape of each window"
    )
    scales_s: tuple[Annotated[float, Field(ge=1e-4, le=1e9)], ...] | None = Field(
        default=None, min_length=1, strict=False, description="Gamma scale of each window, seconds"
    )
    path: str | None = Field(default=None, description="CSV file with one row a window, instead of shapes and scales_s")
    shape_column: str = Field(default="alpha_shape", description="column of the shapes")
    scale_column: str = Field(default="beta_scale_s", description="column of the scales in seconds")
    service: str | None = Field(default=None, description='keep the rows whose column "service" is this')
    window_s: float = Field(default=1200.0, ge=1e-3, le=1e9, description="length of a window, seconds")
    rate_per_s: Rate | None = Field(
        default=None, description="mean arrival rate over all windows; all windows are rescaled alike to give it"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "GammaWindows":
        if self.path is None and (self.shapes is None or self.scales_s is None):
            raise ValueError("give either path, or both shapes and scales_s")
        if self.path is not None and (self.shapes is not None or self.scales_s is not None):
            raise ValueError("give either path, or shapes and scales_s, not both")
        if self.shapes is not None and self.scales_s is not None and len(self.shapes) != len(self.scales_s):
            raise ValueError(f"{len(self.shapes)} shapes but {len(self.scales_s)} scales_s: must be as many")
        if self.path is None:
            ignored = [name for name in ("shape_column", "scale_column", "service") if name in self.model_fields_set]
            if ignored:
                raise ValueError(f"{ignored[0]} says what to read of a file: needs path")
        return self

    def windows(self) -> tuple[FloatArray, FloatArray]:
        """Return shape (window,) and rate in requests per second (window,); raise InputError for a bad file."""
        if self.path is not None:
            shape, scale_s = _read_windows(self.path, self.shape_column, self.scale_column, self.service)
        else:
            shape, scale_s = np.array(self.shapes), np.array(self.scales_s)
        rate = 1.0 / (shape * scale_s)
        return shape, rate if self.rate_per_s is None else rate * (self.rate_per_s / rate.mean())

    def _seconds(self, operational: FloatArray, rate: FloatArray) -> FloatArray:
        knot_operational = np.append(0.0, np.cumsum(rate * self.window_s))
        knot_s: FloatArray = np.arange(rate.size + 1, dtype=np.float64) * self.window_s
        cycle = np.floor(operational / knot_operational[-1])
        within = np.clip(operational - cycle * knot_operational[-1], 0.0, knot_operational[-1])
        seconds = cycle * knot_s[-1] + _invert(within, knot_s, knot_operational, rate)
        return np.maximum.accumulate(seconds)

    # A Gamma gap of a small shape can be too small for a float64: 0 is right.
    @np.errstate(under="ignore")
    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw arrival times (count,) in seconds, non-decreasing; raise InputError for a bad file."""
        shape, rate = self.windows()
        ends = np.cumsum(rate * self.window_s)
        # Each visit to a window has its own stream: another rate_per_s meets the same gaps in the same window.
        key = rng.integers(0, 2**64, size=2, dtype=np.uint64)
        operational = np.empty(count)
        done, now = 0, 0.0
        while done < count:
            cycle = math.floor(now / ends[-1])
            window = int(np.searchsorted(ends, now - cycle * ends[-1], side="right"))
            if window == ends.size:
                cycle, window = cycle + 1, 0
            end = cycle * ends[-1] + ends[window]
            gaps = np.random.Generator(np.random.Philox(key=key, counter=(cycle * ends.size + window) << 128))
            left = max(end - now, 0.0)
            while True:
                size = int(min(count - done, 65536, 16 + left + 4 * math.sqrt(left * max(1.0, 1 / shape[window]))))
                drawn = gaps.standard_gamma(shape[window], size) / shape[window]
                times = np.cumsum(np.append(now, drawn))[1:]
                kept = min(int(np.searchsorted(times, end, side="right")) + 1, size)
                operational[done : done + kept] = times[:kept]
                done, now = done + kept, float(times[kept - 1])
                if done == count or now > end:
                    break
        return _checked(self._seconds(operational, rate))

    def nominal_span_s(self, count: int) -> float:
        """Return the expected time of arrival of the last of `count` requests, in seconds."""
        return float(self._seconds(np.array([float(count)]), self.windows()[1])[0])


class Step(Settings):
    """Poisson arrivals whose rate is constant between given times (a step change of the load)."""

    process: Literal["step"]
    times_s: tuple[Annotated[float, Field(ge=0, le=LATEST_S)], ...] = Field(
        min_length=1, strict=False, description="start of each piece, seconds; the first is 0"
    )
    rates_per_s: tuple[Annotated[float, Field(ge=0, le=1e9)], ...] = Field(
        min_length=1,
        strict=False,
        description="arrival rate in each piece, requests per second; the last lasts for ever",
    )

    @model_validator(mode="after")
    def _pieces(self) -> "Step":
        if len(self.times_s) != len(self.rates_per_s):
            raise ValueError(f"{len(self.times_s)} times_s but {len(self.rates_per_s)} rates_per_s: must be as many")
        if self.times_s[0] != 0.0 or any(b <= a for a, b in zip(self.times_s, self.times_s[1:], strict=False)):
            raise ValueError("times_s must start at 0 and increase")
        if self.rates_per_s[-1] == 0.0:
            raise ValueError("the last of rates_per_s must be > 0: it lasts for ever")
        return self

    def _seconds(self, operational: FloatArray) -> FloatArray:
        start, rate = np.array(self.times_s), np.array(self.rates_per_s)
        with np.errstate(over="ignore", under="ignore"):
            knot_operational = np.append(np.append(0.0, np.cumsum(np.diff(start) * rate[:-1])), np.inf)
            return _invert(operational, np.append(start, np.inf), knot_operational, rate)

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw arrival times (count,) in seconds, non-decreasing."""
        return _checked(self._seconds(np.cumsum(rng.standard_exponential(count))))

    def nominal_span_s(self, count: int) -> float:
        """Return the time by which `count` arrivals are expected, in seconds."""
        return float(self._seconds(np.array([float(count)]))[0])


class AtOnce(Settings):
    """All requests at time 0 ("infinite rate", arXiv 2503.05248, Table I)."""

    process: Literal["at_once"]

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return zeros (count,); draws nothing."""
        return np.zeros(count)

    def nominal_span_s(self, count: int) -> float:
        """Return 0: everything is there at once."""
        return 0.0


class Closed(Settings):
    """A closed loop: as many users, who think, send a request each, and think again when it is answered."""

    process: Literal["closed"]
    users: int = Field(
        ge=1, le=10**6, description="users, all of whom begin to think at time 0; max_concurrency of benchmarks"
    )
    think_s: ThinkTime | None = Field(
        default=None,
        description="seconds from an answer to the user's next request, and before the first, a distribution; none if "
        "left out",
    )

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw when the first request of every user arrives, in order; (count,), where all later ones do not count."""
        first = np.sort(think_s(self.think_s, min(self.users, count), rng, "workload.arrivals.think_s"))
        return np.concatenate((first, np.full(count - len(first), first[-1])))

    def nominal_span_s(self, count: int) -> float:
        """Return 0: it takes as long as the service does."""
        return 0.0


ArrivalProcess = Annotated[
    Poisson | Deterministic | Gamma | OnOff | GammaWindows | Step | AtOnce | Closed, Field(discriminator="process")
]
