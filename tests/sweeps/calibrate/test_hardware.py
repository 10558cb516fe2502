"""Coefficients out of tables of operators; those that ship are derived again."""

import numpy as np
import pytest

import shipped_laws
from batchcube.calibration import hardware
from batchcube.calibration.coefficients import Coefficients, shipped_names
from batchcube.calibration.hardware import Deployment, Steps, Tables
from batchcube.calibration.reach import validity
from batchcube.errors import InputError
from batchcube.sweeps.calibrate.hardware import derive, dips, missing, slower, usual_limits
from batchcube.sweeps.spec.service import load

needs_tables = pytest.mark.skipif(not hardware.is_installed(), reason="needs the extra hardware")


def flat(known: Coefficients) -> dict[str, float]:
    """Return every number, by its place."""
    found = {}

    def walk(value: object, place: str) -> None:
        if isinstance(value, dict):
            for key, inside in value.items():
                walk(inside, f"{place}.{key}")
        elif isinstance(value, list):
            for number, inside in enumerate(value):
                walk(inside, f"{place}[{number}]")
        elif isinstance(value, int | float):
            found[place] = float(value)

    walk(known.model_dump(), "")
    return found


def test_all_that_ship_have_a_deployment() -> None:
    assert {name for name in shipped_names() if name.endswith("-tables")} == set(shipped_laws.LAWS)


@needs_tables
@pytest.mark.parametrize("name", shipped_laws.LAWS)
def test_what_ships_is_derived_again(name: str) -> None:
    shipped = load(name)
    if shipped.provenance["package"] != f"{hardware.DISTRIBUTION} {hardware.package_version()}":
        pytest.skip("made with another version of the tables")
    again = derive(shipped_laws.LAWS[name], name)
    assert flat(shipped) == pytest.approx(flat(again), rel=1e-3, abs=1e-9)
    assert (shipped.title, shipped.source, shipped.provenance) == (again.title, again.source, again.provenance)
    assert shipped.label == "tables"


@pytest.mark.parametrize("name", shipped_laws.LAWS)
def test_what_ships_says_how_far_it_goes_and_what_is_not_in_it(name: str) -> None:
    known = load(name)
    assert known.step_law is not None
    assert known.replica is not None
    ranges, rms = known.step_law.ranges, known.step_law.rms_by_kind
    assert ranges is not None
    assert ranges.decodes == [1, known.replica.most_running]
    assert ranges.prefill_tokens == [16, known.replica.token_budget]
    assert ranges.context_tokens is not None
    assert ranges.context_tokens[1] <= known.replica.capacity_tokens
    assert known.replica.capacity_tokens == 16 * known.provenance["kv_blocks"]
    most = f"{known.replica.most_running} requests at once, contexts of {ranges.context_tokens[1]:.0f} tokens"
    assert most in validity(known)
    assert set(rms) == {"decode", "prefill", "mixed"}
    # Two further percent where steps are short, latent attention has tables of its own, or tables have dips.
    wide = ("qwen3-0.6b", "deepseek", "gpt-oss-120b", "llama-3.1-8b-l40s")
    assert rms["decode"] < (0.04 if name.startswith(wide) else 0.02)
    assert max(rms.values()) < (0.08 if name.startswith(wide) else 0.035)
    assert "Apache-2.0, copyright NVIDIA" in known.source
    assert known.plausibility is not None
    assert known.plausibility.notes[0].startswith("not in it: the host")
    assert known.plausibility.notes[0] == next(missing(shipped_laws.LAWS[name], {"decode": 1.0, "prefill": 1.0}))


@needs_tables
def test_what_is_given_takes_the_place_of_defaults() -> None:
    known = derive(Deployment("Qwen3-0.6B", "h100_sxm"), "mine", utilization=0.5, most_running=100, token_budget=1000)
    assert known.replica is not None
    assert (known.replica.most_running, known.replica.token_budget) == (100, 1000)
    usual = derive(Deployment("Qwen3-0.6B", "h100_sxm"), "mine").replica
    assert usual is not None
    assert known.replica.capacity_tokens < 0.6 * usual.capacity_tokens
    assert known.step_law is not None
    assert known.step_law.decode is not None
    assert known.step_law.decode.requests[-1] == 100
    # Hardly any room for KV: no step has both.
    tight = derive(Deployment("Qwen3-0.6B", "h100_sxm"), "mine", utilization=0.08, most_running=1, token_budget=32)
    assert tight.step_law is not None
    assert set(tight.step_law.rms_by_kind) <= {"decode", "prefill", "mixed"}
    with pytest.raises(InputError, match=r"`output` a b\.json: the name of coefficients must be letters"):
        derive(Deployment("Qwen3-0.6B", "h100_sxm"), "a b")


