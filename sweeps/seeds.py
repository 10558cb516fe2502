"""Independent random streams, one for each (seed, replication, purpose)."""

import zlib

import numpy as np

from batchcube.errors import InputError


def stream(seed: int, replication: int | None, purpose: str) -> np.random.Generator:
    """Return the random stream of one purpose ("arrivals", "lengths", ...) in one replication.

    The stream depends on nothing else, so more replications, other policies or other rates leave it as it is.
    `replication=None` is for what is drawn once for all replications (the sample behind the bin edges).
    Raises InputError for a negative seed or replication.
    """
    if seed < 0 or (replication is not None and replication < 0):
        raise InputError(f"seed = {seed}, replication = {replication}", allowed="must be >= 0")
    key = (zlib.crc32(purpose.encode()), 0 if replication is None else replication + 1)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
