"""`spotrun checkpoints show`: what is in one commit."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.checkpoints.listing import margin_of
from spotrun.cli.checkpoints.place import Commit, Json, Run, Which, open_run
from spotrun.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from spotrun.store import Manifest
    from spotrun.store.anatomy import Group
    from spotrun.store.inventory import Held

__all__ = ["show"]

_VALUE_MAX = 60  # characters of a fingerprint's value, unless all is asked for
_ITEMS_MAX = 12  # of a group, unless all are asked for


def show(
    ctx: typer.Context,
    job: Which = "",
    step: Commit = "latest",
    all_items: Annotated[
        bool, typer.Option("--all", "-a", help="Every tensor and file, not the largest only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a commit: size, what it added, how long it took, and every model, optimizer, state and file that is in it."""
    from rich.console import Console

    from spotrun.store import read_manifest
    from spotrun.store.anatomy import dissect
    from spotrun.store.inventory import inventory

    run = open_run(ctx, job)
    entry = run.commit(step)
    place = run.commits.index(entry)
    held = inventory(run.store, run.commits[max(place - 1, 0) : place + 1])[-1]
    manifest = read_manifest(run.store, entry)
    groups = dissect(manifest)
    if as_json:
        typer.echo(json.dumps(_body(run, held, manifest, groups), indent=2))
        return
    console = Console()
    console.print(f"[bold]step {entry.step}[/bold] of {run.uri}", highlight=False)
    for name, words in _facts(run, held, manifest).items():
        console.print(f"  {name}: {words}", markup=False, highlight=False)
    console.print(_table(groups, limit=None if all_items else _ITEMS_MAX))
    if manifest.fingerprint:
        short = {n: v for n, v in sorted(manifest.fingerprint.items()) if all_items or len(v) <= _VALUE_MAX}
        told = ", ".join(f"{name} {value}" for name, value in short.items())
        console.print(f"made with: {told}", markup=False, highlight=False)


def _facts(run: Run, held: Held, manifest: Manifest) -> dict[str, str]:
    from spotrun.store.anatomy import summary_of

    entry, margin = held.entry, margin_of(run, held)
    return {
        "job": manifest.job,
        "written by": f"attempt {manifest.attempt}, {manifest.writer}, spotrun {manifest.spotrun_version}",
        "captured at": f"{manifest.captured_at:%F %T}, committed at {entry.at:%F %T} (job time)",
        "size": f"{format_bytes(manifest.size)} in {len(manifest.blobs)} blob{'' if len(manifest.blobs) == 1 else 's'}",
        **(
            {} if held.added is None else {"new": f"{format_bytes(held.added)} that the commit before it does not have"}
        ),
        **({} if held.saved_s is None else {"saved in": f"{held.saved_s:.2f} s"}),
        **({"on notice": "yes"} if manifest.on_notice else {}),
        **({} if margin is None else {"margin": _margin(margin)}),
        **({"resumed from": f"step {manifest.resumed_from}"} if manifest.resumed_from is not None else {}),
        **summary_of(manifest.state),
        **({"metrics": ", ".join(f"{n} {v:g}" for n, v in entry.metrics.items())} if entry.metrics else {}),
    }


def _body(run: Run, held: Held, manifest: Manifest, groups: list[Group]) -> dict[str, Any]:
    entry = held.entry
    return {
        "place": run.uri,
        "step": entry.step,
        "attempt": entry.attempt,
        "writer": manifest.writer,
        "spotrun_version": manifest.spotrun_version,
        "captured_at": manifest.captured_at.isoformat(),
        "committed_at": entry.at.isoformat(),
        "on_notice": manifest.on_notice,
        "resumed_from": manifest.resumed_from,
        "size_bytes": manifest.size,
        "new_bytes": held.added,
        "saved_s": held.saved_s,
        "margin_s": margin_of(run, held),
        "metrics": dict(entry.metrics),
        "fingerprint": dict(manifest.fingerprint),
        "groups": [{"name": group.name, "items": [asdict(item) for item in group.items]} for group in groups],
    }


def _margin(seconds: float) -> str:
    when = "before" if seconds >= 0 else "after"
    return f"{abs(seconds):.0f} s {when} the end of its machine that was announced"


def _table(groups: list[Group], *, limit: int | None) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "type", "shape", "size", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for group in groups:
        table.add_section()
        table.add_row(
            f"[bold]{escape(group.name)}[/bold]", "", f"[dim]{len(group.items)}[/dim]", format_bytes(group.size)
        )
        ordered = group.items if limit is None else sorted(group.items, key=lambda item: -item.size)[:limit]
        for item in ordered:
            shape = "" if item.dtype == "file" else "×".join(map(str, item.shape)) or "scalar"
            boxes = f" in {item.boxes} boxes" if item.boxes > 1 else ""
            name = item.name.removeprefix(group.name + ".")
            table.add_row(f"  {escape(name)}", item.dtype, shape + boxes, format_bytes(item.size))
        if len(ordered) < len(group.items):
            table.add_row(f"  [dim]{len(group.items) - len(ordered)} smaller ones; --all shows them[/dim]")
    return table
