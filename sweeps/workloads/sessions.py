"""Requests that come when answers end: users in a closed loop, and sessions of several turns."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field

from batchcube.engine.continuous.ticks import LATEST, TICKS_PER_S
from batchcube.errors import InputError

from .lengths import LengthDistribution, Lengths
from .rows import MOST_TOKENS
from .settings import FloatArray, Settings

LONGEST_THINK_S = LATEST // TICKS_PER_S // 2
BoolArray = npt.NDArray[np.bool_]


def _meant_in_seconds(value: Any) -> Any:
    """Let a distribution of seconds do without saying so."""
    return {"unit": "seconds", **value} if isinstance(value, dict) and value.get("distribution") != "zipf" else value


def _in_seconds(value: LengthDistribution) -> LengthDistribution:
    if value.unit != "seconds":
        raise ValueError("must be a distribution of seconds")
    return value


ThinkTime = Annotated[LengthDistribution, BeforeValidator(_meant_in_seconds), AfterValidator(_in_seconds)]
"""A distribution of seconds."""


def think_s(think: LengthDistribution | None, count: int, rng: np.random.Generator, path: str) -> FloatArray:
    """Draw how long is thought before each of `count` requests, in seconds: not at all where nothing is given.

    Raises InputError, naming the setting at `path`, for a time longer than can be simulated.
    """
    if think is None:
        return np.zeros(count)
    drawn = think.draw_values(count, rng)
    if (most := float(drawn.max())) > LONGEST_THINK_S:
        raise InputError(f"drew {most:g} s", path=path, allowed=f"must be at most {LONGEST_THINK_S} s")
    return drawn


class Sessions(Settings):
    """Conversations: each request is a turn, whose prompt begins with all prompts and answers before it."""

    turns: LengthDistribution = Field(description="turns of a session, 1 or more")
    think_s: ThinkTime | None = Field(
        default=None, description="seconds from an answer to the next turn, a distribution; none when left out"
    )

    def openings(self, count: int, rng: np.random.Generator) -> BoolArray:
        """Draw which of `count` requests, session after session, are first turns; the last session may be cut."""
        turns = self.turns.draw_tokens(count, rng, 1)
        first = np.cumsum(turns)[:-1]
        opens = np.zeros(count, np.bool_)
        opens[0] = True
        opens[first[first < count].astype(np.int64)] = True
        return opens


def with_history(lengths: Lengths, opens: BoolArray) -> Lengths:
    """Put the prompts and answers of the turns before in front of each prompt; InputError where it grows too long."""
    assert lengths.prompt_tokens is not None
    assert lengths.output_tokens is not None
    own = lengths.prompt_tokens + lengths.output_tokens
    before = np.cumsum(own) - own
    first = np.flatnonzero(opens)
    history = before - np.repeat(before[first], np.diff(first, append=len(opens)))
    prompt = history + lengths.prompt_tokens
    most = int((prompt + lengths.output_tokens).max())
    if most > MOST_TOKENS:
        raise InputError(
            f"a session grows to {most} tokens", path="workload.sessions", allowed=f"must be at most {MOST_TOKENS}"
        )
    return lengths._replace(prompt_tokens=prompt)
