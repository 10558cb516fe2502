from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.specifications import TO_PLAN


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    monkeypatch.chdir(tmp_path)

    def write(seed: int) -> str:
        file = tmp_path / f"small-{seed}.toml"
        file.write_text(TO_PLAN.format(seed=seed))
        return str(file)

    return write
