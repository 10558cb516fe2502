"""Logs of real servers, as the servers and their benchmark tools write them: one `Log`, whatever the format."""

from .log import Log
from .reading import BY_CONTENT, Arrivals, Reading, aligned, read_arrivals, read_log
from .registry import FORMATS, LogFormat, RecordedFormat
from .tables import PARTS

__all__ = [
    "BY_CONTENT",
    "FORMATS",
    "PARTS",
    "Arrivals",
    "Log",
    "LogFormat",
    "Reading",
    "RecordedFormat",
    "aligned",
    "read_arrivals",
    "read_log",
]
