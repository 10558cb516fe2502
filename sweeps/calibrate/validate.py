"""Hold a step law against the log of a real server: replay its arrivals, compare what users felt."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.calibration.capacity import Capacity, find_capacity, fullest, misfit
from batchcube.calibration.coefficients import (
    Coefficients,
    LoggedServer,
    Plausibility,
    Raw,
    StepCoefficients,
)
from batchcube.calibration.fitting import FITS, fit_log
from batchcube.calibration.laws import law_of, unstated_terms
from batchcube.calibration.logs import BY_CONTENT, Log, Reading, read_log
from batchcube.calibration.prediction import (
    Server,
    Times,
    fitted_part,
    is_open_prior,
    replay,
    times_of_log,
    times_of_records,
)
from batchcube.calibration.reach import Reach, beyond
from batchcube.calibration.stating import stated
from batchcube.engine.continuous import Law
from batchcube.engine.continuous.model import SERVED
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError, found_in
from batchcube.results.costs import flags_of, warning_of
from batchcube.results.provenance import batchcube_version
from batchcube.results.validation import build_validation
from batchcube.results.variables import REGISTRY

from ..progress import Counting
from .fit import NAME
from .server import remarks_on, server_of
from .trust import doubts_of, draws_of, interval

Floats = NDArray[np.float64]

STATISTICS = {"mean": np.nanmean, "p50": 0.5, "p90": 0.9, "p99": 0.99}
# Steps without an admission while somebody waits: a prompt that takes so many chunks is rare.
_LONG_WAIT = 10
# Sizes of a KV cache that the search for it begins with, of what the requests under way would fill.
_STARTS = (1.0, 0.93, 0.86, 0.8)
_OF_A_PRIOR = "intervals are those of the prior of a fit, a host on top of the tables first: nothing was measured of it"
# Times of a log that rest on some costs as these variables of a cube do.
_LIKE = {"ttft_s": "ttft_mean_s", "tpot_s": "tpot_mean_s"}


class Error(NamedTuple):
    """One quantity of a log, measured and simulated, and its relative error, NaN where what was measured is 0."""

    quantity: str
    statistic: str
    measured: float
    simulated: float
    error: float
    low: float = np.nan
    """Least relative error that what is not known of law and steps explains, NaN where nothing is known of it."""
    high: float = np.nan
    fitted: bool = False
    """Whether it is over the requests that the coefficients were fitted to, or over those that judge them."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, None for what is not known."""
        plain = self._asdict().items()
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain}

    @property
    def of_requests(self) -> bool:
        """Whether it is of the times of requests, or of the whole log."""
        return self.statistic in STATISTICS


def step_law_of(known: Coefficients) -> Law:
    """Return the engine's step law, 0 for a term that nothing measured; raises InputError without one."""
    return law_of(_step_coefficients(known))


def _step_coefficients(known: Coefficients) -> StepCoefficients:
    if known.step_law is None:
        raise InputError("hold no step law", path=f"coefficients {known.name}")
    return known.step_law


def unmeasured_of(known: Coefficients) -> list[str]:
    """Return the terms of a step that nothing measured."""
    return [] if known.step_law is None else list(unstated_terms(known.step_law))


