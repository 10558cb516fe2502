"""What both kinds of simulation have in common, of whole batches and of single steps: their jobs, and what they offer.

`engine.batches` and `engine.continuous` each are a `Simulation`; `run.py` calls them for jobs of either kind.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray

from batchcube.errors import InputError

from .statistics import Catalogue

Report = dict[str, NDArray[Any]]
"""The variables of a cube by name, leading axis job."""
JOBS_AT_ONCE = 16
"""On a CPU: enough to spread what a call costs, few enough to stop soon and to keep tallies small."""
TIME_WINDOWS = 50
"""Windows of a report unless something else is said."""
AnyJob = TypeVar("AnyJob", bound="Job", contravariant=True)


class Shape(NamedTuple):
    """How large a tally must be to hold a replication."""

    bins: int
    largest_batch: int
    """Of whole batches, or the most requests that run at once."""
    windows: int
    classes: int = 0
    """Of requests; none unless the workload names some."""


class Reporting(NamedTuple):
    """What the report looks at (docs/model.md, section 9)."""

    warmup: int
    """Number of first requests left out."""
    request_sla: int
    """D_request in ticks; NEVER when not set."""
    ttft_sla: int
    """Limit of the time to the first token in ticks; NEVER when not set."""
    tpot_sla: float
    """Limit of the mean time between the tokens of a request in ticks; beyond all times when not set."""
    token_sla: float
    """D_token in ticks; beyond all times when not set."""
    window: int
    """Width of a time window in ticks."""
    windows: int
    """Number of windows, from t = 0 on."""


def reporting_of(
    ticks: Callable[[float | None, str], int],
    between_tokens: Callable[[float | None, str], float],
    *,
    horizon_s: float,
    windows: int = TIME_WINDOWS,
    warmup_requests: int = 0,
    request_sla_s: float | None = None,
    ttft_sla_s: float | None = None,
    tpot_sla_s: float | None = None,
    token_sla_s: float | None = None,
) -> Reporting:
    """Build the report's settings; `windows` equal windows cover [0, horizon_s]. InputError for any out of range.

    A kind of simulation says how seconds become ticks, given with their name, or None for a limit that is not set.
    """
    if windows < 1:
        raise InputError("must be >= 1", path="report.windows", value=windows)
    if warmup_requests < 0:
        raise InputError("must be >= 0", path="report.warmup_requests", value=warmup_requests)
    return Reporting(
        warmup=int(warmup_requests),
        request_sla=ticks(request_sla_s, "request_sla_s"),
        ttft_sla=ticks(ttft_sla_s, "ttft_sla_s"),
        tpot_sla=between_tokens(tpot_sla_s, "tpot_sla_s"),
        token_sla=between_tokens(token_sla_s, "token_sla_s"),
        window=max(1, -(-ticks(horizon_s, "horizon_s") // windows)),
        windows=int(windows),
    )


class Setup(Protocol):
    """Everything but the requests."""

    @property
    def largest_batch(self) -> int:
        """Most requests of a batch, or that run at once."""

    @property
    def windows(self) -> int:
        """Number of time windows of the report."""


class Job(Protocol):
    """One replication to simulate; its type says which kind of simulation it is of."""

    @property
    def setup(self) -> Setup:
        """Everything but the requests."""

    @property
    def shape(self) -> Shape:
        """The shape of its tally."""


class Simulation(Protocol[AnyJob]):
    """A kind of simulation: a module that offers this."""

    NAME: str
    """As messages say it."""
    STEPWISE: bool
    """Whether it goes through single steps of an engine, instead of whole batches."""
    BACKENDS: tuple[str, ...]
    CATALOGUE: Catalogue
    """What it counts and reports."""

    def check(self, job: AnyJob) -> None:
        """Refuse what cannot be simulated without overflow, or does not fit together; raises InputError."""

    def new_records(self, job: AnyJob) -> Any:
        """Return records of nothing."""

    def fill(self, jobs: Sequence[AnyJob], shape: Shape, tally: Any, records: Sequence[Any], backend: str) -> None:
        """Fill empty tallies, leading axis job, and the records of every job if there are any.

        The jobs were checked, and the backend is there. Raises InputError where a clock runs out on the way.
        """

    def summarise(self, tally: Any, jobs: Sequence[AnyJob]) -> Report:
        """Return the report of full tallies; ArithmeticError when conservation is broken."""

    def jobs_at_once(self, job: AnyJob, shape: Shape, backend: str) -> int:
        """Return how many jobs like one are best handed to the front door at once."""
