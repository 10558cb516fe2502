from pathlib import Path

from helpers.samples import SAMPLES, write_all


def test_the_samples_are_what_is_written(tmp_path: Path) -> None:
    write_all(tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_bytes() for file in SAMPLES.iterdir()}, (
        "run: python tests/helpers/samples.py"
    )
