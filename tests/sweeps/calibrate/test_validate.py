"""Held against a log: `calibrate log`, `validate`, and the figure of both."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.calibration.coefficients import Coefficients, FittedLog, LoggedServer, Raw
from batchcube.calibration.fitting import LogFit
from batchcube.calibration.logs import Log, read_log
from batchcube.calibration.opening import opened
from batchcube.calibration.prediction import replay
from batchcube.calibration.scatter import Scatter
from batchcube.engine.continuous import make_law
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.figures import registry
from batchcube.results.validation import read_validation
from batchcube.sweeps.calibrate import validate as judging
from batchcube.sweeps.calibrate.server import parallel_of, server_of, server_settings, stated_by
from batchcube.sweeps.calibrate.validate import Error, contradictions, fit, validate
from batchcube.sweeps.spec.service import load
from helpers import logs
from helpers.command_line import Answer

TRUTH = [8e-3, 1e-4, 5e-8, 4e-5, 2e-9]
COUNT = 60
LIMITS = {"most_running": 8, "token_budget": 512}


def write_log(path: Path, settings: dict[str, object], apart_s: float = 0.1) -> Path:
    """Write the log of a simulated server whose law is `TRUTH`."""
    rng = np.random.default_rng(5)
    queued = np.cumsum(rng.exponential(apart_s, COUNT))
    queued -= queued[0]
    prompt, output = rng.integers(20, 900, COUNT), rng.integers(20, 150, COUNT)
    nothing = np.zeros(COUNT)
    records = replay(
        Log(queued, nothing, nothing, nothing, prompt, output, ""),
        server_of(server_settings(None, settings)),
        make_law(*TRUTH),
    )
    rows = zip(queued, prompt, output, records.scheduled, records.first_token, records.last_token, strict=True)
    with path.open("w") as file:
        for q, p, o, scheduled, first, last in rows:
            entry = {"input_toks": int(p), "output_toks": int(o), "queued_ts": 100.0 + q}
            ticks = (("scheduled_ts", scheduled), ("first_token_ts", first), ("last_token_ts", last))
            entry |= {name: 100.0 + int(value) / TICKS_PER_S for name, value in ticks}
            file.write(json.dumps(entry) + "\n")
    return path


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "server.jsonl", LIMITS)


def test_from_a_log_to_coefficients_to_errors_to_a_figure(
    tmp_path: Path,
    log_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted = Answer(
        capsys, "calibrate", "log", str(log_file), "--max-num-seqs", "8", "--token-budget", "512",
        "--fit-until", "40", "-o", "server.json", "--quiet",
    )  # fmt: skip
    assert fitted.status == 0
    assert "fitted to 40 of 60 requests" in fitted.out
    known = load("server.json")
    assert known.step_law is not None
    assert known.step_law.decode is not None
    assert np.interp(4, known.step_law.decode.requests, known.step_law.decode.s) == pytest.approx(8.4e-3, rel=0.1)
    assert known.replica is not None
    assert (known.replica.most_running, known.replica.token_budget) == (8, 512)
    judged = Answer(
        capsys, "validate", str(log_file), "--coefficients", "server.json", "-o", "v.nc", "--figure", "v.png",
    )  # fmt: skip
    assert judged.status == 0
    # The coefficients know which requests of this very log they were fitted to.
    assert judged.out.replace("\n", " ").startswith(
        "requests judged: all but the first 40, which were fitted; preemptions simulated: 0"
    )
    assert "throughput_tokens_per_s" in judged.out
    kept = read_validation("v.nc")
    assert kept["judged"].values.sum() == 20
    assert Path("v.png").read_bytes().startswith(b"\x89PNG")
    again = Answer(capsys, "figure", "simulated-vs-measured", "v.nc", "-o", "again.png")
    assert again.status == 0
    assert Path("again.png").read_bytes() == Path("v.png").read_bytes()
    every = Answer(capsys, "validate", str(log_file), "--coefficients", "server.json", "--skip", "0")
    assert every.out.startswith("warning: 40 of the 60 requests judged are those that were fitted\n")
    assert "requests judged: all;" in every.out
    refused = Answer(capsys, "validate", str(log_file), "--coefficients", "server.json", "-o", "v.nc")
    assert refused.mistake == "v.nc: is there already; choose another output, or --overwrite"
    # What is drawn is drawn anew, and in a folder of its own too.
    drawing = ("validate", str(log_file), "--coefficients", "server.json", "--figure")
    assert Answer(capsys, *drawing, "v.png").status == Answer(capsys, *drawing, "new/v.png").status == 0
    assert Answer(capsys, *drawing, "v.gif").mistake == "v.gif: must end in .png, .pdf or .svg"


def test_a_prior_is_named_and_what_the_log_cannot_tell_is_its(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    known, _ = exact()
    ahead = server_settings(None, {"async_scheduling": True})
    Path("tables.json").write_text(known.model_copy(update={"name": "tables", "replica": ahead}).text())
    limits = ("--max-num-seqs", "8", "--token-budget", "512", "--no-async-scheduling")
    arguments = ("calibrate", "log", str(log_file), *limits, "--fit-until", "12")
    fitted = Answer(capsys, *arguments, "--prior", "tables.json", "-o", "server.json", "--quiet")
    assert fitted.status == 0
    assert "off from the prior by" in " ".join(line.split("  ")[0] for line in fitted.out.splitlines())
    assert "the log cannot tell" in fitted.out
    # What a law is made of is left to another command, which is named beside what comes next.
    shown = Answer(capsys, "calibrate", "show", "server.json").out
    for table in ("before  told by", "decodes  ms of a step"):
        assert table in shown
        assert table not in fitted.out
    assert (
        "all of it: batchcube calibrate show server.json\nserver.json\nto judge it: batchcube validate " in fitted.out
    )
    law = load("server.json")
    assert law.log is not None
    assert (law.log.prior, law.log.fitted_to) == ("tables", 12)
    # An option is heard before the prior's server.
    assert law.replica is not None
    assert not law.replica.async_scheduling
    assert {way.of for way in law.log.found} >= {"speed", "c0_s", "c5_s_per_prefill_step", "bend"}
    assert all(way.standard_error > 0 for way in law.log.found)
    assert "tables" in law.source
    refused = Answer(capsys, *arguments, "--prior", "gone.json", "-o", "other.json")
    assert refused.mistake.startswith("gone.json: cannot be read")
    Path("none.json").write_text(known.model_copy(update={"name": "none", "step_law": None}).text())
    refused = Answer(capsys, *arguments, "--prior", "none.json", "-o", "other.json")
    assert refused.mistake == "coefficients none: hold no step law"


def judge(path: Path, *how: Any) -> tuple[list[Error], xr.Dataset]:
    """Validate the log of a file."""
    return validate(read_log(path), path, *how)


def exact(settings: dict[str, int] | None = None):
    """Return coefficients of the true law, and a replica's limits."""
    known = load("dynamic-batching-fig3")
    assert known.step_law is not None
    names = ("c0_s", "c1_s_per_request", "c2_s_per_kv_token", "c3_s_per_prefill_token", "c4_s_per_prefill_attention")
    law = known.step_law.model_copy(update=dict(zip(names, TRUTH, strict=True)))
    limits = LIMITS | (settings or {})
    return known.model_copy(update={"step_law": law}), server_settings(None, limits)


