"""A server of continuous batching that is simulated itself, for the loop that is closed on one."""

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import make_law, make_replica, make_requests
from batchcube.engine.continuous.ticks import TICKS_PER_S
from closing_loop.continuous import KV_BLOCKS, LONGEST, MOST_RUNNING, TOKEN_BUDGET

from .engines import COEFFICIENTS, FakeEngine


class Server(FakeEngine):
    """Serves by the simulator, by the law of its steps, or one some times as slow."""

    block_tokens = 128
    capacity_tokens = (KV_BLOCKS - 1) * block_tokens

    def __init__(self, slower: float = 1.0) -> None:
        super().__init__(noise=0.0)
        self.slower = slower
        self.streams: list[NDArray[np.float64]] = []
        self.preemptions = 0

    def serve(
        self, arrival_s: NDArray[np.float64], prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]
    ) -> list[dict[str, float]]:
        assert (prompt_tokens + output_tokens <= LONGEST).all()
        assert (prompt_tokens % 16 == 0).all()
        self.streams.append(arrival_s)
        replica = make_replica(
            make_law(*(self.slower * c for c in COEFFICIENTS)),
            most_running=MOST_RUNNING,
            token_budget=TOKEN_BUDGET,
            capacity_tokens=self.capacity_tokens,
            block_tokens=self.block_tokens,
        )
        records, totals = simulate_replica(make_requests(arrival_s, prompt_tokens, output_tokens), replica)
        self.preemptions = totals.preemptions
        return [
            {
                "input_toks": int(p),
                "output_toks": int(o),
                "queued_ts": float(a),
                "first_token_ts": first / TICKS_PER_S,
                "last_token_ts": last / TICKS_PER_S,
            }
            for a, p, o, first, last in zip(
                arrival_s,
                prompt_tokens,
                output_tokens,
                records.first_token.tolist(),
                records.last_token.tolist(),
                strict=True,
            )
        ]
