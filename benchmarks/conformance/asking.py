"""vLLM's scheduler is asked: it runs in its own environment, in a process of its own."""

import json
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from batchcube.errors import InputError

from .cases import Case

ORACLE = Path(__file__).with_name("oracle.py")
TRIED = (0, 32)
"""Version of vLLM: those before have not all of the options, those after may have other rules."""
_TRIED = ".".join(map(str, TRIED))


def untried(version: str) -> str:
    """Return what must be said of a vLLM that is newer than the one that was tried; nothing of any other."""
    return f"vLLM {version} was not tried, {_TRIED} was: its rules may be others" if _minor(version) > TRIED else ""


def _minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


class Oracle:
    """vLLM's scheduler behind a pipe; it ends with whoever started it, or when it is closed."""

    def __init__(self, python: str) -> None:
        """Start it with the interpreter of vLLM's environment; InputError where that is none, or vLLM is too old."""
        self.python, self.newer = python, ""
        with ExitStack() as opened:
            self.said = opened.enter_context(tempfile.TemporaryFile("w+"))
            try:
                self.process = opened.enter_context(
                    subprocess.Popen(
                        [python, str(ORACLE)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=self.said,
                        text=True,
                    )
                )
            except OSError as error:
                raise InputError(str(error.strerror), file=python) from None
            version = str(self.hear()["vllm"])
            if _minor(version) < TRIED:
                raise InputError(f"vLLM {version} is there", file=python, allowed=f"must be {_TRIED} or newer")
            self.newer = untried(version)
            self.close = opened.pop_all().close

    def ask(self, case: Case) -> dict[str, Any]:
        """Return vLLM's answer to a case; InputError with what was said last where vLLM runs no more."""
        assert self.process.stdin is not None
        with suppress(OSError):
            print(json.dumps(case), file=self.process.stdin, flush=True)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Return what vLLM says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            last = [line for line in self.said.read().split("\n") if line.strip()][-1:]
            refused = InputError(f"vLLM does not run there: {last[0] if last else 'it said nothing'}", file=self.python)
            raise refused.advised(self.newer) if self.newer else refused
        answer: dict[str, Any] = json.loads(line)
        return answer
