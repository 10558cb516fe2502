import json
import random

import pytest

from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

GOOD = {"name": "a", "workload": {"requests": 10, "values": [1, 2.5]}, "policy": {"mode": "fifo_fixed"}}


def test_mutants_are_many_different_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHCUBE_FUZZ_INPUTS", "300")
    first = [repr(wrong) for wrong in mutants(GOOD, mutate_tree, 1)]
    assert first == [repr(wrong) for wrong in mutants(GOOD, mutate_tree, 1)]
    assert len(set(first)) > 200
    assert GOOD == {"name": "a", "workload": {"requests": 10, "values": [1, 2.5]}, "policy": {"mode": "fifo_fixed"}}


def test_bytes_differ_and_never_run_out() -> None:
    chance = random.Random(1)
    text = json.dumps(GOOD).encode()
    changed = [mutate_bytes(chance, text) for _ in range(200)]
    assert len(set(changed)) > 150
    assert mutate_bytes(chance, b"")


def test_what_hangs_is_noticed() -> None:
    def hang() -> None:
        with limited(1):
            while True:
                pass

    with pytest.raises(TimeoutError, match="busy for more than 1 s"):
        hang()
