"""What the command line answers, for the tests of its commands."""

from pathlib import Path

import pytest

from batchcube.sweeps.cli.main import main


class Answer:
    """What the command line said, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        self.status = left.value.code
        self.out, self.err = capsys.readouterr()

    @property
    def mistake(self) -> str:
        """The one line of a refusal."""
        assert self.status == 2, self.err
        assert self.err.count("\n") == 1
        assert self.err.startswith("batchcube: ")
        return self.err.removeprefix("batchcube: ").rstrip()
