"""The command `batchcube validate`: the log of a real server beside a simulation of it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import InputError, printable

from .help import examples
from .options import (
    AsyncOption,
    BlockOption,
    BudgetOption,
    ColumnOption,
    ConcurrencyOption,
    KvTokensOption,
    LockstepOption,
    LogFormatOption,
    MostRunningOption,
    OverwriteOption,
    PrefillOption,
    ReplicasOption,
    RoutingOption,
    ServerConfigOption,
    ServerLogOption,
    ServerOption,
    given_settings,
    reading_of,
)

app = typer.Typer()


@app.command(
    "validate",
    epilog=examples(
        "batchcube validate requests.jsonl --coefficients my-server.json",
        "batchcube validate benchmarks.json.gz --coefficients my-server.json",
        "batchcube validate light.jsonl heavy.jsonl --coefficients my-server.json",
        "batchcube validate requests.jsonl --coefficients my-server.json --figure overlay.png -o validation.nc",
        "batchcube validate light.jsonl heavy.jsonl --coefficients my-server.json --report report.html",
    ),
)
def validate(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="request logs (docs/logs.md)")],
    coefficients: Annotated[str, typer.Option("--coefficients", metavar="NAME", help="with a step law; name or .json")],
    skip: Annotated[
        int | None,
        typer.Option("--skip", min=0, help="first requests to leave out of the errors; those fitted to when left out"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="NetCDF file to write")] = None,
    overlay: Annotated[
        Path | None,
        typer.Option("--figure", help="figure to write or replace: simulated against measured (.png, .pdf, .svg)"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="page to write or replace, .html: answer, distributions, errors"),
    ] = None,
    max_num_seqs: MostRunningOption = None,
    token_budget: BudgetOption = None,
    kv_tokens: KvTokensOption = None,
    block_tokens: BlockOption = None,
    prefill: PrefillOption = None,
    format: LogFormatOption = None,
    column: ColumnOption = None,
    concurrency: ConcurrencyOption = None,
    replicas: ReplicasOption = None,
    routing: RoutingOption = None,
    lockstep: LockstepOption = None,
    async_scheduling: AsyncOption = None,
    server: ServerOption = None,
    server_config: ServerConfigOption = None,
    server_log: ServerLogOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Replay the request log of a real server under continuous batching, and compare what users felt.

    Prints the errors of time to first token, time per output token and end-to-end latency, of throughput, and of how
    many requests were admitted and waited. Limits that are not given are those the coefficients were fitted with. Those
    that the log contradicts are refused, or said where preemptions may explain it.
    """
    from rich.console import Console

    from batchcube.calibration.logs import read_log
    from batchcube.calibration.prediction import fitted_part
    from batchcube.results.disk import cube_file

    from ..calibrate.report import print_errors, print_remarks, print_repeats, print_summary
    from ..calibrate.server import origins, server_settings, stated_by
    from ..calibrate.validate import validate as validated
    from ..claim import claimed
    from ..spec.service import load

    known = load(coefficients)
    given = given_settings(
        server,
        most_running=max_num_seqs,
        token_budget=token_budget,
        capacity_tokens=kv_tokens,
        block_tokens=block_tokens,
        prefill=prefill,
        replicas=replicas,
        routing=routing,
        lockstep=lockstep,
        async_scheduling=async_scheduling,
    )
    stated = stated_by(server_config, server_log)
    settings = server_settings(known, given, stated)
    if output is not None:
        cube_file(output)
    if len(logs) > 1 and (output or overlay) is not None:
        raise InputError("is of one log", path="--output" if output is not None else "--figure")
    if overlay is not None:
        from batchcube.figures.registry import figure_file

        figure_file(overlay)
    if report is not None:
        from batchcube.figures.report import report_file

        report_file(report)
    with claimed(output, overwrite=overwrite):
        console, how = Console(), reading_of(format, column, concurrency)
        for line in origins(stated, given, settings):
            console.print(printable(line), highlight=False, markup=False)
        found, datasets, read = [], [], [read_log(log, how) for log in logs]
        for log, one in zip(logs, read, strict=True):
            # Beside other logs, one that was fitted whole shows how well.
            whole = len(logs) > 1 and skip is None and fitted_part(known, one) >= len(one.came_s)
            errors, dataset = validated(one, log, known, settings, 0 if whole else skip)
            errors = [row._replace(fitted=True) for row in errors] if whole else errors
            if len(logs) > 1:
                console.print(printable(f"{log}:"), highlight=False, markup=False, style="bold")
                print_remarks(dataset, console)
            else:
                print_errors(errors, dataset, console)
            found.append((str(log), errors))
            datasets.append(dataset)
        if len(logs) > 1:
            print_summary(found, console)
        print_repeats([str(log) for log in logs], read, console)
        if output is not None:
            from batchcube.results.storage import write_dataset

            print(printable(write_dataset(dataset, output)))
        if overlay is not None:
            from batchcube.figures import registry

            drawn = registry.draw("simulated-vs-measured", dataset)
            print(printable(registry.save(drawn, dataset, overlay)))
        if report is not None:
            from batchcube.figures.report.page import write_report
            from batchcube.figures.report.sections import Subject

            command = shlex.join(["batchcube", *sys.argv[1:]])
            written = "" if output is None else str(output)
            subjects = [Subject(dataset, written, command) for dataset in datasets]
            print(printable(write_report(subjects, report, command=command)))
