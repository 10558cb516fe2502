"""Request logs of a real server.

A log is a file of JSON lines, one for each request, with the fields of vLLM's own request metrics: `input_toks`,
`output_toks`, `queued_ts` (or `arrival_time`, in the same clock), `first_token_ts`, `last_token_ts`, and where known
`scheduled_ts`; seconds.
"""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.documents import parse_json, read_file
from batchcube.engine.continuous import Requests, make_requests
from batchcube.engine.continuous.model import LARGEST_REQUEST
from batchcube.errors import InputError, found_in

Floats = NDArray[np.float64]

# What writing a timestamp may change.
_ROUNDING_S = 1e-6
# Either way; since 1970 there were 2e9. Timestamps in other units, of nanoseconds for instance, lie beyond.
_LATEST_S = 1e12


class Log(NamedTuple):
    """A request log in the order of arrival, each field (request,); seconds since the first request was queued."""

    queued_s: Floats
    scheduled_s: Floats
    """NaN where the log does not say."""
    first_token_s: Floats
    last_token_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    sha256: str

    def requests(self) -> Requests:
        """Return what the simulator replays."""
        return make_requests(self.queued_s, self.prompt_tokens, self.output_tokens)

    def first(self, count: int) -> NDArray[np.bool_]:
        """Say which requests are among the first ``count``."""
        return np.arange(len(self.queued_s)) < count


def read_log(path: str | Path) -> Log:
    """Read a request log.

    Raises InputError, one line naming the file and the row, for what is no JSON, a field that is missing or no number,
    tokens that are not whole, below 1 or more than a request can have, timestamps that run backwards, and clocks that
    cannot be the same.
    """
    data = read_file(path)
    rows = []
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").split("\n"), start=1):
        if line.strip():
            with found_in(file=path, path=f"line {number}"):
                rows.append(_row(line))
    if len(rows) < 2:
        raise InputError(f"holds {len(rows)} requests: needs at least 2", file=path)
    table = np.array(sorted(rows))
    start = table[0, 0]
    queued, scheduled, first, last = (table[:, k] - start for k in range(4))
    return Log(
        queued,
        scheduled,
        first,
        last,
        table[:, 4].astype(np.int64),
        table[:, 5].astype(np.int64),
        hashlib.sha256(data).hexdigest(),
    )


def _row(line: str) -> tuple[float, float, float, float, float, float]:
    try:
        entry = parse_json(line)
    except InputError as error:
        raise InputError(f"{error}: a log has one JSON object in each line") from None
    if not isinstance(entry, dict):
        raise InputError("is no JSON object")

    def number(*names: str, least: float = -_LATEST_S, most: float = _LATEST_S, whole: bool = False) -> float:
        name = next((name for name in names if name in entry), None)
        if name is None:
            raise InputError(f"{' or '.join(names)} is missing")
        value = entry[name]
        # Compared before anything converts it: an integer may be larger than any float.
        known = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        if not known or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise InputError(
                f"must be a {kind} from {least:.15g} to {most:.15g}",
                path=name,
                value=json.dumps(value)[:40],
            )
        return float(value)

    def tokens(name: str) -> float:
        return number(name, least=1, most=LARGEST_REQUEST, whole=True)

    queued, first, last = number("queued_ts", "arrival_time"), number("first_token_ts"), number("last_token_ts")
    scheduled = number("scheduled_ts") if entry.get("scheduled_ts") is not None else np.nan
    order = [("queued", queued), ("scheduled", scheduled), ("first token", first), ("last token", last)]
    known = [(label, value) for label, value in order if np.isfinite(value)]
    for (before, a), (after, b) in pairwise(known):
        if b < a - _ROUNDING_S:
            raise InputError(f"{after} at {b} s is before {before} at {a} s: one clock, never backwards")
    if last - queued > 1e8:
        raise InputError(f"{last - queued:.3g} s from queued to last token: not of one clock")
    prompt, output = tokens("input_toks"), tokens("output_toks")
    if prompt + output > LARGEST_REQUEST:
        raise InputError(f"{prompt + output:.0f} tokens in and out", allowed=f"must be at most {LARGEST_REQUEST}")
    return queued, scheduled, first, last, prompt, output
