"""The command line. Everything heavy is imported by the command that needs it, so that --help is there at once."""

import gc
import os
import re
import sys
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from batchcube.errors import InputError, did_you_mean, one_of, quoted

from . import (
    calibrate,
    capacity,
    cubes,
    data,
    figures,
    growing,
    merge,
    plan,
    report,
    reproduce,
    run,
    served,
    specs,
    validate,
    why,
)
from .options import shown, tell

# typer carries click under different names from version to version; its own exception leads to click's.
_MISTAKE: Any = typer.BadParameter.__mro__[2]
GARBAGE_THRESHOLDS = 50_000, 20, 20
"""When Python looks for garbage.

What is imported and compiled stays: to look through it at the usual pace, some 700 things, takes a seventh of the time
that a command needs to start, and up to a third where thousands of tests are collected.
"""
FAULT = (
    "batchcube: this is a fault of batchcube, not of what it was given: please report it with the command and this text"
)


class _Commands(TyperGroup):
    """Commands; a name of none is refused as other mistakes are, in one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first word names."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            near = did_you_mean(args[0], self.commands)
            raise InputError("; ".join(filter(None, ("no such command", near))), path=quoted(args[0]))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="batchcube",
    cls=_Commands,
    help="Simulate LLM batching policies over whole parameter grids, into labelled cubes and figures.",
    epilog="Start with: batchcube specs, then batchcube run NAME -o OUT.nc, batchcube show OUT.nc",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order of the help.
_COMMANDS = (
    "run",
    "check",
    "capacity",
    "plan",
    "merge",
    "specs",
    "show",
    "figures",
    "figure",
    "report",
    "why",
    "validate",
    "served",
    "rerun",
    "extend",
    "join",
    "compare",
    "variables",
    "policies",
    "schema",
)
_ROOMS = (run, growing, capacity, plan, merge, specs, cubes, figures, report, validate, why, served)
app.registered_commands = sorted(
    (command for room in _ROOMS for command in room.app.registered_commands),
    key=lambda command: _COMMANDS.index(command.name or ""),
)
app.add_typer(data.app, name="data", cls=_Commands)
app.add_typer(reproduce.app, name="reproduce", cls=_Commands)
app.add_typer(calibrate.app, name="calibrate", cls=_Commands)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("batchcube"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


@cache
def command() -> Any:
    """Return all commands as one, put together where one is called first."""
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A user's mistake is one line on standard error and exit status 2; a fault of ours a traceback, one line below it
    that says so, and exit status 1.
    """
    from .streams import open_streams

    if arguments is None:
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        open_streams()
    # All figures go to files. A notebook leaves its own backend to the processes that it starts, and where that is not
    # installed Matplotlib does not even load.
    os.environ["MPLBACKEND"] = "agg"
    try:
        status = command()(arguments, prog_name="batchcube", standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        _fail(error)
    except _MISTAKE as error:
        _fail(_refused(error))
    except OSError as error:
        if error.strerror is None:
            _fail(" ".join(str(error).split()))
        _fail(f"{error.filename or 'cannot write'}: {error.strerror}")
    except typer.Abort:  # Ctrl-C where nothing is kept
        sys.exit(130)
    except MemoryError:
        _fail("not enough memory; batchcube check SPEC says how much a sweep takes")
    except Exception as error:
        error.add_note(FAULT)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _refused(error: Any) -> InputError:
    """Return what typer refuses as all other mistakes are said; in its own words where it has no field for them."""
    said = quoted(error.message).removesuffix(".")
    match type(error).__name__:
        case "NoSuchOption":
            meant = f"; did you mean {one_of(sorted(error.possibilities))}?" if error.possibilities else ""
            return InputError(f"no such option{meant}", path=quoted(error.option_name))
        case "BadOptionUsage":
            return InputError(said.removeprefix(f"Option '{error.option_name}' "), path=error.option_name)
        case "MissingParameter":
            return InputError("is missing", path=shown(error.param))
        case "BadParameter" if hasattr(error.__cause__, "errors"):
            from ..spec.messages import text_of

            (wrong, *_) = error.__cause__.errors()
            return InputError(text_of(wrong), path=f"{shown(error.param)} {quoted(wrong['input'])}")
        case "BadParameter":
            return InputError(said, path=shown(error.param))
    context = getattr(error, "ctx", None)
    if context is not None and hasattr(context.command, "commands"):
        return InputError(f"no command; see {context.command_path} --help")
    more = re.fullmatch(r"Got unexpected extra argument\S* \((.*)\)", said)
    return InputError("too many arguments", path=more[1]) if more else InputError(said)


def _fail(mistake: object) -> NoReturn:
    for line in str(mistake).split("\n"):
        tell(f"batchcube: {line}")
    sys.exit(2)


if __name__ == "__main__":
    main()
