"""The laws of how long batches and steps take, built for the engine from settings."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from batchcube.calibration.laws import law_of, unstated_terms
from batchcube.engine.continuous import Law
from batchcube.engine.policies.service import Service, formula, given, measured

from ..spec import service as coefficients
from ..spec.settings import CoefficientsLaw, ConstantLaw, GrowingLaw, Point, Server, StepsLaw, TableLaw
from ..workloads.rows import remembered


def build_service(server: Server, largest_batch: int) -> Service:
    """Build the engine's service law for batches up to ``largest_batch``; raises InputError for a bad table."""
    law = server.service
    if law.law == "given":
        return given(largest_batch=largest_batch)
    if isinstance(law, CoefficientsLaw):
        return coefficients.build(law, largest_batch)
    if isinstance(law, TableLaw):
        table, fitted = _read_table(law.path)
        outside = formula(fitted.a0_s, fitted.a1_s_per_token, fitted.h, fitted.gamma, largest_batch=largest_batch)
        return measured(table.batch_sizes, table.lengths, table.seconds, outside)
    assert not isinstance(law, StepsLaw)
    gamma = law.gamma if isinstance(law, GrowingLaw) else 0.0
    return formula(law.a0_s or 0.0, law.a1_s_per_token, law.law, gamma, largest_batch=largest_batch)


def drawn_service(point: Point, largest_batch: int, rng: np.random.Generator) -> Service:
    """Build a service law with coefficients drawn from what the calibration leaves open."""
    law = point.server.service
    assert isinstance(law, CoefficientsLaw)
    return coefficients.build(law, largest_batch, rng)


def step_law(server: Server) -> Law:
    """Return the law of single steps; raises InputError for coefficients that have none."""
    law = server.service
    if isinstance(law, CoefficientsLaw):
        return coefficients.steps_of(law)
    assert isinstance(law, StepsLaw)
    return law_of(law)


def unmeasured_costs(point: Point) -> tuple[str, ...]:
    """Return what makes the time of a step or batch and is neither measured nor given, by its names in `COSTS`."""
    law = point.server.service
    if isinstance(law, CoefficientsLaw):
        return coefficients.unmeasured(law, steps=point.simulation.STEPWISE)
    if isinstance(law, StepsLaw):
        return unstated_terms(law)
    return ("a0_s",) if isinstance(law, ConstantLaw | GrowingLaw) and law.a0_s is None else ()


def beyond_tables(point: Point, largest_batch: int) -> Iterator[str]:
    """Say where steps may be larger than the tables reach that a specification states of them."""
    law, replica = point.server.service, point.server.replica
    if not isinstance(law, StepsLaw):
        return
    if law.decode is not None and largest_batch > law.decode.requests[-1]:
        yield (
            f"server.service.decode ends at {law.decode.requests[-1]} requests, up to {largest_batch} may run: the "
            "times of larger steps are extrapolated"
        )
    if law.prefill is not None and replica is not None and replica.token_budget > law.prefill.tokens[-1]:
        yield (
            f"server.service.prefill ends at {law.prefill.tokens[-1]} tokens, a step may have {replica.token_budget}: "
            "the times of larger prefills are extrapolated"
        )


def drawn_law(point: Point, rng: np.random.Generator) -> Law:
    """Build a step law with coefficients drawn from what the calibration leaves open."""
    law = point.server.service
    assert isinstance(law, CoefficientsLaw)
    return coefficients.drawn_steps(law, rng)


@remembered(8)
def _read_table(path: str) -> Any:
    from batchcube.calibration.laws import fit_batch_laws
    from batchcube.calibration.tables import read_table

    table = read_table(path)
    b, length = np.meshgrid(table.batch_sizes, table.lengths, indexing="ij")
    chosen, laws = fit_batch_laws(b, length, table.seconds)
    return table, laws[chosen]
