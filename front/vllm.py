"""The policies of a sweep inside vLLM: `vllm serve MODEL --scheduler-cls batchcube.vllm.Scheduler`.

What it does is given as `--additional-config '{"batchcube": {"spec": FILE}}'`; docs/inside-vllm.md has all of it. Needs
vLLM, as nothing else of batchcube does.
"""

import re
import time
from typing import Any

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from .errors import InputError

OLDEST, NEWEST = (0, 31), (0, 32)
"""Versions of vLLM: the first whose cap on running requests can be moved, and the last that this was tried with."""

logger = init_logger(__name__)


class Scheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler, with the cap on running requests and the order of the queue from a sweep.

    The cap is set before every step; vLLM reads it when it admits, and sends nobody away. Where a policy fails, vLLM
    goes on without it: `policy.largest_batch` requests may run, by arrival. Raises InputError at the start, in one
    line, for what cannot be run.
    """

    clock = staticmethod(time.monotonic_ns)
    unix_clock = staticmethod(time.time_ns)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            _check_version()
            super().__init__(*args, **kwargs)
            # Not before: on a CPU vLLM looks into every loaded module as it starts, and stumbles over Numba's.
            from batchcube.sweeps.serving.scheduling import Serving

            self.serving = Serving(self, vllm.__version__, logger, self.clock, self.unix_clock)
        except InputError as error:
            # The engine may be a process of its own, whose tracebacks are long.
            logger.error("batchcube: %s", error)
            raise

    def add_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Let a request wait."""
        self.serving.arrives(request)
        return super().add_request(request, *args, **kwargs)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Decide how many may run, and schedule a step."""
        self.serving.decide()
        output = super().schedule(*args, **kwargs)
        self.serving.began(output)
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Take in the tokens of a step, and learn from it."""
        now_ns = self.clock()
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        self.serving.learn(scheduler_output, now_ns)
        return outputs

    def finish_requests(self, request_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """End requests from outside: their clients have left, or a stop string was found; all where None is given."""
        told = [request_ids] if isinstance(request_ids, str) else request_ids
        names = list(self.requests if told is None else told)
        finished = super().finish_requests(names, *args, **kwargs)
        self.serving.ended(names)
        return finished

    def shutdown(self, *args: Any, **kwargs: Any) -> Any:
        """End the log."""
        self.serving.close()
        return super().shutdown(*args, **kwargs)


def _check_version() -> None:
    """Refuse a vLLM that is too old, and warn of one that is newer than what was tried."""
    version = str(vllm.__version__)
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else NEWEST
    oldest, newest = (".".join(map(str, limit)) for limit in (OLDEST, NEWEST))
    if number < OLDEST:
        text = "its cap on running requests cannot be moved"
        raise InputError(text, path=f"vLLM {version}", allowed=f"must be {oldest} or later")
    if number > NEWEST:
        logger.warning("batchcube: tried with vLLM %s to %s, this is %s", oldest, newest, version)
