"""Run the command line: ``python -m batchcube``."""

from batchcube.sweeps.cli import main

main()
