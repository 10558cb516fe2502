"""The bent step law fitted to steps."""

import numpy as np
import pytest

from batchcube.calibration.bent import BentLaw, fit_bent

LAW = BentLaw(
    requests=np.array([0.0, 1.0, 4.0, 16.0]),
    decode_s=np.array([0.009, 0.010, 0.014, 0.016]),
    decode_s_per_kv_token=np.array([3e-7, 3e-7, 2e-7, 1e-7]),
    tokens=np.array([0.0, 8.0, 64.0, 512.0]),
    prefill_s=np.array([0.0, 0.001, 0.003, 0.020]),
    c4_s_per_prefill_attention=5e-10,
    c5_s_per_prefill_step=0.002,
)


def steps() -> tuple[np.ndarray, ...]:
    """Decodes, prefills and both, off the nodes and on them."""
    rows = [(d, d * c, 0, 0) for d in (1, 2, 3, 4, 8, 12, 16) for c in (100, 1000, 10_000)]
    rows += [(0, 0, p, p * (p + before)) for p in (4, 8, 20, 64, 100, 300, 512) for before in (0, 3000)]
    rows += [(d, d * 500, p, p * p) for d in (1, 4, 10, 16) for p in (4, 30, 200, 450)]
    return tuple(np.array(rows, np.float64).T)


def test_a_step_is_what_its_parts_add_up_to() -> None:
    # 8 decodes lie a third of the way from 4 to 16, and 20 tokens behind them pass the tables from 8 to 28.
    behind = 0.001 + 20 / 56 * 0.002 - 0.001
    reads = (2e-7 - 1e-7 / 3) * 8000
    said = 0.014 + 0.002 / 3 + reads + behind + 5e-10 * 400 + 0.002
    assert LAW.seconds(8, 8000, 20, 400) == pytest.approx(said, rel=1e-12)
    # Without prefills there is no constant; beyond the last node the last segment goes on.
    assert LAW.seconds(28, 0, 0, 0) == pytest.approx(0.018, rel=1e-12)
    assert LAW.seconds(0, 0, 960, 0) == pytest.approx(0.009 + 0.002 + 0.037, rel=1e-12)


def test_a_law_is_found_in_its_own_steps() -> None:
    found = fit_bent(*steps(), LAW.seconds(*steps()), LAW.requests, LAW.tokens)
    for field, value in LAW._asdict().items():
        np.testing.assert_allclose(getattr(found, field), value, rtol=1e-6, err_msg=field)


def test_times_that_fall_are_fitted_by_what_does_not() -> None:
    seconds = LAW.seconds(*steps())
    decodes, _, prefills, _ = steps()
    seconds = np.where((decodes == 16) & (prefills == 0), 0.7 * seconds, seconds)
    found = fit_bent(*steps(), seconds, LAW.requests, LAW.tokens)
    assert (np.diff(found.decode_s) >= 0).all()
    assert (np.diff(found.prefill_s) >= 0).all()
    assert min(found.c4_s_per_prefill_attention, found.c5_s_per_prefill_step, *found.decode_s_per_kv_token) >= 0


def test_prefills_cannot_worsen_decodes() -> None:
    decodes, kv_tokens, prefills, attention = steps()
    seconds = LAW.seconds(*steps()) * np.where(prefills > 0, 1.5, 1.0)
    found = fit_bent(decodes, kv_tokens, prefills, attention, seconds, LAW.requests, LAW.tokens)
    alone = prefills == 0
    np.testing.assert_allclose(found.seconds(*(x[alone] for x in steps())), seconds[alone], rtol=1e-6)
