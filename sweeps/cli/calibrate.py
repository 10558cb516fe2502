"""The commands below `batchcube calibrate`: fit, judge a table, show what there is.

Those that measure an engine are in measuring.py.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import InputError, printable, quoted

from . import measuring
from .coefficients import FiguresOption, coefficient_files, keep, require_json, show_coefficients, write_coefficients
from .help import examples
from .options import (
    AsyncOption,
    BlockOption,
    BudgetOption,
    ColumnOption,
    ConcurrencyOption,
    LockstepOption,
    LogArgument,
    LogFormatOption,
    MostRunningOption,
    OverwriteOption,
    PrefillOption,
    QuietOption,
    ReplicasOption,
    RoutingOption,
    ServerConfigOption,
    ServerLogOption,
    ServerOption,
    given_settings,
    reading_of,
)

if TYPE_CHECKING:
    from batchcube.calibration.coefficients import Coefficients
    from batchcube.calibration.logs import Reading

app = typer.Typer(help="Measure how long batches take on a real engine, fit service laws, and judge tables.")
app.registered_commands += measuring.app.registered_commands

DtypeOption = Annotated[
    str, typer.Option("--dtype", help="numbers of the cache, and of weights that are not quantized", show_default=True)
]
_NO_TABLES = "needs aiconfigurator-core: pip install '.[hardware]' in the clone"


@app.command(
    "hardware",
    epilog=examples(
        "batchcube calibrate hardware --model meta-llama/Llama-3.1-8B --gpu h100_sxm -o my.json",
        "batchcube calibrate hardware --model gpt-oss-120b --gpu h100_sxm --tensor-parallel 2 -o my.json",
        "batchcube calibrate hardware --list",
    ),
)
def calibrate_hardware(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="a name of --list, or a folder with a config.json"),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="GPU", help="for instance h100_sxm; see --list")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="coefficients to write (.json); none when left out")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="vllm, sglang or trtllm", show_default=True)] = "vllm",
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", "--tensor-parallel-size", min=1, help="GPUs that share each layer")
    ] = 1,
    pipeline_parallel: Annotated[
        int, typer.Option("--pipeline-parallel", "--pipeline-parallel-size", min=1, help="stages of layers")
    ] = 1,
    data_parallel: Annotated[
        int,
        typer.Option(
            "--data-parallel",
            "--data-parallel-size",
            min=1,
            help="of attention, with experts over all: replicas in lockstep",
        ),
    ] = 1,
    expert_parallel: Annotated[
        bool,
        typer.Option(
            "--expert-parallel",
            "--enable-expert-parallel",
            help="experts spread over the GPUs, not each split over them",
        ),
    ] = False,
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="of the weights; the configuration's when left out")
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option("--kv-cache-dtype", help="bfloat16, fp8 or int8; the configuration's when left out")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option("--gpu-memory-utilization", min=0.01, max=1.0, help="0.92, as in vLLM, when left out"),
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", min=1, help="requests at once; as in vLLM on this GPU when left out")
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            "--token-budget",
            "--max-num-batched-tokens",
            min=32,
            help="tokens of a step; as in vLLM on this GPU when left out",
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="print GPUs, engines and models, and nothing else")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Derive a step law from NVIDIA's micro-benchmarks of operators, for a GPU that is not at hand. Works offline.

    Beside the law: how well it follows the tables, in what range, the room for KV cache and the limits of a replica.
    The host and links between machines are not in the tables: real servers are slower. A log tells by how much.
    """
    from batchcube.calibration.hardware import Deployment, gpus, is_installed, models

    from ..calibrate.hardware import derive
    from ..claim import claimed

    if not is_installed():
        raise InputError(_NO_TABLES, path="calibrate hardware")
    if listing:
        print("GPUs, and the engines that were measured on them")
        for name, engines in gpus().items():
            print(f"  {name:<20} {', '.join(f'{one} {version}' for one, version in engines.items())}")
        print("models, or a folder with a config.json")
        for name in models():
            print(f"  {name}")
        return
    if model is None or gpu is None:
        raise InputError("must be given, or --list", path="--model" if model is None else "--gpu")
    require_json(output)
    deployment = Deployment(
        model,
        gpu,
        engine,
        tensor_parallel,
        pipeline_parallel,
        data_parallel,
        expert_parallel,
        quantization,
        kv_cache_dtype,
    )
    with claimed(output, overwrite=overwrite):
        known = derive(
            deployment,
            "hardware" if output is None else output.stem,
            utilization=gpu_memory_utilization,
            most_running=max_num_seqs,
            token_budget=token_budget,
        )
        show_coefficients(known, output)
        if output is not None:
            write_coefficients(known, output)
            print(printable(output))