def test_the_true_law_has_no_error(log_file: Path) -> None:
    errors, dataset = judge(log_file, *exact())
    for row in errors:
        # Timestamps of 100 s and more have some ten digits behind the point.
        assert row.error == pytest.approx(0.0, abs=1e-6), row
    assert {row.quantity for row in errors} == {
        "ttft_s", "tpot_s", "e2e_s", "makespan_s", "throughput_tokens_per_s", "admitted", "waiting",
    }  # fmt: skip
    np.testing.assert_allclose(dataset["measured_e2e_s"], dataset["simulated_e2e_s"], rtol=1e-9)
    assert dataset["measured_admitted"].max() == 8


def fitted_to(log_file: Path, count: int, sha256: str | None = None) -> Coefficients:
    known, _ = exact()
    return known.model_copy(
        update={
            "raw": Raw(file=log_file.name, sha256=sha256 or read_log(log_file).sha256),
            "log": FittedLog(requests=COUNT, fitted_to=count, rms={}, unsure=[]),
        }
    )


def test_requests_that_were_fitted_judge_nothing_unless_asked(log_file: Path) -> None:
    _, settings = exact()
    known = fitted_to(log_file, 25)
    _, dataset = judge(log_file, known, settings)
    assert (dataset["judged"].values == (np.arange(COUNT) >= 25)).all()
    assert dataset.attrs["judged"] == "all but the first 25, which were fitted"
    _, dataset = judge(log_file, known, settings, 10)
    assert dataset["judged"].values.sum() == COUNT - 10
    assert dataset.attrs["warnings"] == "15 of the 50 requests judged are those that were fitted"
    every = fitted_to(log_file, COUNT)
    with pytest.raises(InputError, match=r"were fitted to all 60 requests, none is left to judge them: fit to some"):
        judge(log_file, every, settings)
    _, dataset = judge(log_file, every, settings, 0)
    assert dataset.attrs["warnings"] == "60 of the 60 requests judged are those that were fitted"
    # Another log judges them whole.
    _, dataset = judge(log_file, fitted_to(log_file, COUNT, "0" * 64), settings)
    assert dataset["judged"].values.all()
    assert dataset.attrs["warnings"] == ""


