"""Small files of our own in the layouts of public data, drawn at random: `python tests/helpers/samples.py` writes them.

They lie in tests/data, so that a clone without the public files tests the same readers. No number in them was measured.
"""

import json
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "data"

SPLITWISE_LAW = (0.2, 0.03, 0.012)
"""Seconds of a batch, seconds per token, and growth with the batch size, in splitwise.csv; off by 2 % a row."""
VLLM_LAW = (8e-3, 1e-4, 5e-8, 4e-5, 2e-9)
"""c0 to c4 of the server whose log is vllm-requests.jsonl."""


def write_all(folder: Path) -> None:
    """Write every sample into a folder."""
    for name, lines in {
        "azure.csv": azure(),
        "mooncake.jsonl": mooncake(),
        "burstgpt.csv": burstgpt(),
        "burstgpt-gamma.csv": burstgpt_gamma(),
        "burstgpt-lengths.csv": burstgpt_lengths(),
        "lmsys.csv": lmsys(),
        "sharegpt.csv": sharegpt(),
        "splitwise.csv": splitwise(),
        "latency-grid.csv": latency_grid(),
        "ml-energy.csv": ml_energy(),
        "ml-energy-fits.csv": ml_energy_fits(),
        "sarathi-decode.csv": sarathi_steps(decode=True),
        "sarathi-prefill.csv": sarathi_steps(decode=False),
        "sarathi-hybrid.csv": sarathi_hybrid(),
        "sarathi-chunks.csv": sarathi_chunks(),
        "vllm-requests.jsonl": vllm_requests(),
        "vllm-timeseries.csv": vllm_timeseries(),
        "vllm-meta.json": [json.dumps({"schema_version": 1, "model": "nobody/none", "num_requests": 120})],
    }.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# Traces and lengths -------------------------------------------------------------------------------------------------


def azure() -> Iterable[str]:
    """A trace with dates: 200 requests over midnight, some 2 a second."""
    rng, at = random.Random("azure"), datetime(2026, 1, 31, 23, 59, 20)
    yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    for _ in range(200):
        at += timedelta(microseconds=round(rng.expovariate(2e-6)))
        yield f"{at:%Y-%m-%d %H:%M:%S.%f}0,{rng.randint(20, 4000)},{rng.randint(1, 500)}"


def mooncake() -> Iterable[str]:
    """A trace in milliseconds: 100 requests in bursts of five."""
    rng, at = random.Random("mooncake"), 0
    for number in range(100):
        at += rng.randint(1000, 3000) if number and number % 5 == 0 else 0
        row = {"timestamp": at, "input_length": rng.randint(100, 9000), "output_length": rng.randint(1, 800)}
        yield json.dumps({**row, "hash_ids": list(range(number, number + 3))})


def burstgpt() -> Iterable[str]:
    """A trace in whole seconds: 60 requests of two models, every tenth of which failed."""
    rng, at = random.Random("burstgpt"), 5
    yield "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    for number in range(60):
        at += rng.choice([0, 0, 1, 7])
        prompt, response = rng.randint(10, 900), 0 if number % 10 == 9 else rng.randint(1, 400)
        model, kind = rng.choice(["ChatGPT", "GPT-4"]), rng.choice(["Conversation log", "API log"])
        yield f"{at},{model},{prompt},{response},{prompt + response},{kind}"


def burstgpt_gamma() -> Iterable[str]:
    """Shape and scale of Gamma arrivals in twelve steps, for each of two services."""
    rng = random.Random("gamma")
    yield "service,step_20min,hour_of_day,alpha_shape,beta_scale_s,alpha_times_beta_mean_iat_s,cv_1_over_sqrt_alpha"
    for service, shape, scale in (("conversation", 0.8, 50.0), ("api", 0.4, 4.0)):
        for step in range(12):
            a, b = round(shape * rng.uniform(0.7, 1.3), 3), round(scale * rng.uniform(0.7, 1.3), 3)
            yield f"{service},{step},{8 + step / 3:.4f},{a},{b},{a * b:.3f},{a**-0.5:.4f}"


def burstgpt_lengths() -> Iterable[str]:
    """Histograms of two sources, in bands of 50 tokens."""
    yield "source,bin_lo_tokens,bin_hi_tokens,request_count,response_count"
    for source, peak in (("chatgpt_conv", 4), ("gpt4_api", 1)):
        for band in range(12):
            count = round(1000 / (1 + (band - peak) ** 2))
            yield f"{source},{50 * band},{50 * band + 50},{2 * count},{count}"


