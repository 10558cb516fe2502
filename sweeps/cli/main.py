"""The command line. Everything heavy is imported by the command that needs it, so that --help is there at once."""

import gc
import os
import re
import sys
from functools import cache
from typing import Annotated, Any, NoReturn

import typer

from batchcube.errors import InputError, one_of, printable

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
from .options import in_options

# typer carries click under different names from version to version; its own exception leads to click's.
_MISTAKE: Any = typer.BadParameter.__mro__[2]
_OURS = (
    (r"^Missing command\.$", ""),
    (r"^Missing \w+ '(.*?)'[^.]*\.", r"\1: is missing"),
    (r"^Invalid value for '(.*?)'[^:]*: (.*?)\.?$", r"\1: \2"),
    (r"^(\S+): Input should be ([^,]*).*", r"\1: must be \2"),
    (r"^No such option: (\S+)", r"\1: no such option"),
    (r"^No such command '(.*?)'\.", r"\1: no such command"),
    (r"^Option '(.*?)' (.*)\.$", r"\1: \2"),
    (r"^Got unexpected extra argument\S* \((.*)\)$", r"\1: is too much"),
    (r"\W*(?:Possible options: |Did you mean )(.*?)\W*$", r"; did you mean \1?"),
)
"""What typer says of a command line, in words that change with its version, and what we say in its place."""
GARBAGE_THRESHOLDS = 50_000, 20, 20
"""When Python looks for garbage.

What is imported and compiled stays: to look through it at the usual pace, some 700 things, takes a seventh of the time
that a command needs to start, and up to a third where thousands of tests are collected.
"""
FAULT = (
    "batchcube: this is a fault of batchcube, not of what it was given: please report it with the command and this text"
)

app = typer.Typer(
    name="batchcube",
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
app.add_typer(data.app, name="data")
app.add_typer(reproduce.app, name="reproduce")
app.add_typer(calibrate.app, name="calibrate")


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
def _command() -> Any:
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
        status = _command()(arguments, standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        _fail(in_options(str(error)))
    except _MISTAKE as error:
        _fail(_in_our_words(error.format_message()) or "no command; see batchcube --help")
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


def _in_our_words(text: str) -> str:
    """Return what typer says, on one line, as other mistakes are said: of what, what is wrong, what may be meant."""
    text = " ".join(text.split())
    for theirs, ours in _OURS:
        text = re.sub(theirs, ours, text)
    said, mark, meant = text.rpartition("; did you mean ")
    return f"{said}{mark}{one_of(meant.replace(chr(39), '').split(', '))}" if mark else text


def _fail(message: str) -> NoReturn:
    for line in message.split("\n"):
        print(f"batchcube: {printable(line)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
