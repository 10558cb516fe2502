"""Workers that share nothing with us: what they are sent, what becomes of those that die, and a cluster of Dask."""

import _thread
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xarray as xr

from batchcube.engine.policies import Order, registry
from batchcube.errors import InputError
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import executors
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.executors import connected
from batchcube.sweeps.run.scheduler import MOST_ATTEMPTS
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import RATES, SMALL


class Light(NamedTuple):
    weight: float = 1.0


def light(candidate: Any, settings: Any) -> Any:
    """Serve light batches first."""
    return candidate.predicted * settings.weight


class Elsewhere:
    """Does a task when it is submitted, in a copy of what it was given; loses the first ones with their worker."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.sent: list[int] = []
        """Bytes of each message."""
        self.tasks: list[int] = []
        """How many tasks are in each that was not lost."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        content = pickle.dumps((function, arguments))
        self.sent.append(len(content))
        if len(self.sent) <= self.lost:
            done.cancel()
            return done
        copied, given = pickle.loads(content)
        self.tasks.append(len(given[1]))
        done.set_result(copied(*given))
        return done


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "_kept", type(executors._kept)())
    Path("small.toml").write_text(SMALL + RATES)
    return Sweep.from_toml("small.toml", ["replications=20"])


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


def test_what_tasks_share_is_sent_once(sweep: Sweep) -> None:
    elsewhere = Elsewhere()
    run_sweep(sweep, backend="reference", executor=elsewhere, workers=1)
    large = [place for place, size in enumerate(elsewhere.sent) if size > 6000]
    # The second task was under way already when the first came back without having found it.
    assert large == [2, 3]
    assert sum(elsewhere.tasks) >= 22


