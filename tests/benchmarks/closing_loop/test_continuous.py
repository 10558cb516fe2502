"""The loop under continuous batching, closed on a server that is simulated itself: nothing is left but rounding."""

import json
from pathlib import Path

import numpy as np
import pytest

from batchcube.calibration.coefficients import parse
from batchcube.calibration.logs import read_log
from batchcube.results.measurements import read_measurement
from closing_loop.continuous import (
    KV_BLOCKS,
    WARM_UP_STREAMS,
    close_loop,
)
from helpers.engines import COEFFICIENTS
from helpers.servers import Server

REQUESTS = 80


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
