"""The command that proves policies inside vLLM: its parts on a scheduler that stands in; all of vLLM where it is."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import inside_vllm
from batchcube.sweeps.serving.given import control_of
from batchcube.sweeps.serving.log import read_served
from helpers import fake_vllm
from inside.compiled import decided_again
from inside.virtual import Time, drive

LAW = (2000, 300, 0, 25, 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> inside_vllm.Live:
    """Serve 90 requests, of which 30 are not looked at, by both algorithms."""
    spec, log = tmp_path / "sweep.toml", tmp_path / "log"
    policy = ["memory = {}", "sla = { target_s = 5e-6, tolerance_s = 2e-7, alpha = 4, delta = 1 }"]
    text = inside_vllm.specification(policy, 16, 640, 16, 128, (1e-6, 1e-7), 30.0, 20.0)
    spec.write_text(text, encoding="utf-8")
    time = Time()

    class Virtual(fake_vllm.install(monkeypatch).Scheduler):  # type: ignore[misc]
        clock = unix_clock = staticmethod(time.clock)

    options = {"spec": str(spec), "log": str(log)}
    scheduler = Virtual(**fake_vllm.config(options, max_num_seqs=16, budget=128))
    calls = inside_vllm.random_calls(np.random.default_rng(3), 90)
    drive(scheduler, fake_vllm.Interface(), time, calls, LAW)
    return inside_vllm.Live(log, 1.0, 30, np.zeros((1, 2)))


def test_a_step_law_is_found_in_the_steps(run: inside_vllm.Live) -> None:
    found = inside_vllm.step_law(read_served(run.folder), run.warm_up)
    assert found == pytest.approx([c / 1e9 for c in LAW], rel=1e-6, abs=1e-15)


def test_what_keeps_to_its_law_is_predicted(run: inside_vllm.Live) -> None:
    log = read_served(run.folder)
    served = inside_vllm.compared(run, log, None)
    assert inside_vllm.compared(run, log, [c / 1e9 for c in LAW]) == pytest.approx(served, rel=1e-6)
    slower = inside_vllm.compared(run, log, [2 * c / 1e9 for c in LAW])
    assert slower["e2e_s", "mean"] > 1.5 * served["e2e_s", "mean"]
    assert slower["cap", "mean over steps"] < served["cap", "mean over steps"]


def test_predictions_of_a_run_by_its_own_law_are_right(run: inside_vllm.Live) -> None:
    table = inside_vllm.predictions({"both": run})
    columns = [list(column.cells) for column in table.columns]
    assert set(columns[0]) == {"both"}
    assert {float(str(factor)) for factor in columns[5]} == {1.0}
    assert all("(+0.0 %)" in str(cell) or "(-0.0 %)" in str(cell) or "of none" in str(cell) for cell in columns[4])


def test_compiled_code_decides_the_same(run: inside_vllm.Live) -> None:
    steps, different = inside_vllm.decided_again(run)
    assert steps > 100
    assert different == 0
    written = read_served(run.folder)
    # A log of other observations shows.
    k = next(k for k, row in enumerate(written.steps) if row.signals == 20 and row.seen)
    wrong = [outcome._replace(signal_us=90.0) for outcome in written.steps[k].seen]
    changed = [*written.steps[:k], written.steps[k]._replace(seen=wrong), *written.steps[k + 1 :]]
    rows = list(decided_again(control_of(written.about), 1, changed))
    assert any(row.signal_us != signal for row, _, signal in rows)


@pytest.mark.parametrize("wrong", [["--requests", "59"], ["-o", "."]])
def test_a_mistake_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        inside_vllm.main(wrong)
    assert "must be 60 at least" in (said := capsys.readouterr().err) or "is there already" in said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
def test_vllm_itself_serves_at_the_simulators_instants(tmp_path: Path) -> None:
    same, costs = inside_vllm.on_a_virtual_clock(tmp_path, 5, 2)
    assert same == 5
    assert (costs[:, 1] <= costs[:, 0]).all()