def test_limits_that_the_log_contradicts_are_refused(tmp_path: Path, log_file: Path) -> None:
    known, _ = exact()
    with pytest.raises(
        InputError, match=r"8 requests ran at once, .* s after the first .*: `max_num_seqs` 7 must be at"
    ):
        judge(log_file, known, server_settings(None, {"most_running": 7, "token_budget": 512}))
    with pytest.raises(InputError, match=r"`max_num_seqs` 4 must be at least as many"):
        fit(log_file, server_settings(None, {"most_running": 4, "token_budget": 512}), None, "mine", quiet=True)
    # Where the cache may be full, the requests over the limit may have been preempted.
    settings = server_settings(None, {"most_running": 7, "token_budget": 512, "capacity_tokens": 10**6})
    _, dataset = judge(log_file, known, settings)
    assert dataset.attrs["warnings"].startswith("8 requests ran at once")
    assert "more than max_num_seqs = 7, unless some were preempted" in dataset.attrs["warnings"]
    _, dataset = judge(
        log_file, known, server_settings(None, {"most_running": 8, "token_budget": 512, "capacity_tokens": 1600})
    )
    assert "more than the KV cache of 1600, unless some were preempted or shared" in dataset.attrs["warnings"]
    # One that ends as another begins is not beside it.
    entry = {"input_toks": 5, "output_toks": 2, "queued_ts": 0.0, "first_token_ts": 0.5, "last_token_ts": 1.0}
    after = entry | {"queued_ts": 0.2, "scheduled_ts": 1.0, "first_token_ts": 1.5, "last_token_ts": 2.0}
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(entry | {'scheduled_ts': 0.0})}\n{json.dumps(after)}\n")
    assert list(contradictions(read_log(path), server_settings(None, {"most_running": 1}), path)) == []


def test_tokens_that_come_late_to_a_client_contradict_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    sent = {"prompt_tokens": 5, "output_tokens": 2}
    # One at a time: the last token of the first takes 30 ms on its way, the first of the second 10 ms.
    rows = [{"arrival_s": 0.0, "ttft_s": 0.51, "e2e_s": 1.03}, {"arrival_s": 0.2, "ttft_s": 0.815, "e2e_s": 1.3}]
    path.write_text("".join(f"{json.dumps(sent | row)}\n" for row in rows))
    one = server_settings(None, {"most_running": 1})
    assert list(contradictions(read_log(path), one, path)) == [
        "2 requests ran at once, 1.015 s after the first came: more than max_num_seqs = 1, unless their last tokens "
        "came late to the client"
    ]


