"""An engine that computes nothing: its steps take what a known law says, so that fits can be compared with it."""

from collections import Counter
from typing import Any

import numpy as np

from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Sample

# Seconds of a step, of a decoding request, of a KV token it reads, of a prefill token, of a prefill token and context.
COEFFICIENTS = (4e-3, 2e-4, 3e-7, 5e-6, 4e-9)
# A batch of these takes a0 + a1 L (1 + γ (b - 1)) at prompts of 32 tokens: a1 (1 - γ) a step, a1 γ a request.
A0_S, A1_S, GAMMA = 3e-3, 4e-4, 0.05
STRAIGHT = (A1_S * (1 - GAMMA), A1_S * GAMMA, 0.0, A1_S * GAMMA / 32, 0.0)


class FakeEngine:
    """The step law with multiplicative Gaussian noise: one factor for a run's prefill, one for all its decode steps.

    `runs` counts the runs of every cell, and may be handed on to the engine of a later measurement: the noise of a
    cell's n-th run is always the same. With `stop_after`, the run after so many is interrupted.
    """

    def __init__(
        self,
        coefficients: tuple[float, ...] = COEFFICIENTS,
        *,
        prefill_s: float = 0.0,
        noise: float = 0.01,
        seed: int = 0,
        positions: int = 10**6,
        room_tokens: int = 10**9,
        stop_after: int | None = None,
        runs: Counter[Cell] | None = None,
        **about: Any,
    ) -> None:
        self.coefficients, self.prefill_s, self.noise, self.seed = coefficients, prefill_s, noise, seed
        self.positions, self.room_tokens, self.stop_after = positions, room_tokens, stop_after
        self.runs: Counter[Cell] = Counter() if runs is None else runs
        self.about = about
        self.served: list[Cell] = []
        """Cells in the order in which they were run; what warms the engine up generates 2 tokens."""

    @property
    def timed(self) -> list[Cell]:
        """The cells that were run to be timed, in order."""
        return [cell for cell in self.served if cell.output_tokens != 2]

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "fake",
            "engine_options": "none",
            "engine_versions": "fake 1.0",
            "model": "nobody's",
            "weights": "random",
            "dtype": "bfloat16",
            "device": "cpu",
            "driver": "none",
            "clock": "simulated",
            "threads": 1,
            "kv_bytes_per_token": 2048,
            "model_bytes": 10**6,
            "kv_capacity_tokens": 5000,
        } | self.about

    def refusal(self, cell: Cell) -> str:
        longest = cell.prompt_tokens + cell.output_tokens
        return f"{longest} tokens, the model has {self.positions} positions" if longest > self.positions else ""

    def run(self, cell: Cell) -> Sample:
        if self.stop_after is not None and len(self.timed) >= self.stop_after:
            raise KeyboardInterrupt
        if cell.kv_tokens > self.room_tokens:
            self.served.append(cell)
            raise CellTooLargeError(f"no room for {cell.kv_tokens} tokens")
        steps = self.steps(cell)
        rng = np.random.default_rng([self.seed, *cell, self.runs[cell]])
        prefill, decode = 1.0 + self.noise * rng.standard_normal(2)
        steps[0] *= prefill
        steps[1:] *= decode
        self.runs[cell] += 1
        self.served.append(cell)
        return Sample(steps, float(steps.sum()) + 1e-3)

    def steps(self, cell: Cell) -> np.ndarray[Any, Any]:
        """The seconds of every step of a batch, without noise."""
        b, p, o = cell
        c0, c1, c2, c3, c4 = self.coefficients
        prefill = self.prefill_s + c0 + c3 * b * p + c4 * b * p * p
        return np.concatenate([[prefill], c0 + c1 * b + c2 * b * (p + np.arange(1.0, o))])
