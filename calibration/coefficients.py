"""Coefficients as a file: the laws fitted to one system, their covariance, what was measured with what, in JSON.

A sweep names such a file (``service = { coefficients = "qwen3-0.6b-cpu-vllm" }``). The shipped ones lie beside this
module; each says in `label` whether this package measured it or somebody published it.
"""

import hashlib
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from batchcube.documents import parse_json, read_file, require_regular
from batchcube.engine.continuous.fleet import Routing
from batchcube.engine.continuous.model import BLOCK_TOKENS, Prefill
from batchcube.engine.continuous.steps import TABLED, table_problems
from batchcube.engine.policies.service import BatchFactor
from batchcube.errors import InputError, did_you_mean, found_in, printable

from .units import require_seconds

Floats = NDArray[np.float64]

SHIPPED = Path(__file__).parent / "shipped"
LARGEST_FILE = 10_000_000
"""Bytes; the largest of those that come with the package has 20,000."""
LONGEST_TEXT = 2000
MOST_NODES = 1000
"""Nodes of a table."""
MOST_RUNNING = 256
"""Requests that run at once unless it is said, max_num_seqs: as vLLM takes on GPUs below 70 GiB and on A100."""
TOKEN_BUDGET = 2048
"""Tokens of a step unless it is said, max_num_batched_tokens: as vLLM's server takes on the same."""


def _one_line(text: str) -> str:
    """Return a text on one line: escape sequences in somebody's title are not for terminals."""
    if len(text) > LONGEST_TEXT:
        raise InputError(f"must have at most {LONGEST_TEXT} characters")
    return printable(text)


