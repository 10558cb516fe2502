"""What the README tells a reader to paste does work, in order, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- tested -->\n```sh\n(.*?)```", re.DOTALL)


def blocks_to_run() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_readme_has_blocks_to_test() -> None:
    assert len(blocks_to_run()) >= 7


def test_every_block_runs(tmp_path: Path) -> None:
    # The commands of the environment that runs the tests, whatever else is on the path.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for block in blocks_to_run():
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'export PATH="{path}"\n{block}'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            pytest.fail(f"{block}\n{finished.stderr}")
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"fig3.nc", "fig3.png", "bins.pdf", "my-sweep.nc", "again.nc", "trace.nc", "capacity.nc"} <= made
