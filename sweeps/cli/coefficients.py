"""What commands that fit leave: coefficients, printed and written, what figures draw of them, and the figures."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from batchcube.errors import InputError, printable

from .options import tell

FiguresOption = Annotated[
    Path | None,
    typer.Option("--figures", metavar="DIR", help="folder for the calibration's figures, written or replaced"),
]


def show_coefficients(known: Any, output: Path | None, *, brief: bool = False) -> None:
    """Print coefficients, of which `output` will be the file; when `brief`, how to see all of it stands below."""
    from rich.console import Console

    from ..calibrate.report import print_coefficients

    print_coefficients(known, Console(), None if output is None else str(output), brief=brief)
    if brief and output is not None:
        print(printable(f"all of it: {shlex.join(['batchcube', 'calibrate', 'show', str(output)])}"))


def write_coefficients(known: Any, output: Path) -> None:
    """Write coefficients, complete or not at all."""
    from ..files import write_text

    write_text(output, known.text())


def require_json(output: Path | None) -> None:
    """Refuse another ending for coefficients; None is no output."""
    if output is not None and output.suffix != ".json":
        raise InputError("must end in .json", file=output)


def coefficient_files(output: Path) -> tuple[Path, Path]:
    """Return the file of coefficients, and that of what figures draw of them; raises InputError for another ending."""
    require_json(output)
    return output, output.with_suffix(".fit.nc")


def keep(known: Any, calibration: Any, output: Path | None, figures: Path | None, *, overwrite: bool) -> None:
    """Print coefficients, write them and what figures draw, and draw every figure there is something to draw of."""
    from batchcube.results.disk import make_folder
    from batchcube.results.storage import write_dataset

    from ..files import require_new

    if output is not None:
        require_new(*coefficient_files(output), overwrite=overwrite)
    if figures is not None:
        make_folder(figures)
    show_coefficients(known, output)
    if output is not None:
        write_coefficients(known, output)
        _, beside = coefficient_files(output)
        write_dataset(calibration, beside)
        print(printable(f"{output}, {beside}"))
    if figures is not None:
        from batchcube.figures import registry

        for name in registry.calibration_names():
            try:
                drawn = registry.draw(name, calibration)
            except InputError as error:
                tell(f"no {name}: {error}")
                continue
            print(printable(registry.save(drawn, calibration, figures / f"{name}.png")))
