"""A progress that counts what was announced down to nothing."""

from batchcube.sweeps.progress import Silent


class Counting(Silent):
    """What is left of all that was announced."""

    replications = requests = 0

    def start(self, points: int, replications: int, requests: int) -> None:
        self.replications += replications
        self.requests += requests

    def finish_replications(self, count: int) -> None:
        self.replications -= count

    def advance(self, requests: int) -> None:
        self.requests -= requests
