"""The settings of one grid point: workload, policy, server and report, and what each value may be."""

import math
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from batchcube.calibration.coefficients import TOKEN_BUDGET
from batchcube.engine import batches, continuous
from batchcube.engine.batches.model import Completion, ControllerScope, Tail
from batchcube.engine.batches.model import Mode as BatchMode
from batchcube.engine.continuous.fleet import Admission, Routing
from batchcube.engine.continuous.model import (
    BLOCK_TOKENS,
    LARGEST_BLOCK,
    LARGEST_CACHE,
    LOWEST_PRIORITY,
    Prefill,
    SchedulingPolicy,
)
from batchcube.engine.continuous.steps import LARGEST_BUDGET
from batchcube.engine.continuous.ticks import LATEST, TICKS_PER_S
from batchcube.engine.policies.estimates import LARGEST_WINDOW, OBSERVATIONS, SMALLEST_WEIGHT, WEIGHT, Kind
from batchcube.engine.policies.memory import OVERFLOW_PROBABILITY, Rule
from batchcube.engine.policies.service import BatchFactor
from batchcube.engine.policies.sla import ALPHA, DELTA, Signal, Variant
from batchcube.engine.simulation import TIME_WINDOWS, Simulation
from batchcube.engine.ticks import LARGEST_BATCH, LARGEST_REQUEST

from ..workloads.arrivals import ArrivalProcess, Closed
from ..workloads.lengths import LengthDistribution, Mixture
from ..workloads.predictors import Oracle, Predictor
from ..workloads.sessions import Sessions
from ..workloads.settings import Count, Seconds, SecondsOrZero, Settings
from ..workloads.traces import TraceSettings
from .policies import BinChoice, ControllerSettings, ServiceOrder

Mode = Literal[BatchMode, "continuous"]
BINNED = ("multi_bin_only", "multi_bin_dynamic", "continuous")
CONTROLLED = ("dynamic_only", "multi_bin_dynamic", "continuous")

BatchSize = Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# Below a picosecond per token even the longest request, of 2^21 tokens, would take no microsecond.
SecondsPerToken = Annotated[float, Field(ge=1e-12, le=1e6)]
StepSeconds = Annotated[float, Field(ge=0, le=1e6)]
LONGEST_CONTINUOUS_S = LATEST // TICKS_PER_S
"""Longest that continuous batching can be simulated; its clock is a million times finer."""
DRAWN_REQUESTS = 10_000


# Workload -----------------------------------------------------------------------------------------------------------


REQUEST_LIMITS = ("request_sla_s", "ttft_sla_s", "tpot_sla_s")
"""Of a class, or of all requests in the report."""


class WorkloadClass(Settings):
    """A class of requests: of a tenant, of a priority."""

    name: str = Field(min_length=1, max_length=60, description="what the cube calls it")
    share: Annotated[float, Field(gt=0, le=1)] = Field(description="part of all requests; all parts sum to 1")
    lengths: LengthDistribution = Field(description="prompt and output lengths of its requests")
    priority: Annotated[int, Field(ge=-LOWEST_PRIORITY, le=LOWEST_PRIORITY)] = Field(
        default=0, description='smaller first (server.replica.scheduling_policy = "priority")'
    )
    request_sla_s: Seconds | None = Field(default=None, description="latency its requests must not exceed")
    ttft_sla_s: Seconds | None = Field(default=None, description="time to first token they must not exceed")
    tpot_sla_s: Seconds | None = Field(
        default=None, description="mean time between the tokens of a request that they must not exceed"
    )

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.strip() or not value.isprintable():
            raise ValueError("must be printable and not empty")
        return value


