"""`spotrun checkpoints tag`: names for commits that are to be kept."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spotrun.cli.checkpoints.place import Json, Which, open_run

__all__ = ["tag"]


def tag(
    ctx: typer.Context,
    job: Which = "",
    step: Annotated[str, typer.Argument(help="A commit; all tags are listed without it.", metavar="STEP")] = "",
    name: Annotated[str, typer.Argument(help="The name for it.")] = "",
    remove: Annotated[str, typer.Option("--remove", help="Take this tag away.", metavar="NAME")] = "",
    as_json: Json = False,
) -> None:
    """Give a commit a name, which keeps it; or list the tags. The rules of retention say which tags keep: all by default."""
    from spotrun.clock import SystemClock
    from spotrun.errors import SpecError
    from spotrun.store.tag import add_tag, read_tags, remove_tag

    run = open_run(ctx, job)
    if remove:
        remove_tag(run.store, remove)
        typer.echo(f"{remove} is no tag any more; its commit stays until no rule asks for it")
    elif step:
        if not name:
            raise SpecError("give the commit and a name: spotrun checkpoints tag JOB STEP NAME")
        entry = run.commit(step)
        add_tag(run.store, name, entry, at=SystemClock().now())
        typer.echo(f"step {entry.step} of attempt {entry.attempt} is {name}, and is kept")
    else:
        tags = read_tags(run.store)
        if as_json:
            rows = [{"name": each.name, "step": each.step, "attempt": each.attempt} for each in tags]
            typer.echo(json.dumps({"place": run.uri, "tags": rows}, indent=2))
            return
        for each in tags:
            typer.echo(f"{each.name}: step {each.step} of attempt {each.attempt}")
        if not tags:
            typer.echo(f"{run.uri}: no commit has a tag")
