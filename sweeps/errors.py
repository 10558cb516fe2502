"""The exceptions a user's mistake may raise."""

from batchcube.results.text import printable


class UserError(ValueError):
    """Report a user's mistake in one line: the file, the place in it, what is wrong, what is allowed.

    The command line prints the message and exits with status 2; control characters and line breaks in the
    message (they may come from the user's own file) are shown escaped, so that it stays one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class FileError(UserError):
    """Report a data file that cannot be used; the message names the file, and no point of a sweep changes that."""


def refuses_input(error: ValueError) -> bool:
    """Tell the one-line errors with which the package refuses input from faults of the program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return isinstance(error, UserError) or (type(error) is ValueError and module.startswith("batchcube."))
