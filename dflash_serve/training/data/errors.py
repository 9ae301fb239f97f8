"""What can be wrong with data, by the names that training knows."""

from dflash_serve.measure.errors import DataError, RowError

__all__ = ["DataError", "RowError"]