@needs_tables
def test_what_is_not_a_default_is_in_the_origin() -> None:
    given = {"tensor_parallel": 2, "expert_parallel": True}
    spread = derive(Deployment("Qwen3-30B-A3B", "h100_sxm", **given), "mine", most_running=8, token_budget=64)
    silent = {"pipeline_parallel", "data_parallel", "quantization", "kv_cache_dtype"}
    assert (given | {"gpu": "h100_sxm", "engine": "vllm"}).items() <= spread.provenance.items()
    assert silent.isdisjoint(spread.provenance)


@pytest.mark.parametrize(
    ("gpu", "gib", "limits"),
    [
        ("b200_sxm", 179, (1024, 16384)),
        ("h100_sxm", 80, (1024, 8192)),
        ("h200_sxm", 141, (1024, 8192)),
        ("a100_sxm", 80, (256, 2048)),
        ("l40s", 48, (256, 2048)),
    ],
)
def test_limits_are_those_of_vllm(gpu: str, gib: int, limits: tuple[int, int]) -> None:
    assert usual_limits(gpu, gib * 2**30)[:2] == limits


def test_a_dip_is_said_and_a_rise_is_none() -> None:
    decodes = np.array([1.0, 2.0, 4.0, 1.0, 2.0, 4.0])
    context = np.array([128.0, 128.0, 128.0, 512.0, 512.0, 512.0])
    nothing = np.zeros(6)
    rising = Steps(decodes, decodes * context, nothing, nothing, np.array([3.0, 3.1, 3.2, 2.9, 3.3, 3.4]) / 1e3)
    assert list(dips(rising)) == []
    falling = rising._replace(seconds=np.array([3.0, 3.1, 3.2, 4.0, 3.3, 3.0]) / 1e3)
    assert list(dips(falling)) == ["dip: 4 decodes of 512 tokens take 3 ms, fewer of them 4 ms"]


def test_what_a_pipeline_and_replicas_in_lockstep_mean_is_said() -> None:
    said = list(missing(Deployment("m", "g", pipeline_parallel=2, data_parallel=4), {"decode": 0.95, "prefill": 0.8}))
    assert said[1].startswith("measured: 95 % of the time of decodes and 80 % of that of prefills")
    assert "passes 2 stages" in said[2]
    assert "one of 4 replicas that step together" in said[3]
    assert len(list(missing(Deployment("m", "g"), {"decode": 0.95, "prefill": 0.8}))) == 2


@needs_tables
def test_experts_in_fp8_that_are_slower_than_in_bfloat16_are_told() -> None:
    scout = Deployment("meta-llama/Llama-4-Scout-17B-16E-Instruct", "h100_sxm", tensor_parallel=4, quantization="fp8")
    (said,) = slower(Tables(scout))
    assert said.startswith("slower: 8 decodes take 21.6 ms in fp8, 11 ms in bfloat16, 12.8 ms in fp8_block: ")
    # In blocks they are a little slower than in bfloat16, and nothing as small is faster: it is the nearest there is.
    assert list(slower(Tables(scout._replace(quantization="fp8_block")))) == []
    # On other GPUs it is the kernels in blocks that are slow.
    (said,) = slower(Tables(Deployment("Qwen/Qwen3-30B-A3B", "b200_sxm", quantization="fp8_block")))
    assert said.startswith("slower: 8 decodes take 20.6 ms in fp8_block, 5.27 ms in bfloat16, 4.04 ms in fp8: ")
    # Without experts fp8 is as fast as it should be; nobody asked for the weights that a model comes with.
    assert list(slower(Tables(Deployment("Qwen/Qwen3-8B", "h100_sxm", quantization="fp8")))) == []
    assert list(slower(Tables(scout._replace(quantization=None)))) == []