class Workload(Settings):
    """Requests of one replication: drawn from distributions, or read from a recorded trace."""

    trace: TraceSettings | None = Field(default=None, description="recorded trace, instead of arrivals and lengths")
    requests: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default_factory=lambda beside: DRAWN_REQUESTS if beside.get("trace") is None else None,
        description=f"requests per replication; {DRAWN_REQUESTS} when drawn, the whole file when recorded",
    )
    arrivals: ArrivalProcess | None = Field(default=None, description="arrival process")
    lengths: LengthDistribution | None = Field(default=None, description="prompt and output lengths, or service times")
    classes: Annotated[tuple[WorkloadClass, ...], Field(strict=False)] | None = Field(
        default=None, description="classes of requests, instead of lengths (mode continuous)"
    )
    sessions: Sessions | None = Field(
        default=None, description="requests are turns of sessions, which arrivals are of (mode continuous)"
    )
    predictor: Predictor = Field(
        default_factory=lambda: Oracle(kind="oracle"), description="what the scheduler believes a length to be"
    )

    @property
    def in_seconds(self) -> bool:
        """Whether the workload draws service times in seconds instead of tokens."""
        return getattr(self.lengths, "unit", "tokens") == "seconds"

    @property
    def drawn_lengths(self) -> LengthDistribution | None:
        """What lengths are drawn from: with classes a mixture of theirs; None where a recorded trace has them."""
        if self.classes is None:
            return self.lengths
        shares = tuple(one.share for one in self.classes)
        # What does not go together is refused by the rules, in words of the classes.
        return Mixture.model_construct(
            distribution="mixture", weights=shares, components=tuple(one.lengths for one in self.classes)
        )

    @property
    def waits(self) -> bool:
        """Whether requests wait for answers to others, so that arrivals depend on the service."""
        return self.sessions is not None or isinstance(self.arrivals, Closed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(one.name for one in self.classes or ())

    @property
    def class_paths(self) -> tuple[str, ...]:
        """Where the lengths of each class are said."""
        return tuple(f"workload.classes[{place}].lengths" for place in range(len(self.classes or ())))


# Policy -------------------------------------------------------------------------------------------------------------


class Edges(Settings):
    """Where the bins are cut."""

    kind: Literal["equal_mass", "uniform", "exponential", "explicit"] = Field(
        default="equal_mass", description="quantiles of a sample, equal widths, Lemma A.1 of [MB], or given values"
    )
    sample: Literal["whole", "prefix"] | None = Field(
        default=None, description="recorded trace: requests the edges see"
    )
    prefix_requests: Count | None = Field(default=None, description="first requests the edges see (sample = prefix)")
    sample_size: Annotated[int, Field(ge=2, le=10_000_000)] = Field(
        default=100_000, description="size of the sample drawn apart from the replications (drawn workload)"
    )
    values: Annotated[tuple[float, ...], Field(strict=False, min_length=2)] | None = Field(
        default=None, description="bins + 1 increasing edges (kind = explicit)"
    )


class MemorySettings(Settings):
    """Memory bound on the batch size: Algorithm 1 of [DB]."""

    rule: Rule = Field(default="exact", description="form of the bound")
    capacity_tokens: Annotated[float, Field(gt=0, le=1e12)] | None = Field(default=None, description="tokens that fit")
    max_bytes: Annotated[float, Field(gt=0)] | None = Field(default=None, description="memory of the device")
    model_bytes: Annotated[float, Field(ge=0)] | None = Field(default=None, description="memory the model takes")
    kv_bytes_per_token: Annotated[float, Field(gt=0)] | None = Field(default=None, description="KV cache of one token")
    overflow_probability: Fraction = Field(
        default=OVERFLOW_PROBABILITY, description="allowed probability that a batch does not fit"
    )
    margin_tokens: Annotated[float, Field(ge=0, le=1e12)] | None = Field(
        default=None, description="reserve (rule = margin)"
    )
    margin_fraction: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="reserve as a part of the capacity (rule = margin)"
    )

    @property
    def in_bytes(self) -> bool:
        """Whether the capacity follows from all three numbers of bytes."""
        return None not in (self.max_bytes, self.model_bytes, self.kv_bytes_per_token)

    @property
    def tokens(self) -> float:
        """Token capacity η of the device."""
        if self.capacity_tokens is not None:
            return self.capacity_tokens
        assert self.max_bytes is not None
        assert self.model_bytes is not None
        assert self.kv_bytes_per_token is not None
        return (self.max_bytes - self.model_bytes) / self.kv_bytes_per_token

    def margin(self, capacity_tokens: float) -> float:
        """Return the constant reserve L0 in tokens; 0 unless the rule is ``margin``."""
        if self.margin_tokens is not None:
            return self.margin_tokens
        return 0.0 if self.margin_fraction is None else self.margin_fraction * capacity_tokens


class SlaSettings(Settings):
    """Latency feedback on the batch size: Algorithm 2 of [DB]."""

    variant: Variant = Field(default="paper", description="update rule of the controller")
    target_s: Seconds = Field(description="latency the controller steers to")
    tolerance_s: SecondsOrZero = Field(description="dead band on each side of the target")
    alpha: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=ALPHA, description="least width of the search (paper)"
    )
    delta: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=DELTA, description="step that widens the search (paper)"
    )
    signal: Signal = Field(
        default="tbt",
        description="latency the controller observes: of a token, of the batch, of its requests; mode continuous: of a "
        "decode step (tbt), or between two tokens, steps of prefills between them included (token_gap)",
    )