def lmsys() -> Iterable[str]:
    """Output lengths and the class, of five, that a predictor gave: right three times in four."""
    rng, edges = random.Random("lmsys"), (42, 141, 294, 503)
    yield ",output_token_length,predicted_length,latency,model"
    for number in range(400):
        length = min(1000, 1 + int(rng.expovariate(1 / 200)))
        true = sum(length >= edge for edge in edges)
        predicted = true if rng.random() < 0.75 else rng.choice([k for k in range(5) if k != true])
        yield f"{number},{length},{predicted},{rng.uniform(0.008, 0.02):.6f},vicuna-13b"


def sharegpt() -> Iterable[str]:
    """Prompt and output lengths of 300 requests."""
    rng = random.Random("sharegpt")
    yield "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"
    for _ in range(300):
        prompt, output = rng.randint(4, 6000), rng.randint(4, 900)
        yield f"{prompt},{output},{prompt + output},{prompt / output:.6f}"


# Measurements -------------------------------------------------------------------------------------------------------


def splitwise() -> Iterable[str]:
    """Batches on two systems, three runs a cell; only single requests have outputs of 256."""
    rng, (a0, a1, growth) = random.Random("splitwise"), SPLITWISE_LAW
    yield (
        "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,"
        "tensor_parallel"
    )
    for hardware, slower in (("fast", 1.0), ("slow", 1.7)):
        for size in (1, 2, 4, 8, 16, 32):
            for tokens in (128, 256, 512) if size == 1 else (128, 512):
                for _ in range(3):
                    prompt = 1e3 * slower * a0 * rng.gauss(1, 0.02)
                    token = 1e3 * slower * a1 * (1 + growth * (size - 1)) * rng.gauss(1, 0.02)
                    run = prompt + token * (tokens - 1)
                    yield f"nobody-7b,{hardware},512,{size},{tokens},1.0,0.7,{prompt:.6f},{token:.6f},{run:.6f},8"


def latency_grid() -> Iterable[str]:
    """A table that nobody measured: 7 % of the mean is its deviation everywhere, and its lines are straight."""
    yield "batch_size,max_seq_len,mean_latency_sec,std_latency_sec,num_trials"
    for size in (1, 2, 4, 8, 16, 32):
        for steps in (1, 2, 4, 8, 16):
            mean = 0.1 + 0.5 * steps * (1 + 0.6 * (size - 1) / size)
            yield f"{size},{64 * steps},{mean:.2f},{0.07 * mean:.3f},5"


def ml_energy() -> Iterable[str]:
    """Inter-token latencies of three systems."""
    rng = random.Random("ml-energy")
    yield (
        "task,gpu_model,num_gpus,model_id,weight_precision,tensor_parallel,expert_parallel,data_parallel,"
        "total_params_billions,activated_params_billions,architecture,max_num_seqs,avg_batch_size,avg_output_len,"
        "median_itl_ms,p90_itl_ms,p95_itl_ms,p99_itl_ms,output_throughput_tokens_per_sec"
    )
    for gpus, c0 in ((1, 20.0), (2, 14.0), (4, 11.0)):
        for most in (8, 16, 32, 64, 128, 256):
            batch, output = most * rng.uniform(0.97, 1.0), rng.uniform(500, 900)
            itl = (c0 + 0.11 * batch) * rng.gauss(1, 0.03)
            tails = ",".join(f"{itl * by:.4f}" for by in (1.3, 1.5, 1.9))
            yield (
                f"chat,G100,{gpus},nobody/7b,bfloat16,{gpus},1,1,7.0,7.0,Dense Transformer,{most},{batch:.4f},"
                f"{output:.4f},{itl:.4f},{tails},{1e3 * batch / itl:.4f}"
            )


def ml_energy_fits() -> Iterable[str]:
    """Lines fitted to inter-token latencies of ten systems, none of them exact."""
    rng = random.Random("ml-energy-fits")
    yield "task,model_id,precision,gpu,num_gpus,tp,ep,dp,n,bmin,bmax,c0_ms,c1_ms_per_seq,r2"
    for number in range(10):
        fitted = f"{rng.uniform(10, 30):.4f},{rng.uniform(0.05, 0.3):.4f},{rng.uniform(0.8, 0.99):.4f}"
        yield f"chat,nobody/{number}b,bfloat16,G100,1,1,1,1,6,7.9,250.2,{fitted}"