def test_users_wait_from_their_arrival_on_not_from_the_queue(tmp_path: Path) -> None:
    # A server that schedules ahead takes requests in between steps, and stamps them then; arrivals have another clock.
    path = write_log(tmp_path / "server.jsonl", LIMITS | {"async_scheduling": True})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rng = np.random.default_rng(2)
    late = np.where(rng.random(COUNT) < 0.3, 0.0, rng.uniform(0.0, 5e-3, COUNT))
    for row, delay in zip(rows, late, strict=True):
        row["arrival_time"] = 1.7e9 + row["queued_ts"]
        row["queued_ts"] = min(row["queued_ts"] + delay, row["scheduled_ts"])
    came = np.mean([row["arrival_time"] for row in rows]) - 1.7e9
    rows.sort(key=lambda row: row["queued_ts"])
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    errors, _ = judge(path, *exact({"async_scheduling": True}))
    # The wall clock of a log is known to a fraction of a microsecond.
    assert max(abs(row.error) for row in errors if row.quantity in ("ttft_s", "tpot_s", "e2e_s")) < 1e-4
    for row in rows:
        del row["arrival_time"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shorter, _ = judge(path, *exact({"async_scheduling": True}))
    ttft, after_queue = (
        next(row.measured for row in rows if (row.quantity, row.statistic) == ("ttft_s", "mean"))
        for rows in (errors, shorter)
    )
    assert ttft - after_queue == pytest.approx(np.mean([row["queued_ts"] for row in rows]) - came, rel=1e-3)


def test_the_log_of_two_replicas_is_one_of_two(tmp_path: Path) -> None:
    path = write_log(tmp_path / "two.jsonl", LIMITS | {"replicas": 2}, 0.05)
    errors, dataset = judge(path, *exact({"replicas": 2, "routing": "least_loaded"}))
    assert max(abs(row.error) for row in errors) < 1e-6
    # Of vLLM's balancers it is the one of a single front.
    assert dataset.attrs["warnings"].startswith("least_loaded is vLLM's balancer with one API server")
    _, dataset = judge(path, *exact({"replicas": 2, "routing": "round_robin"}))
    assert "API server" not in dataset.attrs["warnings"]
    with pytest.raises(InputError, match=r"16 requests ran at once, .*: `max_num_seqs` 8 must be at least as many"):
        judge(path, *exact())
    with pytest.raises(InputError, match="`max_num_seqs` 7 on each of 2 replicas must be at least as many"):
        judge(path, *exact({"replicas": 2, "most_running": 7}))


def test_the_log_of_replicas_that_step_together_is_one_of_such(tmp_path: Path) -> None:
    together = {"replicas": 2, "lockstep": True}
    path = write_log(tmp_path / "together.jsonl", LIMITS | together, 0.05)
    errors, _ = judge(path, *exact(together))
    assert max(abs(row.error) for row in errors) < 1e-6
    apart, _ = judge(path, *exact({"replicas": 2}))
    ttft, tpot = (
        next(r.error for r in apart if (r.quantity, r.statistic) == (q, "mean")) for q in ("ttft_s", "tpot_s")
    )
    # Nobody waits for anybody there.
    assert ttft < 0
    assert tpot < 0
    # Nothing contradicts one replica with place for all of them, but its steps are too long, and everybody waits.
    errors, _ = judge(path, *exact({"most_running": 16}))
    assert {row.quantity: row.error for row in errors if row.statistic == "mean"}["tpot_s"] > 0.1


def test_what_no_server_with_these_settings_does_is_refused_or_said(tmp_path: Path, log_file: Path) -> None:
    with pytest.raises(InputError, match=r"server\.jsonl: max_model_len 900: must be at least 10\d\d, the tokens of a"):
        judge(log_file, *exact({"max_model_len": 900}))
    with pytest.raises(InputError, match=r"a request of 10\d\d tokens could never fit into the KV cache of 800"):
        judge(log_file, *exact({"capacity_tokens": 800}))
    _, dataset = judge(log_file, *exact({"token_budget": 8}))
    assert "tokens of prompts were begun and all but the last prefilled in the step" in dataset.attrs["warnings"]
    short = write_log(tmp_path / "short.jsonl", LIMITS | {"capacity_tokens": 2000})
    _, dataset = judge(short, *exact())
    assert "requests waited while fewer than max_num_seqs = 8 ran" in dataset.attrs["warnings"]
    assert "(a fit to the log can find it), or no more than" in dataset.attrs["warnings"]
    assert dataset.attrs["warnings"].endswith("that ran at once may run (max_num_seqs)")
    errors, dataset = judge(short, *exact({"capacity_tokens": 2000}))
    assert "waited while" not in dataset.attrs["warnings"]
    assert max(abs(row.error) for row in errors) < 1e-6


def test_law_and_cache_are_fitted_in_turn(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # How laws are found is tested where they are: here one 3 % off, then the true one.
    made = []

    def fitted(log: Log, *_: object, **__: object) -> LogFit:
        opening = opened(None, log, log.first(len(log.came_s)))
        made.append(np.array([*TRUTH, 0.0, 0.0, 0.0]) * (1.0 if made else 1.03))
        scatter = Scatter(0.01, 0.01, 1e-2, (1.0, 1.0), 0.0)
        covariance = np.diag(opening.width**2) / 1e6
        return LogFit(opening, made[-1], covariance, scatter, (0.1, 0.1, 0.1), len(log.came_s), 1)

    monkeypatch.setattr(judging, "fit_log", fitted)
    short = write_log(tmp_path / "short.jsonl", LIMITS | {"capacity_tokens": 2000})
    monkeypatch.chdir(tmp_path)
    limits = ["--max-num-seqs", "8", "--token-budget", "512", "--kv-tokens", "fit", "--quiet"]
    assert Answer(capsys, "calibrate", "log", str(short), *limits, "-o", "mine.json").status == 0
    known = load("mine.json")
    assert known.replica is not None
    assert known.replica.capacity_tokens == pytest.approx(2000, rel=0.01)
    assert known.plausibility is not None
    assert known.plausibility.notes[0].startswith("a KV cache of 2000 tokens is fitted to the log")
    assert "it may be from 1984 to 2016 if the law is right" in known.plausibility.notes[0]
    # Two fits from each of the sizes it begins with, and the last.
    assert len(made) == 9
    Path("vllm.log").write_text("INFO # GPU blocks: 900\n")
    options = [*limits, "--server-log", "vllm.log"]
    assert Answer(capsys, "calibrate", "log", str(log_file), *options, "-o", "free.json").status == 0
    known = load("free.json")
    assert known.replica is not None
    assert (known.replica.capacity_tokens, known.replica.num_gpu_blocks) == (None, None)
    assert known.plausibility is not None
    assert known.plausibility.notes[0].startswith("the log does not tell how large the KV cache was")
    wrong = Answer(capsys, "calibrate", "log", str(log_file), "--kv-tokens", "some", "-o", "wrong.json")
    assert wrong.mistake.startswith('server: capacity_tokens = "some": ')


def test_settings_come_from_options_then_files_then_coefficients(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    meta = {"vllm_version": "0.19.0", "max_num_seqs": 16, "max_num_batched_tokens": 512, "data_parallel_size": 2}
    Path("meta.json").write_text(json.dumps(meta))
    Path("vllm.log").write_text("INFO GPU KV cache size: 160,000 tokens\nINFO non-default args: {'max_num_seqs': 8}\n")
    monkeypatch.setenv("COLUMNS", "200")
    files = ["--server-config", "meta.json", "--server-log", "vllm.log"]
    law = ["--coefficients", "dynamic-batching-fig3"]
    judged = Answer(capsys, "validate", str(log_file), *law, *files, "--replicas", "1")
    assert judged.out.splitlines()[:5] == [
        "meta.json: token_budget = 512, async_scheduling = True, routing = round_robin",
        "meta.json: async_scheduling is not stated: True, as of vLLM 0.19",
        "meta.json: routing is not stated: round_robin, as of vLLM 0.19",
        "meta.json: if its model has experts its engines step together, lockstep, and its routing is least_waiting",
        "vllm.log: most_running = 8, cached_tokens = 160000",
    ]
    judged = Answer(capsys, "validate", str(log_file), *law, "--server-log", "vllm.log")
    assert judged.out.splitlines()[1] == (
        "not said by anything, and assumed: token_budget = 2048, async_scheduling = False; vLLM's defaults depend on "
        "its GPU and version"
    )
    stated = stated_by(Path("meta.json"), Path("vllm.log"))
    known = load("dynamic-batching-fig3").model_copy(update={"replica": server_settings(None, {"block_tokens": 32})})
    settings = server_settings(known, {"capacity_tokens": 5000}, stated)
    assert (settings.block_tokens, settings.num_gpu_blocks, settings.held_tokens) == (32, None, 5000)
    assert (settings.most_running, settings.replicas, settings.async_scheduling) == (8, 2, True)
    wrong = Answer(capsys, "validate", str(log_file), *law, "--server", "replica=2")
    assert wrong.mistake == "server: replica: no such setting; did you mean replicas?"
    wrong = Answer(capsys, "validate", str(log_file), *law, "--server", "max_num_seqs=many")
    assert wrong.mistake.startswith('server: most_running = "many": must be a')
    wrong = Answer(capsys, "validate", str(log_file), *law, "--server", "max_model_len=many")
    assert wrong.mistake.startswith('server: max_model_len = "many": ')


def test_a_fit_has_the_gpus_of_its_prior_its_server_and_its_options(tmp_path: Path, log_file: Path) -> None:
    of_four = load("llama-3.1-70b-4xh100-vllm-tables")
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"max_num_seqs": 8, "tensor_parallel_size": 4}))
    stated, nothing = stated_by(meta, None), {"tensor_parallel": None, "pipeline_parallel": None}
    four = {"tensor_parallel": 4, "pipeline_parallel": 1}
    assert parallel_of(of_four, [], nothing) == parallel_of(of_four, stated, four) == four
    assert parallel_of(None, stated, nothing) == {"tensor_parallel": 4}
    # A law in which nothing says how many leaves it open.
    assert parallel_of(load("dynamic-batching-fig3"), [], nothing) == {}
    with pytest.raises(InputError, match=r"^tensor_parallel: 4 by coefficients .*, and 2 by `tensor_parallel`$"):
        parallel_of(of_four, [], {"tensor_parallel": 2})
    with pytest.raises(InputError, match=r"^tensor_parallel: 1 by coefficients .*, and 4 by meta.json$"):
        parallel_of(load("llama-3.1-8b-h100-vllm-tables"), stated, nothing)
    known = fit(log_file, server_settings(None, LIMITS), 20, "mine", quiet=True, parallel=four)
    assert {name: known.provenance[name] for name in four} == four


