import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchcube.calibration.coefficients import parse
from batchcube.calibration.measuring.bench import Cell
from batchcube.results.measurements import read_measurement
from closing_loop import live, static
from closing_loop.live import LiveReplication
from closing_loop.static import (
    BATCH_SIZE,
    BINS,
    GRID,
    LARGEST_BATCH,
    LONGEST,
    MODES,
    PROMPT_TOKENS,
    QUANTITIES,
    SHORTEST,
    UTILISATIONS,
    close_loop,
)
from helpers.engines import A0_S, A1_S, GAMMA, STRAIGHT, FakeEngine

REQUESTS, RUNS = 60, 2
KEYS = ["run", "load", "mode", "law"]


class Served:
    """A clock in ticks that only waiting and serving move, and what was served by it.

    All times of `law` are whole numbers of ticks, so that what was fitted to them, true to ten digits, gives the same.
    """

    def __init__(self, law: tuple[float, ...] = STRAIGHT, slower: float = 1.0) -> None:
        self.engine = FakeEngine(law, prefill_s=A0_S, noise=0.0)
        self.ticks, self.slower = 0, slower
        self.batches: list[tuple[int, int]] = []

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.ticks += round(seconds * 1e6)

    def generate(self, prompts: np.ndarray[Any, Any], tokens: int) -> None:
        b, length = prompts.shape
        assert length == PROMPT_TOKENS
        assert ((prompts >= 2) & (prompts < 1000)).all()
        self.batches.append((b, tokens))
        self.ticks += round(self.slower * 1e6 * float(self.engine.steps(Cell(b, length, tokens)).sum()))


def loop(folder: Path, monkeypatch: pytest.MonkeyPatch, served: Served, **options: Any) -> pd.DataFrame:
    clock = SimpleNamespace(perf_counter=lambda: served.ticks, sleep=served.sleep)
    monkeypatch.setattr(live, "time", clock)
    monkeypatch.setattr(LiveReplication, "clock", lambda self: served.ticks - self.begun)
    asked = {"requests": REQUESTS, "runs": RUNS, "seed": 1, "quiet": True} | options
    return close_loop(served.engine, served.generate, 1000, folder, **asked)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path, Served]:
    folder, served = tmp_path_factory.mktemp("loop"), Served()
    with pytest.MonkeyPatch.context() as patched, np.errstate(all="raise"):
        return loop(folder, patched, served), folder, served


def test_every_mode_law_and_quantity_is_compared_in_every_run(exact: tuple[pd.DataFrame, Path, Served]) -> None:
    table = exact[0]
    assert list(table.columns) == [*KEYS, "quantity", "served", "simulated", "error"]
    for column, values in (
        ("run", range(RUNS)),
        ("load", UTILISATIONS),
        ("mode", MODES),
        ("law", ("linear", "table")),
        ("quantity", QUANTITIES),
    ):
        assert set(table[column]) == set(values)
    assert len(table) == RUNS * len(UTILISATIONS) * len(MODES) * 2 * len(QUANTITIES)
    assert not table.duplicated([*KEYS, "quantity"]).any()
    np.testing.assert_array_equal(table["error"], table["simulated"] / table["served"] - 1)


def test_what_follows_the_calibrated_law_is_predicted_exactly(exact: tuple[pd.DataFrame, Path, Served]) -> None:
    table, folder, _ = exact
    np.testing.assert_array_equal(table["error"], 0.0)
    requests = pd.read_csv(folder / "requests.csv")
    for name in ("start_s", "completion_s", "batch"):
        np.testing.assert_array_equal(requests[f"served_{name}"], requests[f"simulated_{name}"])
    assert (table["served"] > 0).all()
    # An overloaded queue is another load than a steady one.
    latency = table[table["quantity"] == "latency_mean_s"].groupby("load")["served"].mean()
    assert latency["overloaded"] > 1.2 * latency["steady"]


def test_quantities_are_those_of_the_requests(exact: tuple[pd.DataFrame, Path, Served]) -> None:
    table, folder, _ = exact
    requests = pd.read_csv(folder / "requests.csv")
    assert len(requests) == RUNS * len(UTILISATIONS) * len(MODES) * 2 * REQUESTS
    for key, mine in requests.groupby(KEYS):
        latency = mine["served_completion_s"] - mine["arrival_s"]
        assert (mine["served_start_s"] >= mine["arrival_s"]).all()
        expected = {
            "latency_mean_s": latency.mean(),
            "latency_p90_s": latency.quantile(0.9),
            "throughput_requests_per_s": REQUESTS / (mine["served_completion_s"].max() - mine["arrival_s"].min()),
            "batch_size_mean": REQUESTS / mine["served_batch"].nunique(),
        }
        rows = table[(table[KEYS] == list(key)).all(axis=1)].set_index("quantity")["served"]
        for quantity in QUANTITIES:
            assert rows[quantity] == pytest.approx(expected[quantity])