def sarathi_steps(*, decode: bool) -> Iterable[str]:
    """Steps that only decode, or only prefill."""
    rng = random.Random(f"sarathi {decode}")
    yield (
        ",batch_num_tokens,batch_num_decode_tokens,batch_num_prefill_tokens,operation,Batch Id,batch_size,"
        "batch_execution_time,inter_batch_delay,operation_time_per_token"
    )
    for number in range(8):
        tokens = 2**number if decode else 128 * 2**number
        seconds = (0.045 + 2e-4 * tokens if decode else 0.02 + 2e-4 * tokens) * rng.gauss(1, 0.03)
        split, size = (f"{tokens},0", tokens) if decode else (f"0,{tokens}", 1)
        each = 1e3 * seconds / tokens
        yield f"{number},{tokens},{split},batch_execution_time,{number}.0,{size}.0,{seconds:.9f},0.0001,{each:.9f}"


def sarathi_hybrid() -> Iterable[str]:
    """A step that decodes, one that prefills, and one that does both."""
    yield (
        "batch_num_prefill_tokens,batch_num_decode_tokens,batch_size,Batch Id,batch_num_tokens,batch_execution_time,"
        "inter_batch_delay,per_token_time,linear,attention"
    )
    for prefill, decode, ms in ((0, 4, 61.217), (1021, 3, 208.441), (1024, 0, 206.903)):
        tokens = prefill + decode
        yield f"{prefill},{decode},{decode + (prefill > 0)},7.0,{tokens}.0,{ms},0.0001,{ms / tokens:.6f},30.5,3.1"


def sarathi_chunks() -> Iterable[str]:
    """Prompts prefilled in chunks: the smaller the chunks, the longer."""
    rng = random.Random("chunks")
    yield "prefill_length,chunk_size,prefill_execution_time,prefill_execution_time_relative"
    for length in (2047, 4095, 8191):
        whole = 0.19 * length * rng.gauss(1, 0.02)
        for chunk, slower in ((512, 1.18), (1024, 1.12), (2048, 1.02), (16384, 1.0)):
            ms = whole * slower * rng.gauss(1, 0.01)
            yield f"{length},{chunk},{ms:.6f},{ms / whole:.6f}"


# The log of a server ------------------------------------------------------------------------------------------------


def vllm_requests() -> Iterable[str]:
    """The log of a simulated server: 120 requests, some 8 a second, at most 16 at once, times off by 0.5 %."""
    import numpy as np

    from batchcube.calibration.logs import Log
    from batchcube.calibration.prediction import Server, replay
    from batchcube.engine.continuous import make_fleet, make_law, make_replica
    from batchcube.engine.continuous.ticks import TICKS_PER_S

    rng, count = random.Random("vllm"), 120
    queued = np.cumsum([rng.expovariate(8.0) for _ in range(count)])
    prompt = np.array([rng.randint(20, 1500) for _ in range(count)])
    output = np.array([rng.randint(20, 250) for _ in range(count)])
    replica = make_replica(make_law(1e-3), most_running=16, token_budget=512, capacity_tokens=10**6)
    empty = np.zeros(count)
    served = replay(
        Log(queued, empty, empty, empty, prompt, output, ""), Server(replica, make_fleet()), make_law(*VLLM_LAW)
    )
    for number in range(count):
        start = float(queued[number])
        first = served.first_token[number] / TICKS_PER_S - start
        rest = (served.last_token[number] - served.first_token[number]) / TICKS_PER_S
        first, rest = first * rng.gauss(1, 0.005), rest * rng.gauss(1, 0.005)
        entry = {
            "request_id": f"bench-{number}",
            "input_toks": int(prompt[number]),
            "output_toks": int(output[number]),
            "arrival_time": round(1.7e9 + start, 6),
            "queued_ts": round(4000 + start, 6),
            "scheduled_ts": round(4000 + max(start, served.scheduled[number] / TICKS_PER_S), 6),
            "first_token_ts": round(4000 + start + first, 6),
            "last_token_ts": round(4000 + start + first + rest, 6),
        }
        yield json.dumps(entry)


def vllm_timeseries() -> Iterable[str]:
    """The log of the same server over time."""
    rng = random.Random("timeseries")
    yield "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"
    for second in range(1, 16):
        yield f"{second}.0,{rng.randint(4000, 9000)}.0,{rng.randint(500, 1500)}.0,{rng.randint(4, 16)},0,0.0"


if __name__ == "__main__":
    SAMPLES.mkdir(exist_ok=True)
    write_all(SAMPLES)
