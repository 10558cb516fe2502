"""The specifications of docs/workloads.md, run."""

import re
import tomllib
from pathlib import Path

import pytest

from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep

DOCUMENT = Path(__file__).parents[3] / "docs" / "workloads.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_run(text: str) -> None:
    tables = tomllib.loads(text)
    tables["workload"]["requests"] = 200
    cube = run_sweep(Sweep.model_validate({**tables, "replications": 2}), backend="reference")
    assert (cube["completed"] == 200).all()