class Estimates(Settings):
    """Running averages the controllers see."""

    kind: Kind = Field(default="ema", description="exponential average, or mean of the last observations")
    weight: Annotated[float, Field(ge=SMALLEST_WEIGHT, le=1)] = Field(
        default=WEIGHT, description="weight of the newest observation (ema)"
    )
    observations: Annotated[int, Field(ge=1, le=LARGEST_WINDOW)] = Field(
        default=OBSERVATIONS, description="observations averaged (window)"
    )


class PolicySettings(Settings):
    """How batches are formed."""

    mode: Mode = Field(description="batching mode")
    bins: Annotated[int, Field(ge=1, le=10_000)] = Field(default=1, description="number of length bins")
    batch_size: BatchSize | None = Field(default=None, description="requests in a batch (fixed-size modes)")
    smallest_batch: BatchSize = Field(default=1, description="fewest requests of a batch, where a controller chooses")
    largest_batch: BatchSize | None = Field(
        default=None,
        description="most requests of a batch; continuous: that run at once (max_num_seqs), the static cap",
    )
    max_wait_s: Seconds | None = Field(
        default=None, description="oldest request's wait after which its bin forms a batch"
    )
    service_order: ServiceOrder = Field(
        default="first_formed", description="order of batches; a table for an order of your own"
    )
    tail: Tail = Field(default="flush", description="what becomes of batches unfilled at the end")
    bin_choice: BinChoice = Field(
        default="oldest_head",
        description="bin a free server takes from, or a replica admits from; a table for an order of your own",
    )
    admission: Admission = Field(
        default="fifo", description="whom a replica admits: the oldest, or requests of the bin being served first"
    )
    controller_scope: ControllerScope = Field(default="per_bin", description="one controller per bin, or one")
    edges: Edges = Field(default=Edges(), description="where the bins are cut")
    memory: MemorySettings | None = Field(default=None, description="memory bound")
    sla: SlaSettings | None = Field(default=None, description="latency controller")
    controller: ControllerSettings | None = Field(
        default=None, description="a controller of your own; the smallest bound of all holds"
    )
    estimates: Estimates = Field(default=Estimates(), description="running averages of the controllers")


# Server -------------------------------------------------------------------------------------------------------------


class _TokenLaw(Settings):
    """A law of the longest request of a batch."""

    length: Literal["output", "total"] = Field(default="output", description="tokens that count")


class _Formula(_TokenLaw):
    """A law with a time that a batch takes before its first token."""

    a0_s: SecondsOrZero | None = Field(
        default=None,
        description="time of a batch before its first token; left out: unknown, counts as 0",
    )


class ConstantLaw(_Formula):
    """T = a0 + a1 L."""

    law: Literal["constant"]
    a1_s_per_token: SecondsPerToken = Field(description="time per token of the longest request")


class GrowingLaw(_Formula):
    """T = a0 + a1 L h(b), with h growing in the batch size b."""

    law: Literal["linear", "saturating", "power"]
    a1_s_per_token: SecondsPerToken = Field(description="time per token of a batch of one")
    gamma: Annotated[float, Field(ge=0, le=100)] = Field(description="growth with the batch size")


class TableLaw(_TokenLaw):
    """T interpolated in a measured table of (batch size, length)."""

    law: Literal["table"]
    path: str = Field(min_length=1, description="measured table; relative to the specification")


class CoefficientsLaw(Settings):
    """T from calibrated coefficients: measured ones that come with the package, or a file of `calibrate fit`."""

    law: Literal["coefficients"] = "coefficients"
    coefficients: str = Field(
        min_length=1,
        description="calibration by its name (batchcube calibrate list), or a .json file relative to the specification",
    )
    h: Literal["chosen", BatchFactor, "table"] = Field(
        default="chosen",
        description="growth with the batch size: chosen by cross-validation, one of the laws, or the measured table",
    )
    prompt_tokens: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="measured prompt length whose times are taken; the file's default when left out"
    )
    draw: bool = Field(
        default=False, description="draw coefficients for every replication from what the calibration leaves open"
    )

    @field_validator("coefficients")
    @classmethod
    def _known(cls, value: str) -> str:
        from batchcube.calibration.coefficients import locate

        locate(value)
        return value


class GivenLaw(Settings):
    """T = the longest of the service times the workload draws in seconds."""

    law: Literal["given"]


