"""Random replicas and requests: small enough to be served step by step, tight enough that everything happens."""

import numpy as np

from batchcube.engine.continuous import Replica, Requests, make_law, make_replica, make_requests


def draw_case(rng: np.random.Generator) -> tuple[Requests, Replica]:
    """Draw requests and a replica: ties, bursts, tight memory, small budgets, laws with any of the five terms."""
    count = int(rng.integers(1, 40))
    gap = float(rng.choice([0.0, 0.001, 0.01, 0.1]))
    arrival = np.cumsum(rng.exponential(gap, count)) if gap else np.zeros(count)
    # Rounded, so that requests arrive together and at the very end of a step.
    arrival = np.round(arrival, int(rng.integers(2, 6)))
    longest_prompt, longest_output = int(rng.choice([3, 20, 40])), int(rng.choice([2, 12, 50]))
    prompt, output = rng.integers(1, longest_prompt, count), rng.integers(1, longest_output, count)
    law = make_law(
        1e-3 * int(rng.integers(1, 5)),
        float(rng.choice([0.0, 1e-4, 3e-3])),
        float(rng.choice([0.0, 1e-5, 3e-4])),
        float(rng.choice([0.0, 1e-4])),
        float(rng.choice([0.0, 1e-6])),
    )
    most = int(rng.integers(1, 12))
    size = int(rng.choice([1, 2, 4, 16]))
    replica = make_replica(
        law,
        most_running=most,
        token_budget=int(rng.integers(most, most + 60)),
        capacity_tokens=max(int(rng.choice([60, 100, 150, 300, 1000])), size),
        block_tokens=size,
        prefill=str(rng.choice(["chunked", "separate"])),
    )
    return make_requests(arrival, prompt, output), replica