def test_a_time_that_rests_on_what_nobody_measured_is_not_compared(log_file: Path) -> None:
    known, settings = exact()
    assert known.step_law is not None
    law = known.step_law.model_copy(update={"c3_s_per_prefill_token": None})
    errors, dataset = judge(log_file, known.model_copy(update={"step_law": law}), settings)
    assert {row.quantity for row in errors} >= {"tpot_s", "e2e_s"}
    assert "ttft_s" not in {row.quantity for row in errors}
    assert np.isnan(dataset["simulated_ttft_s"]).all()
    assert dataset.attrs["warnings"].startswith("neither measured nor given, counted as 0: c3_s_per_prefill_token")
    texts = [text.get_text() for text in registry.draw("simulated-vs-measured", dataset).texts]
    assert texts[1].startswith("neither measured nor given")


@pytest.mark.parametrize(("output", "lasts"), [(1, 0.0), (3, 0.0), (1, 0.1)])
def test_a_log_without_some_times_has_no_errors_of_them(tmp_path: Path, output: int, lasts: float) -> None:
    entry = {"input_toks": 5, "output_toks": output, "queued_ts": 1.0, "first_token_ts": 1.0 + lasts}
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(entry | {'last_token_ts': 1.0 + lasts})}\n" * 40)
    known, settings = exact({"most_running": 64})
    errors, _ = judge(path, known, settings)
    means = {row.quantity: row.error for row in errors if row.statistic in ("mean", "all")}
    assert ("tpot_s" in means) == (output > 1)
    assert np.isnan(means["ttft_s"]) == np.isnan(means["makespan_s"]) == (lasts == 0.0)
    with pytest.raises(InputError, match="no time between queued, first and last token to fit to"):
        fit(path, settings, None, "mine", quiet=True)


