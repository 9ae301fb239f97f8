"""The version of the package, read by the build and shown by every command."""

__version__ = "0.7.0"
