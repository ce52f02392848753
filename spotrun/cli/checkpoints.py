"""`spotrun checkpoints ls|verify`: what is committed, and whether every byte of it is still right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.choice import place_of
from spotrun.errors import CheckpointError, StoreError
from spotrun.units import format_bytes

if TYPE_CHECKING:
    from spotrun.store import BlobStore, CommitEntry

__all__ = ["app"]

app = typer.Typer(help="List and verify the checkpoints of a job.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(help="A job, or the URI of its place in the store.", metavar="JOB|URI")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def ls(
    ctx: typer.Context,
    job: Which = "",
    all_commits: Annotated[bool, typer.Option("--all", "-a", help="Also those that were pruned.")] = False,
    as_json: Json = False,
) -> None:
    """List the checkpoints that are kept, oldest first, and what is damaged in the log."""
    from spotrun.store import CommitEntry, DamagedEntry, read_log

    store, place = place_of(ctx, job)
    entries = read_log(store)
    commits = [entry for entry in entries if isinstance(entry, CommitEntry)]
    damaged = [entry.key for entry in entries if isinstance(entry, DamagedEntry)]
    pruned = _pruned(store, commits)
    rows = [_row(store, entry, pruned=entry in pruned) for entry in commits if all_commits or entry not in pruned]
    if as_json:
        typer.echo(json.dumps({"place": place, "commits": rows, "damaged": damaged}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "attempt", "committed at (job time)", "size", "state", title=place, title_justify="left")
    for row in rows:
        size = "" if row["size_bytes"] is None else format_bytes(row["size_bytes"])
        table.add_row(str(row["step"]), str(row["attempt"]), row["at"], size, row["state"])
    console = Console()
    console.print(table if rows else f"{place}: nothing is committed yet")
    if pruned and not all_commits:
        console.print(f"{len(pruned)} older ones were pruned, as the job file asks; --all lists them")
    for key in damaged:
        console.print(f"[red]{key} is damaged: what it said is unknown, the entries around it are used[/red]")


@app.command("verify")
def verify(ctx: typer.Context, job: Which = "", as_json: Json = False) -> None:
    """Read every byte of every kept checkpoint and compare it with its digest. Exit code 1 if any is damaged."""
    from rich.console import Console
    from rich.progress import track

    from spotrun.store import CommitEntry, DamagedEntry, read_log

    store, place = place_of(ctx, job)
    entries = read_log(store)
    commits = [entry for entry in entries if isinstance(entry, CommitEntry)]
    pruned = _pruned(store, commits)
    kept = [entry for entry in commits if entry not in pruned]
    console = Console(stderr=True)
    results = [
        _verified(store, entry) for entry in track(kept, "verifying", console=console, disable=as_json or not kept)
    ]
    damaged = [entry.key for entry in entries if isinstance(entry, DamagedEntry)]
    bad = bool(damaged) or any(result["problem"] for result in results)
    if as_json:
        typer.echo(json.dumps({"place": place, "commits": results, "damaged": damaged, "ok": not bad}, indent=2))
    else:
        for result in results:
            said = f"damaged: {result['problem']}" if result["problem"] else "good"
            typer.echo(f"step {result['step']} of attempt {result['attempt']}: {said}")
        for key in damaged:
            typer.echo(f"log entry {key}: damaged")
        told = f"{len(results)} kept checkpoints, " + ("damage found" if bad else "all good")
        typer.echo(f"{place}: {told if entries else 'nothing is committed yet'}")
    raise typer.Exit(1 if bad else 0)


def _pruned(store: BlobStore, commits: list[CommitEntry]) -> list[CommitEntry]:
    """Commits whose manifest is gone because newer ones were kept: all before the oldest that is still there."""
    there = set(store.list("manifests/"))
    oldest = next((place for place, entry in enumerate(commits) if entry.manifest in there), 0)
    return commits[:oldest]


def _row(store: BlobStore, entry: CommitEntry, *, pruned: bool) -> dict[str, Any]:
    from spotrun.errors import CheckpointCorrupt
    from spotrun.store import read_manifest

    size, state = None, "pruned" if pruned else "kept"
    if not pruned:
        try:
            size = read_manifest(store, entry).size
        except CheckpointCorrupt:
            state = "damaged"
    return {
        "step": entry.step,
        "attempt": entry.attempt,
        "at": entry.at.isoformat(timespec="seconds"),
        "size_bytes": size,
        "state": state,
        "manifest": entry.manifest,
    }


def _verified(store: BlobStore, entry: CommitEntry) -> dict[str, Any]:
    from spotrun.store import verify as verify_commit

    problem = ""
    try:
        verify_commit(store, entry)
    except (CheckpointError, StoreError) as error:
        problem = str(error)
    return {"step": entry.step, "attempt": entry.attempt, "problem": problem}
