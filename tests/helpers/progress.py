"""Progress as tests hear it."""

from batchcube.sweeps.progress import Silent


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


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
