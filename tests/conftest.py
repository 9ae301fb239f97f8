"""Loaded before any test module: the package goes first, so that its matmul is under MLX."""

import dflash_serve  # noqa: F401
