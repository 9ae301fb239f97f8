"""What can be wrong with data: a file as a whole, or one of its rows."""


class DataError(Exception):
    """A file that cannot be used; one line, naming the file and the line."""


class RowError(Exception):
    """One row that cannot be used. ``reason`` is the same for all rows with this fault."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
