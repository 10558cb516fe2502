"""Variables by name: which one is meant, which `show` shows unless told otherwise, and which names no axis can have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from batchcube.errors import InputError, did_you_mean

from .variables import BUCKETED, EXTRA_DIMENSIONS, GOODPUT, REGISTRY, REPLICATION, Variable, edge_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

_OF_INTERVALS = ("mean", "quantile", "difference", "ratio", "low", "high", "n", "narrowed")
_OF_TABLES = ("variable", "units", "ci_low", "ci_high", "queue", "note")


def reserved_names() -> frozenset[str]:
    """Return the names that cubes, intervals and tables use themselves, so that no axis can have them."""
    edges = (name for dim in BUCKETED for name in edge_names(dim))
    return frozenset({REPLICATION, *EXTRA_DIMENSIONS, *REGISTRY, *edges, *_OF_INTERVALS, *_OF_TABLES})


# What `show` prints unless told otherwise: (variable, quantile or None).
_DEFAULTS: tuple[tuple[str, float | None], ...] = (
    ("throughput_requests_per_s", None),
    ("latency_mean_s", None),
    ("latency_quantile_s", 0.95),
    ("request_sla_violation_fraction", None),
    ("token_sla_violation_fraction", None),
    ("utilisation", None),
    ("batch_size_mean", None),
    ("capacity_requests_per_s", None),
    ("capacity_statistic", None),
    ("capacity_unbracketed", None),
)
# The same of mode continuous, whose cubes are told by their steps.
_CONTINUOUS_DEFAULTS: tuple[tuple[str, float | None], ...] = (
    ("throughput_requests_per_s", None),
    ("ttft_mean_s", None),
    ("tpot_mean_s", None),
    ("latency_mean_s", None),
    ("throughput_tokens_per_s", None),
    ("tbt_quantile_s", 0.5),
    ("tbt_quantile_s", 0.99),
    (GOODPUT, None),
    ("request_sla_violation_fraction", None),
    ("token_sla_violation_fraction", None),
    ("utilisation", None),
    ("batch_size_mean", None),
    ("preemptions", None),
)


def usual(*, stepwise: bool) -> tuple[tuple[str, float | None], ...]:
    """Return the variables, and quantiles of them, that `show` prints where a cube has them."""
    return _CONTINUOUS_DEFAULTS if stepwise else _DEFAULTS


_OF_A_QUANTILE = re.compile(r"_p\d+(\.\d+)?(_s|_ms)?$")


def lookup(name: str) -> Variable:
    """Return the registered variable of this name; InputError with the nearest names when there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    # Limits and figures name a single quantile.
    quantiles = _OF_A_QUANTILE.sub("_quantile_s", name)
    meant = quantiles if quantiles in REGISTRY else name
    hint = did_you_mean(meant, [meant] if meant in REGISTRY else REGISTRY) or "`batchcube variables` lists all of them"
    raise InputError(f"no such variable; {hint}", path=name)


class Statistic(NamedTuple):
    """A variable, or one of the quantiles that it has, in the unit in which somebody named it."""

    variable: str
    quantile: float | None = None
    """None for all of the variable."""
    scale: float = 1.0
    """How many of that unit make one of the variable's: 1000 of ms."""

    @property
    def name(self) -> str:
        """Its name, which `statistic_of` reads."""
        name = self.variable
        if self.quantile is not None:
            name = name.replace("quantile", f"p{100 * self.quantile:.10g}")
        return name if self.scale == 1.0 else f"{name.removesuffix('_s')}_ms"


_STATISTIC = re.compile(r"(\w+?)_(mean|min|max|p\d+(?:\.\d+)?)_(s|ms)")
_QUANTILE = re.compile(r"(\w+?) ?\[(0?\.\d+)\]")


def statistic_of(name: str) -> Statistic:
    """Return what `latency_p99_s`, `tbt_mean_ms`, `latency_quantile_s[0.99]` or the name of a variable means.

    Raises InputError, as `lookup` does, for anything else, and for a quantile of what has none.
    """
    if (spelled := _STATISTIC.fullmatch(name)) is not None:
        time, statistic, unit = spelled.groups()
        scale = 1000.0 if unit == "ms" else 1.0
        quantile = float(f"{statistic[1:]}e-2") if statistic[0] == "p" else None
        variable = f"{time}_{statistic if quantile is None else 'quantile'}_s"
        if variable in REGISTRY and (quantile is None or 0.0 < quantile < 1.0):
            return Statistic(variable, quantile, scale)
    elif (spelled := _QUANTILE.fullmatch(name)) is not None:
        if "quantile" not in lookup(spelled[1]).extra:
            raise InputError("this variable has no quantiles", path=name)
        return Statistic(spelled[1], float(spelled[2]))
    return Statistic(lookup(name).name)


def variables_table(names: Iterable[str] | None = None) -> Table:
    """Return a printable table of the registered variables, or of those named; InputError for an unknown name."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Variables of a cube; dimensions come after the axes of the sweep", show_lines=True)
    table.add_column("variable", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for variable in REGISTRY.values() if names is None else [lookup(name) for name in names]:
        dims = ", ".join(variable.dims(())) or "none"
        kind = f"unit: {variable.units}; dimensions: {dims}; {variable.dtype}"
        table.add_row(variable.name, Text(f"{variable.definition}\n").append(kind, style="dim"))
    return table