def test_batches_are_those_of_their_modes(exact: tuple[pd.DataFrame, Path, Served]) -> None:
    _, folder, served = exact
    requests = pd.read_csv(folder / "requests.csv")
    assert requests["output_tokens"].between(SHORTEST, LONGEST).all()
    keys = ["run", "load", "mode", "served_batch"]
    sizes = requests[requests["law"] == "linear"].groupby(keys)["output_tokens"].agg(["size", "max"])
    # Every batch is served once, in order, and as long as its longest request.
    in_order = [tuple(sizes.loc[(run, load, mode)].loc[k]) for run, load, mode, k in served_order(sizes)]
    assert served.batches == in_order
    fixed = sizes.xs("multi_bin_only", level="mode")["size"]
    partial = fixed[fixed != BATCH_SIZE]
    assert (partial < BATCH_SIZE).all()
    assert len(partial) <= BINS * RUNS * len(UTILISATIONS)  # the last of each bin
    dynamic = sizes.xs("dynamic_only", level="mode")["size"]
    assert dynamic.between(1, LARGEST_BATCH).all()
    assert dynamic.nunique() > 3  # the controller has to act


def served_order(sizes: pd.DataFrame) -> list[tuple[int, str, str, int]]:
    order = [(run, load, mode) for run in range(RUNS) for load in UTILISATIONS for mode in MODES]
    return [(*key, k) for key in order for k in sorted(sizes.loc[key].index)]


def test_everything_is_written_to_the_folder(exact: tuple[pd.DataFrame, Path, Served]) -> None:
    table, folder, _ = exact
    names = ["comparison.csv", "coefficients.json", "measurement.nc", "requests.csv"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "comparison.csv"), table, check_exact=False)
    found = read_measurement(folder / "measurement.nc")
    assert found["batch_size"].values.tolist() == list(GRID.batch_sizes)
    assert found["prompt_tokens"].values.tolist() == [PROMPT_TOKENS]
    known = parse((folder / "coefficients.json").read_bytes(), "coefficients.json")
    law = known.at_prompt(None).laws["linear"]
    assert (law.a0_s, law.a1_s_per_token, law.gamma) == pytest.approx((A0_S, A1_S, GAMMA), rel=1e-9)
    assert json.loads((folder / "coefficients.json").read_text())["raw"]["file"] == "measurement.nc"


def test_what_is_slower_than_calibrated_shows_in_the_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = loop(tmp_path, monkeypatch, Served(slower=1.1), runs=1, requests=80)
    errors = table.set_index(["load", "mode", "law", "quantity"])["error"]
    for load in UTILISATIONS:
        for mode in MODES:
            assert errors[load, mode, "linear", "latency_mean_s"] < -0.01
    # As much as the server can do: a tenth less.
    busy = errors["overloaded", "multi_bin_only", "linear", "throughput_requests_per_s"]
    assert 0.05 < busy < 0.11
    assert errors["overloaded", "multi_bin_only", "linear", "batch_size_mean"] == 0.0


def test_the_measured_table_predicts_what_no_law_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The prefill takes 2 ms for every request: no law has an intercept that grows with the batch.
    c0, c1, c2, _, c4 = STRAIGHT
    table = loop(tmp_path, monkeypatch, Served((c0, c1, c2, 2e-3 / PROMPT_TOKENS, c4)), runs=1)
    errors = table[table["quantity"] == "latency_mean_s"].set_index("law")["error"]
    (law,) = set(errors.index) - {"table"}
    np.testing.assert_array_equal(errors["table"], 0.0)
    assert (errors[law] != 0.0).all()
    assert abs(errors[law]).max() > 0.05


def test_the_seed_decides_what_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "UTILISATIONS", {"steady": 0.7})
    arrivals = []
    for k, seed in enumerate((1, 1, 2)):
        (tmp_path / str(k)).mkdir()
        loop(tmp_path / str(k), monkeypatch, Served(), runs=1, requests=20, seed=seed)
        arrivals.append(pd.read_csv(tmp_path / str(k) / "requests.csv")["arrival_s"].to_numpy())
    np.testing.assert_array_equal(arrivals[0], arrivals[1])
    assert not np.array_equal(arrivals[0], arrivals[2])