class DecodeSettings(Settings):
    """Steps of decodes at some numbers of requests, linear between them and beyond the last."""

    requests: Annotated[tuple[int, ...], Field(strict=False)] = Field(
        description="decoding requests of each node, increasing from 0"
    )
    s: Annotated[tuple[StepSeconds, ...], Field(strict=False)] = Field(
        description="time of a step at each, but for the KV tokens that it reads; never falling"
    )
    s_per_kv_token: Annotated[tuple[StepSeconds, ...], Field(strict=False)] = Field(
        description="time per KV token that decodes read, at each"
    )


class PrefillSettings(Settings):
    """Seconds of tokens, linear between nodes and beyond the last; prefills add what is behind those that decode."""

    tokens: Annotated[tuple[int, ...], Field(strict=False)] = Field(
        description="tokens of each node, increasing from 0"
    )
    s: Annotated[tuple[StepSeconds, ...], Field(strict=False)] = Field(
        description="time that they add at each, from 0 on; never falling"
    )


class StepsLaw(Settings):
    """Time of one step of continuous batching: c0 + c1 b + c2 (KV read) + c3 (prefill) + c4 (prefill attention) + c5.

    A term that is left out counts as 0 but is unknown: what rests on it is refused or marked. 0 says it costs nothing;
    c5, which only steps with a prefill take, is 0 unless it is given. Tables stand in place of c0 to c2, and of c3.
    """

    law: Literal["steps"]
    c0_s: StepSeconds | None = Field(
        default=None, description="time of a step, whatever it holds; needed without decode"
    )
    c1_s_per_request: StepSeconds | None = Field(default=None, description="time per decoding request")
    c2_s_per_kv_token: StepSeconds | None = Field(default=None, description="time per KV token that decodes read")
    c3_s_per_prefill_token: StepSeconds | None = Field(default=None, description="time per prefilled token")
    c4_s_per_prefill_attention: StepSeconds | None = Field(
        default=None, description="time per prefilled token and token of its context"
    )
    c5_s_per_prefill_step: StepSeconds = Field(default=0.0, description="time of a step with any prefill, beside that")
    decode: DecodeSettings | None = Field(
        default=None, description="steps of decodes as a table over requests, in place of c0 to c2"
    )
    prefill: PrefillSettings | None = Field(
        default=None, description="prefills as a table over their tokens, in place of c3"
    )


Service = Annotated[
    ConstantLaw | GrowingLaw | TableLaw | CoefficientsLaw | GivenLaw | StepsLaw, Field(discriminator="law")
]


class ReplicaSettings(Settings):
    """What one replica has room for under continuous batching."""

    kv_capacity_tokens: Annotated[int, Field(ge=1, le=LARGEST_CACHE)] | None = Field(
        default=None, description="usable tokens of the KV cache: vLLM's less one block; or give num_gpu_blocks"
    )
    num_gpu_blocks: Annotated[int, Field(ge=2, le=LARGEST_CACHE // LARGEST_BLOCK)] | None = Field(
        default=None, description="blocks of the KV cache as vLLM counts them: one of them is never used"
    )
    token_budget: Annotated[int, Field(ge=1, le=LARGEST_BUDGET)] = Field(
        default=TOKEN_BUDGET, description="most tokens of a step (max_num_batched_tokens), a decode counting one"
    )
    block_tokens: Annotated[int, Field(ge=1, le=LARGEST_BLOCK)] = Field(
        default=BLOCK_TOKENS, description="tokens of a block of the KV cache"
    )
    prefill: Prefill = Field(
        default="chunked", description="prefills share steps with decodes, or have steps of their own"
    )
    scheduler_reserve_full_isl: bool = Field(
        default=True, description="a request is admitted only if its whole prefill fits the free blocks, not one chunk"
    )
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=LARGEST_REQUEST)] = Field(
        default=0, description="most tokens of one prefill in a step, unless it is alone; 0: no limit"
    )
    long_prefill_token_threshold_adaptive: bool = Field(
        default=False, description="the threshold is at least token_budget over the requests that wait or run"
    )
    max_num_active_seqs: BatchSize | None = Field(
        default=None, description="requests that may run when one is admitted; policy.largest_batch when left out"
    )
    max_model_len: Annotated[int, Field(ge=2, le=LARGEST_REQUEST)] | None = Field(
        default=None, description="tokens at which an answer ends, prompt included; prompts must be shorter"
    )
    scheduling_policy: SchedulingPolicy = Field(
        default="fcfs", description="who is admitted first and preempted last: by arrival, or by priority"
    )
    async_scheduling: bool = Field(
        default=False, description="a step is scheduled when the one before begins, not when it has ended"
    )

    @property
    def capacity(self) -> str:
        """The setting that says what the KV cache holds."""
        return "kv_capacity_tokens" if self.num_gpu_blocks is None else "num_gpu_blocks"

    enable_prefix_caching: bool = Field(
        default=False, description="full blocks are found again by what is in them; vLLM's default is true"
    )

    @property
    def held_tokens(self) -> int:
        """Tokens that the whole blocks of the KV cache hold."""
        if self.num_gpu_blocks is not None:
            return (self.num_gpu_blocks - 1) * self.block_tokens
        return (self.kv_capacity_tokens or 0) // self.block_tokens * self.block_tokens


