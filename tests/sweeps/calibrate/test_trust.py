"""How far coefficients reach, how far a prediction may be off, and how far real runs differ."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.calibration.coefficients import (
    DecodeNodes,
    FittedLog,
    FoundWay,
    LoggedServer,
    LogRanges,
    StepErrors,
    StepRanges,
    StepScatter,
)
from batchcube.calibration.logs import Log
from batchcube.calibration.reach import Reach, beyond, reach_of, validity
from batchcube.sweeps.calibrate.report import log_in_words
from batchcube.sweeps.calibrate.trust import interval, repeats
from batchcube.sweeps.spec.service import load
from helpers.command_line import Answer

from .test_validate import COUNT, LIMITS, TRUTH, exact, fitted_to, judge, write_log

SEEN = LogRanges(running=[1, 20], context_tokens=[30, 900], prompt_tokens=[20, 700], requests_per_s=4.0)


def known(prior: str | None = None, **law: Any):
    """Return coefficients that were fitted to a log, with these tables."""
    one, _ = exact()
    assert one.step_law is not None
    log = FittedLog(requests=COUNT, fitted_to=COUNT, rms={}, unsure=[], seen=SEEN, prior=prior)
    return one.model_copy(update={"log": log, "batch_laws": [], "step_law": one.step_law.model_copy(update=law)})


def test_a_law_reaches_as_far_as_its_log_and_tables_further() -> None:
    assert reach_of(known()) == Reach(20, 900, None, 4.0)
    two = known().model_copy(update={"replica": LoggedServer(replicas=2)})
    assert reach_of(two).requests == 10
    ranges = StepRanges(decodes=[1, 64], context_tokens=[128, 800], prefill_tokens=[16, 4096])
    assert reach_of(known("tables", ranges=ranges)) == Reach(64, 900, 4096, 4.0)
    # A table says nothing of where its nodes are from: that of a straight law ends at 256.
    nodes = DecodeNodes(requests=[0, 256], s=[0.0, 0.01], s_per_kv_token=[0.0, 0.0])
    assert reach_of(known(decode=nodes)) == reach_of(known("straight", decode=nodes)) == reach_of(known())
    assert reach_of(load("qwen3-0.6b-cpu-vllm")) == Reach(16, 192, 2048, None)
    assert validity(known()) == (
        "measured, fitted or tabled up to 20 requests at once, contexts of 900 tokens, 4 requests/s: beyond, steps are "
        "extrapolated"
    )


def test_what_leaves_it_is_marked() -> None:
    assert list(beyond(known(), Reach(20, 900, 10_000, 4.1))) == []
    (line,) = beyond(known(), Reach(40, 100, None, None))
    assert line == (
        "up to 40 requests at once may come, coefficients dynamic-batching-fig3 reach to 20 requests at once: "
        "extrapolated"
    )
    assert len(list(beyond(known(), Reach(40, 1000, 1, 8.0)))) == 3


def test_an_interval_holds_nine_of_ten() -> None:
    assert interval(list(np.linspace(0.0, 1.0, 101))) == pytest.approx((0.05, 0.95))
    assert np.isnan(interval([])).all()
    assert np.isnan(interval([1.0, np.nan])).all()


def test_runs_of_the_same_requests_are_known_by_their_tokens() -> None:
    come, prompt, output = np.arange(3.0), np.array([10, 20, 30]), np.array([5, 5, 9])
    one = Log(come, np.full(3, np.nan), come + 1.0, come + 5.0, prompt, output, "")
    other = one._replace(first_token_s=come + 1.2, prompt_tokens=prompt[::-1], output_tokens=output[::-1])
    third, faster = one._replace(prompt_tokens=prompt + 1), one._replace(queued_s=come / 2)
    ((group, spread),) = repeats([one, third, faster, other]).items()
    assert group == (0, 3)
    assert spread.ttft_s == pytest.approx(0.2 / 1.1)
    assert spread.e2e_s == 0.0


def test_intervals_stand_beside_errors_where_it_is_known_how_far_the_law_may_be_off(tmp_path: Path) -> None:
    path = write_log(tmp_path / "server.jsonl", LIMITS)
    one, settings = exact()
    assert one.step_law is not None
    errors, _ = judge(path, one, settings)
    assert all(np.isnan(row.low) for row in errors)
    # A tenth of c0, nothing else: nearly all of a step, and so of the time per output token.
    c0 = StepErrors(of=["c0_s"], covariance=[[(0.1 * TRUTH[0]) ** 2]], degrees_of_freedom=10**6)
    drawn = one.model_copy(update={"step_law": one.step_law.model_copy(update={"errors": c0})})
    errors, _ = judge(path, drawn, settings)
    (tpot,) = (row for row in errors if (row.quantity, row.statistic) == ("tpot_s", "mean"))
    assert tpot.error == pytest.approx(0.0, abs=1e-6)
    # Of 200 draws the ends of the middle nine tenths lie at 1.64 standard errors, 0.127 here, give or take 0.047.
    assert -0.174 < tpot.low < -0.08
    assert 0.08 < tpot.high < 0.174


def test_the_intervals_of_tables_are_said_to_be_the_prior_s(tmp_path: Path) -> None:
    path = write_log(tmp_path / "server.jsonl", LIMITS)
    known, settings = load("llama-3.1-8b-h100-vllm-tables"), exact()[1]
    errors, validation = judge(path, known, settings)
    # A host comes on top of the tables: servers are rather slower.
    for row in (row for row in errors if row.statistic == "mean"):
        assert row.low < row.high
        assert row.high > row.error
    assert (
        "of the prior of a fit, a host on top of the tables first: nothing was measured of it"
        in validation.attrs["log_notes"]
    )


def test_of_runs_without_times_of_a_token_nothing_is_said_of_these() -> None:
    came, one = np.arange(3.0), np.ones(3, np.int64)
    first, later = (Log(came, came, came + ttft, came + ttft, one, one, "") for ttft in (0.1, 0.2))
    (spread,) = repeats([first, later]).values()
    assert spread.ttft_s == pytest.approx(2 / 3)
    assert np.isnan(spread.tpot_s)
    assert repeats([first, first]) == {}


def test_more_scatter_than_intervals_were_tested_with_is_said(tmp_path: Path) -> None:
    path = write_log(tmp_path / "server.jsonl", LIMITS)
    one, settings = exact()

    def warned(step: float) -> str:
        scatter = StepScatter(step=step, drift=0.01, step_s=0.01, drift_lasts_s=[1.0, 2.0], ttft_s=0.0)
        log = FittedLog(requests=9, fitted_to=9, rms={}, unsure=[], scatter=scatter)
        _, validation = judge(path, one.model_copy(update={"log": log}), settings)
        return str(validation.attrs["warnings"])

    assert "steps scattered by 40 % around the law in the log" in warned(0.4)
    assert "scattered" not in warned(0.15)


def test_a_fit_on_its_limit_says_so() -> None:
    def said(prior: str | None, least: float) -> bool:
        way = FoundWay(of="speed", value=-0.7, standard_error=0.01, known_within=0.2, least=least)
        log = FittedLog(requests=9, fitted_to=9, rms={}, unsure=[], prior=prior, found=[way])
        return any(line.startswith("speed is off the prior by -70 %, the most below") for line in log_in_words(log))

    assert said("tables", 0.0)
    assert not said("tables", -0.1)
    assert not said(None, 0.0)


def test_several_logs_make_one_table_of_what_was_fitted_and_what_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    light, heavy = write_log(Path("light.jsonl"), LIMITS, 0.3), write_log(Path("heavy.jsonl"), LIMITS, 0.05)
    part = fitted_to(light, 40)
    assert part.log is not None
    part = part.model_copy(update={"log": part.log.model_copy(update={"seen": SEEN})})
    Path("mine.json").write_text(part.text())
    limits = ["--max-num-seqs", "8", "--token-budget", "512"]
    answer = Answer(capsys, "validate", str(light), str(heavy), "--coefficients", "mine.json", *limits)
    assert answer.status == 0
    tables = answer.out.partition("nine of ten\n")[2].splitlines()
    rows = [
        re.split(r"\s{2,}", line.strip())
        for line in tables
        if line.startswith("  ") or line in (str(light), str(heavy))
    ]
    times = ["TTFT mean", "TTFT p99", "TPOT mean", "TPOT p99", "E2E mean"]
    means = [time for time in times if time.endswith("mean")]
    judged = [*times, "throughput"]
    assert [row[0].strip() for row in rows] == ["light.jsonl", *means, "light.jsonl", *judged, "heavy.jsonl", *judged]
    assert all(row[1].endswith("%") for row in rows if not row[0].endswith(".jsonl"))
    heads = re.findall(r"^requests (fitted to|judged) .*nine of ten$", answer.out, re.MULTILINE)
    assert heads == ["fitted to", "judged"]
    loads = [line for line in answer.out.splitlines() if line.startswith("warning") and "requests/s" in line]
    assert len(loads) == 1
    assert loads[0].endswith(
        "requests/s may come, coefficients dynamic-batching-fig3 reach to 4 requests/s: extrapolated"
    )
    assert "are runs of the same requests" not in answer.out
    assert "how far repeated runs of this server differ is not known" in answer.out
    Path("whole.json").write_text(fitted_to(light, COUNT).text())
    answer = Answer(capsys, "validate", str(light), str(heavy), "--coefficients", "whole.json", *limits)
    assert answer.status == 0
    wrong = Answer(capsys, "validate", str(light), str(heavy), "--coefficients", "mine.json", "-o", "v.nc")
    assert wrong.mistake == "--output: is of one log"
    entries = [json.loads(line) for line in light.read_text().splitlines()]
    rerun = Path("rerun.jsonl")
    rerun.write_text(
        "".join(f"{json.dumps(one | {'last_token_ts': one['last_token_ts'] + 0.01})}\n" for one in entries)
    )
    again = Answer(capsys, "validate", str(light), str(rerun), "--coefficients", "mine.json", *limits)
    assert "light.jsonl, rerun.jsonl are runs of the same requests, whose means differ by TTFT 0.0 %" in again.out
    assert "is not known" not in again.out
    copy = Answer(capsys, "validate", str(light), str(light), "--coefficients", "mine.json", *limits)
    assert "how far repeated runs of this server differ is not known" in copy.out
    alone = Answer(capsys, "validate", str(light), "--coefficients", "mine.json", *limits)
    assert "requests that were fitted" in alone.out
