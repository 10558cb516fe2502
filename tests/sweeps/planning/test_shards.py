"""Plans in shards: each look dealt to many machines and merged, they give the answer of one machine."""

import json
import math
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batchcube.errors import InputError
from batchcube.results.differences import EXACT, compare_cubes
from batchcube.sweeps.planning.answer import Answer
from batchcube.sweeps.planning.decide import decide, merge_plan, shard_plan
from batchcube.sweeps.planning.question import Question, ask, question_of
from batchcube.sweeps.planning.simulating import Simulating
from batchcube.sweeps.run.shards import MissingShardsError, NextRoundError, Shard
from helpers.command_line import Answer as Said
from helpers.progress import Counting, Heard
from helpers.specifications import CAPS, SLO, TO_PLAN

SHARDS = 3
LIMITS = [f"--slo={limit}" for limit in SLO]
VARIED = [f"--vary={path}={','.join(map(str, values))}" for path, values in CAPS.items()]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TO_PLAN.format(seed=1))


def question(**asked: Any) -> Question:
    return ask("small.toml", **({"slo": SLO, "vary": CAPS} | asked))


def make(number: int, asked: Question, **options: Any) -> str:
    return shard_plan(asked, "plan.nc", Shard(number, SHARDS), again="batchcube plan small.toml", **options)


def files() -> list[str]:
    return sorted(str(file) for file in Path().rglob("*") if file.is_file() and file.name != "small.toml")


def same(answer: Answer, whole: Answer) -> None:
    """Bit for bit, in words and in the cube."""
    assert answer.text() == whole.text()
    assert answer.cube is not None
    assert whole.cube is not None
    table = compare_cubes(answer.cube, whole.cube)
    assert (table["status"] == EXACT).all(), table[table["status"] != EXACT]
    ours, theirs = (dict(one.cube.attrs, created_utc="") for one in (answer, whole) if one.cube is not None)
    assert ours == theirs


def merged(asked: Question, orders: Iterator[list[int]]) -> tuple[Answer, int, list[str]]:
    """Do round after round, shards in the orders given; return the answer, how many rounds and what the last said."""
    rounds = 0
    while True:
        for number in next(orders):
            make(number, asked, workers=1 + number % 2, progress=(count := Counting()))
            assert (count.replications, count.requests) == (0, 0)
        rounds += 1
        with suppress(NextRoundError):
            answer = merge_plan("plan.nc", progress=(heard := Heard()))
            return answer, rounds, heard.texts


def shuffled(seed: int) -> Iterator[list[int]]:
    """In any order, one of them twice."""
    rng = random.Random(seed)
    while True:
        order = list(range(1, SHARDS + 1))
        order.append(rng.choice(order))
        rng.shuffle(order)
        yield order