# Beyond these limits numbers are no times of anything, and sums and squares of them run out of floats.
Text = Annotated[str, AfterValidator(_one_line)]
Texts = Annotated[list[Text], Field(max_length=100)]
Count = Annotated[int, Field(ge=0, le=2**53)]
AtLeastOne = Annotated[int, Field(ge=1, le=2**53)]
NonNegative = Annotated[float, Field(ge=0, le=1e12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Element = Annotated[float, Field(ge=-1e24, le=1e24)]
# What fits report of themselves knows no such limit.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# As in a specification.
Seconds = Annotated[float, Field(ge=0, le=1e6)]
Label = Literal["measured", "literature", "tables"]
Uncertain = Literal[
    "c0_s",
    "c1_s_per_request",
    "c2_s_per_kv_token",
    "c3_s_per_prefill_token",
    "c4_s_per_prefill_attention",
    "c5_s_per_prefill_step",
    "decode",
    "prefill",
    "speed",
    "bend",
    "knee",
    "client",
]
UNCERTAIN: tuple[Uncertain, ...] = get_args(Uncertain)
"""What of a step law may be off: its terms, its tables, all of it, how far tables of both bend, and what a client's
clock adds beside it."""
BENDS_WITHIN = 16.0
"""Decodes over which a bend comes: 1 - exp(-decodes / 16) of it is there, as of many experts in use."""
KNEE_TOKENS = 256.0
"""Prefill tokens over which a knee comes: few pass while weights are read, many take as long as each takes."""
Range = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FitQuality(_Part):
    """How well a law follows its measurements; all but R2 are relative."""

    measurements: Count
    r_squared: Finite | None
    rms_residual: Error | None
    worst_residual: Finite | None
    worst_at: Text = Field(default="", description="the cell with the worst residual")
    leave_one_out_rms: Error | None
    leave_one_size_out_rms: Error | None = Field(
        description="of batch sizes between the smallest and the largest, each predicted from the others"
    )


class BatchCoefficients(_Part):
    """T(b, L) = a0 + a1 * L * h(b), L in output tokens."""

    h: BatchFactor
    a0_s: Seconds
    a1_s_per_token: Annotated[float, Field(gt=0, le=1e6)]
    gamma: Annotated[float, Field(ge=0, le=100)]
    standard_errors: Annotated[list[NonNegative | None], Field(min_length=3, max_length=3)] = Field(
        description="of a0_s, a1_s_per_token, gamma; null where one was held at a limit or nothing is known of it"
    )
    covariance: (
        Annotated[list[Annotated[list[Element], Field(min_length=3, max_length=3)]], Field(min_length=3, max_length=3)]
        | None
    ) = Field(default=None, description="3 x 3 over a0_s, a1_s_per_token, gamma; null where nothing is known of it")
    degrees_of_freedom: Count
    quality: FitQuality

    @field_validator("covariance")
    @classmethod
    def _can_be_drawn(cls, value: list[list[float]] | None) -> list[list[float]] | None:
        if value is not None:
            correlation = correlation_of(np.array(value))
            least = np.linalg.eigvalsh(correlation).min() if np.isfinite(correlation).all() else -np.inf
            if least < -1e-6 or np.abs(correlation - correlation.T).max() > 1e-6:
                raise ValueError("must be symmetric and have no negative eigenvalue")
        return value


class BatchTable(_Part):
    """Mean seconds of whole batches on the measured grid, interpolated bilinearly."""

    batch_sizes: Annotated[list[AtLeastOne], Field(min_length=2)]
    output_tokens: Annotated[list[AtLeastOne], Field(min_length=2)]
    seconds: list[list[Positive]]
    leave_one_size_out_rms: Error | None = Field(
        description="relative error of batch sizes interpolated between their neighbours, over all lengths"
    )

    @model_validator(mode="after")
    def _complete(self) -> "BatchTable":
        rows = {len(row) for row in self.seconds}
        if len(self.seconds) != len(self.batch_sizes) or rows != {len(self.output_tokens)}:
            raise ValueError("seconds must have a row for each batch size and a column for each length")
        for name in ("batch_sizes", "output_tokens"):
            values = getattr(self, name)
            if values != sorted(set(values)):
                raise ValueError(f"{name} must increase")
        if any(b < a for row in self.seconds for a, b in pairwise(row)):
            raise ValueError("seconds must not fall with the length")
        return self


class BatchLaws(_Part):
    """The laws of whole batches at one prompt length, and the one that predicts left-out cells best."""

    prompt_tokens: NonNegative | None = Field(description="null where it is not known")
    from_steps: bool = Field(description="made of decode steps: the prefill is not in the times")
    batch_sizes: Range | None = Field(description="smallest and largest that was measured; null where not known")
    output_tokens: Range | None = Field(description="shortest and longest that was measured; null for steps")
    chosen: BatchFactor
    laws: dict[BatchFactor, BatchCoefficients]
    table: BatchTable | None = None

    @model_validator(mode="after")
    def _has_chosen(self) -> "BatchLaws":
        if self.chosen not in self.laws:
            raise ValueError(f"chosen = {self.chosen}: laws has none of that name")
        return self


class DecodeNodes(_Part):
    """Steps of decodes at some numbers of requests, see `DecodeTable` of the engine."""

    requests: Annotated[list[Count], Field(max_length=MOST_NODES)]
    s: Annotated[list[Seconds], Field(max_length=MOST_NODES)]
    s_per_kv_token: Annotated[list[Seconds], Field(max_length=MOST_NODES)]


class PrefillNodes(_Part):
    """What prefills add to a step at some numbers of tokens, see `PrefillTable` of the engine."""

    tokens: Annotated[list[Count], Field(max_length=MOST_NODES)]
    s: Annotated[list[Seconds], Field(max_length=MOST_NODES)]


class StepErrors(_Part):
    """What is left open of a step law, in some ways that it may be off."""

    of: Annotated[list[Uncertain], Field(max_length=len(UNCERTAIN))] = Field(
        description="what may be off: seconds of a term, which come on top of a table that stands in its place; or, as "
        "a fraction, all of a table (decode, prefill) or of the law (speed); or seconds by which decodes bend, or "
        "that a client's clock adds"
    )
    covariance: list[list[Element]] = Field(description="of these, a row for each")
    degrees_of_freedom: Count

    @model_validator(mode="after")
    def _square(self) -> "StepErrors":
        if len(set(self.of)) != len(self.of):
            raise ValueError("of must not say anything twice")
        if [len(row) for row in self.covariance] != [len(self.of)] * len(self.of):
            raise ValueError(f"covariance must be {len(self.of)} x {len(self.of)}")
        return self


class StepRanges(_Part):
    """The steps that a law was made from: the least and the most of each."""

    decodes: Range | None = Field(description="requests that decode")
    context_tokens: Range | None = Field(description="that a decode reads")
    prefill_tokens: Range | None = Field(description="of a step")


class StepCoefficients(_Part):
    """Seconds of one engine step; a term that nothing measured is null, unless a table stands in its place."""

    c0_s: Seconds | None = None
    c1_s_per_request: Seconds | None = None
    c2_s_per_kv_token: Seconds | None = None
    c3_s_per_prefill_token: Seconds | None = None
    c4_s_per_prefill_attention: Seconds | None = None
    c5_s_per_prefill_step: Seconds = 0.0
    decode: DecodeNodes | None = Field(default=None, description="in place of c0 to c2")
    prefill: PrefillNodes | None = Field(default=None, description="in place of c3")
    errors: StepErrors | None = Field(default=None, description="null where nothing is known of them")
    ranges: StepRanges | None = None
    rms_by_kind: dict[Literal["decode", "prefill", "mixed"], Error] = Field(
        default_factory=dict, description="relative residuals of steps of each kind"
    )
    quality: FitQuality

    @model_validator(mode="after")
    def _whole(self) -> "StepCoefficients":
        for name, terms in TABLED.items():
            table = getattr(self, name)
            if table is None:
                continue
            for path, text in table_problems(table):
                raise ValueError(f"{name}.{'.'.join(map(str, path))} {text}")
            for term in terms:
                if getattr(self, term) is not None:
                    raise ValueError(f"{term} must be null: {name} stands in its place")
        return self

    def standard_error(self, name: str) -> float | None:
        """Return the standard error of a term, or of what else may be off; None where it is not known."""
        if self.errors is None or name not in self.errors.of:
            return None
        at = self.errors.of.index(name)
        return math.sqrt(max(self.errors.covariance[at][at], 0.0))


class KvMemory(_Part):
    """What the KV cache of the model takes, and what room the engine reported."""

    kv_bytes_per_token: AtLeastOne
    model_bytes: Count
    reported_capacity_tokens: Count | None = None


class Raw(_Part):
    """The measurement behind the coefficients."""

    file: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class LoggedServer(_Part):
    """The settings of a server under continuous batching (docs/model.md, section 10); limits are those of a replica."""

    most_running: AtLeastOne = Field(default=MOST_RUNNING, description="requests that may run at once, max_num_seqs")
    token_budget: AtLeastOne = Field(default=TOKEN_BUDGET, description="tokens of one step, max_num_batched_tokens")
    block_tokens: AtLeastOne = BLOCK_TOKENS
    capacity_tokens: AtLeastOne | None = Field(default=None, description="usable tokens of the KV cache")
    num_gpu_blocks: AtLeastOne | None = Field(
        default=None, description="the same in blocks, one of which is never used; both null: never full, or not known"
    )
    prefill: Prefill = "chunked"
    scheduler_reserve_full_isl: bool = True
    long_prefill_token_threshold: Count = 0
    long_prefill_token_threshold_adaptive: bool = False
    max_num_active_seqs: AtLeastOne | None = None
    max_model_len: AtLeastOne | None = None
    async_scheduling: bool = False
    replicas: AtLeastOne = Field(default=1, description="engines behind one endpoint, data_parallel_size")
    routing: Routing = Field(default="least_loaded", description="replica that a request goes to")
    lockstep: bool = Field(default=False, description="all replicas step at once")

    @property
    def held_tokens(self) -> int | None:
        """Tokens that the KV cache of a replica holds, None where it is never full or not known."""
        if self.num_gpu_blocks is not None:
            return (self.num_gpu_blocks - 1) * self.block_tokens
        return self.capacity_tokens


class FoundWay(_Part):
    """A way in which a law may have been off from what was known before its log was read."""

    of: Uncertain
    value: Element = Field(description="how far it is off, as in the errors of a step law")
    standard_error: NonNegative
    known_within: NonNegative = Field(description="standard deviation before the log was read")
    least: Element = Field(description="the least by which the law may be off from itself")


class ToldStep(_Part):
    """A step such as the log has, in words, and what is known of it."""

    what: Text
    s: Seconds
    standard_error_s: NonNegative


class LogRanges(_Part):
    """What a log shows, from the least to the most."""

    running: Range = Field(description="requests at once between first and last token")
    context_tokens: Range = Field(description="of a request")
    prompt_tokens: Range
    requests_per_s: NonNegative | None = Field(description="that came on average; null where all came at once")


class StepScatter(_Part):
    """How far steps were off the law, as fractions, and times to first token beyond that."""

    step: Error = Field(description="standard deviation of one step, independent from step to step")
    drift: Error = Field(description="standard deviation of a speed that stays for some time")
    step_s: Positive
    drift_lasts_s: Range
    ttft_s: NonNegative


class FittedLog(_Part):
    """The request log that a step law was fitted to, by simulating it."""

    requests: AtLeastOne
    fitted_to: AtLeastOne
    rms: dict[Text, Error] = Field(description="residuals of each quantity in units of its mean")
    unsure: Texts = Field(description="ways that the log says little of: what was known before holds")
    together: Annotated[list[Texts], Field(max_length=100)] = Field(
        default_factory=list, description="ways that the log cannot tell apart"
    )
    prior: Text | None = Field(default=None, description="coefficients that were known before")
    found: Annotated[list[FoundWay], Field(max_length=len(UNCERTAIN))] = Field(default_factory=list)
    steps: Annotated[list[ToldStep], Field(max_length=100)] = Field(default_factory=list)
    seen: LogRanges | None = None
    scatter: StepScatter | None = None

    @property
    def client_s(self) -> float:
        """What a client's clock adds to the time to first token; 0 where the clock was the server's."""
        return next((way.value for way in self.found if way.of == "client"), 0.0)

    @property
    def least(self) -> dict[Uncertain, float]:
        """The least that the law may be off by from itself, in each way that was open."""
        return {way.of: min(way.least, 0.0) for way in self.found}


class Plausibility(_Part):
    """What `plausibility.judge` found in the measurement."""

    flags: Texts
    notes: Texts


class Coefficients(_Part):
    """Everything that is known of one system's times."""

    format: Literal[1] = 1
    name: Annotated[Text, Field(min_length=1, max_length=100)]
    label: Label = Field(
        description="measured by this package, published by others (with their citation), or made of somebody's tables"
    )
    title: Text
    source: Text = Field(description="how and where it was measured, or the citation")
    provenance: dict[Text, Text | int | Finite] = Field(default_factory=dict)
    raw: Raw | None = None
    memory: KvMemory | None = None
    default_prompt_tokens: NonNegative | None = None
    batch_laws: list[BatchLaws] = Field(default_factory=list, max_length=100, description="one for each prompt length")
    step_law: StepCoefficients | None = None
    plausibility: Plausibility | None = None
    replica: LoggedServer | None = Field(default=None, description="the settings of the server that was logged")
    log: FittedLog | None = None

    def at_prompt(self, prompt_tokens: float | None) -> BatchLaws:
        """Return the batch laws at a prompt length, the default one when None; InputError naming those there are."""
        if not self.batch_laws:
            raise InputError("hold no law of whole batches", path=f"coefficients {self.name}")
        wanted = self.default_prompt_tokens if prompt_tokens is None else prompt_tokens
        for laws in self.batch_laws:
            if laws.prompt_tokens == wanted:
                return laws
        known = ", ".join(f"{laws.prompt_tokens:g}" for laws in self.batch_laws if laws.prompt_tokens is not None)
        asked = "is not given" if wanted is None else f"= {wanted:g}"
        raise InputError(
            f"must be one of {known}, the prompts that were measured" if known else "its times have no prompts",
            path=f"coefficients {self.name}: prompt_tokens {asked}",
        )

    def require_seconds(self) -> None:
        """Refuse times that must be in another unit than seconds; raises InputError."""
        for at, laws in enumerate(self.batch_laws):
            for h, law in laws.laws.items():
                require_seconds(law, f"batch_laws[{at}].laws.{h}")
        if self.step_law is not None:
            require_seconds(self.step_law, "step_law")

    def text(self) -> str:
        """Return the file's text."""
        return self.model_dump_json(indent=1) + "\n"


def correlation_of(covariance: Floats) -> Floats:
    """Return the correlation of a covariance, which stays as it is where a variance is 0; inf where it is none."""
    scale = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    scale[scale == 0] = 1.0
    with np.errstate(under="ignore", over="ignore"):
        # One after the other: the product of two small ones may be 0.
        correlation: Floats = covariance / scale / scale[:, None]
    return correlation


def is_of_gpus(known: Coefficients) -> bool:
    """Say whether coefficients tell how many GPUs a replica has; of one device, and in tables, a 1 is left out."""
    return bool({"device", "gpu", "tensor_parallel", "pipeline_parallel"} & set(known.provenance))


# Files --------------------------------------------------------------------------------------------------------------


def shipped_names() -> list[str]:
    """Return the names of the coefficients that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.json"))


def locate(name: str | os.PathLike[str]) -> Path:
    """Return the file of shipped coefficients by name, or of a path that ends in .json; InputError when not there."""
    text = os.fspath(name)
    if text.endswith(".json"):
        return Path(os.path.expanduser(text))
    if text not in shipped_names():
        names = shipped_names()
        allowed = did_you_mean(text, names) or "must be a file that ends in .json, or be in batchcube calibrate list"
        raise InputError(f"none of that name; {allowed}", file=f"coefficients {text}")
    return SHIPPED / f"{text}.json"


def read(file: Path) -> bytes:
    """Return the content of a coefficients file; InputError when it cannot be read, or is larger than any is."""
    return read_file(file, LARGEST_FILE)


def parse(data: bytes, source: str) -> Coefficients:
    """Parse a coefficients file.

    Raises InputError for what is no JSON, or too deep, and for times in another unit than seconds, pydantic's
    ValidationError for what is no coefficients file.
    """
    try:
        content = parse_json(data)
    except InputError as error:
        raise InputError(f"{error}, must be a file of coefficients", file=source) from None
    if not isinstance(content, dict):
        raise InputError("is no table, must be a file of coefficients", file=source)
    parsed = Coefficients.model_validate(content)
    with found_in(file=source):
        parsed.require_seconds()
    return parsed


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    require_regular(file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
