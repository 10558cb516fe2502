"""What `reproduce` runs and searches goes on where it was stopped, in the middle of a preset or of a search."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from rich.console import Console

from batchcube.sweeps.papers.reproduction import Reproduction
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import replicating, searching


class StopAfterOne(Silent):
    def finish_replications(self, count: int) -> None:
        raise KeyboardInterrupt


def reproduction(folder: Path, progress: type[Silent] = Silent) -> Reproduction:
    def shown() -> AbstractContextManager[Silent]:
        return nullcontext(progress())

    return Reproduction(folder, Console(quiet=True), replications=3, quick=True, workers=1, progress=shown)


def a_preset(to: Reproduction) -> xr.Dataset:
    return to.run("multi-bin-fig8", overrides=["axes.bins.values=[1, 4]"])[1]


def a_search(to: Reproduction) -> xr.Dataset:
    return to.capacity("dynamic-table2", ["tbt_mean_ms=50"], growth=0.02)


@pytest.fixture
def replications(monkeypatch: pytest.MonkeyPatch) -> set[float]:
    """Those in which anything is simulated; of a search the rates that are tried."""
    seen: set[float] = set()
    simulate, try_out = replicating.simulate_parts, searching.try_out

    def simulated(simulator: Any, draws: Any, *arguments: Any) -> Any:
        seen.update(one.replication for one in draws)
        return simulate(simulator, draws, *arguments)

    def tried(shared: Any, trials: Any, together: int) -> Any:
        seen.update(one.rate for one in trials)
        return try_out(shared, trials, together)

    monkeypatch.setattr(replicating, "simulate_parts", simulated)
    monkeypatch.setattr(searching, "try_out", tried)
    return seen


@pytest.mark.parametrize("what", [a_preset, a_search])
def test_it_continues(what: Callable[[Reproduction], xr.Dataset], replications: set[float], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        what(reproduction(tmp_path, StopAfterOne))
    (kept,) = tmp_path.iterdir()
    assert kept.name.endswith(".nc.partial")
    before = set(replications)
    replications.clear()
    continued = what(reproduction(tmp_path))
    assert replications
    assert before - replications, "what was finished is not simulated again"
    whole = what(reproduction(tmp_path / "whole"))
    xr.testing.assert_identical(continued.drop_attrs(deep=False), whole.drop_attrs(deep=False))
    replications.clear()
    what(reproduction(tmp_path))
    assert not replications, "a cube that is complete is taken as it is"