@pytest.mark.parametrize(
    "asked",
    [
        {},
        # Several numbers of replicas, and the queue of the best is looked at again.
        {"rate": 28.0, "settings": ["server.routing=least_loaded"]},
        {"objective": "throughput_tokens_per_s", "goodput": 0.5, "gpu_price": 2.5},
        # Nothing holds.
        {"slo": ["tpot_mean_s=0.001"]},
    ],
)
def test_rounds_of_shards_in_any_order_and_some_twice_give_the_answer_of_one_machine(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a look may take so long that its progress is told.
    monkeypatch.setattr("batchcube.sweeps.planning.simulating.SECONDS_BETWEEN_LINES", math.inf)
    said: list[str] = []
    whole = decide(question(**asked), "whole.nc", workers=1, say=said.append)
    answer, rounds, heard = merged(question(**asked), shuffled(1))
    assert rounds >= 3 - ("slo" in asked)
    assert heard == said != []
    same(answer, whole)
    assert files() == ["plan.json", "plan.nc", "whole.json", "whole.nc"]
    assert Path("plan.json").read_text() == Path("whole.json").read_text()
    assert decide(question(**asked), "plan.nc").text() == whole.text()
    assert make(2, question(**asked)).endswith("plan.nc is complete: there is nothing to do")


def test_shards_that_are_missing_or_were_killed_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decide(question(), workers=1)
    monkeypatch.setattr("batchcube.sweeps.planning.simulating.REQUESTS_OF_A_TASK", 1)
    take, rng = Simulating.take, random.Random(2)
    stopped = missing = rounds = 0

    def stop_sometimes(self: Simulating, task: Any, result: Any) -> Any:
        if rng.random() < 0.1:
            raise KeyboardInterrupt
        return take(self, task, result)

    while not Path("plan.nc").exists():
        monkeypatch.setattr(Simulating, "take", stop_sometimes)
        for number in rng.sample(range(1, SHARDS + 1), SHARDS):
            try:
                make(number, question(), workers=1)
            except KeyboardInterrupt:
                stopped += 1
        monkeypatch.setattr(Simulating, "take", take)
        try:
            answer = merge_plan("plan.nc")
        except NextRoundError:
            rounds += 1
        except MissingShardsError:
            missing += 1
    assert stopped > 3
    assert missing > 3
    assert rounds > 3
    same(answer, whole)
    assert files() == ["plan.json", "plan.nc"]


def test_a_plan_that_was_stopped_goes_on_in_shards_and_by_itself_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decide(question(), workers=1)
    monkeypatch.setattr("batchcube.sweeps.planning.simulating.REQUESTS_OF_A_TASK", 1)
    take, left = Simulating.take, [14]

    def stop_after(self: Simulating, task: Any, result: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return take(self, task, result)

    def stopped_after(tasks: int) -> None:
        left[0] = tasks
        with pytest.raises(KeyboardInterrupt):
            decide(question(), "plan.nc", workers=1)
        left[0] = 1000

    monkeypatch.setattr(Simulating, "take", stop_after)
    stopped_after(14)
    assert "is whole" in make(2, question())
    # What is dealt of a look does not depend on how much of it is kept.
    stopped_after(2)
    for number in (3, 1, 2):
        make(number, question())
    with pytest.raises(NextRoundError, match=r"round \d+ is next: for k in \$\(seq 3\); do batchcube plan small.toml"):
        merge_plan("plan.nc")
    # By itself again it needs no shards, nor, once it is there, what a kill kept it from removing.
    make(1, question())
    kept = [(path, path.read_bytes()) for path in Path("plan.nc.partial").glob("*.parts")]
    assert kept
    same(decide(question(), "plan.nc"), whole)
    assert files() == ["plan.json", "plan.nc"]
    Path("plan.nc.partial").mkdir()
    for path, content in kept:
        path.write_bytes(content)
    assert decide(question(), "plan.nc").text() == whole.text()
    assert files() == ["plan.json", "plan.nc"]


def test_a_question_is_read_as_it_was_written() -> None:
    asked = question(goodput=0.9, gpu_price=1.5, objective="latency_mean_s", settings={"server.servers": 2})
    again = question_of(asked.sweep, json.loads(json.dumps(asked.table())))
    assert again == asked


def test_what_does_not_go_with_shards_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="`budget`: does not go with `shard`: no shard knows what the others spend"):
        make(1, question(budget="60s"))
    command = ["plan", "small.toml", *LIMITS, *VARIED, "--shard", "1/2", "-q"]
    for more, said in (
        (["-o", "plan.nc", "--budget", "1e6"], "--budget: does not go with --shard: no shard knows what the others"),
        (["-o", "plan.nc", "--report", "a.html"], "--report: does not go with --shard, which has no answer"),
        (["-o", "plan.nc", "--json"], "--json: does not go with --shard, which has no answer"),
        (["-o", "plan.nc", "--overwrite"], "--overwrite: does not go with --shard"),
        ([], "--output: is missing: with --shard it says where all parts are kept"),
        (["-o", "plan.zarr"], "plan.zarr: must end in .nc"),
    ):
        assert Said(capsys, *command, *more).mistake.startswith(said)
    assert files() == []
    Path("plan.json").write_text("{}")
    assert "is there already" in Said(capsys, *command, "-o", "plan.nc").mistake


def test_the_commands_deal_and_merge(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "small.toml", *LIMITS, *VARIED]
    alone = Said(capsys, *command, "-o", "whole.nc", "-q")
    assert alone.status == 0
    status, rounds = 3, 0
    while status == 3:
        rounds += 1
        for part in ("2/2", "1/2"):
            assert Said(capsys, *command, "-o", "plan.nc", "-q", "--shard", part).status == 0
        answer = Said(capsys, "merge", "plan.nc")
        status = answer.status
        if status:
            again = "batchcube plan small.toml --slo ttft_p99_s=1 --slo tpot_mean_s=0.04 --vary policy.largest_batch="
            assert f"plan.nc: round {rounds + 1} is next: for k in $(seq 2); do {again}" in answer.err
    assert status == 0
    assert rounds > 3
    assert answer.out == alone.out
    assert Path("plan.json").read_text() == Path("whole.json").read_text()


def test_a_plan_without_an_answer_has_the_status_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "small.toml", "--slo=tpot_mean_s=0.001", "-q"]
    alone = Said(capsys, *command)
    assert alone.status == 1
    answer = alone
    while not Path("plan.nc").exists():
        assert Said(capsys, *command, "-o", "plan.nc", "--shard", "1/1").status == 0
        answer = Said(capsys, "merge", "plan.nc", "-q")
    assert (answer.status, answer.out, answer.err) == (1, alone.out, alone.err)
    allowed = Said(capsys, "merge", "plan.nc", "--allow-missing")
    assert allowed.mistake.endswith("has no shards that could be merged")
