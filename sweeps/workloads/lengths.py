"""Length distributions: how long prompts and outputs are, in tokens, or how long a request's service is, in seconds."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from batchcube.errors import InputError

from .rows import MOST_TOKENS, LengthTable, read_columns, read_lengths, remembered
from .settings import FloatArray, IntArray, Settings

if TYPE_CHECKING:
    from scipy.stats._distn_infrastructure import rv_frozen

Unit = Literal["tokens", "seconds"]
LONGEST = 1e9


class Lengths(NamedTuple):
    """Lengths of the requests of one replication, each (request,); None for what the source does not give."""

    prompt_tokens: IntArray | None
    output_tokens: IntArray | None
    service_s: FloatArray | None
    predicted: FloatArray | None = None
    """Value or class that a real predictor gave, read from a file (kind = "column" uses it)."""


class _Lengths(Settings):
    """A distribution of output lengths, with prompts from another distribution if wanted."""

    unit: Unit = Field(
        default="tokens", description='"tokens": whole tokens, with the stated mean; "seconds": service time itself'
    )
    prompt: "LengthDistribution | None" = Field(
        default=None, description="distribution of the prompt lengths, independent of the outputs"
    )

    @model_validator(mode="after")
    def _prompt_in_tokens(self) -> "_Lengths":
        if self.prompt is not None:
            if self.unit == "seconds":
                raise ValueError("prompt needs unit = 'tokens': a service time in seconds includes the prompt")
            if self.prompt.unit == "seconds" or self.prompt.gives_prompt:
                raise ValueError("prompt must be in tokens and have no prompt of its own")
        return self

    @property
    def gives_prompt(self) -> bool:
        """Say whether draws have prompt lengths."""
        return self.prompt is not None

    @abstractmethod
    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) in seconds, or where they are whole numbers by themselves."""

    def draw_tokens(self, count: int, rng: np.random.Generator, least: int) -> FloatArray:
        """Draw the lengths (count,) in whole tokens, `least` of them or more; their mean is the one that is stated."""
        return np.maximum(self.draw_values(count, rng), least)

    @abstractmethod
    def mean_value(self) -> float:
        """Return the exact mean of what `draw_values` draws; raise InputError for a bad file."""

    def mean_in_tokens(self, least: int) -> float:
        """Return the exact mean of what `draw_tokens` draws, for a `least` of 0 or 1."""
        return self.mean_value()

    def means(self, least_prompt: int = 0) -> tuple[float, float]:
        """Return the exact means of the prompts, NaN without any, and of the outputs or seconds that `draw` draws."""
        if self.unit == "seconds":
            return math.nan, self.mean_value()
        prompt = math.nan if self.prompt is None else self.prompt.mean_in_tokens(least_prompt)
        return prompt, self.mean_in_tokens(1)

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield settings, by path, that lengths of `least` whole tokens or more cannot keep, and what is allowed."""
        if self.prompt is not None:
            for path, text in self.prompt.problems_in_tokens(0):
                yield ("prompt", *path), text

    def prompts(self) -> "Iterator[tuple[tuple[str | int, ...], LengthDistribution]]":
        """Yield the distributions of prompt lengths, by path."""
        if self.prompt is not None:
            yield ("prompt",), self.prompt

    def draw(
        self, count: int, rng: np.random.Generator, least_prompt: int = 0, path: str = "workload.lengths"
    ) -> Lengths:
        """Draw the lengths of `count` requests; raise InputError where prompt and output exceed 2,097,152 tokens.

        Prompts drawn from a distribution have `least_prompt` tokens, 0 or 1, or more. `path` is what messages call it.
        """
        if self.unit == "seconds":
            values = self.draw_values(count, rng)
            if not values.max(initial=0.0) <= LONGEST:
                raise InputError(
                    f"drew a service time of {values.max():g} s",
                    path=path,
                    allowed=f"at most {LONGEST:g} s",
                )
            return Lengths(None, None, values)
        output = _as_integers(self.draw_tokens(count, rng, 1), path)
        if self.prompt is None:
            return Lengths(None, output, None)
        prompt = _as_integers(self.prompt.draw_tokens(count, rng, least_prompt), path)
        return Lengths(_within_limit(prompt, output, path), output, None)


def _as_integers(values: FloatArray, path: str) -> IntArray:
    most = values.max(initial=0.0)
    if not most <= MOST_TOKENS:
        raise InputError(f"drew a length of {most:g} tokens", path=path, allowed=f"at most {MOST_TOKENS} a request")
    return values.astype(np.int64)


def _within_limit(prompt: IntArray, output: IntArray, path: str) -> IntArray:
    most = int((prompt + output).max(initial=0))
    if most > MOST_TOKENS:
        raise InputError(f"drew a request of {most} tokens: prompt and output at most {MOST_TOKENS}", path=path)
    return prompt


class Constant(_Lengths):
    """The same length for every request."""

    distribution: Literal["constant"]
    value: float = Field(ge=0, le=LONGEST, description="the length, in `unit`")

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return the value (count,); draws nothing."""
        return np.full(count, self.value)

    def mean_value(self) -> float:
        """Return the value."""
        return self.value

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what whole tokens cannot keep."""
        yield from super().problems_in_tokens(least)
        if self.value < least or not self.value.is_integer():
            yield ("value",), _whole_from(least)


def _whole_from(least: int) -> str:
    return f"must be a whole number of tokens, {least} or more"


def _mean_from(least: int) -> str:
    return f"must be >= {least}: every length is at least {least} token"


class Uniform(_Lengths):
    """Uniform lengths between low and high; in tokens every whole number from low to high is equally likely."""

    distribution: Literal["uniform"]
    low: float = Field(ge=0, le=LONGEST, description="least length, in `unit`")
    high: float = Field(ge=1e-6, le=LONGEST, description="largest length, in `unit`")

    @model_validator(mode="after")
    def _ordered(self) -> "Uniform":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: low must be below high")
        return self

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) in seconds."""
        return self.low + (self.high - self.low) * rng.random(count)

    def draw_tokens(self, count: int, rng: np.random.Generator, least: int) -> FloatArray:
        """Draw the lengths (count,) in whole tokens."""
        return self.low + np.floor((self.high - self.low + 1.0) * rng.random(count))

    def mean_value(self) -> float:
        """Return the middle, which is the mean of the whole numbers too."""
        return 0.5 * (self.low + self.high)

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what whole tokens cannot keep."""
        yield from super().problems_in_tokens(least)
        for name in ("low", "high"):
            value = getattr(self, name)
            if value < least or not value.is_integer():
                yield (name,), _whole_from(least)


class Exponential(_Lengths):
    """Exponential lengths; in tokens their whole-number counterpart without memory, geometric lengths."""

    distribution: Literal["exponential"]
    mean: float = Field(ge=1e-6, le=LONGEST, description="mean length, in `unit`")

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) in seconds."""
        return self.mean * rng.standard_exponential(count)

    def draw_tokens(self, count: int, rng: np.random.Generator, least: int) -> FloatArray:
        """Draw the lengths (count,) in whole tokens: the whole part of an exponential is geometric."""
        beyond = self.mean - least
        rate = math.log1p(1.0 / beyond) if beyond > 0 else math.inf
        return least + np.floor(rng.standard_exponential(count) / rate)

    def mean_value(self) -> float:
        """Return the mean, which is that of the whole numbers too."""
        return self.mean

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what whole tokens cannot keep."""
        yield from super().problems_in_tokens(least)
        if self.mean < least:
            yield ("mean",), _mean_from(least)


class Lognormal(_Lengths):
    """Lognormal lengths of a given mean and coefficient of variation.

    In tokens a length is rounded up with the probability of its fraction, which leaves the mean as it is; where lengths
    below 1 become 1, all are first shortened in one proportion, `scale_in_tokens`, for as much.
    """

    distribution: Literal["lognormal"]
    mean: float = Field(ge=1e-6, le=LONGEST, description="mean length, in `unit`")
    cv: float = Field(ge=1e-3, le=100, description="standard deviation / mean")

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) in seconds."""
        variance = math.log1p(self.cv**2)
        return self.mean * np.exp(math.sqrt(variance) * rng.standard_normal(count) - variance / 2)

    def draw_tokens(self, count: int, rng: np.random.Generator, least: int) -> FloatArray:
        """Draw the lengths (count,) in whole tokens."""
        values = self.scale_in_tokens(least) * self.draw_values(count, rng)
        return np.maximum(np.floor(values + rng.random(count)), least)

    def mean_value(self) -> float:
        """Return the mean, which `scale_in_tokens` keeps in tokens."""
        return self.mean

    def scale_in_tokens(self, least: int) -> float:
        """Return the s with E[max(s X, least)] = E[X], by halving; for a least of 0 or 1."""
        if least == 0:
            return 1.0
        normal, sigma, low, high = NormalDist(), math.sqrt(math.log1p(self.cv**2)), 1e-12, 1.0
        while low < (middle := (low + high) / 2) < high:
            # E[max(Y, 1)] of a lognormal Y, whose mean is the middle of what is left.
            mean = middle * self.mean
            at = math.log(mean) / sigma
            if mean * normal.cdf(at + sigma / 2) + normal.cdf(sigma / 2 - at) < self.mean:
                low = middle
            else:
                high = middle
        return high

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what whole tokens cannot keep."""
        yield from super().problems_in_tokens(least)
        if self.mean < least:
            yield ("mean",), _mean_from(least)


@lru_cache(maxsize=8)
def _zipf_cumulative(exponent: float, largest: int) -> FloatArray:
    # exp underflows to 0 for hopelessly rare lengths, as it should.
    with np.errstate(under="ignore"):
        cumulative = np.cumsum(np.exp(-exponent * np.log(np.arange(1.0, largest + 1.0))))
        cumulative /= cumulative[-1]
    cumulative.flags.writeable = False
    return cumulative


class Zipf(_Lengths):
    """Zipf lengths 1..largest with probability proportional to length^-exponent (BurstGPT, arXiv 2401.17644)."""

    distribution: Literal["zipf"]
    unit: Literal["tokens"] = "tokens"
    exponent: float = Field(
        default=1.1, ge=0, le=100, description="probability of length n is proportional to n^-exponent"
    )
    largest: int = Field(default=1023, ge=1, le=MOST_TOKENS, description="largest length, tokens")

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) by inversion."""
        return (
            np.searchsorted(_zipf_cumulative(self.exponent, self.largest), rng.random(count), side="right").astype(
                np.float64
            )
            + 1
        )

    def mean_value(self) -> float:
        """Return the mean: the sum over n of the probability of more than n tokens."""
        return 1.0 + float((1.0 - _zipf_cumulative(self.exponent, self.largest)[:-1]).sum())

    def scipy_distribution(self) -> "rv_frozen[Any, Any]":
        """Return the discrete scipy.stats distribution of the lengths."""
        from scipy import stats

        return stats.zipfian(self.exponent, self.largest)