@app.command(
    "fit",
    epilog=examples(
        "batchcube calibrate fit qwen3.nc",
        "batchcube calibrate fit qwen3.nc -o qwen3-0.6b-a100.json --figures out/qwen3",
        "batchcube run sweep.toml --set server.service='{coefficients=\"qwen3.json\"}'",
    ),
)
def calibrate_fit(
    measurement: Annotated[
        Path, typer.Argument(metavar="MEASUREMENT", help="written by calibrate vllm or transformers (NetCDF)")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="coefficients to write; NAME.json beside the measurement")
    ] = None,
    figures: FiguresOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit the service laws to a measurement; write coefficients (NAME.json) and what figures draw (NAME.fit.nc)."""
    from ..calibrate.fit import fit_measurement
    from ..claim import claimed

    to = output or measurement.with_suffix(".json")
    with claimed(*coefficient_files(to), overwrite=overwrite) as replacing:
        known, calibration = fit_measurement(measurement, to.stem)
        keep(known, calibration, to, figures, overwrite=replacing)


@app.command(
    "table",
    epilog=examples(
        "batchcube calibrate table latency.csv",
        "batchcube calibrate table t.csv --column batch_size=b --column length_tokens=n --column seconds=t --unit ms",
        "batchcube calibrate table perf_model.csv --select model=llama2-70b --select hardware=h100-80gb "
        "--select tensor_parallel=8 -o llama2-70b-h100.json",
    ),
)
def calibrate_table(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="CSV of measured times")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="coefficients to write (.json); none when left out")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="known layout, found by the columns when left out")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=COLUMN",
            help="map a column: batch_size, length_tokens, prompt_tokens, seconds, std, repetitions",
        ),
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="of mapped times: s, ms, us; s when left out")] = None,
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="COLUMN=VALUE", help="keep the rows of one system")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="one line that the coefficients carry")] = "",
    source: Annotated[str, typer.Option("--source", help="citation that the coefficients carry")] = "",
    figures: FiguresOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Judge a table of measured times: could it have been measured? The exit status is 1 when anything is flagged.

    With -o or --figures the laws are fitted too, and flags stay with the coefficients: the exit status is 0.
    """
    from rich.console import Console

    from batchcube.calibration.plausibility import is_plausible, judge, judge_fits
    from batchcube.calibration.tables import read_cells

    from ..calibrate.fit import fit_cells
    from ..calibrate.report import print_findings
    from ..claim import claimed

    for option, text in (("--title", title), ("--source", source)):
        if text and output is None and figures is None:
            raise InputError("is what coefficients carry: goes with -o or --figures", path=option)
    columns, selected = _pairs("--column", column), _pairs("--select", select)
    for option, texts, pairs in (("--column", column, columns), ("--select", select, selected)):
        if len(pairs) < len(texts or []):
            raise InputError("each name must be given once", path=f"{option} {quoted(' '.join(texts or []))}")
    console = Console()
    found = read_cells(table, layout, columns, unit, selected)
    console.print(f"{printable(table)}: {found.layout.about}", highlight=False, markup=False)
    if found.fits is not None:
        if output is not None or figures is not None:
            raise InputError("holds fits and no measurements: nothing to fit", file=table)
        signs = judge_fits(found.fits)
        print_findings(signs, console)
        raise typer.Exit(0 if is_plausible(signs) else 1)
    if output is None and figures is None:
        status = 0
        for system, cells in found.systems.items():
            signs = judge(cells)
            print_findings(signs, console, system or f"{cells.seconds.size} cells")
            status = status if is_plausible(signs) else 1
        raise typer.Exit(status)
    if len(found.systems) > 1:
        options = " ".join(f"--select {name}=..." for name in found.layout.systems)
        first = next(iter(found.systems))
        raise InputError(
            f"holds {len(found.systems)} systems",
            file=table,
            allowed=f"choose one with {options}; the first is {first}",
        )
    system, cells = next(iter(found.systems.items()))
    name = (output or figures or table).stem
    outputs = () if output is None else coefficient_files(output)
    with claimed(*outputs, overwrite=overwrite) as replacing:
        known, calibration = fit_cells(
            cells,
            name=name,
            label="literature" if source else "tables",
            title=title or system or table.name,
            source=source or f"{found.layout.about}, file {table.name}",
            provenance={"file": table.name, "file_sha256": found.sha256, **found.origins[system]},
            where=str(table),
        )
        keep(known, calibration, output, figures, overwrite=replacing)