def fit(
    log_path: Path,
    settings: LoggedServer,
    until: int | None,
    name: str,
    quiet: bool = False,
    how: Reading = BY_CONTENT,
    find_cache: bool = False,
    prior: Coefficients | None = None,
    parallel: Mapping[str, int] | None = None,
    then: Callable[[], None] = lambda: None,
) -> Coefficients:
    """Fit the step law to the first ``until`` requests of a log, all when None, from what ``prior`` knows before.

    With ``find_cache`` the size of the KV cache is fitted too; ``parallel`` is of `parallel_of`. ``then`` is called
    once the log is read. Raises InputError for a bad log, a prior without a step law, and times of no engine.
    """
    if not NAME.fullmatch(name):
        raise InputError("the name must be letters, digits and . _ -", path="`output`", value=f"{name}.json")
    log = read_log(log_path, how)
    if until is not None and not 1 <= until <= len(log.queued_s):
        raise InputError(
            f"must be from 1 to {len(log.queued_s)}, the requests of the log", path="`fit_until`", value=until
        )
    then()
    before = None if prior is None else _step_coefficients(prior)
    said: list[str] = []
    with found_in(file=log_path):
        if find_cache:
            settings, told = _with_cache(log, settings, until, before, quiet)
            said.append(told)
        with Counting(FITS, "fitting", quiet=quiet) as progress:
            found = fit_log(log, server_of(settings), until, before, done=progress.advance)
    law, fitted = stated(found, log, None if prior is None else prior.name)
    doubts, remarks = [*contradictions(log, settings, log_path)], [*said, *log.remarks(), *remarks_on(settings)]
    known = Coefficients(
        name=name,
        label="measured",
        title=f"step law fitted to {found.requests} of {len(log.queued_s)} requests of {log_path.name}",
        source="fitted by batchcube to a request log, by simulating it"
        + ("" if prior is None else f", from {prior.name} ({prior.label}): {prior.title}"),
        provenance={"batchcube_version": batchcube_version(), "log": log_path.name, **(parallel or {})},
        raw=Raw(file=log_path.name, sha256=log.sha256),
        step_law=law,
        plausibility=Plausibility(flags=doubts, notes=remarks) if doubts or remarks else None,
        replica=settings,
        log=fitted,
    )
    with found_in(file=log_path):
        known.require_seconds()
    return known


def _with_cache(
    log: Log, settings: LoggedServer, until: int | None, prior: StepCoefficients | None, quiet: bool
) -> tuple[LoggedServer, str]:
    """Return settings with the KV cache that the log tells, and what it is in words.

    Law and cache are fitted in turn, from several sizes, as what one lacks the other may make up for; the likeliest
    pair counts.
    """
    kept = log.first(len(log.came_s) if until is None else until)
    longest, most = float((log.prompt_tokens + log.output_tokens).max()), fullest(log) / settings.replicas
    found: list[tuple[float, Capacity]] = []
    with Counting(2 * len(_STARTS) * FITS, "looking for the KV cache", quiet=quiet) as progress:

        def fitted(tokens: float) -> tuple[Server, Law, NDArray[np.bool_], float]:
            at = settings.model_copy(update={"capacity_tokens": int(np.ceil(tokens)), "num_gpu_blocks": None})
            once = fit_log(log, server_of(at), until, prior, done=progress.advance)
            return server_of(at), law_of(once.law), kept, once.client_s

        for part in _STARTS:
            told = find_capacity(log, *fitted(max(part * most, longest)))
            if told is not None:
                found.append((misfit(log, *fitted(told.tokens)), told))
    if not found:
        text = f"the log does not tell how large the KV cache was: it never held more than {fullest(log):.0f} tokens"
        return settings.model_copy(update={"capacity_tokens": None, "num_gpu_blocks": None}), text
    _, told = min(found)
    settings = settings.model_copy(update={"capacity_tokens": told.tokens, "num_gpu_blocks": None})
    return settings, (
        f"a KV cache of {told.tokens} tokens is fitted to the log, to how long its requests waited; it may be from "
        f"{told.low} to {told.high} if the law is right, and further off where that is not"
    )


