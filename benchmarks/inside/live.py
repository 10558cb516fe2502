"""Serve requests on vLLM with a policy inside it, in a process of its own: `python -m inside.live FILE.json`."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_RUNNING, TOKEN_BUDGET, LONGEST = 16, 512, 512
# Sixteen requests of two or three blocks of 128 tokens hardly fit.
KV_BLOCKS = 33
# A CPU builds its matrix kernels anew for every number of tokens in a step that it has not met: prompts come in whole
# sixteens, and streams that nobody looks at are served first.
PROMPT_STEP, LONGEST_PROMPT = 16, 240
SHORTEST_OUTPUT, LONGEST_OUTPUT = 8, 200


class Stream(NamedTuple):
    """Requests, each field (request,)."""

    apart: NDArray[np.float64]
    """Times between arrivals, with a mean of 1."""
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]


def stream(seed: int, requests: int) -> Stream:
    """Draw requests: arrivals of a Poisson process, prompts in whole sixteens, lognormal outputs."""
    rng = np.random.default_rng(seed)
    prompt = PROMPT_STEP * rng.integers(1, LONGEST_PROMPT // PROMPT_STEP + 1, requests)
    drawn = np.ceil(rng.lognormal(np.log(50.0), 0.8, requests))
    output = np.clip(drawn, SHORTEST_OUTPUT, LONGEST_OUTPUT).astype(np.int64)
    return Stream(rng.exponential(1.0, requests), prompt, output)


def start(model: str, **options: Any) -> Any:
    """Return vLLM's engine, in this process, of a model with random weights; `options` stand beside those of all."""
    import vllm

    return vllm.LLM(
        model=model,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        enforce_eager=True,
        seed=0,
        enable_prefix_caching=False,
        async_scheduling=False,
        max_num_seqs=MOST_RUNNING,
        max_num_batched_tokens=TOKEN_BUDGET,
        max_model_len=LONGEST,
        **options,
    ).llm_engine


def main() -> None:
    """Serve two streams at once, then one as time goes by; write what was measured beside the log."""
    asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    engine = start(
        asked["model"],
        disable_log_stats=True,
        num_gpu_blocks_override=KV_BLOCKS,
        scheduler_cls="inside.timed.Timed",
        additional_config={"batchcube": {"spec": asked["spec"], "log": asked["log"]}},
    )
    from inside.timed import Timed

    seed, requests = asked["seed"], asked["requests"]
    spans = [serve(engine, stream(seed + k, requests), None) for k in (1, 2)]
    # As many as can be served at once are what the load is measured by.
    rate = asked["rate_per_s"] or asked["load"] * requests / spans[-1]
    warmed = len(Timed.rows)
    serve(engine, stream(seed, requests), rate)
    engine.engine_core.shutdown()
    about = {"rate_per_s": rate, "warm_up": 2 * requests, "costs_ns": Timed.rows[warmed:]}
    (Path(asked["log"]) / "measured.json").write_text(json.dumps(about), encoding="utf-8")


def serve(engine: Any, stream: Stream, rate_per_s: float | None) -> float:
    """Serve a stream by the clock of the process, all of it at once without a rate; return the seconds it took."""
    import vllm

    from inside.clock import ProcessTime

    requests = len(stream.prompt)
    rng = np.random.default_rng(0)
    # A second without anybody parts it from the one before.
    begun_ns = ProcessTime.clock() + 10**9
    after_s = np.zeros(requests) if rate_per_s is None else np.cumsum(stream.apart) / rate_per_s
    at_ns = begun_ns + np.rint(after_s * 1e9).astype(np.int64)
    sent = 0
    while sent < requests or engine.has_unfinished_requests():
        while sent < requests and at_ns[sent] <= ProcessTime.clock():
            output = int(stream.output[sent])
            told = vllm.SamplingParams(max_tokens=output, min_tokens=output, ignore_eos=True, detokenize=False)
            prompt = {"prompt_token_ids": rng.integers(2, 4000, int(stream.prompt[sent])).tolist()}
            engine.add_request(f"{rate_per_s}-{sent}", prompt, told, arrival_time=at_ns[sent] / 1e9)
            sent += 1
        if engine.has_unfinished_requests():
            engine.step()
        elif sent < requests:
            ProcessTime.skipped_ns += max(int(at_ns[sent]) - ProcessTime.clock(), 0)
    return (ProcessTime.clock() - begun_ns) / 1e9


if __name__ == "__main__":
    main()
