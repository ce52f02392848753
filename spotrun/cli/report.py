"""`spotrun report`: what a job cost, and what on-demand would have cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.cli.home import home_of

if TYPE_CHECKING:
    from spotrun.cost import Report

__all__ = ["report", "report_of"]


def report(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A job; the newest one by default.")] = "",
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the attempts as CSV to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report the savings of a job, of one that still runs too."""
    from rich.console import Console

    from spotrun.cost import render_html, render_terminal, to_csv, to_json

    told = report_of(ctx, job)
    if html is not None:
        _write(html, render_html(told))
    if csv is not None:
        _write(csv, to_csv(told))
    if as_json:
        typer.echo(to_json(told))
    else:
        Console().print(render_terminal(told))
        for path in (html, csv):
            if path is not None:
                typer.echo(f"written: {path}")


def report_of(ctx: typer.Context, job: str) -> Report:
    """The report of the job that `job` means, with its losses."""
    from spotrun.controller import Accountant, Follower, real_outside
    from spotrun.store import open_store

    home, journal = home_of(ctx), open_journal(ctx)
    job_id = choose_job(journal, job)
    metrics = Follower(journal, home.path, open_store=open_store).metrics(job_id)
    return Accountant(journal, job_id, outside=real_outside(home.path)).report(metrics)


def _write(path: Path, content: str) -> None:
    from spotrun.errors import SpecError

    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror}") from error
