"""What a benchmark cannot do, said in one line for the person at the terminal."""


class BenchError(Exception):
    """Bad input, or a measurement that cannot be made here. Commands exit with 2 on it."""
