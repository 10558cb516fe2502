"""Progress as tests hear it."""

from batchcube.sweeps.progress import Silent


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)
