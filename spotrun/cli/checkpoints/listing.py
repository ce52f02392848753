"""`spotrun checkpoints ls`: the lineage, attempt by attempt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.checkpoints.place import Json, Run, Which, open_run
from spotrun.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table
    from rich.tree import Tree

    from spotrun.store import ClaimEntry
    from spotrun.store.inventory import Held

__all__ = ["ls", "margin_of"]

_COLUMNS = ("step", "committed at", "size", "new", "saved in", "state", "on notice", "tags", "metrics")
_METRICS_SHOWN = 2
_DAMAGED_MAX = 5  # entries that are told one by one; --json has all
_STATE = {"kept": "kept", "pruned": "[dim]pruned[/dim]", "damaged": "[red]damaged[/red]"}


def ls(
    ctx: typer.Context,
    job: Which = "",
    all_commits: Annotated[bool, typer.Option("--all", "-a", help="Also those that were pruned.")] = False,
    as_json: Json = False,
) -> None:
    """List a run's commits, attempt by attempt: size, what each added, how long it took, whether a notice asked for it.

    Times are job time. `new` is what the commit before did not have; `saved in` runs from the step's end to the commit;
    `on notice` tells how long before the announced end of its machine that was.
    """
    from rich.console import Console

    from spotrun.store.inventory import CommitState, inventory
    from spotrun.store.tag import tags_by_manifest

    run = open_run(ctx, job)
    held = inventory(run.store, run.commits)
    tags = tags_by_manifest(run.store)
    shown = [each for each in held if all_commits or each.state is not CommitState.PRUNED]
    damaged = [entry.key for entry in run.damaged]
    if as_json:
        rows = [_row(run, each, tags.get(each.entry.manifest, frozenset())) for each in shown]
        claims = [_claim(entry) for entry in _claims(run)]
        typer.echo(json.dumps({"place": run.uri, "attempts": claims, "commits": rows, "damaged": damaged}, indent=2))
        return
    console = Console()
    if not held:
        console.print(f"{run.uri}: nothing is committed yet", markup=False, highlight=False)
    else:
        console.print(_tree(run, shown, tags))
    pruned = len(held) - len(shown)
    if pruned:
        console.print(f"{pruned} older ones were pruned, as the rules of retention ask; --all lists them")
    for entry in run.damaged[:_DAMAGED_MAX]:
        console.print(f"[red]{entry.key}: {entry.reason}; it is not believed, the entries around it are used[/red]")
    if len(run.damaged) > _DAMAGED_MAX:
        console.print(f"[red]and {len(run.damaged) - _DAMAGED_MAX} more of {len(run.log)} entries of the log[/red]")


def margin_of(run: Run, each: Held) -> float | None:
    """Seconds from a commit to the end of its machine that was announced; what the commit does not know a job may."""
    told = run.margins.get((each.entry.step, each.entry.attempt))
    return told if each.margin_s is None else each.margin_s


def _tree(run: Run, shown: Iterable[Held], tags: dict[str, frozenset[str]]) -> Tree:
    from rich.markup import escape
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(f"[bold]{escape(run.uri)}[/bold]", highlight=False)
    by_attempt: dict[int, list[Held]] = {}
    for each in shown:
        by_attempt.setdefault(each.entry.attempt, []).append(each)
    claimed = {entry.attempt: entry for entry in _claims(run)}
    cells = {
        attempt: [_cells(run, each, tags.get(each.entry.manifest, frozenset())) for each in commits]
        for attempt, commits in by_attempt.items()
    }
    every = [_COLUMNS, *(row for rows in cells.values() for row in rows)]
    used = [n for n in range(len(_COLUMNS)) if any(row[n] for row in every[1:])]
    widths = {n: max(Text.from_markup(row[n]).cell_len for row in every) for n in used}
    for attempt in sorted(claimed.keys() | by_attempt.keys()):
        branch = tree.add(escape(_head(attempt, claimed.get(attempt), by_attempt.get(attempt, []))))
        if attempt in cells:
            branch.add(_table(cells[attempt], widths))
    return tree


def _table(rows: list[tuple[str, ...]], widths: dict[int, int]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, width in widths.items():
        right = _COLUMNS[column] in ("step", "size", "new", "saved in")
        last = _COLUMNS[column] == "metrics"  # it folds where the terminal is narrow; the others are aligned
        table.add_column(
            _COLUMNS[column],
            min_width=None if last else width,
            no_wrap=right or _COLUMNS[column] == "committed at",
            justify="right" if right else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(row[column] for column in widths))
    return table


def _head(attempt: int, claim: ClaimEntry | None, commits: list[Held]) -> str:
    words = [f"attempt {attempt}"]
    if claim is not None:
        words.append(f"claimed {claim.at:%F %T} by {claim.writer}")
    begins = {each.resumed_from for each in commits if each.saved_s is not None}
    if len(begins) == 1:
        (step,) = begins
        words.append("from the start" if step is None else f"resumed from step {step}")
    return ", ".join(words) + ("" if commits else "; no commit listed")


def _cells(run: Run, each: Held, tags: frozenset[str]) -> tuple[str, ...]:
    from rich.markup import escape

    entry = each.entry
    margin = margin_of(run, each)
    notice = "yes" if entry.on_notice else ""
    if margin is not None:
        notice = f"{abs(margin):.0f} s {'before' if margin >= 0 else 'after'} the end"
    return (
        str(entry.step),
        f"{entry.at:%F %T}",
        format_bytes(each.size),
        "" if each.added is None or each.saved_s is None else format_bytes(each.added),
        "" if each.saved_s is None else f"{each.saved_s:.2f} s",
        _STATE[each.state.value] + (f": {escape(each.problem)}" if each.problem else ""),
        notice,
        ", ".join(sorted(tags)),
        ", ".join(f"{name} {value:.4g}" for name, value in list(entry.metrics.items())[:_METRICS_SHOWN]),
    )


def _row(run: Run, each: Held, tags: frozenset[str]) -> dict[str, Any]:
    entry = each.entry
    return {
        "step": entry.step,
        "attempt": entry.attempt,
        "at": entry.at.isoformat(timespec="seconds"),
        "size_bytes": each.size,
        "new_bytes": each.added,
        "saved_s": each.saved_s,
        "on_notice": entry.on_notice,
        "margin_s": margin_of(run, each),
        "metrics": dict(entry.metrics),
        "tags": sorted(tags),
        "resumed_from": each.resumed_from,
        "state": each.state.value,
        "problem": each.problem,
        "manifest": entry.manifest,
    }


def _claims(run: Run) -> list[ClaimEntry]:
    from spotrun.store import ClaimEntry

    return [entry for entry in run.log if isinstance(entry, ClaimEntry)]


def _claim(entry: ClaimEntry) -> dict[str, Any]:
    return {"attempt": entry.attempt, "writer": entry.writer, "claimed_at": entry.at.isoformat(timespec="seconds")}
