"""A point of the grid at any arrival rate: arrivals that are drawn or recorded are stretched."""

from typing import Any, NamedTuple

from batchcube.errors import InputError

from ..workloads.arrivals import AtRate
from .preparing import PreparedPoint


class Scalable(NamedTuple):
    """A point of the grid at any arrival rate."""

    prepared: PreparedPoint
    natural: float
    """Mean rate of a recorded trace at rate_scale = 1, requests per second; 1 where arrivals are drawn."""
    start: float
    """Rate that the specification sets, requests per second."""

    def at(self, rate: float) -> PreparedPoint:
        """Return the point at a rate; points that share arrivals share them at a common rate."""
        workload = self.prepared.point.workload
        if workload.trace is not None:
            changed: dict[str, Any] = {"trace": workload.trace.model_copy(update={"rate_scale": rate / self.natural})}
        else:
            assert workload.arrivals is not None
            changed = {"arrivals": workload.arrivals.model_copy(update={"rate_per_s": rate})}
        point = self.prepared.point._replace(workload=workload.model_copy(update=changed))
        keys = self.prepared.keys._replace(arrivals=(self.prepared.keys.unit_arrivals, rate))
        return self.prepared._replace(point=point, keys=keys)


def scalable(prepared: PreparedPoint) -> Scalable:
    """Return a point at any rate; raises InputError for a trace whose requests all arrive at once."""
    workload = prepared.point.workload
    if prepared.recorded is None:
        assert isinstance(workload.arrivals, AtRate)  # others are refused before
        return Scalable(prepared, 1.0, workload.arrivals.rate_per_s)
    arrival = prepared.recorded.arrival_s
    span = float(arrival[-1] - arrival[0])
    assert workload.trace is not None
    if not span > 0:
        raise InputError("its requests all arrive at once: there is no rate to scale", file=workload.trace.path)
    natural = (len(arrival) - 1) / span
    return Scalable(prepared, natural, natural * workload.trace.rate_scale)
