"""What a vLLM server states of itself, in its configuration, its start-up log and its metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchcube.calibration.servers import read_server_config, read_server_log
from batchcube.errors import InputError

META = {
    "vllm_version": "0.19.0",
    "engine_kwargs": {
        "model": "somebody/something",
        "data_parallel_size": 1,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "max_model_len": None,
    },
}
START = """\
INFO 11-27 21:00:00 [utils.py:233] non-default args: {'model': 'm', 'max_num_seqs': 64, 'data_parallel_size': 2, 'speculative_config': None}
INFO 11-27 21:00:01 [scheduler.py:231] Chunked prefill is enabled with max_num_batched_tokens=8192.
INFO 11-27 21:00:02 [core.py:105] Initializing a V1 LLM engine (v0.32.1) with config: model='m', speculative_config=None, max_seq_len=32768, enable_prefix_caching=False
INFO 11-27 21:00:09 [kv_cache_utils.py:1319] GPU KV cache size: 200,016 tokens
INFO 11-27 21:00:09 [kv_cache_utils.py:1324] Maximum concurrency for 32,768 tokens per request: 6.10x
INFO 11-27 21:00:09 [kv_cache_utils.py:1319] GPU KV cache size: 200,000 tokens
"""  # noqa: E501 - as long as vLLM writes them
METRICS = """\
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",cache_dtype="auto",enable_prefix_caching="True",num_gpu_blocks="4096",num_gpu_blocks_override="None"} 1.0
vllm:num_requests_running{engine="0"} 3.0
"""  # noqa: E501


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_dump_of_settings_is_read_however_deep_they_lie(tmp_path: Path) -> None:
    stated = read_server_config(write(tmp_path / "meta.json", META))
    assert stated.source == "meta.json"
    expected = {"replicas": 1, "most_running": 128, "token_budget": 2048, "async_scheduling": True}
    assert stated.values == expected
    assert stated.remarks == ("async_scheduling is not stated: True, as of vLLM 0.19",)
    deep = {"a": {"scheduler_config": {"async_scheduling": False, "policy": "fcfs"}}, "b": {"block_size": 32}}
    stated = read_server_config(write(tmp_path / "deep.json", deep))
    assert stated.values == {"async_scheduling": False, "block_tokens": 32}
    assert stated.remarks == ()


def test_how_many_gpus_a_replica_has_is_read(tmp_path: Path) -> None:
    meta = {"parallel_config": {"tensor_parallel_size": 4, "pipeline_parallel_size": 1}}
    stated = read_server_config(write(tmp_path / "meta.json", meta))
    assert (stated.values, stated.parallel) == ({}, {"tensor_parallel": 4, "pipeline_parallel": 1})
    line = "INFO LLM engine (v0.32.1) with config: model='m', tensor_parallel_size=8, pipeline_parallel_size=2\n"
    stated = read_server_log(write(tmp_path / "vllm.log", line))
    assert stated.parallel == {"tensor_parallel": 8, "pipeline_parallel": 2}
    with pytest.raises(InputError, match=r"meta\.json: tensor_parallel_size = 0: must be a whole number >= 1"):
        read_server_config(write(tmp_path / "meta.json", {"tensor_parallel_size": 0}))


def test_the_balancer_of_several_engines_is_that_of_the_version(tmp_path: Path) -> None:
    several = META | {"engine_kwargs": {"data_parallel_size": 2}}
    stated = read_server_config(write(tmp_path / "a.json", several))
    assert stated.values["routing"] == "round_robin"
    assert stated.remarks[-2:] == (
        "routing is not stated: round_robin, as of vLLM 0.19",
        "if its model has experts its engines step together, lockstep, and its routing is least_waiting",
    )
    experts = read_server_config(write(tmp_path / "c.json", several | {"enable_expert_parallel": True}))
    assert experts.values["routing"] == "least_waiting"
    assert experts.remarks[-1] == "routing is not stated: least_waiting, as of vLLM 0.19"
    stated = read_server_config(write(tmp_path / "b.json", several | {"vllm_version": "0.32.0"}))
    assert "routing" not in stated.values


def test_a_start_up_log_gives_the_cache_and_more(tmp_path: Path) -> None:
    stated = read_server_log(write(tmp_path / "vllm.log", START))
    expected = {"most_running": 64, "replicas": 2, "token_budget": 8192, "max_model_len": 32768}
    assert stated.values == expected | {"cached_tokens": 200_000, "async_scheduling": True}
    assert stated.remarks[-1].startswith("caches differ (cached_tokens from 200000 to 200016): the smallest")


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ("# cuda blocks: 27913, # CPU blocks: 2048", 27913),
        ("# GPU blocks: 27913, # CPU blocks: 2048", 27913),
        ("# CPU blocks: 2048", 2048),
    ],
)
def test_blocks_are_those_of_the_device(tmp_path: Path, line: str, blocks: int) -> None:
    stated = read_server_log(write(tmp_path / "vllm.log", f"INFO 06-01 10:00:20 executor_base.py:112] {line}\n"))
    assert stated.values == {"num_gpu_blocks": blocks}
    assert stated.remarks == ()


def test_metrics_give_the_cache(tmp_path: Path) -> None:
    stated = read_server_log(write(tmp_path / "metrics.txt", METRICS))
    assert stated.values == {"block_tokens": 32, "num_gpu_blocks": 4096}
    assert len(stated.remarks) == 1
    assert "nothing is found again" in stated.remarks[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ({"model": "m"}, "states no setting of a vLLM server: looked for max_num_seqs"),
        ({"a": {"max_num_seqs": 8}, "b": {"max_num_seqs": 9}}, "max_num_seqs: is 8 and 9 in one file"),
    ],
)
def test_a_file_that_states_nothing_is_one_clear_line(tmp_path: Path, content: Any, says: str) -> None:
    path = write(tmp_path / "meta.json", content)
    with pytest.raises(ValueError, match=says) as caught:
        read_server_config(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ValueError, match="states no setting"):
        read_server_log(write(tmp_path / "empty.log", "nothing\nhere: 3\n"))


def test_speculative_decoding_is_said(tmp_path: Path) -> None:
    stated = read_server_config(
        write(tmp_path / "m.json", {"max_num_seqs": 8, "speculative_config": {"method": "ngram"}})
    )
    assert stated.remarks == ("decoding is speculative: steps that give several tokens are not simulated",)


@pytest.mark.parametrize("name", ["enable_expert_parallel", "is_moe_model"])
def test_several_engines_of_a_model_with_experts_step_together(tmp_path: Path, name: str) -> None:
    for replicas in (1, 2):
        stated = read_server_config(write(tmp_path / "m.json", {"data_parallel_size": replicas, name: True}))
        assert stated.values == {"replicas": replicas} | ({"lockstep": True} if replicas > 1 else {})
        assert stated.remarks == ()
    said = read_server_log(
        write(tmp_path / "vllm.log", f"non-default args: {{'data_parallel_size': 2, '{name}': True}}")
    )
    assert said.values["lockstep"]


def test_nothing_is_said_of_experts_that_are_said_not_to_be_there(tmp_path: Path) -> None:
    unknown = read_server_config(write(tmp_path / "m.json", {"data_parallel_size": 2}))
    assert unknown.remarks == ("if its model has experts its engines step together, lockstep",)
    dense = read_server_config(write(tmp_path / "m.json", {"data_parallel_size": 2, "is_moe_model": False}))
    assert dense.remarks == ()


def test_a_real_dump_is_read(shared_data: Path) -> None:
    folder = shared_data / "calibration" / "llmservingsim"
    stated = read_server_config(folder / "vllm_meta_RTXPRO6000_Llama-3.1-8B.json")
    assert stated.values["most_running"] == 128
    assert stated.values["replicas"] == 1
