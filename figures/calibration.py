"""Figures of a calibration: measured times with the fitted law, residuals, growth with the batch size, throughput."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from xarray import Dataset

from . import style
from .reading import Figured

_MARGIN = 1.15


def calibration_law(calibration: Dataset, figured: Figured, *, width_mm: float = style.DOUBLE_COLUMN_MM) -> Figure:
    """Draw measured times of whole batches over the length, with the fitted law, its band, and the measured scatter."""
    _require(calibration, figured, "batch_s", "times of whole batches")
    prompts = calibration["prompt_tokens"].values
    lengths, sizes = calibration["output_tokens"].values, calibration["batch_size"].values
    fine = calibration["curve_output_tokens"].values
    seen = calibration["batch_s"].values
    columns = min(3, len(prompts))
    figure, axes = style.panels(-(-len(prompts) // columns), columns, width_mm=width_mm, height_mm=58)
    for k, panel in enumerate(axes.flat[: len(prompts)]):
        chosen = str(calibration["chosen"].values[k])
        here = calibration.isel(prompt_tokens=k)
        law = here.sel(law=chosen)
        for i, b in enumerate(sizes):
            look = style.look(i)
            measured, scatter = here["batch_s"].values[i], here["batch_std_s"].values[i]
            fitted, half = law["curve_batch_s"].values[i], law["curve_half_width_s"].values[i]
            name = f"b = {b:g}"
            low = np.maximum(fitted - half, 1e-3 * fitted)
            panel.fill_between(fine, low, fitted + half, color=look.colour, alpha=0.22, linewidth=0)
            panel.plot(fine, fitted, color=look.colour, linewidth=1.0, label=f"{name}, law")
            whisker = np.where(np.isfinite(scatter), scatter, 0.0)
            panel.errorbar(
                lengths, measured, yerr=whisker, color=look.colour, marker=look.marker, linestyle="none", label=name
            )
        panel.set_xlabel("output length (tokens)")
        panel.set_title(f"{_prompt(prompts[k])}: h(b) {chosen}")
        panel.set_xscale("log")
        panel.set_yscale("log")
        # A band that reaches 0 must not stretch the axis.
        panel.set_ylim(0.7 * np.nanmin(seen), 1.4 * np.nanmax(seen))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(lengths, [f"{length:g}" for length in lengths])
        _plain_numbers(panel)
    _hide(axes, len(prompts))
    for row in axes:
        row[0].set_ylabel("time of a batch (s)")
    lines = [style.line_handle(f"b = {b:g}", style.look(i)) for i, b in enumerate(sizes)]
    marks: list[Artist] = [Line2D([], [], color="#555555", linewidth=1.0, label="fitted law"), style.band_handle()]
    caption = (
        "Points: means of measured batches, whiskers their standard deviation over repetitions. Lines: "
        "a0 + a1 L h(b), fitted to relative residuals; bands: 95 % interval of the fitted mean where the law holds. "
        "Points far outside say that it does not hold there: it has one a0 for batches of all sizes."
    )
    return style.finish(figure, "Whole batches: measured, and the law", _subtitle(calibration), lines, marks, caption)


def calibration_residuals(
    calibration: Dataset, figured: Figured, *, width_mm: float = style.DOUBLE_COLUMN_MM
) -> Figure:
    """Draw how far the fitted laws are from every measured cell: whole batches, prefills, decode steps."""
    maps = [*_batch_maps(calibration), *_step_maps(calibration)]
    if not maps:
        raise figured.refuses("the calibration has no grid of cells")
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure, axes = style.panels(rows, columns, width_mm=width_mm, height_mm=52)
    largest = max(1e-9, *(float(np.nanmax(np.abs(residual))) for _, _, _, residual in maps))
    for panel, (title, across, up, residual) in zip(axes.flat, maps, strict=False):
        panel.imshow(
            100 * residual, norm=TwoSlopeNorm(0.0, -100 * largest, 100 * largest), cmap="RdBu_r", aspect="auto"
        )
        panel.grid(False)
        panel.set_title(title)
        panel.set_xticks(range(len(across[1])), [f"{value:g}" for value in across[1]])
        panel.set_yticks(range(len(up[1])), [f"{value:g}" for value in up[1]])
        panel.set_xlabel(across[0])
        panel.set_ylabel(up[0])
        for (i, j), value in np.ndenumerate(residual):
            if np.isfinite(value):
                white = abs(value) > 0.6 * largest
                text = f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}").replace("\N{MINUS SIGN}0.0", "0.0")
                panel.text(j, i, text, ha="center", va="center", size=7, color="white" if white else "black")
    _hide(axes, len(maps))
    caption = "Fitted over measured minus one, in percent; red: the law is too slow. One scale for all panels."
    return style.finish(figure, "Residuals by cell", _subtitle(calibration), [], [], caption)


def calibration_batch_factor(
    calibration: Dataset, figured: Figured, *, width_mm: float = style.DOUBLE_COLUMN_MM
) -> Figure:
    """Draw the time per output token against the batch size, measured, and by each of the laws h(b)."""
    _require(calibration, figured, "slope_ratio", "times of whole batches")
    prompts, sizes = calibration["prompt_tokens"].values, calibration["batch_size"].values
    curve = calibration["curve_batch_size"].values
    columns = min(3, len(prompts))
    figure, axes = style.panels(-(-len(prompts) // columns), columns, width_mm=width_mm, height_mm=58)
    names = [str(name) for name in calibration["law"].values]
    inside = (curve >= sizes[0]) & (curve <= sizes[-1])
    for k, panel in enumerate(axes.flat[: len(prompts)]):
        here = calibration.isel(prompt_tokens=k)
        said = ["left out:"]
        for i, name in enumerate(names):
            law = here.sel(law=name)
            chosen = name == str(here["chosen"].values)
            ratio = law["fitted_slope_ratio"].values
            if np.isfinite(ratio).any():
                panel.plot(
                    curve[inside],
                    ratio[inside],
                    color=style.look(i).colour,
                    linewidth=2.0 if chosen else 0.9,
                    label=name,
                )
                said.append(f"{name} {100 * float(law['leave_one_out_rms']):.1f} %")
        panel.plot(
            sizes, here["slope_ratio"].values, color="black", marker="o", linestyle="none", label="measured", zorder=4
        )
        panel.set_title(_prompt(prompts[k]))
        panel.text(0.03, 0.97, "\n".join(said), transform=panel.transAxes, va="top", size=7)
        panel.set_xscale("log", base=2)
        panel.set_xticks(sizes, [f"{b:g}" for b in sizes])
        panel.set_xlabel("batch size (requests)")
        highest = np.nanmax(np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in panel.get_lines()]))
        panel.set_ylim(0, 1.1 * float(highest))
    _hide(axes, len(prompts))
    for row in axes:
        row[0].set_ylabel(f"time per output token\nover that of b = {sizes[0]:g}")
    lines: list[Artist] = [Line2D([], [], color=style.look(i).colour, label=name) for i, name in enumerate(names)]
    marks: list[Artist] = [Line2D([], [], color="black", marker="o", linestyle="none", label="measured")]
    caption = (
        "Points: slope of the measured times in the length. Lines: h(b) of the fitted laws, the chosen one thick. Left "
        "out: error of cells predicted from all the others, root mean square; a point may lie off every line because "
        "the laws are fitted to whole times, in which a0 does not depend on the batch."
    )
    return style.finish(figure, "Growth with the batch size", _subtitle(calibration), lines, marks, caption)


def calibration_throughput(
    calibration: Dataset, figured: Figured, *, width_mm: float = style.DOUBLE_COLUMN_MM
) -> Figure:
    """Draw the time of a decode step and the throughput b / τ(b) against the batch size, measured and by the law."""
    _require(calibration, figured, "fitted_decode_s", "decode steps")
    kind = calibration["step_kind"].values == "decode"
    b = calibration["step_batch_size"].values[kind]
    seconds, scatter = calibration["step_s"].values[kind], calibration["step_std_s"].values[kind]
    of_prompt = calibration["step_prompt_tokens"].values[kind]
    curve = calibration["curve_batch_size"].values
    prompts = calibration["prompt_tokens"].values
    figure, axes = style.panels(1, 2, width_mm=width_mm, height_mm=58)
    for k, p in enumerate(prompts):
        mine = of_prompt == p if p >= 0 else np.ones(b.shape, bool)
        look, name = style.look(k), _prompt(p)
        fitted = calibration["fitted_decode_s"].values[k]
        for panel, y, error, line in (
            (axes[0, 0], 1e3 * seconds[mine], 1e3 * scatter[mine], 1e3 * fitted),
            (axes[0, 1], b[mine] / seconds[mine], None, curve / fitted),
        ):
            panel.plot(curve, line, color=look.colour, linewidth=1.0, label=f"{name}, law")
            if error is not None and np.isfinite(error).any():
                panel.errorbar(b[mine], y, yerr=np.nan_to_num(error), color=look.colour, linestyle="none")
            panel.plot(b[mine], y, color=look.colour, marker=look.marker, linestyle="none", label=name)
    sizes = np.unique(b)
    for panel, label in ((axes[0, 0], "decode step τ(b) (ms)"), (axes[0, 1], "b / τ(b) (tokens/s)")):
        panel.set_ylabel(label)
        panel.set_xlabel("batch size (requests)")
        if sizes.max() / sizes.min() >= 16 and sizes.size <= 12:
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [f"{value:.0f}" for value in sizes])
        panel.set_ylim(0, _MARGIN * panel.get_ylim()[1])
    lines = [style.line_handle(_prompt(p), style.look(k)) for k, p in enumerate(prompts)] if len(prompts) > 1 else []
    caption = (
        "Points: measured decode steps, means over the steps of a batch (several output lengths share a batch size). "
        "Lines: the step law, reading as many KV tokens as the measured steps did on average."
    )
    return style.finish(figure, "Decode steps and throughput", _subtitle(calibration), lines, [], caption)


_Map = tuple[str, tuple[str, NDArray[np.float64]], tuple[str, NDArray[np.float64]], NDArray[np.float64]]


def _batch_maps(calibration: Dataset) -> list[_Map]:
    """Return title, horizontal axis, vertical axis and residuals (up, across) of whole batches at each prompt."""
    if "batch_s" not in calibration:
        return []
    maps: list[_Map] = []
    for k, p in enumerate(calibration["prompt_tokens"].values):
        here = calibration.isel(prompt_tokens=k)
        fitted = here["fitted_batch_s"].sel(law=str(here["chosen"].values)).values
        title = f"batches{f', prompt {p:g}' if p >= 0 else ''} ({here['chosen'].values})"
        across = ("output (tokens)", calibration["output_tokens"].values)
        maps.append(
            (title, across, ("batch size", calibration["batch_size"].values), fitted / here["batch_s"].values - 1)
        )
    return maps


def _step_maps(calibration: Dataset) -> list[_Map]:
    """Return the same of prefills and decode steps, over batch size and prompt; decodes averaged over outputs."""
    if "step_s" not in calibration:
        return []
    maps: list[_Map] = []
    for kind in ("prefill", "decode"):
        mine = calibration["step_kind"].values == kind
        b, p = (calibration[f"step_{name}"].values[mine] for name in ("batch_size", "prompt_tokens"))
        if not mine.any() or not np.isfinite(p).all():
            continue
        sizes, prompts = np.unique(b), np.unique(p)
        residual = (calibration["fitted_step_s"].values / calibration["step_s"].values - 1)[mine]
        grid = np.array([[_mean(residual[(b == i) & (p == j)]) for j in prompts] for i in sizes])
        maps.append((f"{kind} steps (step law)", ("prompt (tokens)", prompts), ("batch size", sizes), grid))
    return maps


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else np.nan


def _require(calibration: Dataset, figured: Figured, variable: str, what: str) -> None:
    if variable not in calibration:
        raise figured.refuses(f"the calibration has no {what}")


def _hide(axes: NDArray[np.object_], used: int) -> None:
    """Hide the panels after the used ones."""
    for panel in axes.flat[used:]:
        panel.set_visible(False)


def _prompt(tokens: float) -> str:
    return f"prompt {tokens:g} tokens" if tokens >= 0 else "prompt not known"


def _subtitle(calibration: Dataset) -> str:
    parts = [str(calibration.attrs[key]) for key in ("name", "title", "source")]
    return "; ".join(part for part in parts if part)


def _plain_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
