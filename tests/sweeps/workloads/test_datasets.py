import hashlib
from pathlib import Path
from typing import Any, NoReturn

import pytest

from batchcube.errors import InputError
from batchcube.sweeps.workloads import datasets
from batchcube.sweeps.workloads.traces import TraceSettings, read_trace

CONTENT = b"arrival_s,prompt_tokens,output_tokens\n0,5,6\n1.5,7,8\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small = datasets.Dataset(
        "https://example.org/files/small.csv", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "CC0-1.0"
    )
    monkeypatch.setitem(datasets.DATASETS, "small", small)
    monkeypatch.setenv("BATCHCUBE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def served(content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked = []

    class Downloader:
        def __init__(self, **_: Any) -> None: ...

        def __call__(self, url: str, output_file: Any, _: Any) -> None:
            asked.append(url)
            output_file.write(content)

    monkeypatch.setattr("pooch.HTTPDownloader", Downloader)
    return asked


def test_fetched_once_then_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = served(CONTENT, monkeypatch)
    assert datasets.fetch("small") == folder / "small.csv"
    assert datasets.fetch("small") == datasets.locate("small") == folder / "small.csv"
    assert asked == ["https://example.org/files/small.csv"]
    assert read_trace(TraceSettings(path="dataset:small")).arrival_s.tolist() == [0.0, 1.5]


def test_another_content_is_refused_and_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(b"something else", monkeypatch)
    with pytest.raises(InputError, match="another checksum"):
        datasets.fetch("small")
    assert not (folder / "small.csv").exists()


def test_more_than_a_file_is_known_to_be_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(CONTENT + b"x", monkeypatch)
    with pytest.raises(InputError, match=r"cannot be downloaded \(is larger than the file is known to be\)"):
        datasets.fetch("small")
    assert list(folder.iterdir()) == []


def test_offline_says_what_to_put_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline:
        def __init__(self, **_: Any) -> None: ...

        def __call__(self, *_: Any) -> NoReturn:
            raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("pooch.HTTPDownloader", Offline)
    for get in (datasets.fetch, datasets.locate):
        with pytest.raises(InputError) as caught:
            get("small")
        message = str(caught.value)
        assert "https://example.org/files/small.csv" in message
        assert str(folder / "small.csv") in message
        assert hashlib.sha256(CONTENT).hexdigest() in message
        assert message.isprintable()


def test_a_file_put_there_by_hand_counts_if_it_is_the_right_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = served(CONTENT, monkeypatch)
    folder.mkdir()
    file = folder / "small.csv"
    file.write_bytes(CONTENT)
    assert datasets.fetch("small") == file
    file.write_bytes(CONTENT[:-3])
    for get in (datasets.fetch, datasets.locate):
        with pytest.raises(InputError, match="delete it and fetch it again"):
            get("small")
    assert asked == []
    assert file.read_bytes() == CONTENT[:-3]


def test_unknown_names_and_unusable_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean burstgpt-2 or burstgpt-1"):
        datasets.fetch("burstgpt-3")
    with pytest.raises(InputError, match="did you mean burstgpt-"):
        read_trace(TraceSettings(path="dataset:burstgpt"))
    blocked = folder.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("BATCHCUBE_DATA", str(blocked / "below"))
    with pytest.raises(InputError, match="BATCHCUBE_DATA"):
        datasets.fetch("small")


def test_the_list_of_data_sets_is_complete_and_well_formed() -> None:
    assert set(datasets.DATASETS) == {
        "burstgpt-1",
        "burstgpt-1-without-fails",
        "burstgpt-2",
        "burstgpt-2-without-fails",
        "azure-conv-2023",
        "lmsys-predictions",
    }
    for dataset in datasets.DATASETS.values():
        assert dataset.url.startswith("https://")
        assert dataset.file_name.endswith(".csv")
        assert len(bytes.fromhex(dataset.sha256)) == 32


def test_the_azure_file_here_is_the_public_one(shared_data: Path) -> None:
    file = shared_data / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv"
    dataset = datasets.DATASETS["azure-conv-2023"]
    assert dataset.file_name == file.name
    assert file.stat().st_size == dataset.size_bytes
    assert hashlib.sha256(file.read_bytes()).hexdigest() == dataset.sha256


def test_a_log_comes_with_the_package(folder: Path) -> None:
    from batchcube.calibration.logs import read_log

    assert datasets.locate("qwen3-tiny-vllm") == datasets.fetch("qwen3-tiny-vllm") == datasets.OWN["qwen3-tiny-vllm"]
    log = read_log(datasets.locate("qwen3-tiny-vllm"))
    assert len(log.queued_s) == 150
    assert (log.prompt_tokens % 16 == 0).all()
    with pytest.raises(InputError, match=r"not known: did you mean qwen3-tiny-vllm\?"):
        datasets.locate("qwen3-tiny-vlm")