def validate(
    log: Log,
    source: Path,
    known: Coefficients,
    settings: LoggedServer,
    skip: int | None = None,
) -> tuple[list[Error], xr.Dataset]:
    """Replay the log of a file with coefficients; return the errors, and everything measured and simulated.

    The errors are over all requests but the first ``skip``; when None, but those that the coefficients were fitted to,
    where this is the log that they were fitted to. What must be said first is in the attribute `warnings`, a line each.
    Times that rest on a cost which nobody measured are NaN, and have no error. Raises InputError for
    coefficients without a step law, a server that could not have served the log, and where no request is left.
    """
    count = len(log.queued_s)
    fitted = fitted_part(known, log)
    if skip is None and fitted >= count:
        raise InputError(
            f"coefficients {known.name} were fitted to all {count} requests, none is left to judge "
            "them: fit to some (calibrate log `fit_until`), or give `skip` 0",
            file=source,
        )
    if skip is not None and skip >= count:
        raise InputError(f"must be below {count}, the requests of the log", path="`skip`", value=skip)
    skipped = fitted if skip is None else skip
    warnings = [*contradictions(log, settings, source), *remarks_on(settings), *doubts_of(known)]
    law = step_law_of(known)
    unknown = unmeasured_of(known)
    server, client_s = server_of(settings), 0.0 if known.log is None else known.log.client_s
    with found_in(file=source):
        records = replay(log, server, law, client_s)
    rejected = int((records.status != SERVED).sum())
    if rejected:
        raise InputError(
            f"{rejected} requests could never fit into the replica's KV cache or token budget", file=source
        )
    if unknown:
        warnings.append(warning_of(flags_of([unknown])))
    if skipped < fitted:
        warnings.append(f"{fitted - skipped} of the {count - skipped} requests judged are those that were fitted")
    judged = ~log.first(skipped)
    draws = draws_of(log, server, known)
    measured, simulated = times_of_log(log), times_of_records(log, records, client_s)
    sent = records.arrival / TICKS_PER_S
    ended = sent + simulated.e2e_s
    for name, variable in _LIKE.items():
        if set(REGISTRY[variable].rests_on) & set(unknown):
            simulated = simulated._replace(**{name: np.full(count, np.nan)})
    scheduled, last = records.scheduled / TICKS_PER_S, records.last_token / TICKS_PER_S
    time_s = np.linspace(0.0, float(max(log.last_token_s.max(), ended.max())), 400)
    courses = _courses("measured", log.came_s, log.scheduled_s, log.last_token_s, time_s)
    courses |= _courses("simulated", sent, scheduled, ended, time_s)
    most, _ = _most_at_once(records.first_token / TICKS_PER_S, last, np.ones(count))
    came = log.came_s[judged]
    asked = Reach(
        most / settings.replicas,
        float((log.prompt_tokens + log.output_tokens)[judged].max()),
        float(min(settings.token_budget, int(log.prompt_tokens[judged].sum()))),
        float(len(came) / np.ptp(came)) if np.ptp(came) > 0 else None,
    )
    warnings += beyond(known, asked)
    errors = [*_time_rows(measured, simulated, judged, draws), *_rate_rows(log, ended), *_course_rows(courses)]
    if skipped == fitted > 0:
        rows = _time_rows(measured, simulated, ~judged, draws)
        errors += [row._replace(fitted=True) for row in rows if row.statistic == "mean"]
    times: dict[str, Floats] = {}
    for side, values in (("measured", measured), ("simulated", simulated)):
        times |= {f"{side}_{name}": column for name, column in values._asdict().items()}
    but = f"all but the first {skipped}" + (", which were fitted" if skipped == fitted else "")
    attrs: dict[str, Any] = {
        "name": known.name,
        "source": f"{known.title}; log {source.name}",
        "judged": but if skipped else "all",
        "warnings": "\n".join(warnings),
        "log_sha256": log.sha256,
        "log_notes": "\n".join([*log.remarks(), *([_OF_A_PRIOR] if is_open_prior(known) else [])]),
        "preemptions_simulated": int(records.preemptions.sum()),
        "errors": json.dumps([row.as_dict() for row in errors]),
    }
    return errors, build_validation(log.came_s, judged, times, time_s, courses, attrs)


