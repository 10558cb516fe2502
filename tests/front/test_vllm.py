"""The scheduler inside vLLM, on what stands in for vLLM; and on vLLM itself where that is installed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from batchcube.calibration.coefficients import Coefficients, LoggedServer, StepCoefficients
from batchcube.calibration.laws import STEP_TERMS
from batchcube.calibration.logs import read_log
from batchcube.engine.dialect import policy
from batchcube.engine.policies import Controller, Order, register
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.sweeps.calibrate.validate import validate
from batchcube.sweeps.serving.given import Options, control_of, make_given
from batchcube.sweeps.serving.log import ABOUT, REQUESTS, STEPS, read_served
from batchcube.sweeps.serving.pilot import replayed
from batchcube.sweeps.serving.scheduling import limits_of, predicted_tokens
from helpers import fake_vllm
from helpers.command_line import Answer
from inside.virtual import Call, Time, drive, instants, instants_of, simulated

pytestmark = pytest.mark.usefixtures("outside_policies")

LAW = (1000, 150, 3, 20, 1)
SPEC = """
[workload]
requests = 200
arrivals = { process = "poisson", rate_per_s = 20.0 }
[workload.lengths]
distribution = "lognormal"
mean = 12.0
cv = 0.8
prompt = { distribution = "lognormal", mean = 20.0, cv = 0.5 }
[policy]
mode = "continuous"
largest_batch = 8
[server.service]
law = "steps"
c0_s = 1e-6
c1_s_per_request = 1.5e-7
c2_s_per_kv_token = 3e-9
c3_s_per_prefill_token = 2e-8
c4_s_per_prefill_attention = 1e-9
[server.replica]
kv_capacity_tokens = 640
token_budget = 64
"""
POLICIES = {
    "static": "",
    "memory": "memory = {}",
    "literal memory": 'memory = { rule = "literal" }',
    "sla": "sla = { target_s = 2e-6, tolerance_s = 1e-7, alpha = 2, delta = 1 }",
    "gap": 'sla = { target_s = 2e-6, tolerance_s = 1e-7, alpha = 2, delta = 1, signal = "token_gap" }',
    "both": """memory = {}
        sla = { target_s = 2e-6, tolerance_s = 1e-7, alpha = 2, delta = 1 }
        estimates = { kind = "window", observations = 5 }""",
    "bins": """bins = 3
        admission = "by_bin"
        bin_choice = "longest_queue"
        memory = {}""",
    "of one's own": """bins = 3
        admission = "by_bin"
        bin_choice = { name = "weighted_shortest", weight = 0.5 }
        controller = { name = "who_waits", capacity_tokens = 300.0 }""",
    "who waits in one queue": 'controller = { name = "who_waits", capacity_tokens = 300.0 }',
}


def specification(folder: Path, policy: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(SPEC.replace("largest_batch = 8", f"largest_batch = 8\n{policy}"), encoding="utf-8")
    return path


def calls(seed: int, count: int = 80, mean_gap_ns: int = 6000) -> list[Call]:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.integers(0, 2 * mean_gap_ns, count))
    prompts, outputs = rng.integers(1, 90, count), rng.integers(1, 40, count)
    guesses = np.ceil(outputs * rng.lognormal(0.0, 0.3, count))
    return [Call(*map(int, row), float(guess)) for *row, guess in zip(at, prompts, outputs, guesses, strict=True)]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Any, Time]]]:
    """Make a scheduler, of a version of vLLM, whose time only passes when it is told to."""
    made: list[Any] = []

    def scheduler(options: Any, version: str = "0.32.0", base: type = fake_vllm.AsyncScheduler, **server: Any) -> Any:
        time = Time()

        class Virtual(fake_vllm.install(monkeypatch, version, base).Scheduler):  # type: ignore[misc]
            clock = unix_clock = staticmethod(time.clock)

        made.append(Virtual(**fake_vllm.config(options, **server)))
        return made[-1], time

    yield scheduler
    for each in made:
        each.shutdown()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_serves_as_it_is_simulated(tmp_path: Path, make: Any, name: str, seed: int) -> None:
    spec, log = specification(tmp_path, POLICIES[name]), tmp_path / "log"
    scheduler, time = make({"spec": str(spec), "log": str(log)})
    given = make_given(Options(spec=str(spec)), limits_of(scheduler))
    sent = calls(seed)
    drive(scheduler, fake_vllm.Interface(), time, sent, LAW)
    records = simulated(given, sent, LAW)
    assert instants(log) == instants_of(records)
    written = read_served(log)
    assert sum(row.preempted for row in written.steps) == records.preemptions.sum()
    caps = {row.cap for row in written.steps}
    assert caps == {8} if name == "static" else len(caps) > 1
    decided = list(replayed(control_of(written.about), written.about["bins"], written.steps))
    assert len(decided) > 100
    assert len(decided) == sum(row.waiting + row.running > 0 for row in written.steps)
    for row, target in decided:
        assert (row.cap, row.memory_bound, row.sla_bound) == (target.batch, target.memory_bound, target.sla_bound)


def test_settings_stand_over_those_of_the_specification(tmp_path: Path, make: Any) -> None:
    spec = str(specification(tmp_path, POLICIES["sla"]))
    options = {"spec": spec, "set": {"policy.largest_batch": 4, "policy.sla.target_s": 5e-6}}
    scheduler, _ = make(options)
    given = make_given(Options(**options), limits_of(scheduler))
    assert given.control.largest == 4
    assert given.point.policy.sla.target_s == 5e-6
    assert "policy.largest_bach" in refused(make, {"spec": spec, "set": {"policy.largest_bach": 4}})


def test_nobody_is_preempted_only_where_there_is_room(tmp_path: Path, make: Any) -> None:
    log = tmp_path / "log"
    scheduler, time = make({"spec": str(specification(tmp_path, "")), "log": str(log)})
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    assert sum(row.preempted for row in read_served(log).steps) > 0


def test_a_log_is_what_calibrate_log_and_validate_read(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "log"
    options = {"spec": str(specification(tmp_path, "")), "log": str(folder)}
    scheduler, time = make(options)
    drive(scheduler, fake_vllm.Interface(), time, calls(3), LAW)
    log = read_log(folder / REQUESTS)
    assert len(log.queued_s) == 80
    known = Coefficients.model_construct(
        name="law",
        label="measured",
        title="",
        log=None,
        raw=None,
        step_law=StepCoefficients.model_construct(**dict(zip(STEP_TERMS, (c / 1e9 for c in LAW), strict=False))),
    )
    limits = LoggedServer(most_running=8, token_budget=64, capacity_tokens=640, block_tokens=16)
    errors, _ = validate(log, folder / REQUESTS, known, limits)
    assert max(abs(row.error) for row in errors if row.quantity in ("ttft_s", "tpot_s", "e2e_s")) < 1e-9


def test_a_log_becomes_a_cube_as_of_a_simulation(tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output, again = tmp_path / "log", tmp_path / "served.nc", tmp_path / "again.nc"
    scheduler, time = make({"spec": str(specification(tmp_path, POLICIES["sla"])), "log": str(folder)})
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    assert Answer(capsys, "served", folder, "-o", output).status == 0
    cube = read_cube(output)
    assert "served by vLLM 0.32.0, not simulated" in cube.attrs["notes"]
    assert Answer(capsys, "rerun", output, "-o", again, "--backend", "reference", "-q").status == 0
    simulated = read_cube(again)
    counted = ("preemptions", "steps", "window_arrivals", "window_completions", "window_preemptions")
    means = ("latency_mean_s", "wait_mean_s", "ttft_mean_s", "tpot_mean_s", "batch_size_mean", "utilisation")
    windows = ("batch_target_mean", "batch_sla_bound_mean", "signal_mean_s", "running_mean", "queue_length_mean")
    for name in (*counted, *means, *(f"window_{window}" for window in windows)):
        np.testing.assert_allclose(cube[name].values, simulated[name].values, rtol=1e-6, err_msg=name)
    assert np.isnan(cube["tbt_mean_s"]).all()
    drawn = tmp_path / "over-time.png"
    assert Answer(capsys, "figure", "serving-over-time", output, "-o", drawn).status == 0
    assert drawn.exists()


def test_a_server_that_caches_prefixes_has_a_cube_too(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"spec": str(specification(tmp_path, "")), "log": str(tmp_path / "log")}
    scheduler, time = make(options, caching=True, async_scheduling=True)
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    served, again = tmp_path / "served.nc", tmp_path / "again.nc"
    assert Answer(capsys, "served", tmp_path / "log", "-o", served).err == ""
    assert float(read_cube(served)["completed"].item()) == 80
    # The prompts of every second request begin alike, and are found again.
    assert Answer(capsys, "rerun", served, "-o", again, "--backend", "reference", "-q").status == 0
    assert float(read_cube(again)["prefix_cache_hit_fraction"].item()) > 0.2


def test_a_server_by_priority_is_simulated_by_priority(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    served, again = tmp_path / "served.nc", tmp_path / "again.nc"
    scheduler, time = make({"spec": str(specification(tmp_path, "")), "log": str(tmp_path / "log")}, policy="priority")

    class Ranked(fake_vllm.Interface):
        def request(self, name: str, call: Call) -> fake_vllm.Request:
            made = super().request(name, call)
            made.priority = int(name) % 3 - 1
            return made

    drive(scheduler, Ranked(), time, calls(1), LAW)
    assert Answer(capsys, "served", tmp_path / "log", "-o", served).err == ""
    rows = [json.loads(line) for line in served.with_suffix(".jsonl").read_text().splitlines()]
    assert sorted({row["priority"] for row in rows}) == [-1, 0, 1]
    assert Answer(capsys, "rerun", served, "-o", again, "--backend", "reference", "-q").status == 0
    assert '"scheduling_policy": "priority"' in read_cube(again).attrs["specification"]


def test_what_no_simulation_does_is_said(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = {"spec": str(specification(tmp_path, "")), "log": str(tmp_path / "log")}
    server = {"enable_chunked_prefill": False, "async_scheduling": True, "long_prefill_token_threshold_adaptive": True}
    scheduler, time = make(options, caching=True, **server)
    assert "no simulation does what this server does: enable_chunked_prefill = false" in caplog.text
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    assert Answer(capsys, "served", tmp_path / "log", "-o", tmp_path / "served.nc").err == ""
    notes = read_cube(tmp_path / "served.nc").attrs["notes"]
    assert "no simulation does what the server did: enable_chunked_prefill = false" in notes


def test_a_model_longer_than_any_request_has_a_cube(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    scheduler, time = make({"spec": str(specification(tmp_path, "")), "log": str(log)})
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    about = json.loads((log / ABOUT).read_text())
    about["limits"]["settings"]["max_model_len"] = 10_485_760
    (log / ABOUT).write_text(json.dumps(about))
    assert Answer(capsys, "served", log, "-o", tmp_path / "served.nc").err == ""


def test_answers_that_end_at_the_longest_count_as_cut(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    scheduler, time = make({"spec": str(specification(tmp_path, "")), "log": str(log)})
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    longest = max(row["input_toks"] + row["output_toks"] for row in read_served(log).requests)
    about = json.loads((log / ABOUT).read_text())
    about["limits"]["settings"]["max_model_len"] = longest
    (log / ABOUT).write_text(json.dumps(about))
    assert Answer(capsys, "served", log, "-o", tmp_path / "served.nc").err == ""
    assert float(read_cube(tmp_path / "served.nc")["truncated"].item()) >= 1


def test_a_limit_of_the_server_above_the_cap_is_none(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"spec": str(specification(tmp_path, "")), "log": str(tmp_path / "log")}
    scheduler, time = make(options, max_num_seqs=4096, max_num_active_seqs=4000)
    drive(scheduler, fake_vllm.Interface(), time, calls(1), LAW)
    assert Answer(capsys, "served", tmp_path / "log", "-o", tmp_path / "served.nc").err == ""


def test_a_folder_without_a_log_makes_no_cube(tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log, output = tmp_path / "log", tmp_path / "served.nc"
    assert "served.json" in Answer(capsys, "served", tmp_path, "-o", output).mistake
    make({"spec": str(specification(tmp_path, "")), "log": str(log)})
    told = f"{log / REQUESTS}: holds no request that is over"
    assert Answer(capsys, "served", log, "-o", output).mistake == told
    assert Answer(capsys, "served", log, "-o", tmp_path / "served.txt").mistake.endswith("must end in .nc")
    (log / STEPS).write_text("[1, 2]\n")
    assert (
        f"{log / STEPS}: line 1: must be a list of step, at_ns" in Answer(capsys, "served", log, "-o", output).mistake
    )


# Faults ---------------------------------------------------------------------------------------------------------------


def served(scheduler: Any, time: Time, count: int = 80) -> None:
    drive(scheduler, fake_vllm.Interface(), time, calls(1, count), LAW)
    assert not scheduler.requests


class Nothing(NamedTuple):
    """No settings, and no state."""


def once_late(view: Any, settings: Any) -> Any:
    return Nothing(), 4.0


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        (lambda view: 1.0 / (20.0 - view.waiting), "ZeroDivisionError: float division by zero"),
        (
            lambda view: float("4" if view.waiting < 20 else "4\n?"),
            "ValueError: could not convert string to float: '4\\n?'",
        ),
    ],
)
def test_a_fault_in_a_controller_leaves_the_static_cap(
    tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture, bound: Any, told: str
) -> None:
    policy(bound)
    register(Controller("faulty", Nothing, once_late, lambda state, view, settings: (state, bound(view))))
    log = tmp_path / "log"
    options = {"spec": str(specification(tmp_path, 'controller = { name = "faulty" }')), "log": str(log)}
    scheduler, time = make(options)
    served(scheduler, time)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    line = "from now on up to 8 requests run, admitted by arrival"
    assert said == [f"batchcube: the policy failed ({told}); {line}"]
    written = read_served(log)
    assert len(written.requests) == 80
    first = next(k for k, row in enumerate(written.steps) if row.fault)
    assert first > 0
    assert {(row.cap, row.fault) for row in written.steps[first:] if row.batch} == {(8, True)}
    decided = list(replayed(control_of(written.about), 1, written.steps))
    assert len(decided) == sum(row.batch > 0 for row in written.steps[:first])


def test_a_fault_in_an_order_leaves_arrival(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    register(Order("faulty", Nothing, lambda candidate, settings: 1.0 / (2.0 - candidate.size)))
    log = tmp_path / "log"
    policy = 'bins = 3\nadmission = "by_bin"\nbin_choice = { name = "faulty" }\nmemory = {}'
    scheduler, time = make({"spec": str(specification(tmp_path, policy)), "log": str(log)})
    served(scheduler, time)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    written = read_served(log)
    assert len(written.requests) == 80
    failed_ns = next(row.at_ns for row in written.steps if row.fault)
    behind = [row for row in written.requests if row["scheduled_ts"] * 1e9 > failed_ns and not row["preemptions"]]
    behind.sort(key=lambda row: row["scheduled_ts"])
    assert len(behind) > 10
    numbers = [int(row["request_id"]) for row in behind]
    waited = {row["scheduled_ts"] for row in behind}
    assert all(
        sorted(group) == group
        for at in waited
        for group in [[n for n, row in zip(numbers, behind, strict=True) if row["scheduled_ts"] <= at]]
    )


def test_a_fault_of_ours_does_not_stop_the_server(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, time = make({"spec": str(specification(tmp_path, "memory = {}"))})
    monkeypatch.setattr(scheduler.serving, "sort_prefills", lambda *_: 1 / 0)
    served(scheduler, time)
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert scheduler.max_num_active_reqs == 8


def test_a_log_that_cannot_be_written_ends_and_nothing_else(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, log = specification(tmp_path, POLICIES["sla"]), tmp_path / "log"
    scheduler, time = make({"spec": str(spec), "log": str(log)})

    def full(row: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scheduler.serving.pilot.log, "step", full)
    served(scheduler, time)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["batchcube: the log cannot be written ([Errno 28] No space left on device); it ends here"]
    assert not scheduler.serving.pilot.failed
    assert scheduler.max_num_active_reqs < 8


# What the server and its clients say ----------------------------------------------------------------------------------


def test_requests_that_clients_give_up_are_marked(tmp_path: Path, make: Any) -> None:
    log = tmp_path / "log"
    options = {"spec": str(specification(tmp_path, "memory = {}")), "log": str(log)}
    scheduler, time = make(options)
    interface = fake_vllm.Interface()
    for name in ("0", "1"):
        scheduler.add_request(interface.request(name, Call(0, 10, 5, 5.0)))
    for _ in range(2):
        output = scheduler.schedule()
        time.now_ns += 1000
        names = list(output.num_scheduled_tokens)
        scheduler.update_from_output(output, interface.output(names, [[7]] * len(names)))
    scheduler.finish_requests("0")
    drive(scheduler, interface, time, [], LAW)
    rows = {row["request_id"]: row for row in read_served(log).requests}
    assert rows["0"]["aborted"]
    assert rows["0"]["output_toks"] == 2
    assert rows["0"]["last_token_ts"] == 2000 / 1e9
    assert "aborted" not in rows["1"]
    seen = [outcome.tokens for row in read_served(log).steps for outcome in row.seen if outcome.finished]
    assert sum(seen) <= 12 + 15


@pytest.mark.parametrize("stated", [None, "many", True, -1, float("nan"), float("inf")])
def test_a_prediction_that_is_none_is_the_most_that_may_come(stated: Any) -> None:
    assert predicted_tokens(fake_vllm.Request("0", 5, 30, extra={"predicted_tokens": stated})) == 30.0
    assert predicted_tokens(fake_vllm.Request("0", 5, 30, extra={"predicted_tokens": 7})) == 7.0


def test_the_cap_stays_below_the_servers_own(tmp_path: Path, make: Any) -> None:
    log = tmp_path / "log"
    options = {"spec": str(specification(tmp_path, "memory = {}")), "log": str(log)}
    scheduler, time = make(options, max_num_active_seqs=3)
    served(scheduler, time)
    assert max(row.batch for row in read_served(log).steps) == 3


def test_each_engine_has_a_folder_where_there_are_several(tmp_path: Path, make: Any) -> None:
    options = {"spec": str(specification(tmp_path, "")), "log": str(tmp_path / "log")}
    make(options, ranks=2)
    assert (tmp_path / "log" / "1" / STEPS).exists()


def test_what_the_server_has_otherwise_is_said(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = specification(tmp_path, "")
    make({"spec": str(spec)}, budget=512)
    assert f"batchcube: this server has token_budget = 512, not 64 as in {spec}" in caplog.text
    assert "kv_capacity" not in caplog.text


def test_a_newer_vllm_is_warned_of_once(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    make({"spec": str(specification(tmp_path, ""))}, "0.41.0rc1")
    assert caplog.text.count("tried with vLLM 0.31 to 0.32, this is 0.41.0rc1") == 1


# Mistakes -------------------------------------------------------------------------------------------------------------


def refused(make: Any, options: Any, *version: Any, **server: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(options, *version, **server)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_vllm_that_is_too_old_or_unknown_is_refused(tmp_path: Path, make: Any) -> None:
    options = {"spec": str(specification(tmp_path, ""))}
    told = "vLLM 0.30.2: its cap on running requests cannot be moved: must be 0.31 or later"
    assert refused(make, options, "0.30.2") == told

    class Other(fake_vllm.AsyncScheduler):
        def __init__(self, **server: Any) -> None:
            super().__init__(**server)
            del self.waiting

    told = "vLLM 0.33: its scheduler has no waiting"
    assert refused(make, options, "0.33", Other) == told


def test_what_cannot_be_run_is_refused_in_a_line(tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = specification(tmp_path, "")
    options = {"spec": str(spec)}
    told = """--additional-config: no specification is given: must hold {"batchcube": {"spec": FILE}}"""
    assert refused(make, None) == told
    assert [record.getMessage() for record in caplog.records] == [f"batchcube: {told}"]
    assert "batchcube.spce: no such setting; did you mean spec?" in refused(make, {**options, "spce": 1})
    assert refused(make, {"spec": str(tmp_path / "none.toml")}).startswith(str(tmp_path / "none.toml"))
    assert refused(make, {"spec": "multi-bin-fig3", "at": {"bins": 1, "arrival_rate_per_s": 13.0}}).endswith(
        'policy.mode = "multi_bin_only": only "continuous" can run inside a server'
    )
    assert "axis cap: must be chosen" in refused(make, {"spec": "continuous-rate"})
    assert "no axis nap" in refused(make, {**options, "at": {"nap": 1}})
    told = f"{spec}: policy.largest_batch = 8: must be at most 4, the server's max_num_seqs"
    assert refused(make, options, max_num_seqs=4) == told
    unknown = specification(tmp_path, 'controller = { name = "amid" }')
    assert 'policy.controller.name = "amid": must be "aimd" or "who_waits"' in refused(make, {"spec": str(unknown)})
    bins = specification(tmp_path, POLICIES["bins"])
    told = f'{bins}: policy.admission = "by_bin": --scheduling-policy priority has an order of its own: must be fcfs'
    assert refused(make, options, policy="priority") == told


def test_a_log_is_not_written_over(tmp_path: Path, make: Any) -> None:
    log = tmp_path / "log"
    options = {"spec": str(specification(tmp_path, "")), "log": str(log)}
    make(options)
    assert refused(make, options) == f"{log / 'served.json'}: is there already; name another folder"
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(make, {**options, "log": str(tmp_path / "file" / "log")})


def test_vllm_is_needed_by_nothing_else() -> None:
    code = "import sys, batchcube, batchcube.sweeps.serving.scheduling; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
