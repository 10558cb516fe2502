"""The commands below `batchcube data`: public datasets."""

from typing import Annotated

import typer

from .help import examples

app = typer.Typer(help="List, fetch and locate datasets.")


@app.command("list")
def data_list() -> None:
    """List the datasets: name, size, licence, and whether it is here."""
    from ..workloads import datasets

    for name, dataset in datasets.DATASETS.items():
        here = "here" if (datasets.cache_folder() / dataset.file_name).exists() else "not here"
        size = f"{dataset.size_bytes / 1e6:.1f} MB"
        print(f"{name:<26} {size:>9}  {dataset.licence:<10} {here}")
    for name, file in datasets.OWN.items():
        print(f"{name:<26} {f'{file.stat().st_size / 1e6:.1f} MB':>9}  {'Apache-2.0':<10} comes with batchcube")


@app.command("fetch", epilog=examples("batchcube data fetch azure-conv-2023"))
def data_fetch(name: Annotated[str, typer.Argument(metavar="NAME", help="dataset (batchcube data list)")]) -> None:
    """Download a dataset, check its checksum, and print where it is."""
    from ..workloads import datasets

    print(datasets.fetch(name))


@app.command(
    "path", epilog=examples("batchcube run SPEC --set workload.trace.path=$(batchcube data path azure-conv-2023)")
)
def data_path(name: Annotated[str, typer.Argument(metavar="NAME", help="dataset (batchcube data list)")]) -> None:
    """Print where a dataset is that was fetched, or comes with batchcube."""
    from ..workloads import datasets

    print(datasets.locate(name))
