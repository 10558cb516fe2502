from pathlib import Path

import pytest

from batchcube.sweeps.cli.main import main
from helpers.specifications import RATES, SMALL


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL + RATES)
    return "small.toml"


@pytest.fixture(scope="session")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cube")
    (folder / "small.toml").write_text(SMALL + RATES)
    with pytest.raises(SystemExit) as left:
        main(["run", str(folder / "small.toml"), "-o", str(folder / "small.nc"), "--quiet"])
    assert left.value.code == 0
    return folder / "small.nc"
