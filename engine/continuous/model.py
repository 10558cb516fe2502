"""What continuous batching is given: requests, and replicas with limits."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.errors import InputError

from ..dialect import maximum, minimum, policy, where
from ..policies.order import reads_predictions
from ..policies.sla import STEP_SIGNALS, TBT, TOKEN_GAP
from ..policies.target import Control, fixed_target, has_further
from ..refusals import number_of, refuse
from ..simulation import Reporting, Shape, reporting_of
from ..ticks import LARGEST_REQUEST, MOST_REQUESTS
from .fleet import Fleet
from .steps import LARGEST_BUDGET, Law, decode_ticks, kv_token_ticks, prefill_ticks
from .ticks import LATEST, LATEST_ARRIVAL_S, TICKS_PER_S, ticks

LONGEST_GAP = 2**42
"""Nanoseconds, 73 minutes: a longer gap between tokens is held there before controllers see it."""
LOWEST_PRIORITY = 2**31
LARGEST_ID = 2**40
"""Largest id of content."""
LARGEST_BLOCK = 2**16
LARGEST_CACHE = 2**45
BLOCK_TOKENS = 16
"""Tokens of a block unless something else is said, as of vLLM."""

SERVED, REJECTED = 0, 1
NOBODY, ANYBODY = -1, -2
"""In place of a request; one may follow either of them."""
NO_FOLLOWERS = np.zeros(0, np.int64)
Prefill = Literal["chunked", "separate"]
PREFILLS: tuple[Prefill, ...] = get_args(Prefill)
"""Whether prefills share steps with decodes, or have steps of their own."""
SchedulingPolicy = Literal["fcfs", "priority"]
SCHEDULING_POLICIES: tuple[SchedulingPolicy, ...] = get_args(SchedulingPolicy)
"""Who is admitted first and preempted last: the first to come, or that of the smallest `Requests.priority`."""


class Content(NamedTuple):
    """What the first tokens of requests are: requests with the same id begin with the same tokens, up to its end."""

    ids: NDArray[np.int64]
    """(id,) those of all requests in a row; each says what its tokens are and all before them."""
    begin: NDArray[np.int64]
    """(request + 1,) where those of each begin."""
    tokens: NDArray[np.int64]
    """(request,) how many of its tokens are known: of its prompt, or of prompt and answer."""
    tokens_each: int
    """Tokens of an id; the last of a request may have fewer."""


class Requests(NamedTuple):
    """The requests of one replication in arrival order, each field (request,)."""

    arrival: NDArray[np.int64]
    """Ticks, non-decreasing over those that follow nobody."""
    prompt: NDArray[np.int64]
    """Tokens, >= 1."""
    output: NDArray[np.int64]
    """Tokens, >= 1."""
    predicted: NDArray[np.float64]
    """Predicted output, in tokens; read where a policy looks at it: see `Setup.reads_predictions`."""
    priority: NDArray[np.int64]
    """Smaller first; read with `scheduling_policy = "priority"`."""
    content: Content
    """What is in them; read where prefixes are cached."""
    follows: NDArray[np.int64] = NO_FOLLOWERS
    """The request, earlier in order, after whose end it arrives: that arrival is known only then. NOBODY where its
    arrival is known; ANYBODY after an end that nobody follows, the first of them after the first. Empty where all
    arrivals are known."""
    delay: NDArray[np.int64] = NO_FOLLOWERS
    """Ticks from that end to its arrival; 0 for those that follow nobody. Empty where all arrivals are known."""


class Replica(NamedTuple):
    """One engine: when it admits, and what it has room for."""

    law: Law
    control: Control
    """Controllers of the cap; their B_max is the static one, `max_num_seqs`."""
    token_budget: int
    """`max_num_batched_tokens`: tokens of one step, a decode counting one.

    Without chunks, a request that needs more after a preemption is prefilled in a step of its own.
    """
    chunked: bool
    """True: a step holds decodes and chunks of prefills. False: whole prefills alone, or decodes alone."""
    block_tokens: int
    """Tokens of a block of the KV cache; 1 counts single tokens."""
    blocks: int
    """Blocks of the KV cache."""
    scheduler_reserve_full_isl: bool
    """Whether all that a request must prefill has to fit the free blocks when it is admitted, or its first chunk."""
    long_prefill_token_threshold: int
    """Most tokens that one prefill gets in a step; 0: as many as the budget leaves."""
    long_prefill_token_threshold_adaptive: bool
    """Whether it is at least a fair share of the budget."""
    max_num_active_seqs: int
    """Requests that may run when one is admitted, whatever the controllers say."""
    max_model_len: int
    """Prompt and answer together end there; a prompt must be shorter."""
    by_priority: bool
    """Whether priorities come before the order of arrival and admission."""
    async_scheduling: bool
    """Whether a step is scheduled when the one before begins, or when that has ended."""
    enable_prefix_caching: bool
    """Whether full blocks are found again by what is in them."""


class Setup(NamedTuple):
    """Everything but the requests."""

    replica: Replica
    fleet: Fleet
    reporting: Reporting

    @property
    def largest_batch(self) -> int:
        """Most requests that run at once on a replica."""
        return int(self.replica.control.largest)

    @property
    def windows(self) -> int:
        """Number of time windows of the report."""
        return self.reporting.windows

    @property
    def reads_predictions(self) -> bool:
        """Whether a policy may look at predicted lengths; bins are known before."""
        further = has_further(self.replica.control)
        return further or (self.fleet.by_bin and reads_predictions(self.fleet.bin_choice))


class Classes(NamedTuple):
    """Classes of requests, and what each is promised in ticks: limits (class,) of its requests, NEVER where none is."""

    of: NDArray[np.int64]
    """(request,) class of each."""
    request_sla: NDArray[np.int64]
    """Of the latency."""
    ttft_sla: NDArray[np.int64]
    """Of the time to the first token."""
    tpot_sla: NDArray[np.int64]
    """Of the mean time between the tokens of a request."""


class Job(NamedTuple):
    """One replication to simulate."""

    requests: Requests
    bin_of: NDArray[np.int32]
    """(request,) bin of each."""
    setup: Setup
    classes: Classes | None = None
    """Read by the report alone."""

    @property
    def shape(self) -> Shape:
        """The shape of its tally."""
        classes = 0 if self.classes is None else len(self.classes.request_sla)
        return Shape(self.setup.fleet.bins, self.setup.largest_batch, self.setup.windows, classes)


class Records(NamedTuple):
    """What became of each request, (request,) each; ticks, -1 where it never happened."""

    scheduled: NDArray[np.int64]
    """Start of the step that admitted it first."""
    first_token: NDArray[np.int64]
    last_token: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    cached: NDArray[np.int64]
    """Tokens that were found in the KV cache, at all of its admissions."""
    status: NDArray[np.int64]
    """SERVED, or REJECTED: it could never fit, alone."""
    replica: NDArray[np.int64]
    """That it was sent to."""
    arrival: NDArray[np.int64]
    """As it came about where it waited for an answer; otherwise as it was given."""


def no_content(count: int) -> Content:
    """Return the content of so many requests of which nothing is known: no two have anything in common."""
    return Content(np.zeros(0, np.int64), np.zeros(count + 1, np.int64), np.zeros(count, np.int64), 1)


def make_content(ids: Sequence[ArrayLike], tokens: ArrayLike, tokens_each: int) -> Content:
    """Build content from the ids of every request, which name so many of its `tokens` (request,), `tokens_each` each.

    An id stands for its tokens and all before them. InputError for ids out of range, and too few or too many of them.
    """
    rows = [np.asarray(row, np.int64).ravel() for row in ids]
    known = np.asarray(tokens, np.int64)
    counts = np.array([len(row) for row in rows], np.int64)
    if known.shape != counts.shape:
        raise InputError(f"content has {len(rows)} requests, {known.size} numbers of tokens", allowed="must be equal")
    if not 1 <= tokens_each <= LARGEST_REQUEST:
        raise InputError(f"must be in 1..{LARGEST_REQUEST}", path="tokens_each", value=tokens_each)
    wanted = -(-known // tokens_each)
    if (counts != wanted).any():
        i = int(np.argmax(counts != wanted))
        raise InputError(
            f"{counts[i]} ids for {known[i]} tokens",
            path=f"ids[{i}]",
            allowed=f"must be {wanted[i]}, of {tokens_each} tokens each",
        )
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    refuse("ids", (flat < 0) | (flat > LARGEST_ID), flat, f"must be in 0..{LARGEST_ID}")
    return Content(flat, np.concatenate(([0], np.cumsum(counts))), known, int(tokens_each))


def parts_of(content: Content, rows: NDArray[np.integer]) -> Content:
    """Return the content of some requests (row,); what is taken again has nothing in common with what it was before."""
    order = np.argsort(rows, kind="stable")
    taken = rows[order]
    new = np.concatenate(([True], taken[1:] != taken[:-1])) if len(rows) else np.zeros(0, np.bool_)
    places = np.arange(len(rows))
    before = np.empty(len(rows), np.int64)
    before[order] = places - np.maximum.accumulate(np.where(new, places, 0))
    counts = np.diff(content.begin)[rows]
    begin = np.concatenate(([0], np.cumsum(counts)))
    at = np.arange(begin[-1]) - np.repeat(begin[:-1] - content.begin[rows], counts)
    ids = content.ids[at] + np.repeat(before, counts) * (int(content.ids.max(initial=0)) + 1)
    return Content(ids, begin, content.tokens[rows], content.tokens_each)


def make_requests(
    arrival_s: ArrayLike,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    predicted: ArrayLike | None = None,
    priority: ArrayLike | None = None,
    content: Content | None = None,
) -> Requests:
    """Build requests from arrays (request,); InputError naming the field and the first bad entry.

    `predicted` is the predicted output in tokens, by default the true one; `priority` is 0 for all by default, and
    without `content` no two have anything in common.
    """
    arrival = np.asarray(arrival_s, np.float64)
    prompt, output = np.asarray(prompt_tokens), np.asarray(output_tokens)
    for name, values in (("prompt_tokens", prompt), ("output_tokens", output)):
        if values.shape != arrival.shape:
            raise InputError(f"{name} has {values.size} entries, arrival_s has {arrival.size}", allowed="must be equal")
        refuse(name, ~(values >= 1), values, "must be >= 1")
        refuse(name, values != np.floor(values), values, "must be whole")
    refuse("arrival_s", ~(np.isfinite(arrival) & (arrival >= 0)), arrival, "must be finite and >= 0")
    refuse("arrival_s", np.diff(arrival, prepend=0.0) < 0, arrival, "must not decrease")
    refuse("arrival_s", arrival > LATEST_ARRIVAL_S, arrival, "is later than can be simulated")
    refuse("prompt_tokens", prompt + output > LARGEST_REQUEST, prompt, f"and output: must be <= {LARGEST_REQUEST}")
    if not arrival.size:
        raise InputError("at least one request is needed")
    if arrival.size >= MOST_REQUESTS:
        raise InputError(f"{arrival.size} requests", allowed=f"must be below {MOST_REQUESTS}")
    whole = np.rint(arrival * TICKS_PER_S).astype(np.int64)
    guess = output.astype(np.float64) if predicted is None else np.asarray(predicted, np.float64)
    if guess.shape != arrival.shape:
        raise InputError(f"predicted has {guess.size} entries, arrival_s has {arrival.size}", allowed="must be equal")
    ranks = np.zeros(arrival.shape) if priority is None else np.asarray(priority)
    if ranks.shape != arrival.shape:
        raise InputError(f"priority has {ranks.size} entries, arrival_s has {arrival.size}", allowed="must be equal")
    refuse("priority", (ranks != np.floor(ranks)) | (abs(ranks) > LOWEST_PRIORITY), ranks, "must be whole, within 2^31")
    content = no_content(arrival.size) if content is None else content
    if len(content.tokens) != arrival.size:
        raise InputError(f"content has {len(content.tokens)} entries, arrival_s has {arrival.size}")
    refuse("content.tokens", content.tokens > prompt + output, content.tokens, "must be at most prompt and output")
    return Requests(whole, prompt.astype(np.int64), output.astype(np.int64), guess, ranks.astype(np.int64), content)


def follow(requests: Requests, follows: ArrayLike, delay_s: ArrayLike) -> Requests:
    """Return requests some of which arrive when others end, `delay_s` seconds later, see `Requests.follows`.

    The arrivals of these do not count. InputError naming the first entry that follows itself or a later one, a delay
    that cannot be, and requests of which none begins.
    """
    whom, delay = np.asarray(follows, np.int64), np.asarray(delay_s, np.float64)
    number = np.arange(len(requests.arrival))
    for name, values in (("follows", whom), ("delay_s", delay)):
        if values.shape != number.shape:
            raise InputError(f"{name} has {values.size} entries, arrival_s has {number.size}", allowed="must be equal")
    refuse("follows", (whom < ANYBODY) | (whom >= number), whom, "must be an earlier request, NOBODY or ANYBODY")
    refuse("delay_s", ~(np.isfinite(delay) & (delay >= 0)), delay, "must be finite and >= 0")
    refuse("delay_s", delay > LATEST / TICKS_PER_S / 2, delay, "is longer than can be simulated")
    if whom[0] == ANYBODY:
        raise InputError("must not wait for anybody: nobody would begin", path="follows[0]", value=whom[0])
    waits = whom != NOBODY
    ticks_later = np.where(waits, np.rint(np.where(waits, delay, 0.0) * TICKS_PER_S), 0).astype(np.int64)
    return requests._replace(follows=whom, delay=ticks_later)


def make_replica(
    law: Law,
    *,
    most_running: int,
    token_budget: int,
    capacity_tokens: int | None = None,
    num_gpu_blocks: int | None = None,
    block_tokens: int = BLOCK_TOKENS,
    prefill: str = "chunked",
    scheduler_reserve_full_isl: bool = True,
    long_prefill_token_threshold: int = 0,
    long_prefill_token_threshold_adaptive: bool = False,
    max_num_active_seqs: int | None = None,
    max_model_len: int | None = None,
    scheduling_policy: str = "fcfs",
    async_scheduling: bool = False,
    enable_prefix_caching: bool = False,
    control: Control | None = None,
) -> Replica:
    """Build a replica; `capacity_tokens` of KV cache are held in whole blocks.

    Instead, `num_gpu_blocks` may say how many blocks vLLM counts; it never uses one of them. `most_running` is the
    static cap; `control`, where given, moves a cap below it, step by step. Raises InputError for a cap below 1, a
    budget that cannot hold a token of every running request, a cache without a block, an unknown word for `prefill`
    (chunked or separate) or `scheduling_policy` (fcfs or priority), what needs chunks where prefills are whole, and a
    cap of active requests above the static one.
    """
    number_of(prefill, PREFILLS, "prefill")
    if not 1 <= most_running <= 2**20:
        raise InputError(f"must be in 1..{2**20}", path="most_running", value=most_running)
    if not most_running <= token_budget <= LARGEST_BUDGET:
        raise InputError(
            f"must be at least most_running = {most_running}, a token each", path="token_budget", value=token_budget
        )
    if not 1 <= block_tokens <= LARGEST_BLOCK:
        raise InputError(f"must be in 1..{LARGEST_BLOCK}", path="block_tokens", value=block_tokens)
    blocks = usable_blocks(capacity_tokens, num_gpu_blocks, block_tokens)
    if not 0 <= long_prefill_token_threshold <= LARGEST_REQUEST:
        raise InputError(
            f"must be in 0..{LARGEST_REQUEST}", path="long_prefill_token_threshold", value=long_prefill_token_threshold
        )
    number_of(scheduling_policy, SCHEDULING_POLICIES, "scheduling_policy")
    by_priority = scheduling_policy == "priority"
    for name, asked in (
        ("long_prefill_token_threshold", long_prefill_token_threshold),
        ("scheduling_policy", by_priority),
        ("async_scheduling", async_scheduling),
        ("enable_prefix_caching", enable_prefix_caching),
    ):
        if asked and prefill != "chunked":
            raise InputError('needs prefill = "chunked"', path=name)
    if long_prefill_token_threshold_adaptive and not long_prefill_token_threshold:
        raise InputError("needs a long_prefill_token_threshold", path="long_prefill_token_threshold_adaptive")
    active = most_running if max_num_active_seqs is None else max_num_active_seqs
    if not 1 <= active <= most_running:
        raise InputError(f"must be in 1..most_running = {most_running}", path="max_num_active_seqs", value=active)
    longest = LARGEST_REQUEST if max_model_len is None else max_model_len
    if not 2 <= longest <= LARGEST_REQUEST:
        raise InputError(f"must be in 2..{LARGEST_REQUEST}", path="max_model_len", value=longest)
    if control is None:
        control = fixed_target(1, most_running, np.ones(1), np.ones(1))
    if not 1 <= control.smallest <= control.largest == most_running:
        raise InputError("must be the largest batch of the controllers", path="most_running", value=most_running)
    if control.sla.enabled and control.sla.signal not in (TBT, TOKEN_GAP):
        raise InputError(
            f"must be one of {', '.join(STEP_SIGNALS)} under continuous batching", path="policy.sla.signal"
        )
    return Replica(
        law,
        control,
        int(token_budget),
        prefill == "chunked",
        int(block_tokens),
        blocks,
        bool(scheduler_reserve_full_isl),
        int(long_prefill_token_threshold),
        bool(long_prefill_token_threshold_adaptive),
        int(active),
        int(longest),
        by_priority,
        bool(async_scheduling),
        bool(enable_prefix_caching),
    )


def usable_blocks(capacity_tokens: int | None, num_gpu_blocks: int | None, block_tokens: int) -> int:
    """Return the blocks of a KV cache given in tokens, or as vLLM counts them: one of those is never used.

    Raises InputError unless exactly one is given, and for a cache without a block.
    """
    if (capacity_tokens is None) == (num_gpu_blocks is None):
        raise InputError("give capacity_tokens or num_gpu_blocks, one of them")
    if num_gpu_blocks is not None:
        if not 2 <= num_gpu_blocks <= LARGEST_CACHE // block_tokens:
            allowed = f"must be in 2..{LARGEST_CACHE // block_tokens}: one is never used"
            raise InputError(allowed, path="num_gpu_blocks", value=num_gpu_blocks)
        return int(num_gpu_blocks) - 1
    assert capacity_tokens is not None
    if not block_tokens <= capacity_tokens <= LARGEST_CACHE:
        raise InputError(
            f"must be at least block_tokens = {block_tokens}", path="capacity_tokens", value=capacity_tokens
        )
    return int(capacity_tokens) // block_tokens


make_reporting = partial(reporting_of, ticks, ticks)
"""See `reporting_of`."""


def make_classes(
    of: ArrayLike,
    request_sla_s: Sequence[float | None],
    ttft_sla_s: Sequence[float | None],
    tpot_sla_s: Sequence[float | None],
) -> Classes:
    """Build the classes of requests, `of` (request,), from the limits of each; InputError for any out of range."""
    limits = {"request_sla_s": request_sla_s, "ttft_sla_s": ttft_sla_s, "tpot_sla_s": tpot_sla_s}
    whole = [np.array([ticks(seconds, name) for seconds in given], np.int64) for name, given in limits.items()]
    found = np.asarray(of, np.int64)
    refuse("of", (found < 0) | (found >= len(whole[0])), found, f"must be in 0..{len(whole[0]) - 1}")
    return Classes(found, *whole)


@policy
def blocks_of(tokens: Any, block_tokens: Any) -> Any:
    """Return the blocks that hold so many tokens of one request."""
    return (tokens + block_tokens - 1) // block_tokens


@policy
def most_active(cap: Any, replica: Replica) -> Any:
    """Return how many requests may run when one is admitted, the controllers' cap being `cap`."""
    return minimum(cap, replica.max_num_active_seqs)


