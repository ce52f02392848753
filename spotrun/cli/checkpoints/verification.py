"""`spotrun checkpoints verify`: is every byte still right?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.checkpoints.place import Json, Which, open_run
from spotrun.errors import CheckpointError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from spotrun.store import CommitEntry

__all__ = ["bytes_bar", "stepwise", "verify"]

Steps = Annotated[
    list[str] | None, typer.Argument(help="Commits; every one that is kept without it.", metavar="STEP...")
]


def verify(ctx: typer.Context, job: Which = "", steps: Steps = None, as_json: Json = False) -> None:
    """Read every byte of every kept commit, or of the ones named, and compare it with its digest.

    Exit code 1 if anything is damaged; then it says which commits are still good.
    """
    from spotrun.store import verify as verify_commit
    from spotrun.store.inventory import CommitState, inventory

    run = open_run(ctx, job)
    if steps:
        entries = [run.commit(step) for step in steps]
    else:
        entries = [each.entry for each in inventory(run.store, run.commits) if each.state is not CommitState.PRUNED]
    results = []
    with bytes_bar("verifying", sum(entry.size for entry in entries), hidden=as_json or not entries) as advance:
        for entry in entries:
            problem = ""
            try:
                verify_commit(run.store, entry, on_progress=stepwise(advance))
            except (CheckpointError, StoreError) as error:
                problem = str(error)
            results.append(_result(entry, problem))
    damaged = [] if steps else [entry.key for entry in run.damaged]
    bad = bool(damaged) or any(result["problem"] for result in results)
    if as_json:
        typer.echo(json.dumps({"place": run.uri, "commits": results, "damaged": damaged, "ok": not bad}, indent=2))
    else:
        _tell(run.uri, results, damaged, empty=not run.log)
    raise typer.Exit(1 if bad else 0)


def bytes_bar(what: str, total: int, *, hidden: bool) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar in bytes on standard error; gives the function that moves it on."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    @contextmanager
    def bar() -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=hidden or not console.is_terminal, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda size: progress.advance(task, size)

    return bar()


def stepwise(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """Makes what is told as 'so many of so many' into steps."""
    told = [0]

    def on_progress(done: int, _: int) -> None:
        advance(done - told[0])
        told[0] = done

    return on_progress


def _tell(uri: str, results: list[dict[str, Any]], damaged: list[str], *, empty: bool) -> None:
    for result in results:
        said = f"damaged: {result['problem']}" if result["problem"] else "good"
        typer.echo(f"step {result['step']} of attempt {result['attempt']}: {said}")
    for key in damaged:
        typer.echo(f"log entry {key}: damaged")
    good = [str(result["step"]) for result in results if not result["problem"]]
    if empty:
        typer.echo(f"{uri}: nothing is committed yet")
    elif len(good) == len(results) and not damaged:
        typer.echo(f"{uri}: {len(results)} kept checkpoints, all good")
    else:
        rest = f"still good: step {', '.join(good)}" if good else "none of them is good"
        typer.echo(f"{uri}: {len(results)} kept checkpoints, damage found; {rest}")


def _result(entry: CommitEntry, problem: str) -> dict[str, Any]:
    return {"step": entry.step, "attempt": entry.attempt, "problem": problem}