def test_a_law_of_times_that_no_engine_takes_is_not_fitted(tmp_path: Path, log_file: Path) -> None:
    # Milliseconds, read as seconds.
    slow = tmp_path / "slow.jsonl"
    with slow.open("w") as file:
        for text in log_file.read_text().splitlines():
            entry = json.loads(text)
            file.write(json.dumps({k: v if k.endswith("toks") else 1e3 * v for k, v in entry.items()}) + "\n")
    with pytest.raises(InputError, match=r"slow\.jsonl: step_law\..*: no engine takes .*: milliseconds meant"):
        fit(slow, server_settings(None, LIMITS), 20, "mine", quiet=True)


def test_who_is_preempted_stays_admitted_on_both_sides(log_file: Path) -> None:
    known, _ = exact()
    _, dataset = judge(
        log_file, known, server_settings(None, {"most_running": 8, "token_budget": 512, "capacity_tokens": 2000})
    )
    assert dataset.attrs["preemptions_simulated"] > 0
    assert "preempted" in dataset["simulated_admitted"].attrs["long_name"]
    assert "simulated_running" not in dataset


def test_a_cache_holds_as_many_tokens_whoever_says_the_size_of_its_blocks(tmp_path: Path) -> None:
    config, start = tmp_path / "config.json", tmp_path / "vllm.log"
    config.write_text(json.dumps({"block_size": 128, "num_gpu_blocks": 513}))
    start.write_text("INFO GPU KV cache size: 65,536 tokens\n")
    held = {
        tokens: server_settings(None, given, stated_by(*files)).held_tokens
        for tokens, given, files in (
            # 512 blocks of 128 tokens, or 4096 of 16; one is never used.
            (511 * 128, {}, (config, start)),
            (4095 * 16, {}, (None, start)),
            (2047 * 32, {"block_tokens": 32}, (config, start)),
            # 513 blocks of 128 tokens are 1026 of 64.
            (512 * 128, {}, (config, None)),
            (1025 * 64, {"block_tokens": 64}, (config, None)),
        )
    }
    assert list(held) == list(held.values())