class Mixture(_Lengths):
    """Each request is of one of several kinds, each kind with its own lengths (and prompts)."""

    distribution: Literal["mixture"]
    weights: tuple[Annotated[float, Field(ge=1e-9, le=1e15)], ...] = Field(
        min_length=1, strict=False, description="relative frequency of each component"
    )
    components: tuple["LengthDistribution", ...] = Field(
        min_length=1, strict=False, description="length distribution of each kind of request"
    )

    @model_validator(mode="after")
    def _alike(self) -> "Mixture":
        if len(self.weights) != len(self.components):
            raise ValueError(f"{len(self.weights)} weights but {len(self.components)} components: must be as many")
        if any(component.unit != self.unit for component in self.components):
            raise ValueError(f"every component must have the unit of the mixture, {self.unit!r}")
        if len({component.gives_prompt for component in self.components}) > 1:
            raise ValueError("either every component has a prompt or none has")
        if self.prompt is not None and self.components[0].gives_prompt:
            raise ValueError("give prompt either to the mixture or to its components, not to both")
        return self

    @property
    def gives_prompt(self) -> bool:
        """Say whether draws have prompt lengths."""
        return self.prompt is not None or self.components[0].gives_prompt

    def kinds(self, count: int, rng: np.random.Generator) -> IntArray:
        """Draw the kinds of `count` requests."""
        cumulative = np.cumsum(self.weights)
        return np.searchsorted(cumulative[:-1] / cumulative[-1], rng.random(count), side="right")

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,) in seconds."""
        return self._by_kind(count, rng, lambda component, size: component.draw_values(size, rng))

    def draw_tokens(self, count: int, rng: np.random.Generator, least: int) -> FloatArray:
        """Draw the lengths (count,) in whole tokens."""
        return self._by_kind(count, rng, lambda component, size: component.draw_tokens(size, rng, least))

    def mean_value(self) -> float:
        """Return the mean over the kinds, by their weights."""
        return self._over_kinds(component.mean_value() for component in self.components)

    def mean_in_tokens(self, least: int) -> float:
        """Return the mean in whole tokens over the kinds, by their weights."""
        return self._over_kinds(component.mean_in_tokens(least) for component in self.components)

    def means(self, least_prompt: int = 0) -> tuple[float, float]:
        """Return the means of prompts and outputs or seconds, over the kinds where these have their prompts."""
        if not self.components[0].gives_prompt:
            return super().means(least_prompt)
        prompts, outputs = zip(*(component.means(least_prompt) for component in self.components), strict=True)
        return self._over_kinds(prompts), self._over_kinds(outputs)

    def _over_kinds(self, means: Iterable[float]) -> float:
        return float(np.average(list(means), weights=self.weights))

    def _by_kind(
        self, count: int, rng: np.random.Generator, draw: "Callable[[LengthDistribution, int], FloatArray]"
    ) -> FloatArray:
        kind, values = self.kinds(count, rng), np.empty(count)
        for number, component in enumerate(self.components):
            (mine,) = np.nonzero(kind == number)
            values[mine] = draw(component, mine.size)
        return values

    def problems_in_tokens(self, least: int) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield what whole tokens cannot keep."""
        yield from super().problems_in_tokens(least)
        for number, component in enumerate(self.components):
            for path, text in component.problems_in_tokens(least):
                yield ("components", number, *path), text

    def prompts(self) -> "Iterator[tuple[tuple[str | int, ...], LengthDistribution]]":
        """Yield the distributions of prompt lengths, by path."""
        yield from super().prompts()
        for number, component in enumerate(self.components):
            for path, prompt in component.prompts():
                yield ("components", number, *path), prompt

    def draw(
        self, count: int, rng: np.random.Generator, least_prompt: int = 0, path: str = "workload.lengths"
    ) -> Lengths:
        """Draw the lengths of `count` requests; raise InputError where prompt and output exceed 2,097,152 tokens."""
        if not self.components[0].gives_prompt:
            return super().draw(count, rng, least_prompt, path)
        paths = [f"{path}.components[{number}]" for number in range(len(self.components))]
        return self.draw_of(self.kinds(count, rng), rng, least_prompt, paths)

    def draw_of(self, kind: IntArray, rng: np.random.Generator, least_prompt: int, paths: Sequence[str]) -> Lengths:
        """Draw the lengths of requests of known kinds (request,), where each kind has its prompts.

        `paths` are what messages call the kinds.
        """
        count = len(kind)
        prompt, output = np.empty(count, np.int64), np.empty(count, np.int64)
        for number, component in enumerate(self.components):
            (mine,) = np.nonzero(kind == number)
            drawn = component.draw(mine.size, rng, least_prompt, paths[number])
            assert drawn.prompt_tokens is not None
            assert drawn.output_tokens is not None
            prompt[mine], output[mine] = drawn.prompt_tokens, drawn.output_tokens
        return Lengths(prompt, output, None)


