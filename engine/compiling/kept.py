"""Compiled code in files, each under a hash of all that it was compiled from."""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from ..cache import cache_directory, note

_FORMAT = 3
"""Raised where files have come to hold something else."""
_DIGEST_BYTES = hashlib.sha256().digest_size


class KeptFile:
    """A file that begins with a hash of the rest, which is compared before anything is unpickled.

    Numba believes what it finds: a truncated file of its own cache was seen to end in SIGSEGV.
    """

    def __init__(self, folder: Path, name: str, digest: str, kind: str) -> None:
        self.digest = digest
        # A lambda's name has signs that not every file system takes, a generated one may be too long for it.
        self.path = folder / f"{name.strip('<>')[:50]}-{digest}.{kind}"

    def read(self) -> bytes | None:
        """Return what was kept, None where there is nothing; a damaged file is deleted."""
        if not self.path.is_file():
            return None
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == digest:
            return payload
        note(f"{self.path}: damaged, compiled again")
        with suppress(OSError):
            self.path.unlink()
        return None

    def write(self, payload: bytes) -> None:
        """Keep something; where that is impossible, the next run compiles again."""
        # Always under the same name, so that what a killed process leaves is overwritten. Two processes that write at
        # the same time may damage the file, which its hash shows; the slower one finds nothing left to move.
        unfinished = self.path.with_suffix(".unfinished")
        try:
            unfinished.write_bytes(hashlib.sha256(payload).digest() + payload)
            with suppress(FileNotFoundError):
                unfinished.replace(self.path)
        except OSError as error:
            note(f"{self.path.parent}: compiled kernels cannot be kept: {error.strerror}")
            with suppress(OSError):
                unfinished.unlink()


def kept_file(name: str, kind: str, source: str, *made_by: Any) -> KeptFile | None:
    """Return the file of a function, given the digest of its source; None where there is no folder.

    Its name tells that, the versions of what compiles, and `made_by`. Numba's own cache asks only whether the file that
    defines a function has changed: after a change in a policy it was seen to return the old result.
    """
    folder = cache_directory()
    if folder is None:
        return None
    versions = (_FORMAT, sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    compiled_from = repr((versions, settings, made_by)) + source
    return KeptFile(folder, name, hashlib.sha256(compiled_from.encode()).hexdigest(), kind)
