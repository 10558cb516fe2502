"""The commands about figures: what there is, and drawing one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import printable

from .help import examples
from .options import CubeArgument, SelectOption, assignment, selection_of

app = typer.Typer()


@app.command("figures")
def figures() -> None:
    """List the figures and what each needs."""
    from batchcube.figures import registry

    for figure in registry.names():
        print(f"{figure.name}: {figure.shows}")
        presets = f"; presets: {', '.join(figure.presets)}" if figure.presets else ""
        print(f"    needs {figure.needs}{presets}; options: {', '.join(figure.options)}")


@app.command(
    "figure",
    epilog=examples(
        "batchcube figure throughput-vs-bins out/sweep.nc -o bins.pdf",
        "batchcube figure latency-vs-rate out/sweep.nc -o rate.png --select bins=4 --option width_mm=120",
    ),
)
def figure(
    name: Annotated[str, typer.Argument(help="figure to draw (batchcube figures)")],
    cube: CubeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .png, .pdf or .svg")],
    select: SelectOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="option of the figure")
    ] = None,
) -> None:
    """Draw a figure from a cube."""
    from batchcube.figures import registry
    from batchcube.results.cube import changed

    options = dict(assignment("--option", text) for text in option or [])
    if select:
        options["select"] = selection_of(select)
    loaded = registry.read(name, cube)
    if "specification" in loaded.attrs and (doubt := changed(loaded)):
        print(f"{printable(cube)}: {doubt}", file=sys.stderr)
    registry.save(registry.draw(name, loaded, **options), loaded, output)
