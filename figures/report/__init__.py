"""A report to look at: one file of HTML that opens offline, with answers in words and figures one can touch.

`page.write_report` makes it. It needs the extra `report`, Altair and vl-convert: `missing` says, and `report_file`
asks for it, before `page` is imported.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from batchcube.errors import InputError
from batchcube.results.disk import output_file


def missing() -> str:
    """Return what is missing for reports and how to get it, in words; "" where nothing is."""
    lacking = [
        name for module, name in (("altair", "Altair"), ("vl_convert", "vl-convert")) if find_spec(module) is None
    ]
    return f"{' and '.join(lacking)} not installed: pip install '.[report]' in the clone" if lacking else ""


def report_file(output: str | os.PathLike[str]) -> Path:
    """Return the file that a report is written to.

    Raises InputError as `output_file`, for an output that is no .html, and where reports cannot be written.
    """
    target = output_file(Path(output))
    if lacking := missing():
        raise InputError(lacking, path="report")
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise InputError("must end in .html", file=output)
    return target
