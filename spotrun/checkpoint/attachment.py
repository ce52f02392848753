"""`attach`: the two-line change that makes a training resumable."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
import torch.distributed

from spotrun.checkpoint.circumstances import Strictness, changes, circumstances
from spotrun.checkpoint.commit import SoleCommitter
from spotrun.checkpoint.keeper import Keeper
from spotrun.checkpoint.mistake import refuse_mistaken, suspicions
from spotrun.checkpoint.order import Orders
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.restore import Restored, resume
from spotrun.checkpoint.run import Parts, Run
from spotrun.checkpoint.saver import Saver
from spotrun.checkpoint.settings import Interval, Settings, read_settings
from spotrun.checkpoint.source import open_feed
from spotrun.checkpoint.state import Components, sort_components
from spotrun.errors import CheckpointError, Fenced
from spotrun.job.message import EXIT_FENCED, TrainingPhase
from spotrun.policy.cadence import Cadence, FixedInterval, YoungDaly
from spotrun.store import BlobRef, BlobStore, ClaimEntry, DamagedEntry, Lineage, open_store

__all__ = ["attach"]


def attach(  # noqa: PLR0913  the researcher's face: every argument is optional and named
    *,
    model: torch.nn.Module | Mapping[str, torch.nn.Module] | None = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    generators: Any = None,
    loader: Any = None,
    interval: Interval = None,
    keep_last: int | None = None,
    uri: str | None = None,
    name: str | None = None,
    total_steps: int | None = None,
    config: Mapping[str, Any] | None = None,
    strict: bool = False,
    **objects: Any,
) -> Run:
    """Makes the training resumable: restores the last commit, if there is one, and returns what the loop goes through.

        run = spotrun.attach(model=model, optimizer=optimizer, scheduler=scheduler)
        for epoch in run.epochs(10):
            for batch in run.batches(loader):
                ...

    Build everything first, then attach, then loop. Outside a job, checkpoints lie under `./.spotrun/<script>/`.

    Args:
        model: a module or a dict of modules.
        optimizer: one, a list or a dict. State is kept by parameter name.
        scheduler: anything with `state_dict` and `load_state_dict`; also a list or dict.
        scaler: a `GradScaler`.
        generators: generators of torch, NumPy or `random` that the training draws from; one, a list or a dict.
        loader: what `run.batches` will be given, if it is to be refused now rather than there.
        interval: time between commits: seconds, a timedelta, text like `"10m"`, or None to let spotrun choose.
            What the job file says goes first.
        keep_last: how many commits to keep. What the job file says goes first.
        uri: where checkpoints go outside a job, e.g. `s3://bucket/runs`; the run's name is added.
        name: the run's name outside a job; by default the script's.
        total_steps: steps of the whole run: where loops end, and what progress is measured against.
        config: hyperparameters to keep with each commit: numbers, text, lists and dicts, e.g. `vars(args)`. A resume
            says which of them differ.
        strict: refuse to go on where code, arguments, `config`, versions or machine differ from the commit's.
        objects: whatever else has a state: EMA models, counters, a sampler, or a dict of plain values.

    Raises:
        NotCapturable: something given can be neither saved nor restored; named by its path.
        CheckpointError: the last commit does not fit what was given, or no commit can be read.
        SpecError: a setting makes no sense.
        StoreError: the place cannot be used.
        SystemExit: a newer attempt holds this run (exit code 77); in a job, `strict` refuses (exit code 2).
    """
    settings = read_settings(uri=uri, name=name, interval=interval, keep_last=keep_last)
    _refuse_many_processes()
    reporter = Reporter(settings.scratch, clock=settings.clock)
    reporter.set(phase=TrainingPhase.RESTORING, attached_at=settings.clock.now(), total_steps=total_steps)
    reporter.write(now=True)
    named = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "generators": generators}
    refuse_mistaken(named)
    told = circumstances(config)
    components = sort_components({**named, **objects})
    components.check()
    for warning in suspicions(components):
        reporter.warn(warning)
    if loader is not None:
        reporter.set(guarantee=open_feed(loader, replay=False, epoch=0).guarantee)
    orders = Orders(settings.scratch / "request.json" if settings.in_job else None)
    if settings.in_job:
        orders.listen()  # at once: a notice must kill neither a restore nor a training that is still being built
    try:
        return _attach(replace(settings, strict=settings.strict or strict), components, reporter, orders, told)
    except BaseException:
        orders.release()
        raise


def _attach(
    settings: Settings, components: Components, reporter: Reporter, orders: Orders, told: Mapping[str, str]
) -> Run:
    strictness = Strictness(refuses=settings.strict, in_job=settings.in_job)
    store = open_store(settings.place)
    lineage = Lineage(
        store, attempt=settings.attempt, writer=settings.writer, clock=settings.clock, signing=settings.signing
    )
    restored = _claim_and_resume(store, lineage, components, reporter)
    if restored is not None:
        reporter.set(step=restored.entry.step, resumed_from=restored.entry.step)
        restored = restored.without_tensors()
    _announce(settings, lineage, restored)
    if restored is not None:
        strictness.judge(changes(restored.tree.get("circumstances", told), told), reporter)
    committer = SoleCommitter(store, lineage, settings, resumed_from=restored.entry.step if restored else None)
    keeper = Keeper(
        Saver(store, committer, settings, known=_known(lineage, restored)),
        orders,
        reporter,
        cadence=_cadence(settings),
        clock=settings.clock,
    )
    reporter.metrics.begin(restored.entry.step if restored else 0, restored.manifest.metrics if restored else ())
    if restored is not None:
        components.restore_randomness(restored.tree)  # for loops that call run.step(); the others do it again
    atexit.register(_at_exit, keeper, reporter)
    reporter.write(now=True)
    total_steps = reporter.progress.total_steps
    return Run(Parts(components, keeper, reporter, settings.clock, total_steps, restored, told, strictness))


def _claim_and_resume(
    store: BlobStore, lineage: Lineage, components: Components, reporter: Reporter
) -> Restored | None:
    try:
        commits = lineage.claim()
    except Fenced as err:
        say(str(err))
        sys.exit(EXIT_FENCED)
    for entry in lineage.log:
        if isinstance(entry, DamagedEntry):
            reporter.warn(f"{entry.error}; if it was a commit, the one before it is used")
    restored = resume(store, commits, components)
    for warning in restored.warnings if restored else ():
        reporter.warn(warning)
    for error in restored.damaged if restored else ():
        reporter.warn(f"{error}; an older commit is used instead: step {restored.entry.step}")  # type: ignore[union-attr]
    return restored


def _known(lineage: Lineage, restored: Restored | None) -> Mapping[str, BlobRef]:
    """What need not be uploaded again: the blobs of the commit resumed from, if it is the newest without a doubt."""
    if restored and all(isinstance(entry, ClaimEntry) for entry in lineage.log[restored.entry.seq :]):
        return restored.blobs
    return {}


def _announce(settings: Settings, lineage: Lineage, restored: Restored | None) -> None:
    place = settings.place
    if place.startswith("file://"):
        path = Path(unquote(urlsplit(place).path))
        place = f"./{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else str(path)
    if restored is None:
        say(f"{settings.job}: a fresh run (attempt {lineage.attempt}); checkpoints go to {place}")
        return
    entry = restored.entry
    say(
        f"{settings.job}: resumed from step {entry.step}, committed by attempt {entry.attempt} at {entry.at:%F %T} UTC "
        f"(this is attempt {lineage.attempt}); checkpoints are in {place}"
    )


def _cadence(settings: Settings) -> Cadence:
    if settings.interval is not None:
        return FixedInterval(settings.interval.total_seconds())
    if settings.mtbi is not None:
        return YoungDaly(mean_time_between_interruptions_s=settings.mtbi.total_seconds())
    return YoungDaly()


def _refuse_many_processes() -> None:
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        raise CheckpointError(
            f"this training has {torch.distributed.get_world_size()} processes; attach saves single-process trainings only"
        )


def _at_exit(keeper: Keeper, reporter: Reporter) -> None:
    """The loop did not end by itself: what it did since the last commit cannot be told from a step half done."""
    if keeper.done:
        return
    keeper.abandon()
    progress = reporter.progress
    last = progress.last_commit.step if progress.last_commit else progress.resumed_from or 0
    if progress.step > last:
        lost = f"step {progress.step} is" if progress.step == last + 1 else f"steps {last + 1} to {progress.step} are"
        say(f"left before the loop ended: {lost} not saved; after a `break`, call run.close()")
