"""Data sets by name: public ones, fetched once and checked against their checksum, and one that ships."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from batchcube.errors import InputError, suggestion

_BURSTGPT = "https://github.com/HPMLL/BurstGPT/releases/download/v1.1/"


class Dataset(NamedTuple):
    """One public file: where it is, what it must be, who made it."""

    url: str
    size_bytes: int
    sha256: str
    licence: str

    @property
    def file_name(self) -> str:
        """Return the name of the file, in the cache too."""
        return self.url.rsplit("/", 1)[1]


DATASETS: dict[str, Dataset] = {
    "burstgpt-1": Dataset(
        _BURSTGPT + "BurstGPT_1.csv",
        52_283_111,
        "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",
        "CC-BY-4.0",
    ),
    "burstgpt-1-without-fails": Dataset(
        _BURSTGPT + "BurstGPT_without_fails_1.csv",
        51_429_517,
        "a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4",
        "CC-BY-4.0",
    ),
    "burstgpt-2": Dataset(
        _BURSTGPT + "BurstGPT_2.csv",
        144_819_209,
        "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7",
        "CC-BY-4.0",
    ),
    "burstgpt-2-without-fails": Dataset(
        _BURSTGPT + "BurstGPT_without_fails_2.csv",
        142_376_815,
        "56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501",
        "CC-BY-4.0",
    ),
    "azure-conv-2023": Dataset(
        "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data/AzureLLMInferenceTrace_conv.csv",
        719_188,
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        "CC-BY-4.0",
    ),
    "lmsys-predictions": Dataset(
        "https://raw.githubusercontent.com/James-QiuHaoran/LLM-serving-with-proxy-models/"
        "367d2fa60c35ffcdb8444d2fdf7f2743a30d04e6/model-serving/prediction/final/predictions_warmup_multi_cls_1000K.csv",
        3_702_314,
        "ca8d48caa17ac906e66f4e36257b708eaae0207b281969c3282eaeb0621401fa",
        "Apache-2.0",
    ),
}

OWN = {"qwen3-tiny-vllm": Path(__file__).parent / "logs" / "qwen3-tiny-vllm.jsonl"}
"""Files that come with the package: the log of 150 requests that vLLM served, made by `benchmarks/example_log.py`."""


def cache_folder() -> Path:
    """Return the folder of the fetched files: BATCHCUBE_DATA, or the user's cache; InputError where that is unknown."""
    chosen = os.environ.get("BATCHCUBE_DATA")
    if chosen:
        return Path(os.path.expanduser(chosen))
    import pooch

    try:
        folder = Path(pooch.os_cache("batchcube"))
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # XDG_CACHE_HOME, or that of a user whom the system does not know
        raise InputError("the user's cache is not known: set BATCHCUBE_DATA to a folder for datasets")
    return folder


def _known(name: str) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"not known: {suggestion(name, [*DATASETS, *OWN])}", path=f"dataset {name!r}")
    return DATASETS[name]


def _by_hand(name: str, reason: str) -> InputError:
    dataset = _known(name)
    return InputError(
        f"{reason}, or download {dataset.url} by hand and put it at "
        f"{cache_folder() / dataset.file_name} (sha256 {dataset.sha256})",
        path=f"dataset {name!r}",
    )


def _present(name: str) -> Path | None:
    """Return the file if it is there and is the right one, None if it is missing."""
    if name in OWN:
        return OWN[name]
    dataset = _known(name)
    file = cache_folder() / dataset.file_name
    try:
        if not file.exists():
            return None
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}", path=f"dataset {name!r}") from None
    if found != dataset.sha256:
        raise InputError(
            f"{file} has sha256 {found}",
            path=f"dataset {name!r}",
            allowed=f"must be {dataset.sha256}; delete it and fetch it again from {dataset.url}",
        )
    return file


def locate(name: str) -> Path:
    """Return the path of a dataset that is here already; raise InputError saying how to get it otherwise."""
    file = _present(name)
    if file is None:
        raise _by_hand(name, f"is not here yet: run `batchcube data fetch {name}`")
    return file


class _AtMost:
    """Downloads like pooch does, and stops at what is longer than a file is known to be."""

    def __init__(self, size_bytes: int) -> None:
        self.left = size_bytes

    def __call__(self, url: str, output: str, retriever: Any) -> None:
        import pooch

        with open(output, "wb") as self.file:
            pooch.HTTPDownloader(timeout=30)(url, self, retriever)

    def write(self, data: bytes) -> None:
        """Take some of what comes."""
        self.left -= len(data)
        if self.left < 0:
            raise OSError("is larger than the file is known to be")
        self.file.write(data)


def fetch(name: str) -> Path:
    """Return the path of a dataset, downloading it where it is not here; raise InputError where that fails."""
    file = _present(name)
    if file is not None:
        return file
    import pooch

    dataset = _known(name)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}; set BATCHCUBE_DATA to another folder", file=folder
        ) from None
    pooch.get_logger().setLevel("WARNING")
    try:
        fetched = pooch.retrieve(
            dataset.url,
            known_hash=f"sha256:{dataset.sha256}",
            fname=dataset.file_name,
            path=folder,
            downloader=_AtMost(dataset.size_bytes),
        )
    except (OSError, ValueError) as error:
        # OSError: no network, no such page, no space; ValueError: another checksum.
        reason = "the download has another checksum" if isinstance(error, ValueError) else "cannot be downloaded"
        raise _by_hand(name, f"{reason} ({str(error)[:120]}): try again") from None
    return Path(fetched)


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the file behind a path of a specification; "dataset:NAME" is a dataset that was fetched."""
    text = os.fspath(path)
    if text.startswith("dataset:"):
        return locate(text.removeprefix("dataset:"))
    return Path(os.path.expanduser(text))
