"""The command `batchcube plan`: which configuration, on how many replicas, and how sure."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import InputError, quoted

from ..planning.defaults import CONFIDENCE, INDIFFERENCE, REPLICAS_MAX
from . import complete
from .help import examples
from .options import (
    BackendOption,
    ExecutorOption,
    OverwriteOption,
    QuietOption,
    SeedOption,
    SetOption,
    ShardOption,
    WorkersOption,
    do_shard,
    shard_of,
    tell,
)

if TYPE_CHECKING:
    from ..planning.answer import Answer

app = typer.Typer()


@app.command(
    "plan",
    epilog=examples(
        "batchcube plan --model meta-llama/Llama-3.1-8B --gpu h100 --rate 40 --slo ttft_p99_s=2 "
        "--slo tpot_mean_s=0.05 --vary policy.largest_batch=32,64,128,256",
        "batchcube plan sweep.toml --rate 40 --slo ttft_p99_s=2 --goodput 0.95 "
        "--vary policy.largest_batch=64,128 --vary server.replica.token_budget=1024,2048,8192 -o out/plan.nc",
        "batchcube plan sweep.toml --slo tpot_p95_ms=50 --objective latency_mean_s --gpu-price 2.5 --json",
        "batchcube plan sweep.toml --slo ttft_p99_s=2 -o plan.nc --shard 3/64; batchcube merge plan.nc",
    ),
)
def plan(
    context: typer.Context,
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC",
            help="TOML file or preset of mode continuous; --rate with --model and --gpu, or --coefficients, do without",
            autocompletion=complete.preset,
        ),
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            "--slo",
            metavar="NAME_STAT_UNIT=LIMIT",
            help="what must hold, ttft_p99_s=2 or tpot_mean_ms=50 (of ttft, tpot, tbt, wait, latency the mean, max, "
            "p50, p90, p95, p99); may be repeated, all must",
        ),
    ] = None,
    goodput: Annotated[
        str | None,
        typer.Option(
            "--goodput",
            metavar="SHARE",
            help="least share of all requests within the limits of report; within those of --slo where it has none",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="requests/s; SPEC's when left out")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="PATH=VALUE,...", help="a setting and the values to choose from; may be repeated"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="without SPEC: name of a model, as of a hub")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="without SPEC: h100, h200, a100, b200, l40s, ...")] = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel",
            "--tensor-parallel-size",
            min=1,
            help="without SPEC: GPUs of a replica; one when left out",
        ),
    ] = None,
    coefficients: Annotated[
        str | None,
        typer.Option("--coefficients", metavar="NAME|FILE", help="without SPEC: step times, in place of model and GPU"),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option("--lengths", metavar="FILE", help="without SPEC: CSV with prompt_tokens,output_tokens"),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="without SPEC: recorded trace, or the log of a server"),
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option("--gpu-price", help="of a GPU for an hour, in any currency")
    ] = None,
    replicas_max: Annotated[
        int, typer.Option("--replicas-max", min=1, help="replicas at most", show_default=True)
    ] = REPLICAS_MAX,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="VARIABLE",
            help="what decides among configurations on as few GPUs; the largest used-up share of a limit when left out",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="with which the answer is right", show_default=True)
    ] = CONFIDENCE,
    indifference: Annotated[
        float,
        typer.Option("--indifference", help="share by which the best may be worse than another", show_default=True),
    ] = INDIFFERENCE,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="N|SECONDS",
            help="requests, 2e7, or time, 60s, beyond which no look is begun, but for the first that any answer takes",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="cube to write (.nc), with its JSON beside it")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="page to write or replace, .html: the answer, and figures of all configurations"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of words")] = False,
    settings: SetOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    shard: ShardOption = None,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Decide which configuration to serve with, on how many replicas, and say how sure that is.

    Configurations are the combinations of all --vary, and of the axes of SPEC. All see the same requests; those that
    surely fail a limit, or are surely worse, leave the race early. The fewest GPUs count on which one holds all limits,
    simulated with as many replicas and their routing; among those on as few, the one with most room.

    With -o a plan that was stopped goes on when it is given again. With --shard a machine does its part of the next
    look; batchcube merge takes what all parts showed and says whether there is another look, or writes the answer.

    Without SPEC the step times and limits are those of --coefficients, shipped or of your own (batchcube calibrate), or
    of tables for the model and GPU (batchcube calibrate list; others need the extra `hardware`), and what else is
    assumed is printed.

    Exit status 1 when none is known to hold; the nearest miss is printed.
    """
    from ..progress import print_lines

    part = shard_of(shard, overwrite=overwrite)
    if part is not None and (report is not None or as_json):
        given = "--json" if report is None else "--report"
        raise InputError("does not go with --shard, which has no answer: batchcube merge writes it", path=given)
    if part is not None and output is None:
        raise InputError("is missing: with --shard it says where all parts are kept", path="--output")
    for text in slo or []:
        if "=" not in text and spec is not None and spec.replace(".", "", 1).isdigit():
            raise InputError(f"write {text}={spec}", path=f"--slo {quoted(text)} {spec}")
    from ..planning.decide import decide
    from ..planning.question import ask, parse_goodput, parse_vary
    from ..run.criteria import in_other_units
    from ..run.executors import connected
    from ..stopping import stoppable

    question = ask(
        spec,
        slo=slo or [],
        goodput=None if goodput is None else parse_goodput(goodput),
        rate=rate,
        vary=parse_vary(vary or []),
        settings=[*(settings or []), *([] if seed is None else [f"seed={seed}"])],
        model=model,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        coefficients=coefficients,
        lengths=lengths,
        trace=trace,
        gpu_price=gpu_price,
        replicas_max=replicas_max,
        objective=objective,
        confidence=confidence,
        indifference=indifference,
        budget=budget,
    )
    # A mistake is one line, and comes first.
    say = print_lines(quiet=quiet)
    say(f"planning {spec or ' on '.join(filter(None, (model, gpu or coefficients)))}")
    for doubt in in_other_units(slo or []):
        tell(doubt)
    if part is not None and output is not None:
        from ..planning.decide import shard_plan

        do_shard(context, partial(shard_plan, question, output, part, backend=backend), workers, executor, quiet=quiet)
        return
    if report is not None:
        from batchcube.figures.report import report_file

        report_file(report)
    with stoppable(), connected(executor, workers) as where:
        answer = decide(
            question, output, workers=workers, overwrite=overwrite, backend=backend, executor=where, say=say
        )
    print(answer.text() if as_json else answer, end="" if as_json else "\n")
    if report is not None and answer.cube is not None:
        from batchcube.figures.report.page import write_report
        from batchcube.figures.report.sections import Subject

        command = shlex.join(["batchcube", *sys.argv[1:]])
        subject = Subject(answer.cube, "" if output is None else str(output), command)
        say(str(write_report([subject], report, command=command)))
    _require_found(answer)


def tell_answer(answer: "Answer") -> None:
    """Print an answer in words; exit status 1 when no configuration is known to hold."""
    print(answer)
    _require_found(answer)


def _require_found(answer: "Answer") -> None:
    if not answer.found:
        from batchcube.results.planned import nothing_holds

        print(f"batchcube: {nothing_holds(answer.races)} all limits", file=sys.stderr)
        raise typer.Exit(1)
