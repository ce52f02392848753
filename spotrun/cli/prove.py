"""`spotrun prove`: train once more, without interruptions, and compare bit for bit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.choice import choose_job, open_journal
from spotrun.cli.home import Home, home_of

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from spotrun.chaos import LossVerdict, Reference, StateVerdict
    from spotrun.controller import Journal
    from spotrun.job import Job
    from spotrun.store import BlobStore, Manifest
    from spotrun.store.log import Signing

__all__ = ["prove", "prove_job"]

_MODEL = "model"  # where a checkpoint keeps the weights; its other tensors are optimizer, generators and data position


def prove(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(help="A completed job; the newest one by default.")] = "",
) -> None:
    """Run a completed job's command again without interruptions; compare every loss and the final state bit for bit.

    Exit code 0: the same run. 1: it differs.
    """
    from rich.console import Console

    journal = open_journal(ctx)
    if not prove_job(home_of(ctx), journal, choose_job(journal, job), console=Console()):
        raise typer.Exit(1)


def prove_job(home: Home, journal: Journal, job_id: str, *, console: Console) -> bool:
    """Whether the job's run is the same as an uninterrupted one; says so on the console."""
    import tempfile
    from pathlib import Path

    from spotrun.chaos import compare_losses, compare_states
    from spotrun.controller import Follower, open_at, place_uri, read_job
    from spotrun.errors import SpecError
    from spotrun.job import Phase, Submitted
    from spotrun.store import open_store
    from spotrun.store.signing import open_signing

    job = read_job(journal, job_id)
    submitted = journal.events(job_id)[0].event
    assert isinstance(submitted, Submitted)
    if job.phase is not Phase.COMPLETED:
        raise SpecError(f"{job_id} is {job.phase.value}; only a completed job has a result to compare")
    if job.spec.checkpoint is not None and job.spec.checkpoint.folder is not None:
        raise SpecError(
            f"{job_id} keeps the folder {job.spec.checkpoint.folder.path} for a script of which spotrun knows no loss and no "
            "weights, so there is nothing that it could compare; run the script elsewhere and compare what it writes"
        )
    place = place_uri(job.spec, job_id, home.path)
    section = job.spec.checkpoint
    key = section.signing.where() if section is not None and section.signing is not None else None
    signing = open_signing(key, run=job_id, environment=os.environ)
    # Before the second training: without a state there is nothing to compare.
    ours = _last_state(open_at(place, job.spec, open_store), place, signing=signing)
    with tempfile.TemporaryDirectory(prefix="spotrun-prove-") as directory:
        reference = _reference(job, Path(submitted.workdir), Path(directory), console)
        follower = Follower(journal, home.path, open_store=open_store)
        rows = (row.values for row in follower.metrics(job_id))
        losses = compare_losses(
            reference.losses,
            [(int(str(row["step"])), float(str(row["loss"]))) for row in rows if row.get("loss") is not None],
        )
        theirs = _last_state(open_store(reference.place, {}), reference.place)
        states = compare_states(ours, theirs)
        weights = compare_states(ours, theirs, prefix=_MODEL)
    _tell(console, losses=losses, states=states, weights=weights, interruptions=job.interruptions)
    return losses.same and states.same


def _reference(job: Job, workdir: Path, directory: Path, console: Console) -> Reference:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from spotrun.chaos import run_reference
    from spotrun.job import Progress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("the same training, uninterrupted", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.total_steps)

        return run_reference(job.spec, job_id=job.id, workdir=workdir, directory=directory, report=report)


def _last_state(store: BlobStore, place: str, *, signing: Signing | None = None) -> tuple[BlobStore, Manifest]:
    from spotrun.errors import SpecError
    from spotrun.store import CommitEntry, read_log, read_manifest

    commits = [entry for entry in read_log(store, signing=signing) if isinstance(entry, CommitEntry)]
    if not commits:
        raise SpecError(f"nothing is committed in {place}: does the script use spotrun.attach?")
    return store, read_manifest(store, commits[-1])


def _tell(
    console: Console, *, losses: LossVerdict, states: StateVerdict, weights: StateVerdict, interruptions: int
) -> None:
    again = f", {losses.recomputed} of them computed again after an interruption" if losses.recomputed else ""
    console.print(_mark(losses.same), f"losses: {losses.steps} steps compared{again}", highlight=False)
    if losses.first_difference is not None:
        step, expected, got = losses.first_difference
        console.print(f"  first difference at step {step}: {expected!r} uninterrupted, {got!r} interrupted")
    if losses.missing:
        console.print(f"  only in one of the runs: steps {', '.join(map(str, losses.missing[:10]))}")
    for verdict, what in ((weights, "final weights"), (states, "whole final state")):
        text = f"{what}: {verdict.elements:,} numbers in {verdict.tensors} tensors"
        console.print(_mark(verdict.same), text, highlight=False)
        if verdict.differing:
            console.print(f"  differing: {', '.join(verdict.differing[:10])}", markup=False)
    if losses.same and states.same:
        console.print(f"[bold green]identical, bit for bit, after {interruptions} interruptions[/bold green]")
    else:
        console.print("[bold red]the interrupted run is not the same run[/bold red]")


def _mark(same: bool) -> str:
    return "[green]same[/green]     " if same else "[red]DIFFERENT[/red]"
