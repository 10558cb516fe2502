"""Between vLLM's scheduler and the policies: what is read of it, what is set, and what is kept from it.

It knows vLLM's names and imports nothing of it.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

from batchcube.engine.continuous.model import LONGEST_GAP
from batchcube.engine.policies.sla import TOKEN_GAP
from batchcube.errors import InputError

from .given import PREDICTED, Limits, make_given, read_options
from .log import HASHES, NANOSECONDS_PER_S, PRIORITY, Head, ServedLog
from .pilot import Pilot, Queues, outcome_of
from .queue import BinnedQueue, Place

_CONFIG = "--additional-config"
# A vLLM without one of them is another one than this was written for.
_NEEDED = (
    *("max_num_active_reqs", "max_num_running_reqs", "running", "waiting", "requests", "finished_req_ids"),
    *("kv_cache_manager", "kv_cache_config", "scheduler_config", "vllm_config", "block_size", "get_request_counts"),
)
# Settings of `server.replica` that are called so in vLLM's own, too.
_SCHEDULING = (
    *("long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "scheduler_reserve_full_isl"),
    *("async_scheduling", "max_num_active_seqs"),
)
_WHOLE = "enable_chunked_prefill = false: a prompt waits until all of it fits the token budget beside the decodes"

P = ParamSpec("P")


@dataclass
class _Request:
    """A request that is here."""

    request: Any
    place: Place
    scheduled_ns: int = -1
    first_ns: int = -1


class _Step(NamedTuple):
    """A step whose tokens are not there yet."""

    output: Any
    number: int
    start_ns: int
    decoding: int
    decodes: list[str]
    """The requests that decode, where the gap between their tokens is the signal."""
    prefilled: list[str]
    """Those whose prefill it completes."""


def _never_raises(method: Callable[P, None]) -> Callable[P, None]:
    """Let a method of `Serving` do nothing from the first exception on: vLLM goes on serving, whatever is wrong here.

    A log that cannot be written is given up alone; what policies raise is caught where they are called.
    """

    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        serving: Any = args[0]
        if not serving.broken:
            try:
                method(*args, **kwargs)
            except OSError as error:
                serving.pilot.log.give_up()
                serving.pilot.log = None
                serving.logger.error("batchcube: the log cannot be written (%s); it ends here", error)
            except Exception as error:
                serving.broken = True
                serving.fails(error)

    return guarded


class Serving:
    """What the policies of a point do in one of vLLM's schedulers.

    Its methods are called around those of the scheduler, and none of them raises. The constructor raises InputError for
    what cannot be run. Clocks give nanoseconds.
    """

    def __init__(
        self,
        scheduler: Any,
        version: str,
        logger: logging.Logger,
        clock: Callable[[], int],
        unix_clock: Callable[[], int],
    ) -> None:
        if missing := [name for name in _NEEDED if not hasattr(scheduler, name)]:
            raise InputError(f"its scheduler has no {', '.join(missing)}", path=f"vLLM {version}")
        self.scheduler, self.logger = scheduler, logger
        self.clock, self.unix_clock = clock, unix_clock
        self.zero_ns = clock()
        self.broken = False
        config = scheduler.vllm_config.additional_config
        options = read_options(config.get("batchcube") if isinstance(config, dict) else None, _CONFIG)
        self.limits = limits_of(scheduler)
        given = make_given(options, self.limits)
        source, control = given.sweep.source, given.control
        policy = scheduler.scheduler_config.policy
        if given.by_bin and policy != "fcfs":
            raise InputError(
                f"--scheduling-policy {policy} has an order of its own",
                file=source,
                path="policy.admission",
                value='"by_bin"',
                allowed="must be fcfs",
            )
        self.most = scheduler.max_num_active_reqs
        self.inner_edges = given.edges[1:-1].tolist()
        self.by_gap = control.sla.signal == TOKEN_GAP
        self.here: dict[str, _Request] = {}
        self.arrived = 0
        self.prefilling: set[str] = set()
        self.in_flight: deque[_Step] = deque()
        self.last_token_ns: dict[str, int] = {}
        self.over: list[int] = []
        """Tokens p + o of requests that were ended from outside, not learned of yet."""
        self.end_ns = -1
        """When the latest step was over, if another one follows at once."""
        self.begun: tuple[int, Queues] | None = None
        self.binned: BinnedQueue | None = None
        if given.by_bin:
            self.binned = scheduler.waiting = BinnedQueue(
                given.bins, given.bin_choice, int(control.largest), self.place_of, was_preempted, self.fails
            )
        log = None if options.log is None else ServedLog(_folder(scheduler, options.log), given.about(version))
        self.pilot = Pilot(control, given.bins, log)
        for difference in given.differs:
            logger.warning("batchcube: this server has %s as in %s", difference, source)
        for unlike in self.limits.not_simulated:
            logger.warning("batchcube: no simulation does what this server does: %s", unlike)
        logger.info("batchcube: %s decides, step by step", source)

    # Around the scheduler's methods -------------------------------------------------------------------------------

    @_never_raises
    def arrives(self, request: Any) -> None:
        """Take in a request, before it waits."""
        self.place_of(request)

    @_never_raises
    def decide(self) -> None:
        """Set the cap of the step that is about to be scheduled."""
        now_ns = self.clock() - self.zero_ns
        running, waiting = self.scheduler.get_request_counts()
        self.begun = None
        if not running and not waiting:
            self.pilot.rest(now_ns)
            return
        seen = Queues(waiting, running)
        if not self.pilot.failed:
            try:
                if self.pilot.looks_at_queues:
                    seen = Queues(waiting, running, *self.looked_at())
                self.scheduler.max_num_active_reqs = min(self.pilot.decide(now_ns, seen).batch, self.most)
            except Exception as error:
                self.fails(error)
        self.begun = now_ns, seen

    @_never_raises
    def began(self, output: Any) -> None:
        """Look at the step that was scheduled."""
        if self.begun is None:
            return
        now_ns, seen = self.begun
        scheduler, scheduled = self.scheduler, output.num_scheduled_tokens
        admitted = {data.req_id for data in output.scheduled_new_reqs} | set(
            output.scheduled_cached_reqs.resumed_req_ids
        )
        for name in admitted:
            if self.here[name].scheduled_ns < 0:
                self.here[name].scheduled_ns = now_ns
        prefills, prefilled = self.sort_prefills(scheduled, admitted)
        tokens, batch = output.total_num_scheduled_tokens, len(scheduler.running)
        kv_tokens = round(scheduler.kv_cache_manager.usage * self.limits.capacity_tokens)
        preempted = seen.running + len(admitted) - batch
        cap = scheduler.max_num_active_reqs
        number = self.pilot.began(now_ns, seen, cap, batch, tokens, kv_tokens, preempted)
        if tokens:
            decodes = [name for name in scheduled if name not in prefills] if self.by_gap else []
            decoding = len(scheduled) - len(prefills)
            self.in_flight.append(_Step(output, number, now_ns, decoding, decodes, prefilled))

    @_never_raises
    def learn(self, output: Any, now_ns: int) -> None:
        """Look at what a step has shown, whose tokens were there at `now_ns` of the clock."""
        now_ns -= self.zero_ns
        step = None
        while self.in_flight and step is None:
            first = self.in_flight.popleft()
            step = first if first.output is output else None
        if step is None:
            return
        for name in step.prefilled:
            if name in self.here and self.here[name].first_ns < 0:
                self.here[name].first_ns = now_ns
        duration = now_ns - (step.start_ns if self.end_ns < 0 else self.end_ns)
        signal = self.mean_gap(step, now_ns) if self.by_gap else duration
        finished, self.over = self.over, []
        for name in self.scheduler.finished_req_ids:
            if name in self.here:
                finished.append(self.leaves(self.here.pop(name), now_ns))
        shown = signal if step.decoding and self.pilot.watches else None
        try:
            self.pilot.learn(outcome_of(step.number, now_ns, duration, step.decoding, shown, finished))
        except Exception as error:
            self.fails(error)
        goes_on = any(self.scheduler.get_request_counts()) and not getattr(self.scheduler, "pause_state", 0)
        self.end_ns = now_ns if goes_on else -1

    @_never_raises
    def ended(self, names: Iterable[str]) -> None:
        """Look at requests that were ended from outside; their last token came with the latest step."""
        for name in names:
            here = self.here.pop(name, None)
            if here is not None and here.first_ns >= 0:
                self.over.append(self.leaves(here, max(self.end_ns, here.first_ns), aborted=True))

    @_never_raises
    def close(self) -> None:
        """End the log."""
        if self.pilot.log is not None:
            self.pilot.log.close()

    def fails(self, error: Exception) -> None:
        """Let the static cap hold, and requests be admitted by arrival; say so, once."""
        if self.pilot.failed:
            return
        self.pilot.failed = True
        self.scheduler.max_num_active_reqs = min(self.pilot.static, self.most)
        if self.binned is not None:
            self.binned.by_arrival()
        self.logger.error(
            "batchcube: the policy failed (%s); from now on up to %d requests run, admitted by arrival",
            " ".join(f"{type(error).__name__}: {error}".split()),
            self.scheduler.max_num_active_reqs,
        )

    # Parts of them ------------------------------------------------------------------------------------------------

    def sort_prefills(self, scheduled: dict[str, int], admitted: set[str]) -> tuple[set[str], list[str]]:
        """Return the requests of a step that prefill, and those that it completes the prefill of."""
        requests = self.scheduler.requests
        prefills, prefilled, left = set(admitted), [], set()
        for name in admitted | self.prefilling:
            request = requests.get(name)
            if name not in scheduled:
                if request is not None and not was_preempted(request):
                    left.add(name)
            elif request.is_prefill_chunk:
                prefills.add(name)
                left.add(name)
            elif name in admitted or scheduled[name] > 1 or not request.num_output_tokens:
                prefills.add(name)
                prefilled.append(name)
            # What is left is the last token of one that was preempted: it decodes.
        self.prefilling = left
        return prefills, prefilled

    def mean_gap(self, step: _Step, now_ns: int) -> int:
        """Return the mean time since the tokens before those of a step's decodes, and keep when these came."""
        last = self.last_token_ns
        gaps = sum(min(now_ns - last.get(name, now_ns), LONGEST_GAP) for name in step.decodes)
        last.update(dict.fromkeys((*step.decodes, *step.prefilled), now_ns))
        return gaps // max(step.decoding, 1)

    def leaves(self, here: _Request, last_ns: int, *, aborted: bool = False) -> int:
        """Log a request that is over; return its tokens p + o."""
        request, place = here.request, here.place
        prompt, output = request.num_prompt_tokens, request.num_output_tokens
        self.last_token_ns.pop(request.request_id, None)
        if self.pilot.log is not None and here.first_ns >= 0:
            times = {
                "queued_ts": place.head.arrival_ns,
                "scheduled_ts": here.scheduled_ns,
                "first_token_ts": here.first_ns,
                "last_token_ts": last_ns,
            }
            self.pilot.log.request(
                {"request_id": request.request_id, "input_toks": prompt, "output_toks": output}
                | {name: at_ns / NANOSECONDS_PER_S for name, at_ns in times.items()}
                | {"preemptions": request.num_preemptions, PREDICTED: place.head.predicted, "bin": place.bin}
                | {PRIORITY: request.priority}
                | ({HASHES: hash_ids(request, self.limits)} if self.limits.settings["enable_prefix_caching"] else {})
                | ({"aborted": True} if aborted else {})
            )
        return int(prompt + output)

    def place_of(self, request: Any) -> Place:
        """Return the place of a request in the queue; one that is not known yet arrives."""
        here = self.here.get(request.request_id)
        if here is None:
            now_ns = self.clock() - self.zero_ns
            late_ns = self.unix_clock() - round(request.arrival_time * NANOSECONDS_PER_S)
            predicted = predicted_tokens(request)
            head = Head(now_ns - min(max(late_ns, 0), now_ns), request.num_prompt_tokens, predicted)
            place = Place(self.arrived, bisect_right(self.inner_edges, predicted), head)
            here = self.here[request.request_id] = _Request(request, place)
            self.arrived += 1
        return here.place

    def looked_at(self) -> tuple[list[int], list[Head]]:
        """Return how many wait in each bin, and the first of each; who was preempted is in none."""
        if self.binned is not None:
            return self.binned.sizes(), self.binned.heads()
        waits = [request for request in self.scheduler.waiting if not was_preempted(request)]
        return [len(waits)], [self.place_of(waits[0]).head if waits else Head(0, 0, 0.0)]


