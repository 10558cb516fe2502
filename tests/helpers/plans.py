"""Questions that plans of tests answer."""

from pathlib import Path
from typing import Any

import numpy as np

from batchcube.sweeps.planning.question import Question, ask

from .specifications import CAPS, SLO

ASKED = ("--slo", "ttft_p99_s=1", "--slo", "tpot_mean_ms=40", "--vary", "policy.largest_batch=8,16")
"""The same of the command."""


def question(spec: str, **asked: Any) -> Question:
    """Ask for the least replicas that hold two limits, over caps."""
    return ask(spec, **({"slo": SLO, "vary": CAPS} | asked))


def recorded(tmp_path: Path, requests: int) -> Path:
    """Write a trace with Poisson arrivals at 6/s and geometric outputs."""
    rng = np.random.default_rng(1)
    came = np.cumsum(rng.exponential(1 / 6, requests))
    rows = zip(came, rng.integers(50, 150, requests), rng.geometric(1 / 40, requests), strict=True)
    file = tmp_path / "recorded.csv"
    lines = [f"{at:.6f},{prompt},{output}" for at, prompt, output in rows]
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines, ""]))
    return file
