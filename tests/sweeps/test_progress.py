import pytest

from batchcube.sweeps.progress import Bar, PlainLines, Silent


def test_plain_lines_come_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with PlainLines() as lines:
        lines.start(3, 10, 6_000_000)
        for now[0] in (1.0, 2.0, 6.0, 7.0):
            lines.advance(1_000_000)
            lines.finish_replications(1)
    out = capsys.readouterr().err.splitlines()
    assert out[0] == "3 points x 10 replications, 6 Mrequests"
    assert out[1] == "50 %: 2 of 10 replications, 500 krequests/s, 0:00:06 left"
    assert out[2] == "67 %: 4 of 10 replications, 571 krequests/s, 0:00:03 left"
    assert len(out) == 3


def test_a_bar_counts_requests_and_replications() -> None:
    with Bar() as bar:
        bar.start(3, 10, 1000)
        bar.advance(400)
        bar.finish_replications(4)
        (task,) = bar._bar.tasks
        assert (task.completed, task.total, task.fields["finished"]) == (400, 1000, 4)


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.start(1, 1, 1)
    silent.advance(1)
    silent.finish_replications(1)
    assert capsys.readouterr() == ("", "")
