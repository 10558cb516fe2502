"""Make the pictures of the gallery, one for each figure, by the commands that stand beside them.

`python docs/gallery.py` takes some three minutes; the pictures are kept, so that building the site needs none of that.
"""

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).resolve().parent / "reference" / "gallery"
WIDEST = 900
"""Pixels of a picture."""

_RATE = "batchcube run continuous-rate -o rate.nc -n 4 --set workload.requests=3000"
_FIG3 = "batchcube run multi-bin-fig3 -o fig3.nc -n 4 --set workload.requests=25600"
_MODES = "batchcube run modes-poisson -o modes.nc -n 8 --set workload.requests=8000"
_CAPS = (
    "batchcube capacity continuous-rate -o capacity.nc -n 3 --slo tbt_mean_ms=100 --slo ttft_p99_s=2 "
    "--set workload.requests=1000",
)
_LOG = (
    'log="$(batchcube data path qwen3-tiny-vllm)"',
    'batchcube calibrate log "$log" --max-num-seqs 16 --token-budget 512 --kv-tokens 16384 --block-tokens 128 '
    "--fit-until 50 -o mine.json",
    'batchcube validate "$log" --coefficients mine.json -o validated.nc',
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "lines": (_RATE, "batchcube figure lines rate.nc x=arrival_rate_per_s y=ttft_p99_s slo=2 -o lines.png"),
    "serving-times": (_RATE, "batchcube figure serving-times rate.nc -o serving-times.png"),
    "time-split": (_RATE, "batchcube figure time-split rate.nc -o time-split.png"),
    "frontier": (_RATE, "batchcube figure frontier rate.nc -o frontier.png"),
    "throughput-vs-bins": (
        _FIG3,
        "batchcube figure throughput-vs-bins fig3.nc -o throughput-vs-bins.png --select arrival_rate_per_s=13",
    ),
    "throughput-vs-rate": (_FIG3, "batchcube figure throughput-vs-rate fig3.nc -o throughput-vs-rate.png"),
    "latency-vs-rate": (
        "batchcube run multi-bin-fig4 -o fig4.nc -n 4 --set workload.requests=25600",
        "batchcube figure latency-vs-rate fig4.nc -o latency-vs-rate.png",
    ),
    "throughput-vs-predictor-error": (
        "batchcube run multi-bin-fig8 -o fig8.nc -n 4 --set workload.requests=25600",
        "batchcube figure throughput-vs-predictor-error fig8.nc -o throughput-vs-predictor-error.png",
    ),
    "sla-violation-over-time": (
        _MODES,
        "batchcube figure sla-violation-over-time modes.nc -o sla-violation-over-time.png "
        "--select arrival_rate_per_s=4",
    ),
    "batch-size-distribution": (
        _MODES,
        "batchcube figure batch-size-distribution modes.nc -o batch-size-distribution.png "
        "--select arrival_rate_per_s=4",
    ),
    "per-bin-statistics": (
        _MODES,
        "batchcube figure per-bin-statistics modes.nc -o per-bin-statistics.png --select arrival_rate_per_s=4",
    ),
    "static-vs-dynamic": (_MODES, "batchcube figure static-vs-dynamic modes.nc -o static-vs-dynamic.png"),
    "modes-compared": (
        _MODES,
        "batchcube figure modes-compared modes.nc -o modes-compared.png --select arrival_rate_per_s=4",
    ),
    "controller-step": (
        "batchcube run controller-step -o step.nc -n 8",
        "batchcube figure controller-step step.nc -o controller-step.png",
    ),
    "tbt-vs-rate": (_RATE, "batchcube figure tbt-vs-rate rate.nc -o tbt-vs-rate.png"),
    "step-throughput": (
        "batchcube run dynamic-fig3 -o fig3-of-db.nc",
        "batchcube figure step-throughput fig3-of-db.nc -o step-throughput.png",
    ),
    "serving-over-time": (
        _RATE,
        "batchcube figure serving-over-time rate.nc -o serving-over-time.png --select arrival_rate_per_s=16",
    ),
    "capacity": (*_CAPS, "batchcube figure capacity capacity.nc -o capacity.png"),
    "gain-map": (
        "batchcube run modes-poisson -o batches.nc -n 4 --set workload.requests=4000 "
        "--set 'axes.servers={path=\"server.servers\",values=[1,2,3,4]}'",
        "batchcube figure gain-map batches.nc baseline=fifo_fixed against=multi_bin_dynamic quantity=latency_mean_s "
        "-o gain-map.png",
    ),
    "memory-erratum": (
        "batchcube run dynamic-erratum -o erratum.nc",
        "batchcube figure memory-erratum erratum.nc -o memory-erratum.png",
    ),
    "controller-bounds": (
        "batchcube run dynamic-bounds -o bounds.nc",
        "batchcube figure controller-bounds bounds.nc -o controller-bounds.png",
    ),
    "simulated-vs-measured": (
        *_LOG,
        "batchcube figure simulated-vs-measured validated.nc -o simulated-vs-measured.png",
    ),
}
"""The commands that make a picture, from an empty folder; those of calibrations need a measured engine."""


def main() -> None:
    """Run all commands in one folder, each once, and keep the pictures at the size of a page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    lines = dict.fromkeys(line for commands in COMMANDS.values() for line in commands)
    path = shlex.quote(str(Path(sys.executable).parent))
    with tempfile.TemporaryDirectory() as folder:
        script = "\n".join(["set -euo pipefail", f"export PATH={path}:$PATH", *lines])
        subprocess.run(["bash", "-c", script], cwd=folder, check=True)
        for name in COMMANDS:
            with Image.open(Path(folder) / f"{name}.png") as picture:
                picture.thumbnail((WIDEST, 10 * WIDEST))
                picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
                    PICTURES / f"{name}.png", optimize=True
                )


if __name__ == "__main__":
    main()
