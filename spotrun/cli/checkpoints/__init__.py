"""`spotrun checkpoints`: custody of what a job has saved. One module for each kind of verb."""

from spotrun.cli.checkpoints.app import app

__all__ = ["app"]
