"""`spotrun checkpoints export|import`: to and from other forms. The only verbs of this family that need torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spotrun.cli.checkpoints.place import Which, open_run
from spotrun.units import format_bytes

__all__ = ["export", "import_"]


_FORMS = ("safetensors", "torch", "dcp", "hf")  # named here so that `--help` needs no torch

Format = Annotated[
    str, typer.Option("--format", help=f"What form: {', '.join(_FORMS)}.", metavar="FORM", show_default=False)
]


def export(
    ctx: typer.Context,
    job: Which,
    step: Annotated[str, typer.Argument(help="`latest`, a step, a step and its attempt, or a tag.", metavar="STEP")],
    destination: Annotated[Path, typer.Argument(help="Where to; must not be there yet.", metavar="DEST")],
    form: Format,
    model: Annotated[str, typer.Option(help="Which model, if there are several.", show_default="all")] = "",
    config: Annotated[Path | None, typer.Option(help="A config.json to put beside the weights (hf).")] = None,
    shard_size: Annotated[str, typer.Option(help="The most that one file may hold.")] = "5GB",
) -> None:
    """Write a commit in another form: weights (safetensors, hf), or models, optimizers and the rest (torch, dcp).

    Every byte is checked on the way, and nothing is left at the destination if one is wrong.
    """
    import shutil

    from spotrun.checkpoint.formats import Form
    from spotrun.checkpoint.formats import export as export_commit
    from spotrun.errors import SpecError

    _check_form(form)
    if config is not None and (form != "hf" or not config.is_file()):
        raise SpecError(f"--config {config}: " + ("there is no such file" if form == "hf" else "only for --format hf"))
    run = open_run(ctx, job)
    entry = run.commit(step)
    told = export_commit(
        run.store, entry, destination, form=Form(form), model=model or None, shard_bytes=_bytes(shard_size)
    )
    if config is not None:
        shutil.copyfile(config, destination / "config.json")
    typer.echo(f"step {entry.step}: {told.tensors} tensors, {format_bytes(told.size)}")
    for file in told.files:
        typer.echo(f"  {file}")
    typer.echo(f"not in it: {', '.join(told.left_out)}")


def import_(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="A file or directory.", metavar="SRC")],
    place: Annotated[
        str, typer.Argument(help="The place of a run that has not begun: a URI, or a path.", metavar="URI")
    ],
    form: Format,
    key: Annotated[
        str, typer.Option(help="What the weights lie under in SRC (torch, dcp).", show_default="found")
    ] = "",
    model: Annotated[
        str, typer.Option(help="The model's name in attach; `model.critic` for `model={'critic': ...}`.")
    ] = "model",
) -> None:
    """Make weights from elsewhere the first commit of a run; attach then starts from them, everything else afresh.

    Reads nothing that could run code: files that hold more than tensors are refused.
    """
    import re

    from spotrun.checkpoint.formats import Form, adopt, read_weights
    from spotrun.clock import SystemClock
    from spotrun.errors import SpecError
    from spotrun.store import Lineage

    _check_form(form)
    if "/" not in place and ":" not in place:
        raise SpecError(
            f"{place!r} is not a place: the attempts of a job are numbered by its controller, so weights are imported into a "
            "run outside of a job; write its URI or path, like ./.spotrun/train or s3://bucket/runs/train"
        )
    name = place.rstrip("/").rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise SpecError(
            f"{place}: its last part is the run's name in attach, and {name!r} is none: use letters, digits, '.', '-' and '_'"
        )
    if not model.removeprefix("model.") or not (model.isidentifier() or model.startswith("model.")):
        raise SpecError(f"--model {model}: attach has no model of this name; write model, model.NAME or NAME")
    run = open_run(ctx, place, exists=False)
    weights = read_weights(source, Form(form), key=key or None)
    lineage = Lineage(run.store, attempt=None, writer=f"import:{_host()}", clock=SystemClock(), signing=run.signing)
    adopt(run.store, lineage, weights, run=name, form=form, model=model)
    size = sum(tensor.nbytes for tensor in weights.values())
    typer.echo(f"{len(weights)} tensors, {format_bytes(size)}, are the first commit of {place}")
    one = model.removeprefix("model.")
    given = f"{model}=..." if one == model else f"model={{{one!r}: ...}}"
    typer.echo(f"attach({given}, name={name!r}) with this place starts from them; optimizer and data start fresh")


def _check_form(form: str) -> None:
    from spotrun.errors import SpecError

    if form not in _FORMS:
        raise SpecError(f"--format: {form!r} is no form; write one of {', '.join(_FORMS)}")


def _host() -> str:
    import os
    import socket

    return f"{socket.gethostname()}:{os.getpid()}"


def _bytes(text: str) -> int:
    import re

    from spotrun.errors import SpecError

    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kMGT]?)B?", text)
    size = int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " ")) if match else 0
    if size < 1_000_000:
        raise SpecError(f"--shard-size: {text!r} is not a size of 1MB or more; write it like 5GB")
    return size
