"""The front door: what it refuses before a kernel is entered."""

import re

import numpy as np
import pytest

from batchcube.engine import Shape, simulate_many
from batchcube.engine.simulation import Job
from helpers.batches import random_job as draw_batches
from helpers.continuous import draw_job as draw_steps


@pytest.mark.parametrize("kind", ["batches", "continuous"])
@pytest.mark.parametrize("name", Shape._fields)
def test_tallies_that_are_too_small_for_a_job_are_refused(kind: str, name: str) -> None:
    """Compiled kernels would write past their end."""
    job: Job = (draw_batches if kind == "batches" else draw_steps)(np.random.default_rng(1))
    needed = getattr(job.shape, name)
    if not needed:
        return
    with pytest.raises(RuntimeError, match=re.escape(f"the shape has {name} = {needed - 1}, a job needs {needed}")):
        simulate_many([job], job.shape._replace(**{name: needed - 1}))
