"""The same replica under continuous batching as a process of SimPy: one event for every step."""

from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from batchcube.engine.continuous import Replica, Requests
from batchcube.engine.continuous.ticks import TICKS_PER_S

from . import terms_of


def mean_latency_s(requests: Requests, replica: Replica) -> float:
    """Return the mean end-to-end latency with chunked prefills, a cap and a token budget; the KV cache never fills."""
    environment = simpy.Environment()
    c0, c1, c2, c3, c4 = terms_of(replica.law)
    waiting: list[int] = []
    done: NDArray[np.float64] = np.zeros(len(requests.arrival))
    came: list[Any] = [environment.event()]

    def arrivals() -> Any:
        for i, ticks in enumerate(requests.arrival.tolist()):
            yield environment.timeout(ticks - environment.now)
            waiting.append(i)
            if not came[0].triggered:
                came[0].succeed()

    def server() -> Any:
        # Request -> [tokens in the cache, tokens to prefill, tokens to emit].
        running: dict[int, list[int]] = {}
        while True:
            if not running and not waiting:
                came[0] = environment.event()
                yield came[0]
            decodes = [state for state in running.values() if not state[1]]
            budget = replica.token_budget - len(decodes)
            chunks: list[tuple[list[int], int]] = []
            for state in running.values():
                if state[1]:
                    chunks.append((state, min(state[1], budget)))
                    budget -= chunks[-1][1]
            while waiting and len(running) < int(replica.control.largest) and budget > 0:
                i = waiting.pop(0)
                running[i] = [0, int(requests.prompt[i]), int(requests.output[i])]
                chunks.append((running[i], min(running[i][1], budget)))
                budget -= chunks[-1][1]
            duration = c0 + c1 * len(decodes) + c2 * sum(s[0] + 1 for s in decodes)
            for state, chunk in chunks:
                duration += c3 * chunk + c4 * chunk * (state[0] + chunk)
            yield environment.timeout(duration)
            for state in decodes:
                state[0] += 1
                state[2] -= 1
            for state, chunk in chunks:
                state[0] += chunk
                state[1] -= chunk
                if not state[1]:
                    state[2] -= 1
            for i in [i for i, state in running.items() if not state[2]]:
                done[i] = environment.now
                del running[i]

    environment.process(arrivals())
    environment.process(server())
    environment.run()
    return float(np.mean(done - requests.arrival)) / TICKS_PER_S