def limits_of(scheduler: Any) -> Limits:
    """Return what one of vLLM's schedulers has room for."""
    config, scheduling, cache = scheduler.vllm_config, scheduler.scheduler_config, scheduler.kv_cache_config
    settings = {name: getattr(scheduling, name) for name in _SCHEDULING if hasattr(scheduling, name)}
    settings |= {
        "token_budget": scheduling.max_num_batched_tokens,
        "prefill": "chunked",
        "scheduling_policy": scheduling.policy,
        "max_model_len": config.model_config.max_model_len,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "num_gpu_blocks": cache.num_blocks,
    }
    # One block is never used, and a token takes a part of one in each group of layers.
    blocks = (cache.num_blocks - 1) // max(len(cache.kv_cache_groups), 1)
    size = scheduler.block_size
    hashed = getattr(scheduler, "hash_block_size", size)
    unlike = () if scheduling.enable_chunked_prefill else (_WHOLE,)
    return Limits(scheduler.max_num_running_reqs, blocks * size, size, settings, hashed, unlike)


def hash_ids(request: Any, limits: Limits) -> list[int]:
    """Return what the full blocks of a prompt are known by, as whole numbers.

    They are the first 63 bits of each hash: of 10^8 different blocks two are the same with a probability of 0.0005.
    """
    blocks = request.num_prompt_tokens // limits.hash_tokens
    return [int.from_bytes(known[:8]) >> 1 for known in request.block_hashes[:blocks]]


def predicted_tokens(request: Any) -> float:
    """Return the predicted output of a request: what it says itself, or the most that it may have."""
    stated: Any = (getattr(request.sampling_params, "extra_args", None) or {}).get(PREDICTED)
    known = isinstance(stated, int | float) and not isinstance(stated, bool) and 0 <= stated < float("inf")
    return float(stated) if known else float(request.max_tokens)


def was_preempted(request: Any) -> bool:
    """Say whether a request that waits was preempted."""
    name: str = request.status.name
    return name == "PREEMPTED"


def _folder(scheduler: Any, log: str) -> Path:
    """Return the folder to write to: one for each engine, where there are several."""
    parallel = scheduler.vllm_config.parallel_config
    several = getattr(parallel, "data_parallel_size", 1) > 1
    return Path(log) / str(parallel.data_parallel_index) if several else Path(log)
