"""Asks before something is spent, ended or removed. Nobody to ask is a no, and the sentence says how to answer beforehand."""

from __future__ import annotations

import sys

import typer

__all__ = ["ask"]


def ask(question: str, *, otherwise: str, instead: str) -> None:
    """Returns after a yes.

    Args:
        question: to be answered with y or n.
        otherwise: what is true after a no, as in `nothing was ended`.
        instead: the options that need no answer, as in `--yes, or --dry-run to look`.

    Raises:
        typer.Exit: the answer is no, or Ctrl-C.
        SpecError: there is nobody to ask.
    """
    from spotrun.errors import SpecError

    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise typer.Exit(130) from None
        raise SpecError(f"there is nobody to ask, so {otherwise}; add {instead}") from None
    if not agreed:
        typer.echo(otherwise)
        raise typer.Exit(0)
