"""The commands about figures: what there is, and drawing one."""

from pathlib import Path
from typing import Annotated

import typer

from .help import examples
from .options import CubeArgument, SelectOption, assignment, selection_of, tell

app = typer.Typer()


@app.command("figures", epilog=examples("batchcube figures", "batchcube figures lines"))
def figures(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="only this figure")] = None,
) -> None:
    """List the figures and what each needs."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from batchcube.figures import registry
    from batchcube.results.text import PAPERS, papers_of

    console = Console()
    for figure in registry.names(name):
        console.print(f"{figure.name}: {figure.shows}", highlight=False, markup=False)
        presets = f"; presets: {', '.join(figure.presets)}" if figure.presets else ""
        needs = f"needs {figure.needs}{presets}; options: {', '.join(figure.options)}"
        console.print(Padding(Text(needs), (0, 0, 0, 4)), highlight=False)
    console.print(papers_of(" ".join(PAPERS)), highlight=False, markup=False)


@app.command(
    "figure",
    epilog=examples(
        "batchcube figure throughput-vs-bins out/sweep.nc -o bins.pdf",
        "batchcube figure latency-vs-rate out/sweep.nc width_mm=120 -o rate.png --select bins=4",
        "batchcube figure lines out/sweep.nc x=bins y=latency_p99_s -o lines.png",
        "batchcube figure throughput-vs-rate out/sweep.nc -o fig3.pdf --paper 1",
    ),
)
def figure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="figure to draw (batchcube figures)")],
    cube: CubeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write or replace: .png, .pdf or .svg")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="options of the figure (batchcube figures)")
    ] = None,
    select: SelectOption = None,
    paper: Annotated[
        int | None,
        typer.Option(
            "--paper",
            metavar="COLUMNS",
            help="for a paper, over 1 or 2 columns: no title, and the caption in NAME.caption.txt",
        ),
    ] = None,
) -> None:
    """Draw a figure from a cube."""
    from batchcube.figures import registry

    registry.figure_file(output)
    given = dict(assignment("option", text) for text in options or [])
    if select:
        given["select"] = selection_of(select)
    loaded = registry.read(name, cube, lambda doubt: tell(f"{cube}: {doubt}"))
    registry.save(registry.draw(name, loaded, paper=paper, **given), loaded, output)