def test_tables_schedule_ahead_unless_the_server_or_an_option_says_otherwise(tmp_path: Path) -> None:
    tables = load("llama-3.1-8b-h100-vllm-tables")
    assert server_settings(tables, {}).async_scheduling
    old, off, silent = (tmp_path / f"{name}.json" for name in ("old", "off", "silent"))
    old.write_text(json.dumps({"vllm_version": "0.9.2", "max_num_seqs": 16}))
    off.write_text(json.dumps({"vllm_version": "0.19.0", "async_scheduling": False}))
    silent.write_text(json.dumps({"max_num_seqs": 16}))
    start = tmp_path / "vllm.log"
    start.write_text("INFO Initializing a V1 LLM engine (v0.9.2) with config: max_num_seqs=16\n")
    ahead = {"async_scheduling": True}
    for files, given, expected in (
        ((silent, None), {}, True),
        ((old, None), {}, False),
        ((off, None), {}, False),
        ((None, start), {}, False),
        ((old, None), ahead, True),
        ((None, None), {"async_scheduling": False}, False),
        ((None, None), {"async_scheduling": None}, True),
    ):
        settings = server_settings(tables, given, stated_by(*files))
        assert settings.async_scheduling is expected, (files, given)


def test_a_slower_law_is_late_everywhere(log_file: Path) -> None:
    known, settings = exact()
    assert known.step_law is not None
    slow = known.model_copy(update={"step_law": known.step_law.model_copy(update={"c0_s": 2 * TRUTH[0]})})
    errors, _ = judge(log_file, slow, settings, 10)
    by_name = {(row.quantity, row.statistic): row.error for row in errors}
    assert by_name["tpot_s", "mean"] > 0.5
    assert by_name["throughput_tokens_per_s", "all"] < 0


