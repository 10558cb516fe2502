"""The commands about specifications: the presets, the policies they can name, and the schema."""

from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import InputError

from . import complete
from .help import examples

app = typer.Typer()


@app.command("specs", epilog=examples("batchcube specs", "batchcube specs multi-bin-fig3 -o my-sweep.toml"))
def specs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="preset to print", autocompletion=complete.preset)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to copy the preset to (.toml)")] = None,
) -> None:
    """List the presets, or print one to copy and change."""
    from .. import presets

    if name is None:
        import tomllib

        if output is not None:
            raise InputError("needs the name of a preset to copy", path="--output")
        width = max((len(known) for known in presets.names()), default=0)
        for known in presets.names():
            print(f"{known:<{width}}  {tomllib.loads(presets.read(known).decode()).get('title', '')}")
        return
    if name not in presets.names():
        raise InputError(f"no preset of that name; {presets.hint(name)}", path=name)
    text = presets.read(name).decode()
    if output is None:
        print(text, end="")
        return
    if output.suffix != ".toml":
        raise InputError("must end in .toml", file=output)
    _write_new(output, text)


def _write_new(path: Path, text: str) -> None:
    """Write a text file that must not be there yet."""
    made = False
    try:
        with path.open("x", encoding="utf-8") as file:
            made = True
            file.write(text)
    except FileExistsError:
        raise InputError("is there already", file=path) from None
    except OSError as error:
        if made:
            path.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None


@app.command("policies", epilog=examples("batchcube policies", "batchcube policies sla"))
def policies(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="this policy, with its settings")] = None,
) -> None:
    """List the policies that a specification can name: those of batchcube, and those of installed packages."""
    from .policies import all_policies, one_policy

    for line in all_policies() if name is None else one_policy(name):
        print(line)


@app.command("schema", epilog=examples("batchcube schema > batchcube.schema.json"))
def schema() -> None:
    """Print the JSON schema of specifications."""
    from ..spec.document import schema_text

    print(schema_text(), end="")
