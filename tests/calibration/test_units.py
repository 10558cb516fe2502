"""Times in another unit than seconds: told in laws of batches and steps, and in tables, and never of what we ship."""

from types import SimpleNamespace

import pytest

from batchcube.calibration.coefficients import locate, parse, read, shipped_names
from batchcube.calibration.units import LONGEST_S, other_unit, other_units
from batchcube.engine.continuous.steps import STEP_TERMS


def test_every_coefficient_of_a_step_has_a_limit() -> None:
    assert set(STEP_TERMS) < set(LONGEST_S)


@pytest.mark.parametrize("name", LONGEST_S)
def test_a_limit_is_allowed_and_more_is_not(name: str) -> None:
    longest, what = LONGEST_S[name]
    assert other_unit(name, longest) is None
    told = other_unit(name, 1.5 * longest)
    assert told is not None
    assert told.startswith(
        f"no engine takes {1.5 * longest:g} s for {what}, must be <= {longest:g}: milliseconds meant"
    )
    assert f"({1.5e-3 * longest:.6g})?" in told
    assert "microseconds" in str(other_unit(name, 1500.0 * longest))


def test_nodes_of_tables_may_take_as_long_as_the_coefficients_they_stand_for() -> None:
    decode = SimpleNamespace(requests=[0, 10], s=[5.0, 15.1], s_per_kv_token=[0.0, 0.02])
    prefill = SimpleNamespace(tokens=[0, 100], s=[0.0, 105.0])
    law = SimpleNamespace(decode=decode, prefill=prefill)
    found = {".".join(map(str, path)): text for path, text in other_units(law)}
    assert list(found) == ["decode.s.1", "decode.s_per_kv_token.1"]
    assert found["decode.s.1"].startswith(
        "no engine takes 15.1 s for a step of 10 requests, must be <= 15: milliseconds"
    )
    prefill.s[1] = 105.1
    assert "prefill.s.1" in {".".join(map(str, path)) for path, _ in other_units(law)}


@pytest.mark.parametrize("name", shipped_names())
def test_what_comes_with_the_package_is_far_below(name: str) -> None:
    known = parse(read(locate(name)), name)
    laws = [law for at in known.batch_laws for law in at.laws.values()]
    for law in (*laws, *([known.step_law] if known.step_law is not None else [])):
        for term, (longest, _) in LONGEST_S.items():
            assert (getattr(law, term, None) or 0.0) < longest / 10
