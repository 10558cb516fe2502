"""Mode continuous with laws of steps from tables and from measured coefficients."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.calibration.coefficients import locate
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.results.labelled import of_single
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.laws import unmeasured_costs
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.service import drawn_steps, load
from batchcube.sweeps.spec.settings import CoefficientsLaw
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import laid
from helpers.step_sweeps import sweep

DOCS = Path(__file__).parents[3] / "docs"


# Tables -------------------------------------------------------------------------------------------------------------

STRAIGHT = {
    "law": "steps",
    "c0_s": 0.02,
    "c1_s_per_request": 1e-3,
    "c2_s_per_kv_token": 1e-6,
    "c3_s_per_prefill_token": 2e-4,
    "c4_s_per_prefill_attention": 0.0,
}
TABLES = {
    "law": "steps",
    "c4_s_per_prefill_attention": 0.0,
    "decode": {"requests": [0, 2, 5], "s": [0.02, 0.022, 0.025], "s_per_kv_token": [1e-6, 1e-6, 1e-6]},
    "prefill": {"tokens": [0, 10, 40], "s": [0.0, 2e-3, 8e-3]},
}


def test_a_straight_law_given_as_tables_makes_the_same_cube_and_says_where_they_end() -> None:
    straight, tables = (run_sweep(sweep(laid(BASE, {"server.service": law}))) for law in (STRAIGHT, TABLES))
    assert not tables["unmeasured_costs"].any()
    for name in tables.data_vars:
        xr.testing.assert_equal(tables[name], straight[name])
    assert "extrapolated" not in straight.attrs["notes"]
    assert "server.service.decode ends at 5 requests, up to 16 may run: the times of larger" in tables.attrs["notes"]
    assert "server.service.prefill ends at 40 tokens, a step may have" in tables.attrs["notes"]


def test_a_table_states_the_terms_that_it_stands_for() -> None:
    few = {name: TABLES[name] for name in ("law", "decode")}
    (point,) = sweep(laid(BASE, {"server.service": few})).grid.points
    assert unmeasured_costs(point) == ("c3_s_per_prefill_token", "c4_s_per_prefill_attention")


def test_drawn_tables_are_scaled_and_shifted_as_their_errors_say(tmp_path: Path) -> None:
    errors = {
        "of": ["c0_s", "speed", "prefill", "c5_s_per_prefill_step"],
        "covariance": np.diag([1e-4**2, 0.02**2, 0.01**2, 1e-4**2]).tolist(),
        "degrees_of_freedom": 1000,
    }
    law = {**{name: TABLES[name] for name in ("decode", "prefill")}, "c5_s_per_prefill_step": 0.01, "errors": errors}

    def bend(content: Any) -> None:
        content["step_law"] = law | {"quality": content["step_law"]["quality"]}

    settings = CoefficientsLaw(coefficients=written(tmp_path / "bent.json", bend), draw=True)
    rng = np.random.default_rng(2)
    laws = [drawn_steps(settings, rng) for _ in range(2000)]
    decode = np.array([law.decode for law in laws]) / TICKS_PER_S
    assert (np.diff(decode, axis=1) >= 0).all()
    near = {"rel": 5 / np.sqrt(2 * 2000)}
    assert decode[:, 5].std() == pytest.approx(np.hypot(0.02 * 0.025, 1e-4), **near)
    prefill = np.array([law.prefill[1] for law in laws]) / TICKS_PER_S
    assert prefill.std() == pytest.approx(2e-3 * np.hypot(0.02, 0.01), **near)
    constant = np.array([law.prefill_step for law in laws]) / TICKS_PER_S
    assert constant.std() == pytest.approx(np.hypot(0.02 * 0.01, 1e-4), **near)
    # One draw of the speed for all of it.
    assert np.corrcoef(decode[:, 5] - decode[:, 2], prefill)[0, 1] == pytest.approx(2 / np.sqrt(5), abs=0.03)
    errors["covariance"][1][1] = 0.3**2
    wide = CoefficientsLaw(coefficients=written(tmp_path / "wide.json", bend), draw=True)
    with pytest.raises(InputError, match=r"speed may be off by 0\.3 of it: draws could be negative"):
        drawn_steps(wide, rng)


# Coefficients -------------------------------------------------------------------------------------------------------

VLLM = {"coefficients": "qwen3-0.6b-cpu-vllm"}
SLOW = laid(BASE, {"workload.arrivals.rate_per_s": 0.2, "server.service": VLLM})


def written(path: Path, change: Callable[[Any], None]) -> str:
    """A file of the shipped coefficients with one thing changed."""
    content = json.loads(locate(VLLM["coefficients"]).read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)


def test_coefficients_give_their_law_of_steps() -> None:
    law = load(VLLM["coefficients"]).step_law
    assert law is not None
    (point,) = prepare(sweep(SLOW)).points
    built = point.setup.replica.law
    assert built.decode[0] == round(law.c0_s * 1e12)
    assert built.prefill_attention == round(law.c4_s_per_prefill_attention * 1e12)
    made = run_sweep(sweep(SLOW))
    notes = made.attrs["notes"]
    assert "step times of qwen3-0.6b-cpu-vllm (measured)" in notes
    assert "neither measured" not in notes
    (kept,) = json.loads(made.attrs["service_coefficients"])[VLLM["coefficients"]]["laws"]
    assert kept == {"asked": "steps", "draw": False, "law": law.model_dump()}
    assert not of_single(made["latency_mean_s"])


def test_what_nothing_measured_and_what_is_extrapolated_is_told() -> None:
    service = {"coefficients": "ml-energy-llama-3.1-8b-h100"}
    tables = laid(BASE, {"server.service": service, "policy.largest_batch": 2000, "server.replica.token_budget": 2048})
    notes = prepare(Sweep.model_validate(tables)).notes
    assert notes[0].startswith("neither measured nor given, counted as 0: c2_s_per_kv_token (KV tokens read), c3_s_per")
    assert any("up to 2000 requests at once" in note and "extrapolated" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "draw", "line"),
    [
        (lambda content: content.pop("step_law"), False, "hold no law of single steps, mode continuous needs it"),
        (
            lambda content: content["step_law"].update(errors=None),
            True,
            "nothing is known of the errors of a step's coefficients",
        ),
        (
            lambda content: content["step_law"]["errors"]["covariance"][0].__setitem__(0, 1.0),
            True,
            "c0_s is less than four of its standard errors: draws could be negative",
        ),
        (
            # A step takes no time but for its requests: their term is then the one that must be known well.
            lambda content: content["step_law"].update(c0_s=None, c1_s_per_request=0.002),
            True,
            "c1_s_per_request is less than four of its standard errors: draws could be negative",
        ),
        (
            lambda content: content["step_law"].update(c4_s_per_prefill_attention=1.3e-12),
            False,
            "step_law.c4_s_per_prefill_attention = 1.3e-12: would be rounded to 1e-12, in whole picoseconds: must be "
            "0, or at least 5e-11, the smallest value that is always kept within 1 %, or whole picoseconds itself",
        ),
    ],
)
def test_coefficients_that_cannot_be_used_are_refused_in_a_line(
    tmp_path: Path, change: Callable[[Any], None], draw: bool, line: str
) -> None:
    file = written(tmp_path / "mine.json", change)
    tables = laid(SLOW, {"server.service": {"coefficients": file, "draw": draw}})
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(tables, "sweep.toml"))
    where = "server.service.draw: " if draw else ""
    assert str(caught.value) == f"sweep.toml: {where}coefficients {file}: {line}"


def test_a_target_below_a_single_request_of_coefficients_is_refused() -> None:
    tables = laid(SLOW, {"policy.sla": {"target_s": 0.07, "tolerance_s": 0.001}})
    with pytest.raises(
        InputError,
        match=r"policy\.sla\.target_s = 0\.07: must be, .* 0\.07998, a decode step .* reads 101\.0 tokens",
    ):
        run_sweep(Sweep.model_validate(tables))


def test_replications_draw_coefficients_of_their_own_and_points_share_them() -> None:
    tables = laid(SLOW, {"server.service": {**VLLM, "draw": True}, "policy.largest_batch": None})
    tables["axes"] = {"cap": {"path": "policy.largest_batch", "values": [4, 16]}}
    checked = sweep(tables)
    prepared = prepare(checked)
    laws = []
    for replication in range(3):
        draws = Draws(checked.seed, replication)
        one, other = (draws.job(point).setup.replica.law for point in prepared.points)
        assert str(one) == str(other)
        laws.append(one)
    assert len({int(law.decode[0]) for law in laws}) == 3
    settings = CoefficientsLaw(**VLLM, draw=True)
    expected = drawn_steps(settings, stream(checked.seed, 2, "coefficients"))
    assert str(laws[2]) == str(expected)
    made = run_sweep(checked)
    assert of_single(made["latency_mean_s"])
    assert "drawn anew for every replication" in made.attrs["notes"]
    fixed = run_sweep(sweep(laid(tables, {"server.service": VLLM})))
    assert (fixed["latency_mean_s"] != made["latency_mean_s"]).all()
    xr.testing.assert_equal(fixed["window_arrivals"], made["window_arrivals"])
    longer = run_sweep(sweep(tables, replications=5), workers=2)
    xr.testing.assert_equal(longer["latency_mean_s"].isel(replication=slice(0, 3)), made["latency_mean_s"])


def test_drawn_coefficients_scatter_as_their_covariance_says() -> None:
    settings = CoefficientsLaw(**VLLM, draw=True)
    law = load(VLLM["coefficients"]).step_law
    assert law is not None
    assert law.errors is not None
    rng = np.random.default_rng(1)
    laws = [drawn_steps(settings, rng) for _ in range(4000)]
    draws = np.array([[law.decode[0], law.decode_further, law.prefill_token[0]] for law in laws]) / TICKS_PER_S
    assert (draws >= 0).all()
    # The terms that are far from 0; variance of a t distribution is n / (n - 2) times that of the normal one.
    covariance = np.array(law.errors.covariance)[np.ix_([0, 1, 3], [0, 1, 3])]
    scale = np.sqrt(np.diag(covariance))
    wide = law.errors.degrees_of_freedom / (law.errors.degrees_of_freedom - 2)
    np.testing.assert_allclose(
        np.cov(draws.T) / np.outer(scale, scale), wide * covariance / np.outer(scale, scale), atol=0.1
    )
    values = [law.c0_s, law.c1_s_per_request, law.c3_s_per_prefill_token]
    np.testing.assert_allclose(draws.mean(axis=0), values, atol=4 * scale.max() / np.sqrt(4000))
