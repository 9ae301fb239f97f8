"""Imported before any test: MLX must find the package's own matmul in place."""

import dflash_serve

__all__ = ["dflash_serve"]
