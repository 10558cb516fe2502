"""Laws by their formulas are those of scipy.stats."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats

from batchcube.sweeps.theory.expected import law_of
from batchcube.sweeps.workloads.lengths import LengthDistribution

ANY: TypeAdapter[LengthDistribution] = TypeAdapter(LengthDistribution)


def lognormal(mean: float, cv: float) -> Any:
    variance = np.log1p(cv**2)
    return stats.lognorm(np.sqrt(variance), scale=mean * np.exp(-variance / 2))


@pytest.mark.parametrize(
    ("settings", "scipys"),
    [
        ({"distribution": "uniform", "low": 1.0, "high": 20.0}, stats.uniform(1.0, 19.0)),
        ({"distribution": "uniform", "low": 0.0, "high": 0.3}, stats.uniform(0.0, 0.3)),
        ({"distribution": "exponential", "mean": 10.0}, stats.expon(scale=10.0)),
        ({"distribution": "lognormal", "mean": 100.0, "cv": 0.8}, lognormal(100.0, 0.8)),
        ({"distribution": "lognormal", "mean": 0.7, "cv": 3.0}, lognormal(0.7, 3.0)),
    ],
)
def test_a_law_of_seconds_is_that_of_scipy(settings: dict[str, Any], scipys: Any) -> None:
    law: Any = law_of(ANY.validate_python({**settings, "unit": "seconds"}))
    share = np.concatenate(([0.0, 1.0], np.geomspace(1e-300, 1.0, 500), np.linspace(0.0, 1.0, 501)))
    with np.errstate(all="ignore"):
        lengths = np.concatenate(([-1.0, 0.0, np.inf, 1e-300], scipys.ppf(share)))
        np.testing.assert_allclose(law.cdf(lengths), scipys.cdf(lengths), rtol=1e-14)
        np.testing.assert_allclose(law.sf(lengths), scipys.sf(lengths), rtol=1e-14)
        np.testing.assert_allclose(law.isf(share), scipys.isf(share), rtol=1e-14)
    assert law.mean() == pytest.approx(scipys.mean(), rel=1e-14)
