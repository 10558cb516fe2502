"""Settings by vLLM's names: taken for those here in files, axes and options, and told."""

from pathlib import Path
from typing import Any

import pytest

from batchcube.errors import InputError
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.grid import setting_paths
from batchcube.sweeps.spec.vllm import ELSEWHERE, OF_VLLM, hint, path_here, told
from helpers.specifications import CONTINUOUS, laid


def test_every_name_is_of_a_setting_here() -> None:
    assert set(OF_VLLM.values()) <= set(setting_paths())
    assert not set(ELSEWHERE) & set(OF_VLLM)


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("max_num_seqs", "policy.largest_batch"),
        ("--max-num-batched-tokens", "server.replica.token_budget"),
        ("server.replica.block_size", "server.replica.block_tokens"),
        ("server.data_parallel_size", "server.servers"),
        ("enable_prefix_caching", "server.replica.enable_prefix_caching"),
        ("num_gpu_blocks_override", "server.replica.num_gpu_blocks"),
        ("server.replica.max_model_len", "server.replica.max_model_len"),
        ("policy.bins", "policy.bins"),
        ("workload.max_num_seqs", "workload.max_num_seqs"),
    ],
)
def test_names_of_vllm_are_taken_for_those_here(path: str, here: str) -> None:
    assert path_here(path) == here
    assert told(path) == ("" if path == here else f"{path} is {here} here")


def test_a_specification_may_use_them() -> None:
    axes = {
        "cap": {"path": "max_num_seqs", "values": [4, 8]},
        "block": {
            "points": {"small": {"server": {"replica": {"block_size": 8}}}, "large": {"server.replica.block_size": 32}}
        },
    }
    replica = {"kv_capacity_tokens": 2000, "max_num_batched_tokens": 256}
    tables = laid(CONTINUOUS, {"server.replica": replica, "policy.largest_batch": None, "axes": axes})
    sweep = Sweep.model_validate(tables)
    own = laid(
        CONTINUOUS,
        {
            "policy.largest_batch": None,
            "axes": {
                "cap": {"path": "policy.largest_batch", "values": [4, 8]},
                "block": {"points": {n: {"server.replica.block_tokens": k} for n, k in (("small", 8), ("large", 32))}},
            },
        },
    )
    assert sweep.parts() == Sweep.model_validate(own).parts()
    assert sweep.told == (
        "server.replica.max_num_batched_tokens is server.replica.token_budget here",
        "max_num_seqs is policy.largest_batch here",
        "server.replica.block_size is server.replica.block_tokens here",
    )
    assert "max_num" not in sweep.text()
    assert Sweep.model_validate(sweep.document).told == ()


def test_settings_laid_over_may_use_them() -> None:
    sweep = Sweep.from_document(CONTINUOUS, "x", Path.cwd(), _over(["max_num_seqs=8", "server.replica.block_size=32"]))
    (point,) = sweep.grid.points
    assert point.policy.largest_batch == 8
    assert point.server.replica is not None
    assert point.server.replica.block_tokens == 32
    assert sweep.told == (
        "max_num_seqs is policy.largest_batch here",
        "server.replica.block_size is server.replica.block_tokens here",
    )


def _over(texts: list[str]) -> Any:
    from batchcube.sweeps.spec.document import overriding

    return overriding(texts)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"server.replica.max_num_seqs": 8},
            "server.replica.max_num_seqs: is policy.largest_batch here, which is stated too: remove one",
        ),
        (
            {"policy.max_num_seqs": 8},
            "policy.max_num_seqs: no such setting; vLLM's max_num_seqs is policy",
        ),
        (
            {"server.replica.tensor_parallel_size": 2},
            "server.replica.tensor_parallel_size: no such setting; vLLM's tensor_parallel_size is of coefficients here",
        ),
        (
            {"axes": {"x": {"path": "gpu_memory_utilization", "values": [0.9]}}},
            'axes.x.path = "gpu_memory_utilization": no ',
        ),
        (
            {"enable_chunked_prefill": True},
            "enable_chunked_prefill: no such setting; vLLM's enable_chunked_prefill is ",
        ),
    ],
)
def test_what_cannot_be_taken_is_told(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        Sweep.model_validate(laid(CONTINUOUS, settings), "x.toml")
    assert str(caught.value).startswith(f"x.toml: {line}")


def test_other_names_have_no_hint() -> None:
    assert hint("bins") == ""
    assert hint("--tensor-parallel-size").startswith("vLLM's tensor_parallel_size is of coefficients here")
