"""`python -m spotrun` is the `spotrun` command."""

from spotrun.cli.main import run

run()