@app.command(
    "log",
    epilog=examples(
        "batchcube calibrate log requests.jsonl --max-num-seqs 128 -o my-server.json",
        "batchcube calibrate log requests.jsonl --max-num-seqs 128 --fit-until 100 -o my-server.json",
        "batchcube calibrate log requests.jsonl --prior tables.json -o my-server.json",
        "batchcube calibrate log profile_export.jsonl.gz -o my-server.json",
        "batchcube calibrate log mine.csv --column arrival=sent:ms --column ttft=ttft_ms --column e2e=total_ms "
        "-o my-server.json",
        "batchcube calibrate log requests.jsonl --server-config meta.json --server-log vllm.log -o my-server.json",
        "batchcube calibrate log requests.jsonl --max-num-seqs 128 --kv-tokens fit -o my-server.json",
        "batchcube validate requests.jsonl --coefficients my-server.json",
    ),
)
def calibrate_log(
    log: LogArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="coefficients to write (.json)")],
    max_num_seqs: MostRunningOption = None,
    token_budget: BudgetOption = None,
    kv_tokens: Annotated[
        str | None,
        typer.Option("--kv-tokens", metavar="N|fit", help="KV cache in tokens, or fit; never full when nothing says"),
    ] = None,
    block_tokens: BlockOption = None,
    prefill: PrefillOption = None,
    format: LogFormatOption = None,
    column: ColumnOption = None,
    concurrency: ConcurrencyOption = None,
    replicas: ReplicasOption = None,
    routing: RoutingOption = None,
    lockstep: LockstepOption = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option("--tensor-parallel", "--tensor-parallel-size", min=1, help="GPUs that share each layer"),
    ] = None,
    pipeline_parallel: Annotated[
        int | None, typer.Option("--pipeline-parallel", "--pipeline-parallel-size", min=1, help="stages of layers")
    ] = None,
    async_scheduling: AsyncOption = None,
    server: ServerOption = None,
    server_config: ServerConfigOption = None,
    server_log: ServerLogOption = None,
    fit_until: Annotated[
        int | None, typer.Option("--fit-until", min=1, help="fit to the first requests only; all when left out")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option("--prior", metavar="NAME", help="what is known before, of tables for instance; name or .json"),
    ] = None,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit the step law to the request log of a real server, by simulating it under continuous batching.

    The log is what vLLM, or a benchmark tool, writes of each request: docs/logs.md has the formats, which are told by
    content. Requests that failed, were cancelled or warmed up are left out. The server's limits are taken as given.
    With a prior, the law of tables (calibrate hardware) or of a similar server, a few requests do: what the log cannot
    tell is the prior's.
    """
    from rich.console import Console

    from ..calibrate.server import origins, parallel_of, server_settings, stated_by
    from ..calibrate.validate import fit
    from ..claim import claimed
    from ..spec.service import load

    require_json(output)
    before = None if prior is None else load(prior)
    given = given_settings(
        server,
        most_running=max_num_seqs,
        token_budget=token_budget,
        capacity_tokens=None if kv_tokens == "fit" else kv_tokens,
        block_tokens=block_tokens,
        prefill=prefill,
        replicas=replicas,
        routing=routing,
        lockstep=lockstep,
        async_scheduling=async_scheduling,
    )
    stated = stated_by(server_config, server_log)
    settings = server_settings(before, given, stated)
    gpus = {"tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    parallel = parallel_of(before, stated, gpus)
    console, how = Console(), reading_of(format, column, concurrency)

    def tell_origins() -> None:
        for line in origins(stated, given, settings):
            console.print(printable(line), highlight=False, markup=False)

    with claimed(output, overwrite=overwrite):
        fits = kv_tokens == "fit"
        known = fit(log, settings, fit_until, output.stem, quiet, how, fits, before, parallel, tell_origins)
        show_coefficients(known, output, brief=True)
        write_coefficients(known, output)
        print(printable(output))
        print(printable(f"to judge it: {_judging(known, log, output, how)}"))


def _judging(known: "Coefficients", log: Path, output: Path, how: "Reading") -> str:
    """Return how coefficients are judged that were fitted to a log, which is read as it was."""
    from batchcube.calibration.fitting import FEWEST

    read = ["--format", how.format] if how.format else []
    read += [word for part, name in (how.columns or {}).items() for word in ("--column", f"{part}={name}")]
    read += ["--concurrency", str(how.concurrency)] if how.concurrency else []
    judging = shlex.join(["batchcube", "validate", str(log), *read, "--coefficients", str(output)])
    if known.log is None or known.log.fitted_to < known.log.requests:
        return judging
    half = known.log.requests // 2
    return f"fit again with --fit-until {half} --overwrite, then {judging}" if half >= FEWEST else f"{judging} --skip 0"


@app.command("list", epilog=examples("batchcube calibrate list"))
def calibrate_list() -> None:
    """List the coefficients that come with batchcube: measured, from the literature, or made of tables."""
    from batchcube.calibration.coefficients import shipped_names

    from ..spec.service import load

    names = shipped_names()
    width = max(map(len, names), default=0)
    for name in names:
        known = load(name)
        print(f"{name:<{width}}  {known.label:<10}  {known.title}")


@app.command(
    "show", epilog=examples("batchcube calibrate show qwen3-0.6b-cpu-vllm", "batchcube calibrate show mine.json")
)
def calibrate_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="shipped coefficients, or a .json file")],
) -> None:
    """Print coefficients: where they come from, every law with its errors, and how plausible the measurement is."""
    from rich.console import Console

    from ..calibrate.report import print_coefficients
    from ..spec.service import load

    print_coefficients(load(name), Console(), name)


@app.command(
    "memory",
    epilog=examples(
        "batchcube calibrate memory llama-3.1-8b --gib 80 --used 0.92",
        "batchcube calibrate memory ./my-model --gib 141",
    ),
)
def calibrate_memory(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="for instance llama-3.1-70b, or a folder with a config.json")
    ],
    gib: Annotated[float, typer.Option("--gib", min=0.001, help="memory of the device, in GiB")],
    used: Annotated[float, typer.Option("--used", min=0.01, max=1.0, help="part of it that is used")] = 1.0,
    dtype: DtypeOption = "bfloat16",
) -> None:
    """Print what a model keeps in memory, and the KV tokens that fit beside its weights (docs/model.md, section 6)."""
    from batchcube.calibration.models import read_model

    known = read_model(model, dtype)
    most, weights = gib * used * 2**30, known.weight_bytes
    if weights >= most:
        raise InputError(
            f"{most / 1e9:.2f} GB are used, the weights alone take {weights / 1e9:.2f} GB",
            path=f"--gib {gib:g}",
        )
    token = known.kv_bytes_per_token
    print(f"{known.name}, {known.numbers}: {known.parameters / 1e6:,.1f} million parameters")
    print(f"  {token:,} bytes of KV cache per token, room for {known.capacity_tokens(most):,.0f} tokens")
    if known.windowed_layers:
        print(
            f"  {known.windowed_layers} of {known.layers} layers keep the last {known.window} tokens only: up to "
            f"{known.window_bytes:,} bytes of a request, which are not in these numbers"
        )
    print(f"  policy.memory = {{ max_bytes = {most:.0f}, model_bytes = {weights}, kv_bytes_per_token = {token} }}")


def _pairs(flag: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InputError("must be name=value", path=f"{flag} {quoted(text)}")
        pairs[name.strip()] = value.strip()
    return pairs
