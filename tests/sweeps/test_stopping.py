"""What a notebook shows of a run that was interrupted; tests of commands and runs stop them where they are."""

import signal

import pytest

from batchcube.sweeps.stopping import stopping


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(("kept", "told"), [("", "Nothing is kept."), ("3 of 8 are kept.", "3 of 8 are kept.")])
def test_a_notebook_shows_a_line_that_says_what_is_kept(kept: str, told: str) -> None:
    def stopped() -> None:
        with stopping() as stop, stopping():
            stop.kept = kept
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as found:
        stopped()
    assert type(found.value) is KeyboardInterrupt, "Python ends a script as a signal does for this one alone"
    assert str(found.value) == "SIGINT"
    assert found.value._render_traceback_() == [f"KeyboardInterrupt: stopped. {told}"]
