import gc
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from batchcube.engine.policies import registry
from batchcube.sweeps.cli.main import GARBAGE_THRESHOLDS

gc.set_threshold(*GARBAGE_THRESHOLDS)

pytest.register_assert_rewrite("helpers")

from helpers.outside import NAMES, example  # noqa: E402

# The same examples on every run: a gate must not fail by chance. `--hypothesis-profile=fuzz` looks for new ones. No
# deadline: the first example of a test may compile a kernel, and no test here is about how long anything takes.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("gate")


# Files that take most of the time. With several workers, each given a file at a time, they go first: one that came last
# would leave all other workers idle.
DEAREST = (
    "engine/batches/jax/test_driver.py",
    "engine/batches/jax/test_parity_dynamic.py",
    "test_readme.py",
    "engine/test_laws.py",
    "engine/continuous/numba/test_parity.py",
    "sweeps/run/test_store.py",
    "sweeps/run/test_growing.py",
    "sweeps/run/test_capacity.py",
    "engine/continuous/test_following.py",
    "sweeps/planning/test_race.py",
    "engine/batches/jax/test_parity_static.py",
    "benchmarks/test_killed.py",
    "calibration/test_fitting.py",
    "calibration/test_plausibility.py",
    "sweeps/run/test_shards.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        places = {Path(__file__).parent / name: place for place, name in enumerate(DEAREST)}
        assert all(file.is_file() for file in places), places
        items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs beside the project."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def strict_numerics() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C as a program in the foreground meets it; the tests may have been started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def unoptimised_program() -> Callable[..., Any]:
    """`driver.program`, remembering programs of its own."""
    from batchcube.engine.batches.jax import driver

    return cache(driver.program.__wrapped__)


@pytest.fixture
def unoptimised_programs(unoptimised_program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's programs for the CPU as they are before LLVM optimises them: compiled in half the time.

    For tests of what goes into a program and comes out of it. That optimised ones give the same numbers, whatever
    their options, test_parity_static.py and test_parity_dynamic.py say.
    """
    from batchcube.engine.batches.jax import driver

    optimised = driver.compiler_options

    def options(platform: str) -> dict[str, Any]:
        return optimised(platform) | ({"xla_backend_optimization_level": 0} if platform == "cpu" else {})

    monkeypatch.setattr(driver, "compiler_options", options)
    monkeypatch.setattr(driver, "program", unoptimised_program)


@pytest.fixture
def outside_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policies of the examples, registered as a script of somebody's own would, and no others."""
    monkeypatch.setattr(registry, "_registered", {})
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in NAMES:
        registry.register(example(name, folder))