class _Bars(NamedTuple):
    low: FloatArray
    high: FloatArray
    weight: FloatArray


@remembered(32)
def _read_bars(path: str, low: str, high: str, count: str, source: str | None) -> _Bars:
    columns = read_columns(path, (low, high, count), None if source is None else {"source": source})
    bars = _Bars(columns[low], columns[high], columns[count])
    problem = _bars_problem(bars)
    if problem:
        raise InputError(problem, file=path)
    order = np.argsort(bars.low)
    bars = _Bars(bars.low[order], bars.high[order], bars.weight[order])
    overlap = np.flatnonzero(bars.low[1:] < bars.high[:-1])
    if overlap.size:
        raise InputError(f"the bin from {bars.low[overlap[0] + 1]:g} overlaps the one before it", file=path)
    return bars


def _bars_problem(bars: _Bars) -> str | None:
    if not (np.all(bars.low >= 0) and np.all(bars.low < bars.high) and np.all(bars.high <= LONGEST)):
        return "a bin must have 0 <= lower edge < upper edge <= 1e9"
    if not (np.all(bars.weight >= 0) and np.all(bars.weight <= 1e15) and bars.weight.sum() > 0):
        return "counts must be >= 0, at most 1e15, and not all zero"
    return None


class Histogram(_Lengths):
    """Lengths from a histogram: a bin by its count, then uniform within the bin.

    In tokens a bin [low, high) means the whole numbers low..high-1 (0 counts as 1).
    """

    distribution: Literal["histogram"]
    edges: tuple[Annotated[float, Field(ge=0, le=LONGEST)], ...] | None = Field(
        default=None, min_length=2, strict=False, description="bin edges, one more than counts"
    )
    counts: tuple[Annotated[float, Field(ge=0, le=1e15)], ...] | None = Field(
        default=None, min_length=1, strict=False, description="count (or weight) of each bin"
    )
    path: str | None = Field(default=None, description="CSV file with one row a bin, instead of edges and counts")
    low_column: str = Field(default="bin_lo_tokens", description="column of the lower edges")
    high_column: str = Field(default="bin_hi_tokens", description="column of the upper edges")
    count_column: str = Field(default="response_count", description="column of the counts")
    source: str | None = Field(default=None, description='keep the rows whose column "source" is this')

    @model_validator(mode="after")
    def _one_source(self) -> "Histogram":
        if self.path is not None:
            if self.edges is not None or self.counts is not None:
                raise ValueError("give either path, or edges and counts, not both")
            return self
        if self.edges is None or self.counts is None:
            raise ValueError("give either path, or both edges and counts")
        of_files = ("low_column", "high_column", "count_column", "source")
        if ignored := [name for name in of_files if name in self.model_fields_set]:
            raise ValueError(f"{ignored[0]} says what to read of a file: needs path")
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.edges)} edges for {len(self.counts)} counts: must be one more")
        problem = _bars_problem(self._inline())
        if problem:
            raise ValueError(problem)
        return self

    def _inline(self) -> _Bars:
        edges = np.array(self.edges)
        return _Bars(edges[:-1], edges[1:], np.array(self.counts))

    def _bars(self) -> _Bars:
        if self.path is None:
            return self._inline()
        return _read_bars(self.path, self.low_column, self.high_column, self.count_column, self.source)

    @np.errstate(under="ignore")
    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the lengths (count,); raise InputError for a bad file."""
        bars = self._bars()
        cumulative = np.cumsum(bars.weight)
        # The same uniform number chooses the bar and the place in it: one draw a request, monotone.
        place = rng.random(count) * cumulative[-1]
        bar = np.minimum(np.searchsorted(cumulative, place, side="right"), np.flatnonzero(bars.weight)[-1])
        part = np.clip((place - (cumulative[bar] - bars.weight[bar])) / bars.weight[bar], 0.0, 1.0)
        values: FloatArray = bars.low[bar] + part * (bars.high[bar] - bars.low[bar])
        if self.unit == "tokens":
            values = np.minimum(np.floor(values), np.ceil(bars.high[bar]) - 1)
        return values

    def mean_value(self) -> float:
        """Return the mean of the seconds, or of the whole numbers in the bins."""
        if self.unit == "tokens":
            return self.mean_in_tokens(0)
        bars = self._bars()
        return float(np.average(0.5 * (bars.low + bars.high), weights=bars.weight))

    def mean_in_tokens(self, least: int) -> float:
        """Return the mean of the whole numbers in the bins, each `least` or more."""
        bars = self._bars()

        def below(x: FloatArray) -> FloatArray:
            """Return the area below the whole part, or `least` where that is more, from 0 to x."""
            whole = np.floor(x)
            return np.asarray(0.5 * whole * (whole - 1.0) + whole * (x - whole) + least * np.minimum(x, 1.0))

        means = (below(bars.high) - below(bars.low)) / (bars.high - bars.low)
        return float(np.average(means, weights=bars.weight))

    def scipy_distribution(self) -> "rv_frozen[Any, Any] | Any":
        """Return the scipy.stats distribution of the lengths in seconds."""
        from scipy import stats

        bars = self._bars()
        edges = np.unique(np.concatenate([bars.low, bars.high]))
        counts = np.zeros(edges.size - 1)
        counts[np.searchsorted(edges, bars.low)] = bars.weight
        return stats.rv_histogram((counts, edges), density=False)


class Empirical(_Lengths):
    """Lengths drawn, with replacement, from the rows of a file; prompt, output and prediction jointly by row."""

    distribution: Literal["empirical"]
    path: str = Field(description='CSV file, or "dataset:NAME"')
    column: str = Field(default="output_tokens", description="column of the output lengths, or of the seconds")
    prompt_column: str | None = Field(
        default=None, description="column of the prompt lengths, drawn jointly with the outputs"
    )
    predicted_column: str | None = Field(
        default=None, description="column of predicted lengths or classes, for the predictor of kind column"
    )
    limit: int | None = Field(default=None, ge=1, description="use the first rows only")

    @model_validator(mode="after")
    def _joint_or_not(self) -> "Empirical":
        if self.prompt is not None and self.prompt_column is not None:
            raise ValueError("give prompt or prompt_column, not both")
        if self.unit == "seconds" and self.prompt_column is not None:
            raise ValueError("prompt_column needs unit = 'tokens'")
        return self

    @property
    def gives_prompt(self) -> bool:
        """Say whether draws have prompt lengths."""
        return self.prompt is not None or self.prompt_column is not None

    def table(self) -> LengthTable:
        """Return the file's rows; raise InputError for a bad file."""
        return read_lengths(
            self.path, self.column, self.prompt_column, self.predicted_column, limit=self.limit, unit=self.unit
        )

    def draw_values(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw the output lengths (count,); raise InputError for a bad file."""
        values = self.table().length
        return values[rng.integers(0, values.size, count)]

    def mean_value(self) -> float:
        """Return the mean of the rows."""
        return float(self.table().length.mean())

    def mean_in_tokens(self, least: int) -> float:
        """Return the mean of the rows, each `least` or more."""
        return float(np.maximum(self.table().length, least).mean())

    def means(self, least_prompt: int = 0) -> tuple[float, float]:
        """Return the means over the rows, as `draw` reads them."""
        table = self.table()
        if table.prompt_tokens is None:
            return super().means(least_prompt)[0], self.mean_value()
        return float(table.prompt_tokens.mean()), self.mean_value()

    def draw(
        self, count: int, rng: np.random.Generator, least_prompt: int = 0, path: str = "workload.lengths"
    ) -> Lengths:
        """Draw the lengths of `count` requests jointly by row; raise InputError for a bad file."""
        table = self.table()
        row = rng.integers(0, table.length.size, count)
        predicted = None if table.predicted is None else table.predicted[row]
        if self.unit == "seconds":
            return Lengths(None, None, table.length[row], predicted)
        output = table.length[row].astype(np.int64)
        if self.prompt is not None:
            prompt = _as_integers(self.prompt.draw_tokens(count, rng, least_prompt), path)
            return Lengths(_within_limit(prompt, output, path), output, None, predicted)
        return Lengths(None if table.prompt_tokens is None else table.prompt_tokens[row], output, None, predicted)


LengthDistribution = Annotated[
    Constant | Uniform | Exponential | Lognormal | Zipf | Mixture | Histogram | Empirical,
    Field(discriminator="distribution"),
]

for _model in (Constant, Uniform, Exponential, Lognormal, Zipf, Mixture, Histogram, Empirical):
    _model.model_rebuild()
