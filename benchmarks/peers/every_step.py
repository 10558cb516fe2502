"""The obvious compiled loop: every step looks at every running request. Chunked prefill, a cap, memory without end."""

import numpy as np
from numba import njit

from batchcube.engine.continuous import Replica, Requests
from batchcube.engine.continuous.ticks import TICKS_PER_S

from . import terms_of


def mean_latency_s(requests: Requests, replica: Replica) -> float:
    """Return the mean end-to-end latency in seconds of one replica that never runs out of KV cache."""
    times, lengths = terms_of(replica.law), (requests.prompt, requests.output)
    total = _run(requests.arrival, *lengths, times, int(replica.control.largest), replica.token_budget)
    return float(total) / TICKS_PER_S


@njit(nogil=True)
def _run(arrival, prompt, output, times, cap, token_budget):
    c0, c1, c2, c3, c4 = times
    count = len(arrival)
    running = np.empty(cap, np.int64)
    resident, left, to_prefill = np.zeros(count, np.int64), output.copy(), prompt.copy()
    now, head, here, total = 0, 0, 0, 0.0
    while head < count or here > 0:
        if here == 0:
            now = max(now, arrival[head])
        decodes = reads = 0
        for k in range(here):
            if to_prefill[running[k]] == 0:
                decodes += 1
                reads += resident[running[k]] + 1
        budget = token_budget - decodes
        tokens = attention = k = 0
        while budget > 0:
            if k == here:
                if here == cap or head == count or arrival[head] > now:
                    break
                running[here] = head
                here, head = here + 1, head + 1
            i = running[k]
            chunk = min(to_prefill[i], budget)
            resident[i] += chunk
            to_prefill[i] -= chunk
            if chunk > 0:
                # So that the emission below tells decodes, and prefills that end, from prefills that go on.
                tokens, attention, budget = tokens + chunk, attention + chunk * resident[i], budget - chunk
                resident[i] -= 1
            k += 1
        now += c0 + c1 * decodes + c2 * reads + c3 * tokens + c4 * attention
        kept = 0
        for k in range(here):
            i = running[k]
            resident[i] += 1
            if to_prefill[i] == 0:
                left[i] -= 1
            if left[i] == 0:
                total += now - arrival[i]
            else:
                running[kept] = i
                kept += 1
        here = kept
    return total / count