def contradictions(log: Log, settings: LoggedServer, source: Path) -> Iterator[str]:
    """Say where a log shows more than a server with these settings can have served.

    Who is preempted gives room to others, and what a client sees is late, so that only by the server's clock and
    without preemptions, in a cache that is never full, it is certain that too many ran: raises InputError then, and for
    requests that are longer than any can be.
    """
    total, capacity = log.prompt_tokens + log.output_tokens, settings.held_tokens
    longest, each = int(total.max()), f" on each of {settings.replicas} replicas" if settings.replicas > 1 else ""
    if settings.max_model_len is not None and longest > settings.max_model_len:
        raise InputError(
            f"must be at least {longest}, the tokens of a request of the log",
            file=source,
            path=f"max_model_len {settings.max_model_len}",
        )
    if capacity is not None and longest - 1 > capacity:
        raise InputError(f"a request of {longest} tokens could never fit into the KV cache of {capacity}", file=source)
    began = np.where(np.isfinite(log.scheduled_s), log.scheduled_s, log.first_token_s)
    most, at = _most_at_once(began, log.last_token_s, np.ones(len(began)))
    if most > settings.replicas * settings.most_running:
        said = f"{most:.0f} requests ran at once, {at:.6g} s after the first came"
        if capacity is None and log.clock == "server":
            raise InputError(
                f"`max_num_seqs` {settings.most_running}{each} must be at least as many", file=source, path=said
            )
        but = ["some were preempted"] if capacity is not None else []
        but += ["their last tokens came late to the client"] if log.clock == "client" else []
        yield f"{said}: more than max_num_seqs = {settings.most_running}{each}, unless {' or '.join(but)}"
    held, at = _most_at_once(log.first_token_s, log.last_token_s, log.prompt_tokens.astype(np.float64))
    if capacity is not None and held > settings.replicas * capacity:
        yield (
            f"the prompts of the requests that ran {at:.6g} s after the first came have {held:.0f} tokens: more "
            f"than the KV cache of {capacity}{each}, unless some were preempted or shared theirs"
        )
    prompts, at = _most_begun(log)
    if prompts > settings.token_budget and not settings.long_prefill_token_threshold:
        yield (
            f"requests with {prompts} tokens of prompts were begun and all but the last prefilled in the step at "
            f"{at:.6g} s: more than the token budget of {settings.token_budget}, unless prompts were cached"
        )
    waited = _waited_for_room(log, settings)
    if capacity is None and waited:
        yield (
            f"{waited} requests waited while fewer than max_num_seqs = {settings.most_running}{each} ran and nobody "
            "was admitted: the KV cache was full, and its size is not known (a fit to the log can find it), or no "
            f"more than the {most:.0f} that ran at once may run (max_num_seqs)"
        )


def _most_begun(log: Log) -> tuple[int, float]:
    """Return the most tokens of prompts that one step must have prefilled whole, and when it began.

    Of those that are admitted at the same instant, in one step, only the last may be left with a part of its prompt.
    """
    known = np.isfinite(log.scheduled_s)
    if not known.any():
        return 0, 0.0
    instants, step = np.unique(log.scheduled_s[known], return_inverse=True)
    prompts, largest = log.prompt_tokens[known], np.zeros(len(instants), np.int64)
    np.maximum.at(largest, step, prompts)
    # Clocks may be too coarse to tell two steps apart: nobody knows who was the last.
    whole = np.bincount(step, prompts).astype(np.int64) - largest + (np.bincount(step) > 1)
    most = int(np.argmax(whole))
    return int(whole[most]), float(instants[most])


