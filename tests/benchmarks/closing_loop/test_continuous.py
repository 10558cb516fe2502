"""The loop under continuous batching, closed on a server that is simulated itself: nothing is left but rounding."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batchcube.calibration.coefficients import parse
from batchcube.calibration.logs import read_log
from batchcube.engine import simulate_replica
from batchcube.engine.continuous import make_law, make_replica, make_requests
from batchcube.engine.continuous.model import TICKS_PER_S
from batchcube.results.measurements import read_measurement
from closing_loop.continuous import (
    KV_BLOCKS,
    LONGEST,
    MOST_RUNNING,
    TOKEN_BUDGET,
    WARM_UP_STREAMS,
    close_loop,
)
from helpers.engines import COEFFICIENTS, FakeEngine

REQUESTS = 80


class Server(FakeEngine):
    """Serves by the simulator, by the law of its steps, or one some times as slow."""

    block_tokens = 128
    capacity_tokens = KV_BLOCKS * block_tokens

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
            capacity_tokens=self.capacity_tokens - self.block_tokens,
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


def test_a_server_that_keeps_to_its_law_is_predicted(tmp_path: Path) -> None:
    server = Server()
    known, errors, dataset = close_loop(server, tmp_path, requests=REQUESTS, seed=3, quiet=True)
    assert known.step_law is not None
    found = [getattr(known.step_law, name) for name in ("c0_s", "c1_s_per_request", "c2_s_per_kv_token")]
    assert found == pytest.approx(COEFFICIENTS[:3], rel=1e-6)
    # A ten-digit coefficient may move an arrival across the end of a step, no more.
    assert {row.quantity: abs(row.error) < 0.01 for row in errors} == dict.fromkeys(
        ("ttft_s", "tpot_s", "e2e_s", "makespan_s", "throughput_tokens_per_s"), True
    )
    assert dataset.attrs["preemptions_simulated"] == server.preemptions > 0
    # Nobody looks at the first streams; none is served twice.
    assert len(server.streams) == WARM_UP_STREAMS + 1
    assert len({stream.tobytes() for stream in server.streams}) == len(server.streams)
    log = read_log(tmp_path / "log.jsonl")
    assert len(log.queued_s) == REQUESTS
    np.testing.assert_allclose(log.queued_s, server.streams[-1] - server.streams[-1][0], atol=1e-9)
    assert read_measurement(tmp_path / "measurement.nc").sizes["batch_size"] == 4
    assert parse((tmp_path / "coefficients.json").read_bytes(), "file") == known
    assert known.replica is not None
    assert known.replica.capacity_tokens == (KV_BLOCKS - 1) * 128


def test_a_server_that_is_slower_than_it_was_shows_in_the_errors(tmp_path: Path) -> None:
    _, errors, _ = close_loop(Server(slower=1.3), tmp_path, requests=REQUESTS, seed=3, quiet=True)
    by_name = {(row.quantity, row.statistic): row.error for row in errors}
    assert by_name["tpot_s", "mean"] < -0.15
    assert by_name["e2e_s", "mean"] < -0.15
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["queued_ts"] > 0
