"""A report to look at: one file of HTML that opens offline, with answers in words and figures one can touch.

`page.write_report` makes it. It needs the extra `report`, Altair and vl-convert: `missing` says, and `require` asks
for it, before `page` is imported.
"""

from importlib.util import find_spec

from batchcube.errors import InputError


def missing() -> str:
    """Return what is missing for reports and how to get it, in words; "" where nothing is."""
    lacking = [
        name for module, name in (("altair", "Altair"), ("vl_convert", "vl-convert")) if find_spec(module) is None
    ]
    return f"{' and '.join(lacking)} not installed: pip install '.[report]' in the clone" if lacking else ""


def require() -> None:
    """Raise InputError where reports cannot be written."""
    if lacking := missing():
        raise InputError(lacking, path="report")
