"""Run the command line: ``python -m batchcube``."""

from batchcube.sweeps.cli.main import main

main()
