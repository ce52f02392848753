"""The live view of a job: a panel that stays, and a line for each thing that happens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spotrun.job import AttemptPhase, Heartbeat, Job, OnShortage, Phase
from spotrun.job.message import Progress, TrainingPhase
from spotrun.units import format_bytes, format_duration, format_usd

__all__ = ["Money", "panel", "phase_text"]

_COLOURS = {
    Phase.PENDING: "yellow",
    Phase.INTERRUPTED: "yellow",
    Phase.STARTING: "cyan",
    Phase.TRAINING: "green",
    Phase.UPLOADING: "green",
    Phase.COMPLETED: "bold green",
}


_STALL_SHARE = 0.1  # of `stall_timeout` without a step: said, so that whoever looks need not wait for all of it
_STEPS_MISSED = 10.0  # or so many steps, if that is longer: an evaluation is no stall


@dataclass(frozen=True, slots=True)
class Money:
    """What was paid so far, and what on-demand would have cost for the same useful work."""

    paid: Decimal
    on_demand: Decimal


def phase_text(job: Job) -> Text:
    """The job's phase in its colour, with what it is heading for if that is known."""
    text = Text(job.phase.value, style=_COLOURS.get(job.phase, "bold red"))
    if job.ending is not None and not job.phase.is_end:
        text.append(f" → {job.ending.phase.value}", style="red")
    return text


def panel(
    job: Job,
    beat: Heartbeat | None,
    *,
    now: datetime,
    money: Money | None,
    scale: float,
    trouble: Exception | None = None,
) -> RenderableType:
    """The panel for one moment.

    Args:
        job: the job as its journal tells it.
        beat: the live attempt's latest heartbeat, if any.
        now: job time.
        money: None while nothing is known.
        scale: seconds of job time in one second here.
        trouble: what stands in the way just now.
    """
    now = min(now, job.ended_at or now)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    for label, value in _rows(job, beat, now=now, money=money):
        grid.add_row(label, value)
    if trouble is not None:
        grid.add_row("trouble", Text(str(trouble), style="red"))
    title = Text.assemble(f" {job.id} ", "· ", phase_text(job), " ")
    pace = f" time runs {scale:g} times as fast " if scale != 1 else None
    return Panel(grid, title=title, title_align="left", subtitle=pace, subtitle_align="right", border_style="dim")


def _rows(job: Job, beat: Heartbeat | None, *, now: datetime, money: Money | None) -> list[tuple[str, RenderableType]]:
    news = _news(job, beat)
    attempt = job.attempt
    rows: list[tuple[str, RenderableType]] = []
    if attempt is not None:
        market = "spot" if attempt.market == "spot" else "on-demand"
        price = f"{format_usd(attempt.price_usd_per_hour)}/h"
        size = job.spec.resources.nodes
        machine, each = attempt.instance_type, ""
        if not size.is_single:
            count = attempt.nodes if attempt.launched_at is not None else size
            machine, each = f"{count} x {machine}", " each"
        where = f"attempt {attempt.number} in {attempt.zone}, {machine} {market} at {price}{each}"
        doing = f" ({attempt.phase.value})" if attempt.phase is not AttemptPhase.TRAINING else ""
        rows.append(("where", Text(where + doing)))
    elif job.wait_reason and not job.phase.is_end:
        rows.append(("waiting", Text(job.wait_reason, style="yellow")))
    if beat is not None and beat.notice_deadline is not None and attempt is not None:
        left = format_duration(max(beat.notice_deadline - now, timedelta(0)))
        rows.append(("notice", Text(f"this machine goes in {left}", style="bold yellow")))
    elif beat is not None and beat.recommended_at is not None and attempt is not None:
        rows.append(("notice", Text("an interruption of this machine has become likely", style="yellow")))
    if stall := _stall(job, beat, now):
        rows.append(("stall", Text(stall, style="bold yellow")))
    if silent := _silent(beat):
        rows.append(("output", Text(silent, style="yellow")))
    if news is not None:
        rows.append(("step", _steps(news)))
        rows.append(("last commit", Text(_commit(news, now))))
    if job.spec.limits.on_shortage is OnShortage.ON_DEMAND:
        rows.append(("policy", Text(f"{job.spec.limits.policy.value} buys on-demand in time for max_wait")))
    rows.append(("time", Text(_time(job, now))))
    if money is not None:
        rows.append(
            ("money", Text(f"{format_usd(money.paid)} paid; on-demand would be at {format_usd(money.on_demand)}"))
        )
    return rows


