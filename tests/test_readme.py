"""What the README and the pages of docs/ tell a reader to paste does work, page by page, each in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^<!-- tested -->\n```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
WRITTEN = re.compile(r"-o (\S+)|\"(out/[^\"]+)\"")


def blocks_of(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


PAGES = {
    str(page.relative_to(ROOT)): found
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if (found := blocks_of(page))
}


def test_pages_have_blocks_to_test() -> None:
    assert {"README.md", "docs/how-to/sweeps.md"} <= set(PAGES)
    marked = sum(Path(ROOT / page).read_text(encoding="utf-8").count("<!-- tested -->") for page in PAGES)
    assert marked == sum(map(len, PAGES.values())) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path) -> None:
    # The commands of the environment that runs the tests, whatever else is on the path.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for language, block in PAGES[page]:
        shell = ["bash", "-euo", "pipefail", "-c", f'export PATH="{path}"\n{block}']
        finished = subprocess.run(
            shell if language == "sh" else [sys.executable, "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            pytest.fail(f"{block}\n{finished.stderr}")
        for names in WRITTEN.findall(block):
            assert (tmp_path / "".join(names)).exists(), names
