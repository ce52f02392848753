"""`spotrun checkpoints diff`: what changed from one commit to another, also of another run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spotrun.cli.checkpoints.place import Json, Which, open_run, pick
from spotrun.cli.checkpoints.verification import bytes_bar
from spotrun.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spotrun.store.difference import TensorDifference

__all__ = ["diff"]

_TENSORS_MAX = 20
_PLACES_MAX = 30

Side = Annotated[str, typer.Argument(help="A commit of this run, or of another as JOB|URI@STEP.", metavar="STEP")]


def diff(
    ctx: typer.Context,
    job: Which,
    old: Side,
    new: Side = "latest",
    all_differences: Annotated[bool, typer.Option("--all", "-a", help="Every difference, not the first ones.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two commits: which tensors changed and by how much, and what differs in options, position and the rest.

    `change` is the largest change of an element as a share of the tensor's largest element.
    """
    from spotrun.store import read_manifest
    from spotrun.store.difference import Side as OneSide
    from spotrun.store.difference import compare_states, compare_tensors, state_of

    run = open_run(ctx, job)
    (left_run, left), (right_run, right) = pick(ctx, run, old), pick(ctx, run, new)
    sides = (
        OneSide(left_run.store, read_manifest(left_run.store, left)),
        OneSide(right_run.store, read_manifest(right_run.store, right)),
    )
    with bytes_bar("comparing", right.size, hidden=as_json) as advance:
        tensors = list(compare_tensors(*sides, told=advance))
    places = list(compare_states(state_of(sides[0].manifest), state_of(sides[1].manifest)))
    made = _made_differently(sides[0].manifest.fingerprint, sides[1].manifest.fingerprint)
    if as_json:
        body = {
            "old": {"place": left_run.uri, "step": left.step, "attempt": left.attempt},
            "new": {"place": right_run.uri, "step": right.step, "attempt": right.attempt},
            "tensors": [_row(each) for each in tensors if each.change.value != "same"],
            "same_tensors": sum(each.change.value == "same" for each in tensors),
            "state": [{"path": path, "old": before, "new": after} for path, before, after in places],
            "fingerprint": made,
        }
        typer.echo(json.dumps(body, indent=2))
        return
    other = f" of {left_run.uri}" if left_run is not right_run else ""
    typer.echo(f"step {left.step}{other} and step {right.step} of {right_run.uri}")
    _tell_tensors(tensors, limit=None if all_differences else _TENSORS_MAX)
    _tell_places(places, limit=None if all_differences else _PLACES_MAX)
    for name in made:
        typer.echo(f"made with another {name}")


def _tell_tensors(tensors: Sequence[TensorDifference], *, limit: int | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    same = [each for each in tensors if each.change.value == "same"]
    differing = sorted((each for each in tensors if each not in same), key=lambda each: -(each.relative or 0.0))
    sizes = format_bytes(sum(each.size for each in differing)), format_bytes(sum(each.size for each in same))
    typer.echo(f"{len(differing)} tensors differ ({sizes[0]}), {len(same)} are the same, bit for bit ({sizes[1]})")
    if not differing:
        return
    table = Table("tensor", "", "change", "size", box=None, pad_edge=False, header_style="dim")
    table.columns[2].justify = table.columns[3].justify = "right"
    for each in differing[:limit]:
        relative = "" if each.relative is None else f"{each.relative:.2g}"
        table.add_row(escape(each.name), escape(each.note or each.change.value), relative, format_bytes(each.size))
    Console().print(table)
    if limit is not None and len(differing) > limit:
        typer.echo(f"and {len(differing) - limit} more; --all shows them")


def _tell_places(places: Sequence[tuple[str, str, str]], *, limit: int | None) -> None:
    typer.echo(f"{len(places)} other values differ" if places else "everything but the tensors is the same")
    for path, before, after in places[:limit]:
        typer.echo(f"  {path}: {before} -> {after}")
    if limit is not None and len(places) > limit:
        typer.echo(f"  and {len(places) - limit} more; --all shows them")


def _row(each: TensorDifference) -> dict[str, Any]:
    return {
        "name": each.name,
        "change": each.change.value,
        "relative": each.relative,
        "size_bytes": each.size,
        "note": each.note,
    }


def _made_differently(left: Mapping[str, str], right: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
