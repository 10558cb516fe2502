"""Random requests that have beginnings in common: their tokens, and the ids of what is in them."""

import numpy as np

from batchcube.engine.continuous import Content, make_content


def draw_tokens(rng: np.random.Generator, prompt: np.ndarray, output: np.ndarray) -> list[list[int]]:
    """Draw the tokens of each request, prompt and answer: most begin as one before them does, some all the way."""
    drawn: list[list[int]] = []
    letters = int(rng.choice([1, 2, 50]))
    for p, o in zip(prompt.tolist(), output.tolist(), strict=True):
        tokens: list[int] = []
        if drawn and rng.random() < 0.8:
            parent = drawn[int(rng.integers(len(drawn)))]
            tokens = parent[: int(rng.integers(0, len(parent) + 1)) if rng.random() < 0.6 else len(parent)]
        tokens = tokens[: p + o]
        drawn.append(tokens + rng.integers(3, 3 + letters, p + o - len(tokens)).tolist())
    return drawn


def content_of(tokens: list[list[int]], known: np.ndarray, each: int) -> Content:
    """Return the content of requests whose first `known` tokens (request,) are named, by ids of `each` tokens."""
    ids: dict[tuple[int, ...], int] = {}
    rows = []
    for sequence, count in zip(tokens, known.tolist(), strict=True):
        ends = [min(end + each, count) for end in range(0, count, each)]
        rows.append([ids.setdefault(tuple(sequence[:end]), len(ids)) for end in ends])
    return make_content(rows, known, each)
