"""`spotrun checkpoints prune|gc`: removing commits, and what no commit needs. Both say what goes, and ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.checkpoints.place import Json, Run, Which, Yes, open_run
from spotrun.cli.checkpoints.verification import bytes_bar, stepwise
from spotrun.cli.consent import ask
from spotrun.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spotrun.policy import Retention
    from spotrun.store import CommitEntry
    from spotrun.store.retention import Removal

__all__ = ["gc", "prune"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def prune(
    ctx: typer.Context,
    job: Which = "",
    keep: Annotated[
        str,
        typer.Option(
            help="Rules, like last=3,every_steps=1000,every=6h,best=loss:min:2.", show_default="the job's own"
        ),
    ] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Do not read the newest commit first.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove the commits that the rules do not keep. Safe beside a running job; the newest good commit always stays.

    First reads the newest commit whole: if it is damaged, the newest good one is kept too, whatever the rules say.
    """
    from spotrun.store.retention import Pruner, remove
    from spotrun.store.tag import tags_by_manifest

    _refuse_silence(yes=yes or dry_run, as_json=as_json)
    run = open_run(ctx, job)
    if not run.commits:
        typer.echo(f"{run.uri}: nothing is committed yet")
        return
    retention = run.retention(keep)
    if keep:
        _refuse_unmeasured(run, retention)
    verified = {} if trust else _verified(run, quiet=as_json)

    def choose(there: Sequence[CommitEntry]) -> list[CommitEntry]:
        return retention.choose(there, tags=tags_by_manifest(run.store), verified=verified)

    removal = Pruner(run.store, choose).plan(run.commits)
    if as_json:
        typer.echo(json.dumps(_told(run, removal, retention), indent=2))
    else:
        _say(removal)
    if dry_run or not removal.removed:
        return
    if not yes:
        _ask(f"Remove {_commits(len(removal.removed))}?")
    again = Pruner(run.store, choose).plan(run.commits)  # a tag may have been given while the question stood
    remove(run.store, again.keys)
    if not as_json:
        typer.echo(f"removed {_commits(len(again.removed))}, {_objects(len(again.keys))}")


def gc(
    ctx: typer.Context,
    job: Which = "",
    grace: Annotated[str, typer.Option(help="How old objects of the newest attempt must be.")] = "1d",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove objects of failed saves and lost attempts, which no commit needs. Safe beside a running job."""
    from datetime import timedelta

    from spotrun.clock import SystemClock
    from spotrun.errors import SpecError
    from spotrun.store.collection import find_orphans
    from spotrun.store.retention import remove
    from spotrun.units import parse_duration

    try:
        least = parse_duration(grace)
    except ValueError as error:
        raise SpecError(f"--grace: {error}") from None
    if least < timedelta(minutes=10):
        raise SpecError(f"--grace: {grace} is less than 10m; a save that is under way could lose its blobs")
    _refuse_silence(yes=yes or dry_run, as_json=as_json)
    run = open_run(ctx, job)
    orphans = find_orphans(run.store, run.log, now=SystemClock().now(), grace=least)
    if as_json:
        typer.echo(json.dumps({"place": run.uri, "orphans": list(orphans.keys), "young": orphans.young}, indent=2))
    else:
        for key in orphans.keys:
            typer.echo(f"  {key}")
        young = f"; {orphans.young} more are of the newest attempt and may still be needed" if orphans.young else ""
        typer.echo(f"{run.uri}: {_objects(len(orphans.keys))} that no commit needs{young}")
    if dry_run or not orphans.keys:
        return
    if not yes:
        _ask(f"Remove {_objects(len(orphans.keys))}?")
    remove(run.store, orphans.keys)
    if not as_json:
        typer.echo(f"removed {_objects(len(orphans.keys))}")


def _verified(run: Run, *, quiet: bool) -> dict[str, bool]:
    """Reads commits from the newest back to the first good one."""
    from spotrun.errors import CheckpointCorrupt
    from spotrun.store import verify

    found: dict[str, bool] = {}
    there = set(run.store.list("manifests/"))
    for entry in reversed(run.commits):
        if entry.manifest not in there:
            continue
        with bytes_bar(f"reading step {entry.step}", entry.size, hidden=quiet) as advance:
            try:
                verify(run.store, entry, on_progress=stepwise(advance))
            except CheckpointCorrupt as error:
                found[entry.manifest] = False
                typer.echo(f"step {entry.step} of attempt {entry.attempt} is damaged: {error}", err=True)
                continue
        found[entry.manifest] = True
        break
    return found


def _say(removal: Removal) -> None:
    for entry in removal.removed:
        typer.echo(f"  step {entry.step} of attempt {entry.attempt}, {entry.at:%F %T}")
    kept = ", ".join(str(entry.step) for entry in removal.kept[-8:])
    more = f"and {len(removal.kept) - 8} older ones, " if len(removal.kept) > 8 else ""
    size = format_bytes(removal.size)
    if not removal.removed:
        typer.echo(f"the rules keep all {_commits(len(removal.kept))}: {more}step {kept}")
        return
    go = "goes" if len(removal.removed) == 1 else "go"
    stay = "stays" if len(removal.kept) == 1 else "stay"
    typer.echo(f"{_commits(len(removal.removed))} {go}, {size}; {more}step {kept} {stay}")


def _told(run: Run, removal: Removal, retention: Retention) -> dict[str, object]:
    return {
        "place": run.uri,
        "keep": json.loads(retention.to_json()),
        "removed": [{"step": entry.step, "attempt": entry.attempt} for entry in removal.removed],
        "kept": [{"step": entry.step, "attempt": entry.attempt} for entry in removal.kept],
        "objects": len(removal.keys),
        "freed_bytes": removal.size,
    }


def _commits(number: int) -> str:
    return f"{number} commit" if number == 1 else f"{number} commits"


def _objects(number: int) -> str:
    return f"{number} object" if number == 1 else f"{number} objects"


def _refuse_unmeasured(run: Run, retention: Retention) -> None:
    """A metric that no commit has keeps nothing: a slip of the pen would remove what was meant to stay."""
    from spotrun.errors import SpecError

    known = sorted({name for entry in run.commits for name in entry.metrics})
    if retention.best is not None and retention.best.metric not in known:
        raise SpecError(
            f"--keep: no commit of {run.uri} has the metric {retention.best.metric!r}, so this rule would keep none; they "
            f"have {', '.join(known) or 'no metrics'}"
        )


def _refuse_silence(*, yes: bool, as_json: bool) -> None:
    from spotrun.errors import SpecError

    if as_json and not yes:
        raise SpecError("--json asks nothing: add --yes to remove, or --dry-run to look")


def _ask(question: str) -> None:
    ask(question, otherwise="nothing was removed", instead="--yes, or --dry-run to look")
