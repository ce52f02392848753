"""Puts the verbs together."""

from __future__ import annotations

import typer

from spotrun.cli.checkpoints import difference, listing, removal, showing, tagging, transfer, verification

__all__ = ["app"]

app = typer.Typer(help="Look at a job's checkpoints, check, move and remove them.", no_args_is_help=True)
app.command("ls")(listing.ls)
app.command("show")(showing.show)
app.command("verify")(verification.verify)
app.command("diff")(difference.diff)
app.command("export")(transfer.export)
app.command("import")(transfer.import_)
app.command("tag")(tagging.tag)
app.command("prune")(removal.prune)
app.command("gc")(removal.gc)
