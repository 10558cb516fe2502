"""Coefficients: their file, and draws from what the fits leave open."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import stats

from batchcube.calibration import coefficients
from batchcube.calibration.cells import Cells, fit_batches, fit_steps, join
from batchcube.calibration.coefficients import (
    UNCERTAIN,
    BatchCoefficients,
    BatchTable,
    Coefficients,
    FittedLog,
    FoundWay,
    KvMemory,
    Raw,
    StepErrors,
    StepScatter,
    is_of_gpus,
    locate,
    parse,
    sha256_of,
    shipped_names,
)
from batchcube.calibration.drawing import drawn, drawn_steps
from batchcube.calibration.laws import fit_batch_law, fit_step_law, step_terms
from batchcube.calibration.plausibility import judge
from batchcube.calibration.stating import (
    batch_coefficients,
    batch_laws,
    describe_cell,
    plausibility_of,
    step_coefficients,
)
from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.errors import InputError

Floats = NDArray[np.float64]


def measured() -> Cells:
    """Return whole batches and decode steps at two prompt lengths, with 1 % noise."""
    rng = np.random.default_rng(6)
    b, p, o = (a.ravel() for a in np.meshgrid([1.0, 2, 8, 16], [16.0, 64], [8.0, 32, 128], indexing="ij"))
    step = 0.02 + 1e-3 * b + 1e-6 * b * (p + o / 2)
    noise = 1 + 0.01 * rng.standard_normal((2, b.size))
    shape = {"batch_size": b, "prompt_tokens": p, "output_tokens": o, "repetitions": 5.0}
    whole = Cells.of("batch", (0.001 * p + step * o) * noise[0], std_s=0.01 * step * o * noise[1] ** 9, **shape)
    return join([whole, Cells.of("decode", step * noise[1], kv_tokens=b * (p + o / 2), **shape)])


def known() -> Coefficients:
    cells = measured()
    steps = fit_steps(cells)
    assert steps is not None
    return Coefficients(
        name="tiny",
        label="measured",
        title="A tiny model",
        source="this test",
        provenance={"engine": "none", "threads": 1, "hours": 0.5},
        raw=Raw(file="tiny.nc", sha256="0" * 64),
        memory=KvMemory(kv_bytes_per_token=4096, model_bytes=10**7, reported_capacity_tokens=5000),
        default_prompt_tokens=64,
        batch_laws=batch_laws(fit_batches(cells)),
        step_law=step_coefficients(*steps),
        plausibility=plausibility_of(judge(cells)),
    )


# The file


def test_a_file_gives_back_what_was_written() -> None:
    whole = known()
    text = whole.text()
    assert parse(text.encode(), "tiny.json") == whole
    assert parse(text.encode(), "tiny.json").text() == text
    # Nothing is lost on the way: floats are written with all their digits.
    law = fit_batches(measured())[1].laws["power"]
    stated = parse(text.encode(), "tiny.json").at_prompt(64).laws["power"]
    assert (stated.a0_s, stated.a1_s_per_token, stated.gamma) == (law.a0_s, law.a1_s_per_token, law.gamma)
    assert stated.covariance == law.covariance.tolist()
    assert stated.degrees_of_freedom == law.degrees_of_freedom == 12 - 3
    assert stated.quality.leave_one_out_rms == law.quality.leave_one_out_rms


def test_what_is_not_known_is_null() -> None:
    exact = batch_coefficients(fit_batch_law([1, 1, 4], [100, 200, 200], [1.0, 1.8, 2.6], "linear"), None)
    assert exact.covariance is None
    assert exact.standard_errors == [None, None, None]
    assert (exact.degrees_of_freedom, exact.quality.leave_one_out_rms, exact.quality.worst_at) == (0, None, "")
    constant = batch_coefficients(fit_batch_law([1, 1, 4], [10, 20, 40], [1.0, 2.1, 3.9], "constant"), None)
    assert constant.standard_errors[2] is None
    assert constant.covariance is not None
    steps = step_coefficients(fit_step_law(step_terms([1, 2, 3], 0, 0, 0), [1.0, 2.1, 2.9]), None)
    assert (steps.c2_s_per_kv_token, steps.c3_s_per_prefill_token, steps.c4_s_per_prefill_attention) == (None,) * 3
    assert steps.c1_s_per_request == pytest.approx(0.98, abs=0.05)
    assert steps.c5_s_per_prefill_step == 0.0
    assert steps.errors is not None
    assert (steps.errors.of, steps.errors.degrees_of_freedom) == (["c0_s", "c1_s_per_request"], 1)
    assert steps.standard_error("c3_s_per_prefill_token") is None
    for part in (exact, constant, steps):
        assert type(part).model_validate_json(part.model_dump_json()) == part


def test_a_measured_step_law_states_the_steps_that_it_is_made_from() -> None:
    law, steps = known().step_law, measured().only("decode")
    assert law is not None
    assert law.ranges is not None
    assert (law.ranges.decodes, law.ranges.prefill_tokens) == ([1, 16], None)
    context = steps.kv_tokens / steps.batch_size
    assert law.ranges.context_tokens == [context.min(), context.max()]


def test_terms_that_may_be_off_are_those_of_the_step_law_in_its_order() -> None:
    assert UNCERTAIN[: len(STEP_TERMS)] == STEP_TERMS


def test_the_table_is_the_measured_grid() -> None:
    laws = known().at_prompt(16)
    cells = measured().only("batch")
    assert laws.table is not None
    assert laws.table.batch_sizes == [1, 2, 8, 16]
    assert laws.table.output_tokens == [8, 32, 128]
    here = cells.where(cells.prompt_tokens == 16)
    assert np.ravel(laws.table.seconds).tolist() == here.seconds.tolist()
    assert laws.table.leave_one_size_out_rms is not None
    assert 0 < laws.table.leave_one_size_out_rms < 0.1


def test_cells_are_described_in_words() -> None:
    cells = measured()
    assert describe_cell(cells, 0) == "b = 1, prompt 16, output 8"
    assert describe_cell(cells, 24) == "decode b = 1, prompt 16, output 8"
    assert describe_cell(Cells.of("prefill", [1.0], batch_size=2.5), 0) == "prefill b = 2.5"
    quality = known().at_prompt(64).laws["linear"].quality
    assert quality.worst_at.startswith("b = ")
    assert ", prompt 64, output " in quality.worst_at


def test_laws_are_found_by_their_prompt_length() -> None:
    whole = known()
    assert [laws.prompt_tokens for laws in whole.batch_laws] == [16, 64]
    assert whole.at_prompt(None) is whole.batch_laws[1]
    assert whole.at_prompt(16) is whole.batch_laws[0]
    with pytest.raises(ValueError, match="coefficients tiny: prompt_tokens = 32: must be one of 16, 64, the prompts"):
        whole.at_prompt(32)
    for default, asked in ((None, "is not given"), (32, "= 32")):
        lost = whole.model_copy(update={"default_prompt_tokens": default})
        with pytest.raises(ValueError, match=f"coefficients tiny: prompt_tokens {asked}: must be one of 16, 64"):
            lost.at_prompt(None)
    unknown = whole.batch_laws[0].model_copy(update={"prompt_tokens": None})
    free = whole.model_copy(update={"default_prompt_tokens": None, "batch_laws": [unknown]})
    assert free.at_prompt(None) is unknown
    with pytest.raises(ValueError, match="prompt_tokens = 16: its times have no prompts"):
        free.at_prompt(16)
    with pytest.raises(ValueError, match="coefficients tiny: hold no law of whole batches"):
        whole.model_copy(update={"batch_laws": []}).at_prompt(None)


CONTENT: dict[str, Any] = json.loads(known().text())


def changed(path: tuple[str | int, ...], value: Any) -> bytes:
    content = copy.deepcopy(CONTENT)
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("label",), "guessed"),
        (("name",), ""),
        (("surprise",), 1),
        (("raw", "sha256"), "abc"),
        (("memory", "kv_bytes_per_token"), 0),
        (("batch_laws", 0, "chosen"), "cubic"),
        (("batch_laws", 0, "laws"), {}),
        (("batch_laws", 0, "laws", "linear", "a1_s_per_token"), 0),
        (("batch_laws", 0, "laws", "linear", "a0_s"), -1),
        (("batch_laws", 0, "laws", "linear", "a0_s"), float("nan")),
        (("batch_laws", 0, "laws", "linear", "gamma"), 101),
        (("batch_laws", 0, "laws", "linear", "standard_errors"), [0.1, 0.1]),
        (("batch_laws", 0, "laws", "linear", "covariance"), []),
        (("batch_laws", 0, "laws", "linear", "covariance"), [[1, 0], [0, 1]]),
        (("batch_laws", 0, "laws", "linear", "covariance"), [[0, 0, 0], [0, float("nan"), 0], [0, 0, 0]]),
        (("batch_laws", 0, "laws", "linear", "standard_errors"), [0.1, float("nan"), 0.1]),
        (("batch_laws", 0, "laws", "linear", "standard_errors"), [0.1, -0.1, 0.1]),
        (("batch_laws", 0, "laws", "linear", "degrees_of_freedom"), -1),
        (("step_law", "c0_s"), -1),
        (("step_law", "c0_s"), 1e300),
        (("step_law", "errors", "degrees_of_freedom"), 10**30),
        (("title",), "x" * 2001),
        (("batch_laws", 0, "laws", "linear", "a1_s_per_token"), 1e300),
        (("batch_laws", 0, "batch_sizes"), [1, 1e300]),
        (("step_law", "errors", "of"), ["c0_s", "c9_s"]),
        (("step_law", "errors"), {"of": ["c0_s"], "covariance": [[1, 0], [0, 1]], "degrees_of_freedom": 1}),
        (("step_law", "errors"), {"of": ["c0_s", "c0_s"], "covariance": [[1, 0], [0, 1]], "degrees_of_freedom": 1}),
        (("step_law", "decode"), {"requests": [0, 1], "s": [0.1, 0.2], "s_per_kv_token": [0, 0]}),
        (("step_law", "prefill"), {"tokens": [0, 1], "s": [0.1, 0.2]}),
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    assert parse(json.dumps(CONTENT).encode(), "tiny.json").name == "tiny"
    with pytest.raises(ValidationError) as caught:
        parse(changed(path, value), "tiny.json")
    # The message leads to the place.
    assert all(error["loc"][: len(path) - 1] == path[:-1] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("step_law", "c0_s"), 6.5, "step_law.c0_s: no engine takes 6.5 s for one step"),
        (("batch_laws", 0, "laws", "linear", "a0_s"), 1e5, "batch_laws[0].laws.linear.a0_s: no engine takes 100000 s"),
    ],
)
def test_times_in_another_unit_are_refused(path: tuple[str | int, ...], value: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(changed(path, value), "tiny.json")
    assert str(caught.value).startswith(f"tiny.json: {says}")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{,", "x.json: is not JSON, must be a file of coefficients"),
        (b"\xff\xfe", "x.json: is not JSON"),
        (b"[]", "x.json: is no table, must be a file of coefficients"),
        (b"[" * 100_000, "x.json: is nested deeper than 24 levels, must be"),
        (b'{"name": ' + b"[" * 25 + b"]" * 25 + b"}", "x.json: is nested deeper than 24 levels, must be"),
    ],
)
def test_what_is_no_file_of_coefficients_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(data, "x.json")


def test_a_title_holds_nothing_that_a_terminal_would_follow() -> None:
    known = parse(json.dumps({**CONTENT, "title": "a\x1b[2Jb\ud800\nc"}).encode(), "x.json")
    assert known.title == r"a\x1b[2Jb\ud800\nc"


GRID: dict[str, Any] = {
    "batch_sizes": [1, 2],
    "output_tokens": [8, 16],
    "seconds": [[1, 2], [2, 3]],
    "leave_one_size_out_rms": None,
}


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"batch_sizes": [2, 1]}, "batch_sizes must increase"),
        ({"output_tokens": [8, 8]}, "output_tokens must increase"),
        ({"seconds": [[1, 2]]}, "a row for each batch size and a column for each length"),
        ({"seconds": [[1, 2], [2, 3, 4]]}, "a row for each batch size and a column for each length"),
        ({"seconds": [[1, 2], [3, 2]]}, "seconds must not fall with the length"),
        ({"seconds": [[0, 2], [2, 3]]}, "greater than 0"),
        ({"batch_sizes": [1]}, "at least 2 items"),
    ],
)
def test_a_table_is_a_complete_grid(part: dict[str, Any], says: str) -> None:
    assert BatchTable.model_validate(GRID).seconds == [[1, 2], [2, 3]]
    with pytest.raises(ValidationError, match=says):
        BatchTable.model_validate(GRID | part)


def test_coefficients_are_located_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coefficients, "SHIPPED", tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text("{}")
    (tmp_path / "c.nc").write_text("")
    assert shipped_names() == ["a", "b"]
    assert locate("a") == tmp_path / "a.json"
    assert locate("folder/mine.json") == Path("folder/mine.json")
    assert locate(Path("mine.json")) == Path("mine.json")
    assert locate("~/mine.json") == Path.home() / "mine.json"
    with pytest.raises(
        ValueError,
        match=r"coefficients c: none of that name; must be a file .* or be in batchcube calibrate list$",
    ):
        locate("c")


def test_some_coefficients_are_shipped() -> None:
    assert len(shipped_names()) >= 2


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_coefficients_hold_together(name: str) -> None:
    file = locate(name)
    found = parse(file.read_bytes(), name)
    assert found.name == name
    assert found.text() == file.read_text(encoding="utf-8")
    for laws in found.batch_laws:
        law = laws.laws[laws.chosen]
        if law.covariance is not None:
            held = [error is None for error in law.standard_errors]
            assert np.diag(law.covariance)[held] == pytest.approx(0.0, abs=0.0)
            known = [error for error in law.standard_errors if error is not None]
            assert np.sqrt(np.diag(law.covariance))[~np.array(held)] == pytest.approx(known)
    if found.label == "measured":
        assert found.raw is not None
        assert sha256_of(file.parent / found.raw.file) == found.raw.sha256


@pytest.mark.parametrize("name", shipped_names())
def test_what_is_shipped_says_as_many_gpus_as_its_name(name: str) -> None:
    many = re.search(r"-(\d+)x[a-z]+\d+", name)
    known = parse(locate(name).read_bytes(), name)
    assert known.provenance.get("tensor_parallel", 1) == (int(many[1]) if many else 1)
    assert is_of_gpus(known) or name == "dynamic-batching-fig3"


def test_the_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Draws


def law_with(**changes: Any) -> BatchCoefficients:
    """Return a law with correlated errors, far from every limit, and 10 degrees of freedom."""
    scale = np.array([0.02, 1e-3, 0.01])
    correlation = np.array([[1, -0.6, 0.2], [-0.6, 1, -0.8], [0.2, -0.8, 1]])
    law = {
        "h": "linear",
        "a0_s": 1.0,
        "a1_s_per_token": 0.05,
        "gamma": 0.5,
        "standard_errors": scale.tolist(),
        "covariance": (np.outer(scale, scale) * correlation).tolist(),
        "degrees_of_freedom": 10,
        "quality": {
            "measurements": 13,
            "r_squared": 0.99,
            "rms_residual": 0.01,
            "worst_residual": 0.03,
            "leave_one_out_rms": 0.02,
            "leave_one_size_out_rms": 0.02,
        },
    }
    return BatchCoefficients.model_validate(law | changes)


def draws(law: BatchCoefficients, count: int) -> Floats:
    rng = np.random.default_rng(11)
    found = (drawn(law, rng) for _ in range(count))
    return np.array([(one.a0_s, one.a1_s_per_token, one.gamma) for one in found])


def test_draws_follow_the_multivariate_t_of_the_fit() -> None:
    law = law_with()
    covariance, degrees = np.array(law.covariance), law.degrees_of_freedom
    off = draws(law, 6000) - np.array([1.0, 0.05, 0.5])
    scale = np.sqrt(np.diag(covariance))
    # Mean and covariance: that of t with ν degrees of freedom is ν / (ν - 2) times its matrix, with a kurtosis of 4
    # at ν = 10, so that a product of two coordinates varies by at most the root of 3.
    spread = np.sqrt(degrees / (degrees - 2))
    assert off.mean(axis=0) / scale == pytest.approx(np.zeros(3), abs=4.5 * spread / np.sqrt(6000))
    found = np.cov(off.T) / np.outer(scale, scale)
    wanted = covariance / np.outer(scale, scale) * spread**2
    assert found == pytest.approx(wanted, abs=4.5 * spread**2 * np.sqrt(3 / 6000))
    # The shape: the squared distance over its dimension is F with (3, ν) degrees of freedom, every coordinate is t.
    distance = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off) / 3
    assert stats.kstest(distance, stats.f(3, degrees).cdf).pvalue > 1e-3
    assert stats.kstest(distance, stats.f(3, 1000).cdf).pvalue < 1e-9
    for column, size in zip(off.T, scale, strict=True):
        assert stats.kstest(column / size, stats.t(degrees).cdf).pvalue > 1e-3


def test_a_draw_changes_coefficients_only() -> None:
    law = law_with()
    one = drawn(law, np.random.default_rng(1))
    assert one != law
    assert one == drawn(law, np.random.default_rng(1))
    same = {"a0_s": law.a0_s, "a1_s_per_token": law.a1_s_per_token, "gamma": law.gamma}
    assert one.model_copy(update=same) == law


def test_coefficients_that_were_held_stay_where_they_are() -> None:
    matrix = np.array(law_with().covariance)
    matrix[0] = matrix[:, 0] = 0.0
    held = law_with(a0_s=0.0, standard_errors=[None, 1e-3, 0.01], covariance=matrix.tolist())
    found = draws(held, 200)
    assert (found[:, 0] == 0).all()
    assert len(np.unique(found[:, 1])) == len(np.unique(found[:, 2])) == 200
    correlation = np.corrcoef(found[:, 1], found[:, 2])[0, 1]
    assert correlation == pytest.approx(-0.8, abs=0.15)


def test_draws_stop_at_the_limits() -> None:
    """An a0 one standard error above 0 is drawn below it, and set to 0, as often as t says; γ cannot pass 100."""
    found = draws(law_with(a0_s=0.02), 3000)
    below = stats.t(10).cdf(-1.0)
    assert (found[:, 0] >= 0).all()
    assert (found[:, 0] == 0).mean() == pytest.approx(below, abs=4.5 * np.sqrt(below * (1 - below) / 3000))
    found = draws(law_with(gamma=99.99), 300)
    assert found[:, 2].max() == 100
    found = draws(law_with(gamma=0.01), 300)
    assert found[:, 2].min() == 0


def test_the_slope_of_a_wild_draw_stays_above_nothing() -> None:
    """With one degree of freedom a draw four errors away is no rarity."""
    law = law_with(degrees_of_freedom=1, a1_s_per_token=4e-3)
    assert draws(law, 500)[:, 1].min() == 4e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"covariance": None}, "nothing is known of the coefficients' errors"),
        ({"degrees_of_freedom": 0}, "nothing is known of the coefficients' errors"),
        ({"standard_errors": [0.1, None, 0.01]}, "a1_s_per_token is less than four of its standard errors"),
        ({"a1_s_per_token": 3.99e-3}, "a1_s_per_token is less than four of its standard errors"),
    ],
)
def test_nothing_is_drawn_from_errors_that_say_nothing(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        drawn(law_with(**changes), np.random.default_rng(1))


def test_the_law_of_a_fit_can_be_drawn() -> None:
    law = known().at_prompt(None)
    for one in law.laws.values():
        assert drawn(one, np.random.default_rng(1)).a1_s_per_token > 0


def test_a_law_of_a_log_is_drawn_with_its_drift_and_not_below_what_was_open() -> None:
    known = parse(locate("dynamic-batching-fig3").read_bytes(), "").step_law
    assert known is not None
    assert known.c0_s
    errors = StepErrors(of=["c0_s"], covariance=[[(1e-6 * known.c0_s) ** 2]], degrees_of_freedom=10**6)
    law = known.model_copy(update={"errors": errors})
    scatter = StepScatter(step=0.5, drift=0.05, step_s=0.01, drift_lasts_s=[3.0, 3.0], ttft_s=1.0)
    fitted = FittedLog(requests=9, fitted_to=9, rms={}, unsure=[], scatter=scatter)
    rng = np.random.default_rng(3)
    laws = [drawn_steps(law, rng, fitted) for _ in range(1000)]
    c0, c1 = np.array([[one.c0_s, one.c1_s_per_request] for one in laws]).T / [[known.c0_s], [known.c1_s_per_request]]
    # The speed of all of it, give or take five standard errors.
    assert c0.std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * 1000))
    np.testing.assert_allclose(c0, c1, rtol=1e-4)
    # Off by a tenth, but a fit allowed no less.
    wide = errors.model_copy(update={"covariance": [[(0.1 * known.c0_s) ** 2]]})
    way = FoundWay(of="c0_s", value=0.0, standard_error=0.0, known_within=1.0, least=0.0)
    still = fitted.model_copy(update={"found": [way], "scatter": None})
    lowest = [drawn_steps(law.model_copy(update={"errors": wide}), rng, still).c0_s for _ in range(100)]
    assert min(lowest) == pytest.approx(known.c0_s)
    wild = fitted.model_copy(update={"scatter": scatter.model_copy(update={"drift": 1e300})})
    with pytest.raises(InputError, match=r"the speed drifts by 1e\+300 of it: draws could be negative"):
        drawn_steps(law, rng, wild)
