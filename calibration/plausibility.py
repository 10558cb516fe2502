"""Could this table have been measured? Signs that it was not, in words.

Real timings scatter: their standard deviation is not, even nearly, one fraction of the mean everywhere, points do not
lie on a line to the last printed digit, no law explains more than their scatter leaves to explain, and more work does
not take less time. A flag is a sign that no measurement shows; a note is what a reader should know and real tables do
show.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cells import KINDS, BatchFit, Cells, fit_batches, fit_steps
from .laws import Quality
from .tables import Fits

Floats = NDArray[np.float64]

FEWEST_REPETITIONS = 3
_CHANCE = 1e-4
_WIDE = 0.3
# Where a table does not say how much its times scatter: quieter than any engine that was seen here.
_QUIETEST = 0.003
_TIMES = {"batch": "batch times", "prefill": "prefill times", "decode": "decode steps", "step": "step times"}
_VARIED = {"batch_size": "batch size", "prompt_tokens": "prompt length", "output_tokens": "length"}


class Finding(NamedTuple):
    """One thing found in a table."""

    level: Literal["flag", "note"]
    sign: str
    """Short name of the sign."""
    text: str
    """One sentence."""


class _Line(NamedTuple):
    """Cells of one kind that differ in one number only, in its order."""

    about: str
    kind: str
    varied: str
    x: Floats
    y: Floats
    noise: Floats
    """Standard error of each mean, in seconds."""


def judge(cells: Cells) -> list[Finding]:
    """Return what is found in measured cells, flags first; an empty list says that nothing speaks against them."""
    batches = fit_batches(cells)
    found = [
        *_repetitions(cells),
        *_wide_scatter(cells),
        *_scatter(cells),
        *_straight_lines(cells),
        *_perfect_fit(cells, batches),
        *_close_fit(batches),
        *_falling(cells),
    ]
    return sorted(found, key=lambda finding: finding.level != "flag")


def is_plausible(found: list[Finding]) -> bool:
    """Say whether nothing was flagged."""
    return not any(finding.level == "flag" for finding in found)


def judge_fits(fits: Fits) -> list[Finding]:
    """Return what is found in a table of straight lines that somebody fitted: its points cannot be judged."""
    found = [Finding("note", "fits", f"the table holds {fits.slope.size} fitted lines and none of the measured points")]
    falling, perfect = int((fits.slope < 0).sum()), int((fits.r_squared > 1 - 1e-6).sum())
    if perfect:
        found.append(Finding("flag", "R2 = 1", f"{perfect} of the lines leave nothing unexplained"))
    if falling:
        found.append(Finding("flag", "latency falls with size", f"{falling} of the lines fall with the batch size"))
    return sorted(found, key=lambda finding: finding.level != "flag")


def _repetitions(cells: Cells) -> Iterator[Finding]:
    known = cells.repetitions[np.isfinite(cells.repetitions)]
    if not known.size:
        yield Finding("note", "repetitions", "the table does not say how often anything was measured")
        return
    few = int((known < FEWEST_REPETITIONS).sum())
    if 2 * few > known.size:
        text = (
            f"{few} of {known.size} cells were measured fewer than {FEWEST_REPETITIONS} times: too few repetitions to "
            "tell scatter from a trend"
        )
        yield Finding("flag", "too few repetitions", text)
    elif few:
        text = f"{few} of {known.size} cells were measured fewer than {FEWEST_REPETITIONS} times"
        yield Finding("note", "repetitions", text)


def _wide_scatter(cells: Cells) -> Iterator[Finding]:
    wide = int((cells.std_s > _WIDE * cells.seconds).sum())
    if wide:
        known = int(np.isfinite(cells.std_s).sum())
        text = (
            f"{wide} of {known} cells scatter by more than {100 * _WIDE:.0f} % of their mean: something else happened"
        )
        yield Finding("note", "wide scatter", text)


def _scatter(cells: Cells) -> Iterator[Finding]:
    """Look for standard deviations that scatter too little themselves; one fraction of the mean is the plainest."""
    yield from [*_proportional_scatter(cells)] or _even_scatter(cells)


def _proportional_scatter(cells: Cells) -> Iterator[Finding]:
    """Look for a standard deviation that is the same fraction of the mean in every cell, up to rounding."""
    stated = np.isfinite(cells.std_s) & (cells.repetitions > 1)
    std, mean = cells.std_s[stated], cells.seconds[stated]
    if std.size and (std <= 1e-12 * mean).all():
        # Quiet times printed to few digits may show no deviation.
        if (_QUIETEST * mean > cells.std_resolution_s / 2).sum() >= 4:
            text = f"the standard deviation is 0 in all {std.size} cells: nothing was repeated"
            yield Finding("flag", "no scatter", text)
        return
    ratio = float(np.median(std / mean)) if std.size else 0.0
    # What rounding alone can do to std - ratio * mean.
    tolerance = cells.std_resolution_s / 2 + ratio * cells.resolution_s / 2 + 1e-12
    telling = std > 5 * tolerance
    if ratio == 0 or telling.sum() < 4:
        return
    std, mean, repetitions = std[telling], mean[telling], cells.repetitions[stated][telling]
    # The median ratio is as coarse as its own cell: look for any ratio that all cells allow.
    least, most = float(((std - tolerance) / mean).max()), float(((std + tolerance) / mean).min())
    if least > most:
        return
    ratio = (least + most) / 2
    # A sample standard deviation of n values itself scatters by about 1 / sqrt(2 (n - 1)).
    scatter = 1 / np.sqrt(2 * (repetitions - 1))
    within = np.minimum(1.0, 2 * tolerance / (std * scatter * math.sqrt(2 * math.pi)))
    # One cell always has some ratio; the easiest is given away.
    if float(np.log(np.sort(within)[:-1]).sum()) < math.log(_CHANCE):
        text = (
            f"the standard deviation is {100 * ratio:.3g} % of the mean in all {std.size} cells, up to rounding: "
            f"measured ones would scatter by about {100 * float(np.median(scatter)):.0f} % of themselves"
        )
        yield Finding("flag", "scatter proportional to the mean", text)


def _even_scatter(cells: Cells) -> Iterator[Finding]:
    """Look for standard deviations whose fractions of the mean differ less than those of as few repetitions can.

    That of n normal values scatters by 1 / sqrt(2 (n - 1)) of itself; with longer tails, or cells that differ, by more.
    """
    from scipy.special import chdtr

    for kind in KINDS:  # the times of one kind may be parts of another's: together they are no independent cells
        mine = cells.only(kind)
        mine = mine.where(np.isfinite(mine.std_s) & (mine.repetitions > 1))
        if mine.seconds.size < 4 or not (ratio := mine.std_s / mine.seconds).min() > 0:
            continue
        middle = float(np.median(ratio))
        # The most that rounding can hide counts as scatter.
        hidden = (mine.std_resolution_s + ratio * mine.resolution_s) / 2 / mine.seconds / middle
        apart = np.abs(ratio / middle - 1) + hidden
        expected = 1 / np.sqrt(2 * (mine.repetitions - 1))
        # Half of the variance of normal noise: bounded noise and a drift that all cells share even deviations out too.
        if chdtr(ratio.size - 1, float(np.sum(2 * (apart / expected) ** 2))) < _CHANCE:
            text = (
                f"the standard deviations of {ratio.size} {_TIMES[kind]} are {100 * middle:.3g} % of the mean, give or "
                f"take {100 * float(np.sqrt(np.mean(apart**2))):.2g} % of themselves: measured ones would scatter by "
                f"about {100 * float(np.median(expected)):.0f} %"
            )
            yield Finding("flag", "scatter too even", text)


def _lines(cells: Cells) -> Iterator[_Line]:
    for kind in KINDS:
        mine = cells.only(kind)
        columns = {name: getattr(mine, name) for name in _VARIED}
        known = [name for name, values in columns.items() if np.isfinite(values).all() and values.size]
        # A prefill does not depend on what is generated after it.
        known = [name for name in known if not (kind == "prefill" and name == "output_tokens")]
        for varied in known:
            others = [name for name in known if name != varied]
            keys = np.stack([columns[name] for name in others], axis=1) if others else np.zeros((mine.seconds.size, 1))
            for key in np.unique(keys, axis=0):
                here = np.flatnonzero((keys == key).all(axis=1))
                here = here[np.argsort(columns[varied][here])]
                x, y = columns[varied][here], mine.seconds[here]
                if x.size < 3 or (np.diff(x) <= 0).any():
                    continue
                fixed = ", ".join(f"{_VARIED[n]} {v:g}" for n, v in zip(others, key, strict=False))
                noise = mine.std_s[here] / np.sqrt(mine.repetitions[here])
                noise = np.where(np.isfinite(noise) & (noise > 0), noise, _QUIETEST * y)
                about = f"{_TIMES[kind]} over the {_VARIED[varied]}" + (f" at {fixed}" if fixed else "")
                yield _Line(about, kind, varied, x, y, noise)


def _straight_lines(cells: Cells) -> Iterator[Finding]:
    """Look for points that lie on a straight line up to their last printed digit, more often than luck allows."""
    half = cells.resolution_s / 2
    for varied in _VARIED:
        lines = [line for line in _lines(cells) if line.varied == varied and line.x.size >= 4]
        straight = []
        log_chance = 0.0
        for line in lines:
            tolerance = half + 1e-9 * line.y
            if _fits_a_line(line.x, line.y, tolerance):
                straight.append(line)
                within = np.minimum(1.0, 2 * tolerance / (line.noise * math.sqrt(2 * math.pi)))
                # Two points are always on a line; the easiest two are given away.
                log_chance += float(np.sum(np.log(np.sort(within)[:-2])))
        if not straight:
            continue
        log_chance += math.log(math.comb(len(lines), len(straight)))
        if log_chance < math.log(_CHANCE):
            which = straight[0].about if len(straight) == 1 else f"{straight[0].about}, and {len(straight) - 1} more"
            text = (
                f"{len(straight)} of {len(lines)} lines over the {_VARIED[varied]} are straight to the last digit "
                f"({which}): the scatter of a measurement would bend them"
            )
            yield Finding("flag", "points exactly on a line", text)


def _fits_a_line(x: Floats, y: Floats, tolerance: Floats) -> bool:
    """Say whether some straight line passes all points within their tolerances."""
    # Any two points limit its slope; one that is within the limits of all pairs has a line within all tolerances.
    least, most = -math.inf, math.inf
    for i in range(x.size - 1):
        width, rise, play = x[i + 1 :] - x[i], y[i + 1 :] - y[i], tolerance[i + 1 :] + tolerance[i]
        least, most = max(least, ((rise - play) / width).max()), min(most, ((rise + play) / width).min())
        if least > most:
            return False
    return True


def _perfect_fit(cells: Cells, batches: list[BatchFit]) -> Iterator[Finding]:
    """Look for a law that leaves nothing unexplained although it has far fewer coefficients than there are cells."""
    for fit in batches:
        law = fit.laws[fit.chosen]
        yield from _unexplained(law.quality, len(law.free), f"law {fit.chosen} of whole batches")
    steps = fit_steps(cells)
    if steps is not None:
        step = steps[0]
        yield from _unexplained(step.quality, step.fitted, "step law")


def _unexplained(quality: Quality, free: int, name: str) -> Iterator[Finding]:
    if quality.measurements >= free + 2 and quality.rms_residual < 1e-5:
        text = f"the {name} explains {quality.measurements} cells with {free} coefficients and nothing is left"
        yield Finding("flag", "R2 = 1", text)


def _close_fit(batches: list[BatchFit]) -> Iterator[Finding]:
    """Look for means that follow a law more closely than means of so few repetitions with their scatter can."""
    from scipy.special import chdtr

    for fit in batches:
        law, mine = fit.laws[fit.chosen], fit.cells
        spare = mine.seconds.size - len(law.free)
        if spare < 1 or not (np.isfinite(mine.std_s) & (mine.repetitions > 1)).all():
            continue
        # The least scatter and the largest distance that rounding leaves possible.
        error = (mine.std_s - mine.std_resolution_s / 2) / np.sqrt(mine.repetitions)
        if not (error > 0).all():
            continue
        apart = (
            np.abs(law.seconds(mine.batch_size, mine.output_tokens) - mine.seconds) + mine.resolution_s / 2
        ) / error
        if chdtr(spare, float(np.sum(apart**2))) < _CHANCE:
            text = (
                f"{apart.size} means are within {float(np.sqrt(np.mean(apart**2))):.2g} standard errors of the law "
                f"{fit.chosen} of whole batches: with the scatter that the table states they would be about 1 off"
            )
            yield Finding("flag", "closer to a law than the scatter allows", text)


def _falling(cells: Cells) -> Iterator[Finding]:
    """Look for times that fall although there is more to do."""
    falling, dips, lines = [], 0, 0
    for line in _lines(cells):
        lines += 1
        noise = np.hypot(line.noise[1:], line.noise[:-1])
        if line.kind == "decode" and line.varied == "output_tokens":
            continue  # a mean over more steps: hardly more to do in each
        drops = line.y[:-1] - line.y[1:]
        clear = drops > np.maximum(4 * noise, 0.02 * line.y[:-1])
        whole = line.y[0] - line.y[-1] > max(4 * float(np.hypot(line.noise[0], line.noise[-1])), 0.1 * line.y[0])
        if whole and (-drops <= 0.02 * line.y[:-1]).all():
            falling.append(line)
        elif clear.any():
            dips += 1
    if falling:
        text = f"{falling[0].about} fall from {falling[0].y[0]:.4g} s to {falling[0].y[-1]:.4g} s"
        more = f", and {len(falling) - 1} more lines fall" if len(falling) > 1 else ""
        yield Finding("flag", "latency falls with size", f"{text}{more}: more work cannot take less time throughout")
    if dips:
        yield Finding("note", "dips", f"{dips} of {lines} lines dip somewhere and rise again: a kernel switch or noise")
