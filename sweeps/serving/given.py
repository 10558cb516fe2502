"""What a server is told to do: a point of a sweep, with the limits that the server itself has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from batchcube.engine import continuous
from batchcube.engine.policies.target import Control
from batchcube.errors import InputError, found_in
from batchcube.results.provenance import batchcube_version

from ..run.preparing import prepare
from ..run.setups import build_control
from ..run.single import point_at
from ..spec.document import Sweep
from ..spec.grid import Grid
from ..spec.messages import mistakes, show_value
from ..spec.settings import Point, PolicySettings, ReplicaSettings
from ..workloads.settings import FloatArray, Settings

PREDICTED = "predicted_tokens"
"""What a request may say of its answer, in `SamplingParams.extra_args` (`vllm_xargs` over HTTP); its name in a log."""
TABLES = ("policy", "server", "report")
"""Of a specification, what a log keeps."""


class Options(Settings):
    """What a server is given of batchcube."""

    spec: str = Field(min_length=1, description="specification: a TOML file, or a preset by its name")
    set: dict[str, Any] = Field(default_factory=dict, description="settings that stand over those there: {path: value}")
    at: dict[str, Any] = Field(default_factory=dict, description="point of a sweep with axes: {axis: value}")
    log: str | None = Field(default=None, min_length=1, description="folder to log to; none by default")


class Limits(NamedTuple):
    """What a server has room for."""

    most_running: int
    """max_num_seqs."""
    capacity_tokens: int
    """Of the KV cache, all usable."""
    block_tokens: int
    settings: Mapping[str, Any]
    """Its other settings, by their names in `server.replica`."""
    hash_tokens: int
    """Of a block that it knows by its hash."""
    not_simulated: Sequence[str] = ()
    """What it does as no simulation does, in words."""


class Given(NamedTuple):
    """A point of a sweep, as a server runs it."""

    sweep: Sweep
    point: Point
    limits: Limits
    control: Control
    edges: FloatArray
    """(bin + 1,) of predicted lengths."""
    by_bin: bool
    bin_choice: Any
    """Settings of the order in which bins are served."""
    differs: tuple[str, ...]
    """Where the server is another one than the specification says, in words."""

    @property
    def bins(self) -> int:
        """Bins that requests wait in; 1 where they wait in one queue."""
        return len(self.edges) - 1 if self.by_bin else 1

    def about(self, vllm_version: str) -> dict[str, Any]:
        """Return what the log says of the server, enough to decide again, and to simulate it: see `control_of`."""
        tables = {name: settings.model_dump(mode="json", exclude_unset=True) for name, settings in self._tables()}
        return {
            "batchcube_version": batchcube_version(),
            "vllm_version": vllm_version,
            "specification": self.sweep.source,
            **tables,
            "limits": self.limits._asdict(),
            "edges": self.edges.tolist(),
            "bins": self.bins,
            "prior_tokens": float(self.control.prior_tokens[0]),
            "prior_squares": float(self.control.prior_squares[0]),
            "differs": list(self.differs),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _tables(self) -> Iterator[tuple[str, Settings]]:
        return ((name, getattr(self.point, name)) for name in TABLES)


def read_options(given: object, where: str) -> Options:
    """Read what a server is given, named `where` in messages; InputError where it is nothing, or no options."""
    if given is None:
        raise InputError("no specification is given", file=where, allowed='must hold {"batchcube": {"spec": FILE}}')
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        raise mistakes(Options, given, error, ("batchcube",))[0].error(where) from None


def make_given(options: Options, limits: Limits) -> Given:
    """Read a specification for a server with these limits.

    The capacity that Algorithm 1 works with is the server's. Raises InputError for a specification that is none, a
    point that it does not have, one without continuous batching, and a cap that the server does not reach.
    """
    sweep = Sweep.from_toml(options.spec, options.set)
    point = point_at(sweep, options.at)
    policy, server = point.policy, point.server
    if policy.mode != "continuous":
        text = 'only "continuous" can run inside a server'
        raise InputError(text, file=sweep.source, path="policy.mode", value=show_value(policy.mode))
    assert policy.largest_batch is not None
    assert server.replica is not None
    if policy.largest_batch > limits.most_running:
        raise InputError(
            f"must be at most {limits.most_running}, the server's max_num_seqs",
            file=sweep.source,
            path="policy.largest_batch",
            value=policy.largest_batch,
        )
    planned = prepare(replace(sweep, grid=Grid((), (point,)))).points[0]
    assert isinstance(planned.setup, continuous.Setup)
    simulated, fleet = planned.setup.replica.control, planned.setup.fleet
    beliefs = simulated.prior_tokens, simulated.prior_squares
    with found_in(file=sweep.source):
        control = build_control(policy, policy.largest_batch, beliefs, float(limits.capacity_tokens))
    differs = tuple(_differences(server.replica, limits))
    return Given(sweep, point, limits, control, planned.edges, fleet.by_bin, fleet.bin_choice, differs)


def control_of(about: Mapping[str, Any]) -> Control:
    """Return the controllers that a log says were at work; policies of one's own must be registered."""
    policy = PolicySettings.model_validate(about["policy"])
    assert policy.largest_batch is not None
    beliefs = np.array([about["prior_tokens"]]), np.array([about["prior_squares"]])
    return build_control(policy, policy.largest_batch, beliefs, float(about["limits"]["capacity_tokens"]))


def _differences(replica: ReplicaSettings, limits: Limits) -> list[str]:
    """Say which settings of a replica the server has otherwise."""
    own = {**limits.settings, "kv_capacity_tokens": limits.capacity_tokens, "block_tokens": limits.block_tokens}
    said = []
    for name in ReplicaSettings.model_fields:
        if name in own and (stated := getattr(replica, name)) is not None and stated != own[name]:
            said.append(f"{name} = {show_value(own[name])}, not {show_value(stated)}")
    return said