def _news(job: Job, beat: Heartbeat | None) -> Progress | None:
    """The newest word of a training, this attempt's or one before."""
    news = [beat.progress if beat is not None else None, *(attempt.progress for attempt in reversed(job.attempts))]
    return next((each for each in news if each is not None and each.told), None)


def _stall(job: Job, beat: Heartbeat | None, now: datetime) -> str:
    """For how long there was no step, once that is a share of `stall_timeout` and many steps; empty before."""
    progress = beat.progress if beat is not None else None
    if progress is None or progress.last_step_at is None or progress.phase is not TrainingPhase.TRAINING:
        return ""
    silence, patience = now - progress.last_step_at, job.spec.limits.stall_timeout
    usual = timedelta(seconds=_STEPS_MISSED / progress.steps_per_s) if progress.steps_per_s else timedelta(0)
    if job.attempt is None or silence < max(patience * _STALL_SHARE, usual):
        return ""
    return (
        f"no new step for {format_duration(silence)}; stopped after {format_duration(patience)} (limits.stall_timeout)"
    )


def _silent(beat: Heartbeat | None) -> str:
    """What is seen of setup commands, or of a command that never attached and keeps no folder; empty if none does."""
    progress = beat.progress if beat is not None else None
    if progress is None or progress.output_bytes is None:
        return ""
    if progress.phase is TrainingPhase.SETUP:
        return f"setting up, {format_bytes(progress.output_bytes)} printed"
    if progress.phase is not TrainingPhase.TRAINING:
        return ""
    if progress.told:  # its folder is kept, which says more than its output
        return ""
    return f"{format_bytes(progress.output_bytes)} printed; the script has not called spotrun.attach: nothing is saved"


def _steps(news: Progress) -> RenderableType:
    total = f" of {news.total_steps}" if news.total_steps else ""
    words = [f"{news.step}{total}"]
    if news.loss is not None:
        words.append(f"loss {news.loss:.4f}")
    if news.steps_per_s is not None:
        words.append(f"{_rate(news.steps_per_s)}")
    text = Text("  ".join(words))
    if not news.total_steps:
        return text
    bar = ProgressBar(total=news.total_steps, completed=news.step, width=24)
    line = Table.grid(padding=(0, 2))
    line.add_row(bar, text)
    return Group(line)


def _rate(steps_per_s: float) -> str:
    return f"{steps_per_s:.2f} steps/s" if steps_per_s >= 0.1 else f"{steps_per_s * 60:.1f} steps/min"


def _commit(news: Progress, now: datetime) -> str:
    if news.last_commit is None:
        return "none by this attempt" + ("" if news.resumed_from is None else f"; it began at step {news.resumed_from}")
    age = format_duration(max(now - news.last_commit.at, timedelta(0)))
    return f"step {news.last_commit.step}, {age} ago"


def _time(job: Job, now: datetime) -> str:
    if job.ended_at is not None:
        return f"{format_duration(job.ended_at - job.submitted_at)} from submission to end"
    max_wait = job.spec.limits.max_wait or job.spec.limits.max_run
    spent = now - job.submitted_at
    left = format_duration(max(max_wait - spent, timedelta(0)))
    return f"{format_duration(spent)} since submission, {left} of wait budget left"
