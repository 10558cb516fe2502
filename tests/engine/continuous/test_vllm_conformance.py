"""Every request of recorded cases is scheduled at the instants of vLLM's own scheduler, which answered them once.

`python benchmarks/conform.py --vllm-python ... --record tests/recorded/vllm-conformance.jsonl` records them anew.
"""

from collections import Counter
from pathlib import Path

import pytest

from conformance.cases import Told, read_told
from conformance.engine import difference

RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "vllm-conformance.jsonl"


@pytest.fixture(scope="module")
def recorded() -> list[Told]:
    return read_told(RECORDED)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_all_requests_are_scheduled_at_vllms_own_instants(recorded: list[Told], backend: str) -> None:
    apart = {k: found for k, told in enumerate(recorded) if (found := difference(told.case, told.answer, backend))}
    assert not apart


def test_the_cases_are_about_all_options(recorded: list[Told]) -> None:
    met: Counter[str] = Counter(dict.fromkeys(recorded[0].case["options"], 0))
    for case, answer in recorded:
        options = case["options"]
        met.update(name for name, value in options.items() if value not in (None, False, 0, "fcfs"))
        met["no reserve"] += not options["scheduler_reserve_full_isl"]
        met["priority"] += options["scheduling_policy"] == "priority" and len(set(case["priority"])) > 1
        met["refused"] += -1 in answer["scheduled"]
        met["preempted"] += sum(answer["preemptions"]) > 0
        met["preempted twice"] += max(answer["preemptions"]) > 1
        met["cached"] += sum(answer["cached"]) > 0
        met["cached again"] += sum(answer["cached"]) > 0 and sum(answer["preemptions"]) > 0
        met["asynchronous, preempted"] += options["async_scheduling"] and sum(answer["preemptions"]) > 0
        met["together"] += len(set(case["arrival"])) < len(case["arrival"])
    assert {told.answer["vllm"] for told in recorded} == {"0.32.0"}
    assert len(recorded) == 401
    assert min(met.values()) > 20, met