def test_short_tasks_go_together_and_what_takes_long_comes_back_undone(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run_sweep(sweep, backend="reference")
    monkeypatch.setattr(executors.Workers, "bundle", 5)
    monkeypatch.setattr(executors, "SECONDS_OF_A_BUNDLE", 600.0)
    elsewhere = Elsewhere()
    there = run_sweep(sweep, backend="reference", executor=elsewhere, workers=1)
    assert elsewhere.tasks == [5, 5, 5, 5, 5, 5]  # twice in vain
    xr.testing.assert_identical(data_of(there), data_of(here))
    monkeypatch.setattr(executors, "SECONDS_OF_A_BUNDLE", 0.0)
    elsewhere = Elsewhere()
    there = run_sweep(sweep, backend="reference", executor=elsewhere, workers=1)
    assert len(elsewhere.tasks) == 20  # of each message the first came back
    xr.testing.assert_identical(data_of(there), data_of(here))


def test_tasks_that_are_lost_are_done_again(sweep: Sweep) -> None:
    here = run_sweep(sweep, backend="reference")
    there = run_sweep(sweep, backend="reference", executor=Elsewhere(lost=3), workers=1)
    xr.testing.assert_identical(data_of(there), data_of(here))
    with pytest.raises(InputError, match=f"lost {MOST_ATTEMPTS + 1} times with the worker that had it"):
        run_sweep(sweep, backend="reference", executor=Elsewhere(lost=1000), workers=1)


def test_workers_of_another_version_are_refused(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"batchcube": "1", "numpy": "2", "numba": "3"}
    asked = iter([here])
    monkeypatch.setattr(executors, "versions_here", lambda: next(asked, {**here, "numpy": "4"}))
    with pytest.raises(InputError, match=r"^`executor`: the worker process \d+ on .* has numpy 4, and here is numpy 2"):
        run_sweep(sweep, backend="reference", executor=Elsewhere(), workers=1)


def test_a_policy_that_a_script_registered_goes_along(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register(Order("light_first", Light, light))
    ordered = Sweep.from_toml("small.toml", ["replications=2", 'policy.service_order={name="light_first",weight=2}'])
    content = executors._pickled(ordered.grid.points[0].policy)
    monkeypatch.setattr(registry, "_registered", {})
    arrived = pickle.loads(content)
    assert arrived.service_order.numbers() == Light(2.0)
    assert registry.registered()["light_first"].policy == Order("light_first", Light, light)
    known = registry.registered()["light_first"]
    with pytest.raises(InputError, match="the policy light_first is another text on a worker"):
        registry.arrive(known._replace(sha256="other"))


def test_what_a_worker_cannot_load_is_one_line() -> None:
    package = executors.Package("key", pickle.dumps(light).replace(b"light", b"heavy"), executors.versions_here())
    with pytest.raises(InputError, match=r"^`executor`: a worker lacks what is installed here: .*heavy"):
        executors.keep(package)
    with pytest.raises(InputError, match=r"^`executor`: cannot be sent what is simulated: "):
        executors._pickled(threading.Lock())


class Kill(Silent):
    """Kills a process once something is finished."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.number, self.killed = number, False

    def advance(self, requests: int) -> None:
        if requests and not self.killed:
            self.killed = True
            os.kill(self.number(), signal.SIGKILL)


def test_a_pool_that_breaks_keeps_what_was_finished(sweep: Sweep) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        kill = Kill(lambda: next(iter(pool._processes)))
        with pytest.raises(InputError, match=r"^`executor`: "):
            run_sweep(sweep, "cube.nc", backend="reference", executor=pool, progress=kill)
    assert list(Path("cube.nc.partial").glob("*.parts"))
    again = run_sweep(sweep, "cube.nc", backend="reference")
    xr.testing.assert_identical(data_of(again), data_of(run_sweep(sweep, backend="reference")))


@pytest.mark.parametrize(
    "name",
    [
        *("loky", "dask://", "tcp://127.0.0.1:8786", "dask:8786", "dask://localhost", "dask://:8786"),
        *("dask://tcp://127.0.0.1:8786", "dask://127.0.0.1:22:33", "dask://here:99999", "dask://a b:1"),
    ],
)
def test_an_executor_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be dask or dask://HOST:PORT"), connected(name, None):
        pass


# A cluster -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[int]]]:
    """Give the HOST:PORT of a scheduler of Dask, and the process numbers of it and its four workers."""
    folder = tmp_path_factory.mktemp("dask")
    dask, local = [sys.executable, "-m", "dask"], ["--host", "127.0.0.1", "--no-dashboard"]
    running = [
        subprocess.Popen([*dask, "scheduler", *local, "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True)
    ]
    try:
        stderr = running[0].stderr
        assert stderr is not None
        address = next(line.split("tcp://")[1].strip() for line in stderr if "Scheduler at:" in line)
        worker = [*dask, "worker", f"tcp://{address}", *local, "--nthreads", "1", "--no-nanny"]
        running += [
            subprocess.Popen([*worker, "--local-directory", str(folder)], cwd=folder, stderr=subprocess.DEVNULL)
            for _ in range(4)
        ]
        yield address, [process.pid for process in running]
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def test_a_cluster_that_loses_a_worker_gives_the_same_cube(sweep: Sweep, cluster: tuple[str, list[int]]) -> None:
    address, numbers = cluster
    here = run_sweep(sweep, backend="reference")
    with connected(f"dask://{address}", None) as client:
        client.wait_for_workers(4)  # type: ignore[union-attr]
        kill = Kill(numbers.pop)
        there = run_sweep(sweep, "cube.nc", backend="reference", executor=client, progress=kill)
    assert kill.killed
    xr.testing.assert_identical(data_of(there), data_of(here))
    command = ["run", "small.toml", "-n", "20", "-o", "b.nc", "--backend", "reference"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--executor", f"dask://{address}"])
    assert ended.value.code == 0
    with xr.open_dataset("b.nc") as cube:
        xr.testing.assert_identical(data_of(cube.load())["latency_mean_s"], data_of(here)["latency_mean_s"])


def test_a_scheduler_that_is_lost_leaves_what_was_finished(
    sweep: Sweep, cluster: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    address, numbers = cluster
    monkeypatch.setattr("batchcube.sweeps.run.dask_cluster.SECONDS_TO_CONNECT", 1.0)
    with connected(f"dask://{address}", None) as client:
        monkeypatch.setattr(executors.Workers, "bundle", 1)
        kill = Kill(lambda: numbers[0])
        with pytest.raises(
            InputError, match=r"^`executor`: lost .*kept in cube.nc.partial: the same command continues$"
        ):
            run_sweep(sweep, "cube.nc", backend="reference", executor=client, progress=kill)
    assert capfd.readouterr().err == ""
    again = run_sweep(sweep, "cube.nc", backend="reference")
    xr.testing.assert_identical(data_of(again), data_of(run_sweep(sweep, backend="reference")))


def test_an_interrupt_is_heard_by_the_process_alone_that_was_asked(sweep: Sweep) -> None:
    arguments = ["run", "small.toml", "-n", "100000", "--backend", "reference", "--executor", "dask", "--workers", "1"]
    Path("asks.py").write_text(f"""
import signal
from batchcube.sweeps.cli.main import main
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main({arguments!r})
""")
    # In a group of their own, all of which a terminal sends the signal.
    with subprocess.Popen(
        [sys.executable, "asks.py"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        begun = [process.stderr.readline() for _ in range(2)]
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "100,000 replications" in begun[0]
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("batchcube: stopped.")


@pytest.mark.usefixtures("heeded")
def test_an_interrupt_while_a_cluster_starts_waits_until_it_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Starting:
        def __init__(self, *_: Any, **options: Any) -> None:
            # Another thread may be given a signal that is blocked here; Python handles it here all the same.
            _thread.interrupt_main()
            self.name = "cluster" if "n_workers" in options else "client"

        def __enter__(self) -> "Starting":
            return self

        def __exit__(self, *_: object) -> None:
            ended.append(self.name)

    monkeypatch.setattr("batchcube.sweeps.run.dask_cluster.LocalCluster", Starting)
    monkeypatch.setattr("batchcube.sweeps.run.dask_cluster.Client", Starting)
    with pytest.raises(KeyboardInterrupt), connected("dask", 1):
        pytest.fail("was not interrupted")
    assert ended == ["client", "cluster"]


def test_a_script_that_its_workers_would_run_again_is_told_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("""
from batchcube.sweeps.run.executors import connected
with connected("dask", 2):
    pass
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.count("InputError: ") == 1
    assert done.stderr.splitlines()[-1].endswith('; does the script lack if __name__ == "__main__"?')