class Server(Settings):
    """What runs a batch, and how long it takes."""

    servers: int | Literal["infinite"] = Field(
        default=1, description="identical servers; continuous: replicas of the engine"
    )
    completion: Completion = Field(default="batch", description="when a request of a batch is done")
    routing: Routing = Field(default="round_robin", description="replica an arriving request goes to (mode continuous)")
    lockstep: bool = Field(
        default=False, description="all replicas step at once, as engines of a model with experts do (mode continuous)"
    )
    replica: ReplicaSettings | None = Field(
        default=None,
        description="limits of a replica (mode continuous); what is left out of it, of servers, routing, lockstep "
        "and policy.largest_batch is as coefficients know it of their server",
    )
    service: Service = Field(description="time a batch takes, or a step of continuous batching")

    @model_validator(mode="before")
    @classmethod
    def _coefficients_are_a_law(cls, data: Any) -> Any:
        """Take ``service = { coefficients = NAME }`` for the law that it is."""
        service = data.get("service") if isinstance(data, dict) else None
        if isinstance(service, dict) and "coefficients" in service and "law" not in service:
            return {**data, "service": {**service, "law": "coefficients"}}
        return data

    @field_validator("servers", mode="before")
    @classmethod
    def _servers(cls, value: Any) -> Any:
        if value == "infinite" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000):
            return value
        raise ValueError('must be a whole number from 1 to 100000, or "infinite"')


# Report -------------------------------------------------------------------------------------------------------------


class Report(Settings):
    """What is measured."""

    warmup_requests: Annotated[int, Field(ge=0, le=2**40)] | None = Field(
        default=None, description="first requests left out"
    )
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] | None = Field(default=None, description="first part left out")
    request_sla_s: Seconds | None = Field(default=None, description="latency a request must not exceed")
    ttft_sla_s: Seconds | None = Field(default=None, description="time to first token it must not exceed")
    tpot_sla_s: Seconds | None = Field(
        default=None, description="mean time between the tokens of a request that it must not exceed"
    )
    token_sla_s: Seconds | None = Field(default=None, description="time between tokens a request must not exceed")
    memory_capacity_tokens: Annotated[float, Field(gt=0, le=1e12)] | None = Field(
        default=None, description="capacity whose overflows are counted where policy.memory does not set one"
    )
    windows: Annotated[int, Field(ge=1, le=100_000)] = Field(default=TIME_WINDOWS, description="equal time windows")
    horizon_s: Seconds | None = Field(
        default=None,
        description="span of the windows; the nominal span of the arrivals, or of the work, when left out",
    )
    histograms: bool = Field(
        default=True, description="keep the histograms of every replication: of latency; continuous: and of token gaps"
    )

    def warmup_of(self, count: int) -> int:
        """Return how many of so many requests are the warm-up: a fraction is the decimal number that is written."""
        return self.warmup_requests or math.floor(Decimal(str(self.warmup_fraction or 0.0)) * count)


class Point(NamedTuple):
    """Everything that is set at one point of the grid."""

    workload: Workload
    policy: PolicySettings
    server: Server
    report: Report

    @property
    def simulation(self) -> Simulation[Any]:
        """What its mode is simulated by: whole batches, or single steps of an engine."""
        return continuous if self.policy.mode == "continuous" else batches


def caches_prefixes(point: Point) -> bool:
    """Say whether blocks of the KV cache are found again by what is in them."""
    replica = point.server.replica
    return point.policy.mode == "continuous" and replica is not None and replica.enable_prefix_caching


def goes_by_priority(point: Point) -> bool:
    """Say whether priorities decide who is admitted first and preempted last."""
    replica = point.server.replica
    return point.policy.mode == "continuous" and replica is not None and replica.scheduling_policy == "priority"


def draws_service(point: Point) -> bool:
    """Say whether every replication of a point has service coefficients of its own."""
    service = point.server.service
    return isinstance(service, CoefficientsLaw) and service.draw


SECTIONS: dict[str, type[Settings]] = {
    "workload": Workload,
    "policy": PolicySettings,
    "server": Server,
    "report": Report,
}