def test_what_cannot_be_validated_is_said_in_one_line(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log, law = str(log_file), "dynamic-batching-fig3"
    cases = [
        (["validate", "gone.jsonl", "--coefficients", law], "gone.jsonl: cannot be read"),
        (["validate", log, "--coefficients", "nobody"], "coefficients nobody: none of that name"),
        (["validate", log, "--coefficients", law, "--skip", "60"], "--skip 60: must be below 60"),
        (["validate", log, "--coefficients", law, "--kv-tokens", "100"], f"{log}: "),
        (
            ["validate", log, "--coefficients", law, "--token-budget", "4"],
            "server: token_budget = 4: must be at least",
        ),
        (["validate", log, "--coefficients", law, "--prefill", "mixed"], 'server: prefill = "mixed": must be'),
        (["calibrate", "log", log, "-o", "out.txt"], "out.txt: must end in .json"),
        (["calibrate", "log", log, "-o", "a b.json"], "--output a b.json: the name must be"),
        (["calibrate", "log", log, "--fit-until", "61", "-o", "out.json"], "--fit-until 61: must be from 1 to 60"),
        (["calibrate", "log", log, "--fit-until", "9", "-o", "out.json"], f"{log}: 9 requests to fit to"),
    ]
    for arguments, line in cases:
        assert Answer(capsys, *arguments).mistake.startswith(line), arguments
    assert list(tmp_path.iterdir()) == []


def test_the_figure_draws_what_is_judged(log_file: Path) -> None:
    _, dataset = judge(log_file, *exact(), 40)
    figure = registry.draw("simulated-vs-measured", dataset)
    lines = {line.get_label(): line for line in figure.axes[2].get_lines()}
    judged = np.sort(dataset["measured_e2e_s"].values[40:])
    np.testing.assert_array_equal(lines["measured"].get_xdata(), judged)
    nobody = dataset.assign(judged=dataset["judged"] * 0)
    with pytest.raises(ValueError, match="the validation judges no request"):
        registry.draw("simulated-vs-measured", nobody)


@pytest.mark.parametrize("name", ["aiperf", "vllm-bench", "sglang"])
def test_logs_of_clients_are_judged_and_say_whose_clock_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(logs.FORMATS[name].write(logs.some()))
    _, dataset = judge(path, load("qwen3-0.6b-cpu-vllm"), LoggedServer(most_running=8, token_budget=512))
    said = dataset.attrs["log_notes"].splitlines()
    assert "1 failed" in said[0]
    assert said[1] == "times by the client's clock: network and tokeniser are in them"
    assert any("reckoned for a closed loop of 1" in line for line in said) == (name == "sglang")


def test_columns_of_ones_own_are_named_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{k * (300 + k)},{50 + 7 * k},{9 + k % 4},{40 + k % 3},{700 + 30 * k}\n" for k in range(20)]
    path.write_text("sent,prompt,out,wait_ms,total_ms\n" + "".join(rows))
    columns = ("arrival=sent:ms", "prompt_tokens=prompt", "output_tokens=out", "ttft=wait_ms", "e2e=total_ms")
    options = [word for column in columns for word in ("--column", column)]
    judged = ["validate", str(path), "--coefficients", "qwen3-0.6b-cpu-vllm"]
    answer = Answer(capsys, *judged, *options)
    assert answer.status == 0
    assert "note: times by the client's clock" in answer.out
    # What is printed of the next step reads the log in the same way.
    fit = ("calibrate", "log", str(path), *options, "--max-num-seqs", "8", "-o", str(tmp_path / "mine.json"))
    again, _, then = Answer(capsys, *fit).out.splitlines()[-1].partition(", then batchcube ")
    assert again == "to judge it: fit again with --fit-until 10 --overwrite"
    assert Answer(capsys, *fit, "--fit-until", "10", "--overwrite").out.endswith(f"to judge it: batchcube {then}\n")
    assert Answer(capsys, *shlex.split(then)).status == 0
    for wrong, says in (
        ([], "format not recognised, has 'sent', 'prompt'"),
        ([*options, "--column", "ttft=x"], "--column ttft=x: must be PART=NAME, each PART once"),
        ([*options, "--format", "blis"], "--column: names columns, and blis has its own"),
        ([*options, "--concurrency", "2"], "--concurrency: the file has arrival times"),
    ):
        answer = Answer(capsys, *judged, *wrong)
        assert (answer.status, len(answer.err.splitlines())) == (2, 1)
        assert says in answer.err
