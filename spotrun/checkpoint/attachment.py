"""`attach`: the two-line change that makes a training resumable."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

from spotrun.checkpoint.circumstances import Strictness, changes, circumstances
from spotrun.checkpoint.distributed.bucket import unwrapped
from spotrun.checkpoint.distributed.gang import Gang
from spotrun.checkpoint.distributed.quiet import QuietReporter
from spotrun.checkpoint.distributed.world import join_world
from spotrun.checkpoint.garbage import uncollected
from spotrun.checkpoint.hold import Hold, take_hold
from spotrun.checkpoint.keeper import Keeper
from spotrun.checkpoint.mistake import refuse_mistaken, remember, suspicions
from spotrun.checkpoint.order import Orders
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.restore import Restored
from spotrun.checkpoint.run import Parts, Run
from spotrun.checkpoint.saver import Saver
from spotrun.checkpoint.settings import Interval, Settings, read_settings
from spotrun.checkpoint.source import open_feed
from spotrun.checkpoint.state import Components, sort_components
from spotrun.job.message import TrainingPhase
from spotrun.policy.cadence import Cadence, FixedInterval, YoungDaly

__all__ = ["attach"]


def attach(  # noqa: PLR0913  the researcher's face: every argument is optional and named
    *misplaced: Any,
    model: torch.nn.Module | Mapping[str, torch.nn.Module] | None = None,
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    generators: Any = None,
    loader: Any = None,
    interval: Interval = None,
    keep_last: int | None = None,
    uri: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
        storage_options: how that place is reached: endpoint, region, profile, encryption; see `docs/stores.md`.
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
    named = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "generators": generators}
    refuse_mistaken(named, misplaced)
    settings = read_settings(uri=uri, name=name, interval=interval, keep_last=keep_last, options=storage_options)
    settings = replace(settings, strict=settings.strict or strict)
    given = {**named, **objects}
    with uncollected():
        return _attach(settings, given, told=circumstances(config), loader=loader, total_steps=total_steps)


def _attach(
    settings: Settings, given: Mapping[str, Any], *, told: Mapping[str, str], loader: Any, total_steps: int | None
) -> Run:
    settings.witness.tell("attach")
    world = join_world(announced=settings.world, silence=settings.silence)
    gang = Gang(world, given) if world is not None else None
    quiet = gang is not None and not gang.leads
    reporter = (QuietReporter if quiet else Reporter)(settings.scratch, clock=settings.clock)
    reporter.set(phase=TrainingPhase.RESTORING, attached_at=settings.clock.now(), total_steps=total_steps)
    reporter.write(now=True)
    components = sort_components({name: unwrapped(value, name) for name, value in given.items()})
    components.check()
    for warning in suspicions(components):
        reporter.warn(warning)
    if loader is not None:
        reporter.set(guarantee=open_feed(loader, replay=False, epoch=0).guarantee)
    orders = Orders(
        settings.scratch / "request.json" if settings.in_job and not quiet else None, witness=settings.witness
    )
    if settings.in_job:
        orders.listen()  # at once: a notice must kill neither a restore nor a training that is still being built
    try:
        hold = take_hold(settings, components, reporter, gang)
        return _start(settings, hold, (components, reporter, orders), told)
    except BaseException:
        orders.release()
        if gang is not None:
            gang.consensus.leave("it could not attach")
        raise


def _start(settings: Settings, hold: Hold, parts: tuple[Components, Reporter, Orders], told: Mapping[str, str]) -> Run:
    components, reporter, orders = parts
    strictness = Strictness(refuses=settings.strict, in_job=settings.in_job)
    restored = hold.restored
    if restored is not None:
        reporter.set(step=restored.entry.step, resumed_from=restored.entry.step)
        restored = restored.without_tensors()
    if hold.agreement.leads:
        _announce(settings, hold.attempt, restored)
    if restored is not None:
        strictness.judge(changes(restored.tree.get("circumstances", told), told), reporter)
    keeper = Keeper(
        Saver(hold.store, hold.committer, settings, known=hold.known),
        orders,
        reporter,
        cadence=_cadence(settings),
        clock=settings.clock,
        agreement=hold.agreement,
    )
    remember(settings.job, settings.place, keeper)
    reporter.metrics.begin(restored.entry.step if restored else 0, restored.manifest.metrics if restored else ())
    if restored is not None:
        components.restore_randomness(restored.tree)  # for loops that call run.step(); the others do it again
    atexit.register(_at_exit, keeper, reporter)
    reporter.write(now=True)
    total_steps = reporter.progress.total_steps
    return Run(Parts(components, keeper, reporter, settings.clock, total_steps, restored, told, strictness))


def _announce(settings: Settings, attempt: int, restored: Restored | None) -> None:
    place = settings.place
    if place.startswith("file://"):
        path = Path(unquote(urlsplit(place).path))
        place = f"./{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else str(path)
    if restored is None:
        say(f"{settings.job}: a fresh run (attempt {attempt}); checkpoints go to {place}")
        return
    entry = restored.entry
    say(
        f"{settings.job}: resumed from step {entry.step}, committed by attempt {entry.attempt} at {entry.at:%F %T} UTC "
        f"(this is attempt {attempt}); checkpoints are in {place}"
    )


def _cadence(settings: Settings) -> Cadence:
    if settings.interval is not None:
        return FixedInterval(settings.interval.total_seconds())
    if settings.mtbi is not None:
        return YoungDaly(mean_time_between_interruptions_s=settings.mtbi.total_seconds())
    return YoungDaly()


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