@policy
def longest_chunk(here: Any, replica: Replica) -> Any:
    """Return the most tokens that one prefill may get in a step, with so many requests waiting or running.

    One that is alone keeps nobody from anything.
    """
    threshold = replica.long_prefill_token_threshold
    if threshold == 0 or here <= 1:
        return replica.token_budget
    if replica.long_prefill_token_threshold_adaptive:
        return maximum(threshold, replica.token_budget // here)
    return threshold


@policy
def must_fit(chunk: Any, need: Any, replica: Replica) -> Any:
    """Return the tokens for which there must be room to admit a request that needs so many, and its first chunk."""
    return where(replica.scheduler_reserve_full_isl, need, chunk)


@policy
def is_crowded(chunk: Any, budget: Any, blocks: Any, replica: Replica) -> Any:
    """Say whether there is no room to admit a request; what must fit would leave so many blocks in use.

    What a preempted request needs by now may exceed every budget: it gets a step of its own.
    """
    return ((chunk > budget) & (budget < replica.token_budget)) | (blocks > replica.blocks)


def never_fits(requests: Requests, replica: Replica) -> NDArray[np.bool_]:
    """Say which requests (request,) could never be served, not even alone.

    The KV of a request grows to prompt + output - 1 tokens: that of its last token is never needed. No answer begins
    that would end at `max_model_len` before its first token. Without chunks, a prompt must fit the token budget whole.
    """
    most = np.minimum(requests.prompt + requests.output, replica.max_model_len) - 1
    too_large: NDArray[np.bool_] = blocks_of(most, replica.block_tokens) > replica.blocks
    too_large |= requests.prompt >= replica.max_model_len
    return too_large if replica.chunked else too_large | (requests.prompt > replica.token_budget)


def answered(requests: Requests, replica: Replica) -> Requests:
    """Return the requests with answers that end at `max_model_len`; those of prompts that leave no room are kept."""
    if replica.max_model_len == LARGEST_REQUEST:
        return requests
    room = replica.max_model_len - requests.prompt
    return requests._replace(output=np.where(room > 0, np.minimum(requests.output, room), requests.output))


def check(job: Job) -> None:
    """Refuse what does not fit together, and requests one of which could take a quarter of the time there is.

    No sum of a leap can then run out of int64, and a clock that passes `LATEST` is noticed before it can. Raises
    InputError.
    """
    requests, replica = job.requests, job.setup.replica
    law, most = replica.law, int(replica.control.largest)
    if len(job.bin_of) != len(requests.arrival):
        raise InputError(
            f"bin_of has {len(job.bin_of)} entries, arrival has {len(requests.arrival)}", allowed="must be equal"
        )
    if job.classes is not None and len(job.classes.of) != len(requests.arrival):
        raise InputError(
            f"classes.of has {len(job.classes.of)} entries, arrival has {len(requests.arrival)}",
            allowed="must be equal",
        )
    if int(job.bin_of.max()) >= job.setup.fleet.bins or int(job.bin_of.min()) < 0:
        raise InputError(f"must be in 0..{job.setup.fleet.bins - 1}", path="bin_of")
    if replica.by_priority and job.setup.fleet.by_bin:
        raise InputError('needs admission = "fifo"', path="scheduling_policy")
    content = requests.content
    if (
        replica.enable_prefix_caching
        and content.tokens_each % replica.block_tokens
        and np.diff(content.begin).max() > 1
    ):
        raise InputError(
            f"must divide tokens_each = {content.tokens_each} of the content",
            path="block_tokens",
            value=replica.block_tokens,
        )
    longest = int((requests.prompt + requests.output).max())
    reads = min(replica.blocks * replica.block_tokens, most * longest)
    budget = replica.token_budget if replica.chunked else max(replica.token_budget, longest)
    tokens = min(budget, most * longest)
    # In Python's integers, as it is not known yet that the sums fit int64.
    fields: Any = (field.astype(object) if isinstance(field, np.ndarray) else field for field in law)
    exact = Law(*fields)
    slowest = max(*exact.kv_token[: most + 1], kv_token_ticks(most, exact))
    step = decode_ticks(most, exact) + slowest * reads + prefill_ticks(most + tokens, tokens * longest, 0, exact)
    if step * longest > LATEST // 2:
        raise InputError(
            f"a request of {longest} tokens could take {step * longest / TICKS_PER_S:.3g} s",
            allowed=f"must be at most {LATEST // 2 / TICKS_PER_S:.3g} s",
        )
    if step * most > LATEST // 2:
        raise InputError(
            f"a step could take {step / TICKS_PER_S:.3g} s",
            allowed=f"must be at most {LATEST // 2 / most / TICKS_PER_S:.3g} s with up to {most} requests running",
        )
