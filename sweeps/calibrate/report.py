"""Coefficients in words: where they come from, laws with their errors, plausibility, lines for a specification."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from batchcube.calibration.coefficients import (
    Coefficients,
    FittedLog,
    FoundWay,
    KvMemory,
    LoggedServer,
    StepCoefficients,
)
from batchcube.calibration.laws import unstated_terms
from batchcube.calibration.reach import validity
from batchcube.errors import printable
from batchcube.results.tables import columns_of, print_table

from .trust import INTERVAL, repeats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from rich.console import Console

    from batchcube.calibration.logs import Log
    from batchcube.calibration.plausibility import Finding
    from batchcube.results.tables import Column

    from .validate import Error

_TERMS = ("step term", "coefficient", "unit")
_STEP_UNITS = {
    "c0_s": (1e3, "ms"),
    "c1_s_per_request": (1e3, "ms per decoding request"),
    "c2_s_per_kv_token": (1e6, "us per KV token read"),
    "c3_s_per_prefill_token": (1e6, "us per prefill token"),
    "c4_s_per_prefill_attention": (1e9, "ns per prefill token and context token"),
    "c5_s_per_prefill_step": (1e3, "ms of a step with any prefill"),
}
_WAYS = {
    "speed": (100.0, "% of all of it"),
    "decode": (100.0, "% of decodes"),
    "prefill": (100.0, "% of prefills"),
    "bend": (1e3, "ms of a step with many decodes"),
    "knee": (1e6, "us per prefill token beyond some hundred"),
    "client": (1e3, "ms that a client's clock adds"),
}
# Standard deviations of what was known before; beyond, it was wrong.
_FAR = 2.5
# Fractions of a law this close to the least that was open are there.
_AT_LIMIT = 1e-6
# Standard errors below this part of what they were before are the log's alone.
_TOLD = 0.33


def print_coefficients(known: Coefficients, console: "Console", file: str | None, *, brief: bool = False) -> None:
    """Print what is known of coefficients: origin, laws with their errors, plausibility, lines for a specification.

    `file` is what a sweep calls them by; None where they are not kept. A `brief` text has of a law that was fitted to a
    log what was found, and neither what was known before nor what steps of all sizes take.
    """
    from rich.markup import escape

    name, title = (escape(printable(text)) for text in (known.name, known.title))
    console.print(f"[bold]{name}[/bold] ({known.label}): {title}", highlight=False)
    console.print(printable(known.source), highlight=False, markup=False)
    if known.batch_laws:
        how_well = ("R2", "left out", "size left out", "worst cell")
        names = ("prompt", "law h(b)", "a0 (s)", "a1 (ms/token)", "gamma", *how_well)
        rows: list[tuple[str, ...]] = []
        for laws in known.batch_laws:
            prompt = "-" if laws.prompt_tokens is None else f"{laws.prompt_tokens:g}"
            for h, law in laws.laws.items():
                errors = law.standard_errors
                row = (
                    prompt,
                    h + (" *" if h == laws.chosen else ""),
                    _with_error(law.a0_s, errors[0]),
                    _with_error(1e3 * law.a1_s_per_token, None if errors[1] is None else 1e3 * errors[1]),
                    _with_error(law.gamma, errors[2]),
                    "-" if law.quality.r_squared is None else f"{law.quality.r_squared:.4f}",
                    _percent(law.quality.leave_one_out_rms),
                    _percent(law.quality.leave_one_size_out_rms),
                    _worst(law.quality.worst_residual, law.quality.worst_at),
                )
                rows.append(row)
            if laws.table is not None:
                left_out = _percent(laws.table.leave_one_size_out_rms)
                rows.append((prompt, "table", "-", "-", "-", "-", "-", left_out, ""))
        going = ("worst cell", "R2", "size left out", "left out")
        _print(console, columns_of(names, rows, words=("law h(b)", "worst cell"), goes=going))
        console.print(
            "T(b, L) = a0 + a1 L h(b), L output tokens; * chosen: least error on left-out cells", highlight=False
        )
    step = known.step_law
    if step is not None:
        if not (brief and known.log is not None and known.log.found):
            _print_terms(step, console)
            _print_sizes(step, console)
        if step.rms_by_kind:
            rms = ", ".join(f"{kind} {_percent(value)}" for kind, value in step.rms_by_kind.items())
            console.print(f"rms: {rms}", highlight=False)
        quality = step.quality
    if known.log is not None:
        _print_log(known.log, console, brief=brief)
    elif step is not None and step.quality.measurements:
        console.print(
            f"{quality.measurements} steps, R2 {_number(quality.r_squared, '.4f')}, left-out error "
            f"{_percent(quality.leave_one_out_rms)}, of whole batch sizes {_percent(quality.leave_one_size_out_rms)}, "
            f"worst {_worst(quality.worst_residual, quality.worst_at)}",
            highlight=False,
        )
    if step is not None and validity(known):
        console.print(printable(validity(known)), highlight=False, markup=False)
    if known.replica is not None:
        console.print(server_in_words(known.replica), highlight=False, markup=False)
    if known.memory is not None:
        console.print(printable(memory_in_words(known.memory)), highlight=False, markup=False)
    if known.plausibility is not None:
        _print_plausibility(known.plausibility.flags, known.plausibility.notes, console)
    if file is not None and (known.batch_laws or step is not None):
        where = "a sweep" if known.batch_laws else "a sweep of mode continuous"
        console.print(f'in {where}: server.service = {{ coefficients = "{file}" }}', highlight=False, markup=False)


def _print_terms(step: StepCoefficients, console: "Console") -> None:
    """Print the terms of a step law, with their errors."""
    unknown = unstated_terms(step)
    terms = []
    for name, (scale, unit) in _STEP_UNITS.items():
        value, error = getattr(step, name), step.standard_error(name)
        scaled = None if error is None else scale * error
        if value is not None or name in unknown:
            shown = "not measured" if value is None else _with_error(scale * value, scaled)
            terms.append((name.partition("_")[0], shown, unit))
    _print(console, columns_of(_TERMS, terms, words=_TERMS))


def _print_sizes(step: StepCoefficients, console: "Console") -> None:
    """Print what a step takes by its decodes and prefill tokens, where that is no term."""
    if step.decode is not None:
        decodes = [
            (str(step.decode.requests[k]), f"{1e3 * step.decode.s[k]:.4g}", f"{1e6 * per_token:.4g}")
            for k in _corners(step.decode.requests, step.decode.s, step.decode.s_per_kv_token)
            for per_token in [step.decode.s_per_kv_token[k]]
        ]
        _print(console, columns_of(("decodes", "ms of a step", "us per KV token read"), decodes))
    if step.prefill is not None:
        prefills = [
            (str(step.prefill.tokens[k]), f"{1e3 * step.prefill.s[k]:.4g}")
            for k in _corners(step.prefill.tokens, step.prefill.s)
        ]
        _print(console, columns_of(("prefill tokens", "ms that they add"), prefills))


def print_findings(found: "Sequence[Finding]", console: "Console", where: str = "") -> None:
    """Print what was found in a table, flags first."""
    texts = {level: [f"{one.sign}: {one.text}" for one in found if one.level == level] for level in ("flag", "note")}
    _print_plausibility(texts["flag"], texts["note"], console, f"{where}: " if where else "")


def _print_plausibility(flags: "Sequence[str]", notes: "Sequence[str]", console: "Console", where: str = "") -> None:
    verdict = "implausible" if flags else "plausible, nothing speaks against these times"
    console.print(f"{printable(where)}{verdict}", style="bold red" if flags else "", highlight=False, markup=False)
    for kind, texts in (("flag", flags), ("note", notes)):
        for text in texts:
            console.print(f"  {kind}: {printable(text)}", highlight=False, markup=False)


def print_errors(errors: "Sequence[Error]", validation: "xr.Dataset", console: "Console") -> None:
    """Print what must be said first, what was measured, what was simulated, and the errors."""
    print_remarks(validation, console)
    parts = {
        "requests that were fitted": [row for row in errors if row.fitted],
        "requests judged": [row for row in errors if not row.fitted and row.of_requests],
        "the whole log": [row for row in errors if not row.fitted and not row.of_requests],
    }
    for title, rows in parts.items():
        if not rows:
            continue
        names = ["quantity", "statistic", "measured", "simulated", "error"]
        known = any(math.isfinite(row.low) for row in rows)
        if known:
            names.append(f"{100 * INTERVAL:.0f} % interval")
        cells = [
            (row.quantity, row.statistic, f"{row.measured:.5g}", f"{row.simulated:.5g}", _signed(row.error))
            + ((_between(row),) if known else ())
            for row in rows
        ]
        console.print(title, highlight=False, style="bold")
        _print(console, columns_of(names, cells, words=("quantity", "statistic")))
    _explain_star(errors, console)


def print_remarks(validation: "xr.Dataset", console: "Console") -> None:
    """Print what must be said of a validation first, and which requests judge."""
    for line in str(validation.attrs["warnings"]).splitlines():
        console.print(f"warning: {line}", style="bold red", highlight=False, markup=False)
    for line in str(validation.attrs["log_notes"]).splitlines():
        console.print(f"note: {line}", highlight=False, markup=False)
    preempted = validation.attrs["preemptions_simulated"]
    judged = f"requests judged: {validation.attrs['judged']}; preemptions simulated: {preempted}"
    console.print(judged, highlight=False, markup=False)


def _signed(error: float) -> str:
    return "-" if math.isnan(error) else f"{100 * error:+.2f} %"


def _between(row: "Error") -> str:
    """Return where an error may lie, and mark one that lies where 0 cannot be with a star."""
    if math.isnan(row.low):
        return ""
    off = "  " if row.low <= 0.0 <= row.high else " *"
    return f"{100 * row.low:+.1f} … {100 * row.high:+.1f} %{off}"


def print_summary(found: "Sequence[tuple[str, Sequence[Error]]]", console: "Console") -> None:
    """Print the errors of several logs: of the requests fitted to, and then of those that judge."""
    shown = {
        "TTFT mean": ("ttft_s", "mean"),
        "TTFT p99": ("ttft_s", "p99"),
        "TPOT mean": ("tpot_s", "mean"),
        "TPOT p99": ("tpot_s", "p99"),
        "E2E mean": ("e2e_s", "mean"),
        "throughput": ("throughput_tokens_per_s", "all"),
    }
    for fitted in (True, False):
        rows: list[tuple[str, str, str]] = []
        sections = {}
        for name, errors in found:
            by = {(row.quantity, row.statistic): row for row in errors if row.fitted == fitted}
            if by:
                sections[len(rows)] = printable(Path(name).name)
            for label, key in shown.items():
                if key in by:
                    rows.append((f"  {label}", _signed(by[key].error), _between(by[key])))
        if rows:
            names = ("requests fitted to" if fitted else "requests judged", "error", "nine of ten")
            _print(console, columns_of(names, rows, words=names[:1]), sections)
    _explain_star([row for _, errors in found for row in errors], console)


def _explain_star(errors: "Sequence[Error]", console: "Console") -> None:
    """Say what the star of an interval is, where there is one."""
    if any(_between(row).endswith("*") for row in errors):
        console.print("* 0 lies outside: what the fit knew does not explain the error", highlight=False)


def _print(console: "Console", columns: "Sequence[Column]", sections: "Mapping[int, str] | None" = None) -> None:
    """Print a table with room below it."""
    print_table(console, columns, sections=sections)
    console.print()


def print_repeats(names: "Sequence[str]", logs: "Sequence[Log]", console: "Console") -> None:
    """Print how far real runs differ, those of the same requests among the logs; that it is not known without any."""
    found = repeats(logs)
    for group, spread in found.items():
        said = ", ".join(
            f"{name.removesuffix('_s').upper()} {100 * value:.1f} %"
            for name, value in spread._asdict().items()
            if not math.isnan(value)
        )
        line = f"{', '.join(names[k] for k in group)} are runs of the same requests, whose means differ by {said}"
        console.print(printable(line), highlight=False, markup=False)
    if not found:
        line = "how far repeated runs of this server differ is not known: that takes two logs of the same requests"
        console.print(line, highlight=False, markup=False)


def _corners(nodes: "Sequence[int]", *columns: "Sequence[float]") -> "list[int]":
    """Return which nodes of a table a reader needs: the first, the last, and those between that no line meets."""

    def on_line(k: int, values: "Sequence[float]") -> bool:
        share = (nodes[k] - nodes[k - 1]) / (nodes[k + 1] - nodes[k - 1])
        between = values[k - 1] + share * (values[k + 1] - values[k - 1])
        return math.isclose(values[k], between, rel_tol=1e-9)

    inner = range(1, len(nodes) - 1)
    return [0, *(k for k in inner if not all(on_line(k, values) for values in columns)), len(nodes) - 1]


def _print_log(log: FittedLog, console: "Console", *, brief: bool) -> None:
    """Print what a log was fitted with and how well, what it tells and what it cannot."""
    if log.found:
        term = "off from the prior by" if log.prior else "term"
        found = []
        for way in log.found:
            scale, unit = _STEP_UNITS.get(way.of, _WAYS.get(way.of, (1.0, "")))
            row = (
                way.of.partition("_")[0],
                _with_error(scale * way.value, scale * way.standard_error),
                unit,
                *(() if brief else (f"± {_two_digits(scale * way.known_within)}",)),
                _told_by(way, log),
            )
            found.append(row)
        names = (term, "found", "unit", *(() if brief else ("known before",)), "told by")
        _print(console, columns_of(names, found, words=(term, "unit", "told by"), goes=("unit",)))
    if log.steps:
        steps = [(printable(step.what), _with_error(1e3 * step.s, 1e3 * step.standard_error_s)) for step in log.steps]
        _print(console, columns_of(("steps as in the log", "ms"), steps, words=("steps as in the log",)))
    for line in log_in_words(log):
        console.print(printable(line), highlight=False, markup=False)


def _told_by(way: FoundWay, log: FittedLog) -> str:
    """Say what tells how far a law is off in some way."""
    if way.of in log.unsure:
        return "prior" if log.prior else "nothing"
    if way.standard_error > _TOLD * way.known_within:
        return "log and prior" if log.prior else "log, not well"
    return "log" if log.prior or 2.0 * way.standard_error < abs(way.value) else "log, as a limit"


def log_in_words(log: FittedLog) -> "Iterator[str]":
    """Yield how well a log was fitted, how far steps are off, what it cannot tell, and what it shows, a line each."""
    rms = ", ".join(f"{name.removesuffix('_s').upper()} {_percent(value)}" for name, value in log.rms.items())
    yield f"fitted to {log.fitted_to} of {log.requests} requests; residuals (rms, of the mean): {rms}"
    if log.scatter is not None:
        yield (
            f"steps scatter by {_percent(log.scatter.step)} around the law, the speed drifts by "
            f"{_percent(log.scatter.drift)}"
        )
    far = [
        way.of.partition("_")[0] for way in log.found if way.of != "client" and abs(way.value) > _FAR * way.known_within
    ]
    if log.prior and far:
        yield f"far off the prior, by more than {_FAR:g} of what was known before: {', '.join(far)}"
    lowest = [way for way in log.found if way.of in ("speed", "prefill") and way.least >= -_AT_LIMIT]
    for way in lowest if log.prior else ():
        least = f"{100 * way.value:.0f} %"
        yield f"{way.of} is off the prior by {least}, the most below it that a fit allows: take another prior, or none"
    if log.unsure:
        whose = "they are the prior's" if log.prior else "they may be anything small"
        yield f"the log cannot tell {', '.join(name.partition('_')[0] for name in log.unsure)}: {whose}"
    for group in log.together:
        yield f"the log tells of {' and '.join(name.partition('_')[0] for name in group)} only what they make together"


def server_in_words(server: LoggedServer) -> str:
    """Return the limits of a replica in one line."""
    held = "" if server.held_tokens is None else f", {server.held_tokens:,} tokens in the KV cache"
    return f"a replica: {server.most_running} requests at once, {server.token_budget} tokens a step{held}"


def memory_in_words(memory: KvMemory) -> str:
    """Return what the memory of a model is, as lines of a specification too."""
    said = f"memory: model_bytes = {memory.model_bytes}, kv_bytes_per_token = {memory.kv_bytes_per_token}"
    if memory.reported_capacity_tokens is not None:
        said += f"; the engine reported room for {memory.reported_capacity_tokens} tokens"
    return said


def _with_error(value: float, error: float | None) -> str:
    if error is None:
        return f"{value:.4g}"
    # What is lost in its error is none of it.
    return f"{value if abs(value) >= 1e-3 * error else 0.0:.4g} ± {_two_digits(error)}"


def _two_digits(value: float) -> str:
    """Return two digits of a number, and whole hundreds as they are spoken: 140, not 1.4e+02."""
    return f"{float(f'{value:.2g}'):.0f}" if 99.5 <= abs(value) < 1e6 else f"{value:.2g}"


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else f"{value:{spec}}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{_two_digits(100 * value)} %"


def _worst(residual: float | None, at: str) -> str:
    if residual is None:
        return "-"
    sign = "+" if residual >= 0 else ""
    return f"{sign}{_percent(residual)}" + (f" at {at}" if at else "")
