"""Close the loop under continuous batching: calibrate vLLM by micro-benchmarks alone, serve on it, predict its log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from batchcube.calibration.measuring.bench import Engine, Grid

# The engine must be up before Numba is loaded (vLLM looks into every loaded module and stumbles over one of Numba's):
# whatever needs the simulator is imported inside.
if TYPE_CHECKING:
    import xarray as xr

    from batchcube.calibration.coefficients import Coefficients
    from batchcube.sweeps.calibrate.validate import Error

# As long as what is served; a prefill that exceeds the budget is left out.
GRID = Grid((1, 2, 4, 8), (16, 64, 128, 240), (8, 64, 160), 3, 1)
MOST_RUNNING = 8
TOKEN_BUDGET = 512
# Each request takes two or three blocks of 128 tokens, so that eight of them do not fit: some are preempted.
KV_BLOCKS = 17
LONGEST = 512
# A CPU builds its matrix kernels anew for every number of tokens in a step it has not met (some milliseconds, more than
# the step itself): prompts come in whole sixteens, and streams that nobody looks at are served first.
WARM_UP_STREAMS = 2
PROMPT_STEP, LONGEST_PROMPT = 16, 240
SHORTEST_OUTPUT, LONGEST_OUTPUT = 8, 200
UTILISATION = 0.6


class Server(Engine, Protocol):
    """An engine that can also serve a stream of requests."""

    block_tokens: int
    capacity_tokens: int

    def serve(
        self,
        arrival_s: NDArray[np.float64],
        prompt_tokens: NDArray[np.int64],
        output_tokens: NDArray[np.int64],
        /,
    ) -> list[dict[str, float]]:
        """Serve requests in real time and return their log."""


def close_loop(
    server: Server, folder: Path, *, requests: int, seed: int, quiet: bool
) -> "tuple[Coefficients, list[Error], xr.Dataset]":
    """Calibrate, serve and predict; write measurement, coefficients and log to a folder.

    Returns coefficients, errors, and everything measured and simulated. Requests arrive in a Poisson stream at
    `UTILISATION` of what `MOST_RUNNING` requests at once could emit; the KV cache is too small for as many. Nothing of
    what is served goes into the calibration.
    """
    from batchcube.calibration.coefficients import LoggedServer
    from batchcube.calibration.logs import read_log
    from batchcube.engine.continuous.steps import STEP_TERMS
    from batchcube.sweeps.calibrate.fit import fit_measurement
    from batchcube.sweeps.calibrate.measure import measure_engine
    from batchcube.sweeps.calibrate.validate import validate
    from batchcube.sweeps.files import write_text
    from batchcube.sweeps.seeds import stream

    raw = folder / "measurement.nc"
    measure_engine(lambda: server, GRID, raw, overwrite=True, quiet=quiet)
    known, _ = fit_measurement(raw, "loop")
    settings = LoggedServer(
        most_running=MOST_RUNNING,
        token_budget=TOKEN_BUDGET,
        block_tokens=server.block_tokens,
        capacity_tokens=server.capacity_tokens,
    )
    known = known.model_copy(update={"replica": settings})
    write_text(folder / "coefficients.json", known.text())
    rng = stream(seed, None, "lengths")
    prompt = PROMPT_STEP * rng.integers(1, LONGEST_PROMPT // PROMPT_STEP + 1, requests)
    drawn = np.ceil(rng.lognormal(np.log(50.0), 0.8, requests))
    output = np.clip(drawn, SHORTEST_OUTPUT, LONGEST_OUTPUT).astype(np.int64)
    assert known.step_law is not None
    c0, c1, c2 = (getattr(known.step_law, name) or 0.0 for name in STEP_TERMS[:3])
    step = c0 + MOST_RUNNING * (c1 + c2 * float(prompt.mean() + output.mean() / 2))
    rate = UTILISATION * MOST_RUNNING / (step * float(output.mean()))
    for k in range(WARM_UP_STREAMS):
        apart = stream(seed, k, "arrivals").exponential(1 / rate, requests)
        server.serve(np.cumsum(apart), np.roll(prompt, 7 * k + 3), output)
    arrival = np.cumsum(stream(seed, None, "arrivals").exponential(1 / rate, requests))
    log = folder / "log.jsonl"
    rows = server.serve(arrival, prompt, output)
    write_text(log, "".join(f"{json.dumps(row)}\n" for row in rows))
    errors, dataset = validate(read_log(log), log, known, settings)
    return known, errors, dataset
