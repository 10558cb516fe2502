"""Blocks of a KV cache, in plain Python and in arrays, against each other, vLLM's answers, and worked examples."""

from pathlib import Path

import numpy as np
import pytest

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import (
    Job,
    Setup,
    make_content,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.blocks import Cache
from batchcube.engine.continuous.numba import blocks as arrays
from batchcube.sweeps.workloads.traces import TraceSettings, read_trace
from helpers.content import content_of, draw_tokens


class Arrays:
    """The arrays, asked as the cache in plain Python is."""

    def __init__(self, requests, blocks: int, size: int) -> None:
        replica = make_replica(
            make_law(1e-3),
            most_running=32,
            token_budget=64,
            capacity_tokens=blocks * size,
            block_tokens=size,
            enable_prefix_caching=True,
        )
        job = Job(
            requests,
            np.zeros(len(requests.arrival), np.int32),
            Setup(replica, make_fleet(), make_reporting(horizon_s=1)),
        )
        self.cache = arrays.cache_of(arrays.make_cache(job), 0)
        self.used, self.size = 0, size

    def find(self, number: int, tokens: int):
        return arrays.find(self.cache, number, tokens)

    def admit(self, number: int, found: int, unheld: int) -> None:
        self.used += unheld
        arrays.admit(self.cache, number, found)

    def take(self, number: int, tokens: int, computed: int) -> None:
        self.used += -(-tokens // self.size) - self.cache.request[number, arrays.HELD]
        arrays.take(self.cache, number, tokens, computed)

    def release(self, number: int) -> None:
        self.used -= arrays.release(self.cache, number)

    def kept(self) -> list[int]:
        block, found, at = self.cache.block, [], self.cache.numbers[arrays.OLDEST]
        while at != arrays.NONE:
            found.append(int(block[at, arrays.CONTENT]))
            at = block[at, arrays.NEXT]
        assert len(found) == self.cache.numbers[arrays.KEPT]
        return found


def drawn(rng: np.random.Generator, count: int, size: int):
    """Draw requests of which prompts, or answers too, are known, and their tokens."""
    prompt, output = rng.integers(1, 60, count), rng.integers(1, 30, count)
    tokens = draw_tokens(rng, prompt, output)
    known = prompt + output if rng.integers(2) else prompt
    each = size * int(rng.choice([1, 3, 1000]))
    content = content_of(tokens, known, each) if each < 1000 else content_of(tokens, known, size)
    return make_requests(np.zeros(count), prompt, output, content=content), tokens


def play(rng: np.random.Generator, requests, cache: Cache):
    """Let requests come and go at random; yield what was done, with what was found."""
    size, need = cache.size, (requests.prompt + requests.output).tolist()
    waiting, running = list(range(len(need))), []
    resident = dict.fromkeys(waiting, 0)
    seen = {i: int(requests.prompt[i]) for i in waiting}
    for _ in range(400):
        if waiting and (not running or rng.random() < 0.5):
            i = waiting[int(rng.integers(min(3, len(waiting))))]
            found = cache.find(i, seen[i])
            tokens = len(found) * size
            chunk = int(rng.integers(1, seen[i] - tokens + 1))
            fits = cache.used_with(i, tokens + chunk, found) <= cache.blocks
            unheld = sum(block not in cache.users for block in found)
            if fits:
                cache.take(i, tokens + chunk, found)
                waiting.remove(i)
                running.append(i)
                resident[i] = tokens + chunk
            yield "admit", i, seen[i], chunk, len(found), unheld, fits
        elif running:
            i = running[int(rng.integers(len(running)))]
            if rng.random() < 0.1 or resident[i] == need[i] - 1:
                if resident[i] < need[i] - 1:
                    waiting.insert(0, i)
                cache.release(i)
                running.remove(i)
                yield "release", i, 0, 0, 0, 0, True
                continue
            seen[i] += resident[i] == seen[i]
            chunk = int(rng.integers(1, seen[i] - resident[i] + 1))
            fits = cache.can_take(i, resident[i] + chunk)
            if fits:
                resident[i] += chunk
                cache.take(i, resident[i])
            yield "take", i, resident[i], chunk, 0, 0, fits


def test_arrays_do_what_plain_python_does() -> None:
    rng = np.random.default_rng(5)
    found_all = taken_from_kept = 0
    for _ in range(60):
        size = int(rng.choice([1, 2, 4, 16]))
        requests, _ = drawn(rng, int(rng.integers(2, 25)), size)
        wanted = -(-(requests.prompt + requests.output) // size)
        # With room for all at once nobody would come back: the arrays have no more.
        blocks = min(int(wanted.max()) + int(rng.choice([0, 5, 60, 10_000])), int(wanted.sum()))
        cache, same = Cache(requests, blocks, size, caching=True), Arrays(requests, blocks, size)
        for what, i, tokens, chunk, found, unheld, fits in play(rng, requests, cache):
            if what == "admit":
                assert same.find(i, tokens) == (found, unheld)
                found_all += found
                if fits:
                    same.admit(i, found, unheld)
                    same.take(i, found * size + chunk, found * size + chunk)
            elif what == "release":
                same.release(i)
            elif fits:
                same.take(i, tokens, tokens)
            assert same.used == cache.used
            assert same.kept() == [cache.content[block] for block in cache.kept]
        taken_from_kept += cache.unused == blocks
    assert found_all > 1000
    assert taken_from_kept > 10


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_one_that_waits_is_admitted_as_soon_as_a_decode_computes_its_prompt(backend: str) -> None:
    """Six blocks of two tokens. Request 1 begins as request 0 goes on: 11 tokens, 6 blocks.

    At 1 ms request 0 takes its third block, and 2 of the 6 are there: 3 + 4 > 6. At 2 ms it fills it: 3 + 3 = 6.
    """
    replica = make_replica(
        make_law(1e-3), most_running=4, token_budget=16, capacity_tokens=12, block_tokens=2, enable_prefix_caching=True
    )
    content = make_content([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 8]], [13, 11], 2)
    requests = make_requests([0.0, 0.0005], [4, 11], [9, 1], content=content)
    records, _ = simulate_replica(requests, replica, backend)
    assert records.scheduled.tolist() == [0, 2 * 10**9]
    assert records.cached.tolist() == [0, 6]


def test_with_room_for_all_a_prompt_finds_whatever_began_a_prompt_before_it(shared_data: Path) -> None:
    """Of the Mooncake trace, slowly replayed: blocks of 512 tokens by their ids, the engine's of 16 within them."""
    path = shared_data / "mooncake" / "conversation_trace.jsonl"
    trace = read_trace(TraceSettings(path=str(path), limit=2000), hashes=True)
    content = trace.content
    assert content is not None
    seen: set[int] = set()
    found = 0
    for i, prompt in enumerate(content.tokens.tolist()):
        ids = content.ids[content.begin[i] : content.begin[i + 1]].tolist()
        known = next((k for k, name in enumerate(ids) if name not in seen), len(ids))
        found += min(512 * known, (prompt - 1) // 16 * 16)
        seen.update(ids)
    replica = make_replica(
        make_law(1e-3), most_running=4, token_budget=2**20, capacity_tokens=10**9, enable_prefix_caching=True
    )
    arrival_s = 10.0 * np.arange(len(content.tokens))
    requests = make_requests(arrival_s, trace.prompt_tokens, trace.output_tokens, content=content)
    records, _ = simulate_replica(requests, replica)
    assert records.cached.sum() == found > 10**6
