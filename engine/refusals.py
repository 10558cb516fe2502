"""What makers of the engine refuse alike: a word that is not known, an entry of an array."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError


def number_of(word: str, allowed: Sequence[str], path: str) -> int:
    """Return the number of a word among those allowed; InputError for any other."""
    if word not in allowed:
        raise InputError(f"must be one of {', '.join(allowed)}", path=path, value=repr(word))
    return allowed.index(word)


def refuse(name: str, bad: NDArray[np.bool_], values: NDArray[np.generic], rule: str) -> None:
    """Raise InputError for the first entry of an array that is bad, if any is."""
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(rule, path=f"{name}[{first}]", value=values[first])
