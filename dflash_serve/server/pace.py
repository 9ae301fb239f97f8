"""How slowly a client may send."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """``grace`` seconds, and one more for each ``rate`` bytes that have come.

    The defaults let 8 MiB come over a line of 64 kbit/s. A client that holds a connection open
    has to pay for it.
    """

    grace: float = 30.0
    rate: int = 8192

    def seconds(self, received: int) -> float:
        """The time that a message may have taken of which ``received`` bytes are here."""
        return self.grace + received / self.rate