def _waited_for_room(log: Log, settings: LoggedServer) -> int:
    """Return how many requests waited while there was place, and nobody was admitted for ten steps or more."""
    if not np.isfinite(log.scheduled_s).all() or not (log.output_tokens > 1).any():
        return 0
    step = float(np.nanquantile(times_of_log(log).tpot_s, 0.9))
    admitted = np.sort(log.scheduled_s)
    ended = np.sort(log.last_token_s)
    waited = 0
    for queued, scheduled in zip(log.queued_s, log.scheduled_s, strict=True):
        if scheduled - queued < _LONG_WAIT * step:
            continue
        instants = admitted[np.searchsorted(admitted, queued) : np.searchsorted(admitted, scheduled, side="right")]
        before = np.concatenate(([queued], instants[:-1]))
        longest = int(np.argmax(instants - before))
        at = instants[longest]
        running = np.searchsorted(admitted, at, side="left") - np.searchsorted(ended, before[longest], side="right")
        waited += bool(
            at - before[longest] >= _LONG_WAIT * step and running < settings.replicas * settings.most_running
        )
    return waited


def _most_at_once(began: Floats, ended: Floats, weight: Floats) -> tuple[float, float]:
    """Return the largest weight together under way, and when; one ends before another begins at the same time."""
    times, changes = np.concatenate([ended, began]), np.concatenate([-weight, weight])
    order = np.argsort(times, kind="stable")
    together = np.cumsum(changes[order])
    most = int(np.argmax(together))
    return float(together[most]), float(times[order][most])


def _courses(side: str, queued: Floats, scheduled: Floats, last: Floats, time_s: Floats) -> dict[str, Floats]:
    """Return admitted and waiting requests at each time.

    A log does not say who is preempted: who was admitted once counts as admitted until the last token, on both sides.
    """
    at = time_s[:, None]
    with np.errstate(invalid="ignore"):
        admitted = ((scheduled <= at) & (at < last)).sum(axis=1).astype(np.float64)
        waiting = ((queued <= at) & (at < scheduled)).sum(axis=1).astype(np.float64)
    if np.isnan(scheduled).any():
        admitted[:] = waiting[:] = np.nan
    return {f"{side}_admitted": admitted, f"{side}_waiting": waiting}


def _time_rows(measured: Times, simulated: Times, of: NDArray[np.bool_], draws: Sequence[Times]) -> list[Error]:
    """Return the statistics of the times of some requests, and what those of the draws leave open."""
    rows = []
    for name in measured._fields:
        seen, found, drawn = (getattr(measured, name), getattr(simulated, name), [getattr(d, name) for d in draws])
        if np.isnan(found[of]).all() or np.isnan(seen[of]).all():
            continue
        for statistic, what in STATISTICS.items():
            a, b, *others = (
                float(np.nanquantile(v[of], what) if isinstance(what, float) else np.nanmean(v[of]))
                for v in (seen, found, *drawn)
            )
            low, high = (_error(a, end) for end in interval(others))
            rows.append(Error(name, statistic, a, b, _error(a, b), low, high))
    return rows


def _error(measured: float, simulated: float) -> float:
    """Return the relative error, NaN where nothing was measured to be relative to."""
    return simulated / measured - 1 if measured else np.nan


def _rate_rows(log: Log, last: Floats) -> list[Error]:
    """Return makespan and output tokens per second over it, of the whole log."""
    a, b = float(log.last_token_s.max()), float(last.max())
    measured, simulated = (float(log.output_tokens.sum()) / makespan if makespan else np.nan for makespan in (a, b))
    return [
        Error("makespan_s", "all", a, b, _error(a, b)),
        Error("throughput_tokens_per_s", "all", measured, simulated, _error(measured, simulated)),
    ]


def _course_rows(courses: dict[str, Floats]) -> list[Error]:
    """Return the mean number admitted and waiting over time, and the mean distance between both curves over it."""
    rows = []
    for name in ("admitted", "waiting"):
        seen, found = courses[f"measured_{name}"], courses[f"simulated_{name}"]
        if np.isnan(seen).any():
            continue
        a, b = float(seen.mean()), float(found.mean())
        rows.append(Error(name, "mean over time", a, b, _error(a, b)))
        apart = float(np.abs(seen - found).mean())
        rows.append(Error(name, "mean distance", a, apart, apart / a if a else np.nan))
    return rows
