"""The command line of `probe`: options in, library calls, tables and CSV out."""

from probe.cli import sweeps, train, use
from probe.cli.app import app

__all__ = ["app", "sweeps", "train", "use"]
