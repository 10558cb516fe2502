"""Standard output and standard error that nobody has to read: one that is closed, or a pipe that ends, is no error."""

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unread(io.FileIO):
    """A stream that goes on into nothing once its reader has left."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # Whatever went wrong, it is said once: what is still buffered is written again when the program ends.
            _to_nothing(self.fileno())
            if not isinstance(error, BrokenPipeError):
                raise
            return memoryview(data).nbytes


def open_streams() -> None:
    """Make standard output and error outlive their readers (``| head``), and open those that are closed (``2>&-``).

    A file that is opened while one of them is closed would get its number, and with it what libraries have to say.
    Characters that the encoding of a stream lacks are spelled out.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _to_nothing(number)
        about: dict[str, Any] = {"encoding": "utf-8"}
        if stream is not None:
            stream.flush()
            about = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through")}
            about["errors"] = "backslashreplace" if stream.errors == "strict" else stream.errors
        buffer = io.BufferedWriter(_Unread(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(buffer, **about))


def _to_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)
