"""What the journal tells of each attempt, gathered for the ledger. Pure, and patient with missing or torn news."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    EndReason,
    Event,
    Launched,
    LaunchRefused,
    Noticed,
    Placed,
    Progressed,
    Submitted,
    Waited,
)
from spotrun.job.message import Commit, Exit, Outcome, Progress, TrainingPhase

__all__ = ["AttemptStory", "JobStory", "gather"]


@dataclass(kw_only=True, slots=True)
class AttemptStory:
    """One attempt that existed, as its events tell it. Progress is cumulative, so the best of all news is kept."""

    placed: Placed
    launched: Launched
    setup_at: datetime | None = None
    setup_until: datetime | None = None
    attached_at: datetime | None = None
    training_at: datetime | None = None
    last_step_at: datetime | None = None
    resumed_from: int | None = None
    last_step: int = 0
    stall_s: float = 0.0
    phase: TrainingPhase = TrainingPhase.STARTING
    silent_since: datetime | None = None  # at work since then, as far as the agent can see: it never told anything
    uploading: bool = False
    guarantee: str = ""
    warnings: tuple[str, ...] = ()
    commits: dict[int, Commit] = field(default_factory=dict)  # by step
    steps: dict[int, datetime] = field(default_factory=dict)  # when a step was seen to be finished
    noticed: Noticed | None = None
    exit: Exit | None = None
    ended: AttemptEnded | None = None

    @property
    def start_step(self) -> int:
        """The step it started from; 0 for a fresh start."""
        return self.resumed_from or 0

    @property
    def knows_its_start(self) -> bool:
        """Whether it got far enough to tell which commit it resumed from (or that it found none)."""
        return self.resumed_from is not None or self.training_at is not None

    @property
    def end_reason(self) -> EndReason | None:
        """Why it is over; None while it runs."""
        return None if self.ended is None else self.ended.reason

    @property
    def interrupted(self) -> bool:
        """Whether the provider took it."""
        return self.end_reason is EndReason.INTERRUPTED

    @property
    def completed(self) -> bool:
        """Whether its command ended well: nothing of it is lost."""
        return self.exit is not None and self.exit.outcome is Outcome.COMPLETED

    @property
    def was_training(self) -> bool:
        """Whether, as far as anybody knows, its loop was running until the end of what is known."""
        return self.phase is TrainingPhase.TRAINING and not self.uploading and self.exit is None

    @property
    def last_commit(self) -> Commit | None:
        """The newest commit seen."""
        return self.commits[max(self.commits)] if self.commits else None

    def learn(self, progress: Progress) -> None:
        """Takes in one report of the training."""
        self.setup_at = self.setup_at or progress.setup_at
        self.setup_until = self.setup_until or progress.setup_until
        if not progress.told:
            self.silent_since = progress.training_at or self.silent_since
            return
        self.attached_at = self.attached_at or progress.attached_at
        self.training_at = self.training_at or progress.training_at
        if progress.resumed_from is not None:
            self.resumed_from = progress.resumed_from
        if progress.last_step_at is not None:
            self.last_step_at = max(self.last_step_at or progress.last_step_at, progress.last_step_at)
            self.steps.setdefault(progress.step, progress.last_step_at)
        self.last_step = max(self.last_step, progress.step)
        self.stall_s = max(self.stall_s, progress.checkpoint_stall_s)
        self.phase = progress.phase
        self.guarantee = progress.guarantee or self.guarantee
        self.warnings = progress.warnings or self.warnings
        commit = progress.last_commit
        if commit is not None and commit.captured_at >= self.launched.launched_at:  # else an older attempt's
            self.commits[commit.step] = commit
            self.last_step = max(self.last_step, commit.step)

    def reached(self, step: int) -> datetime | None:
        """When the training stood at this step: from its commits, else between the two nearest steps seen.

        None while the training has not begun.
        """
        if self.training_at is None:
            return None
        seen = {**self.steps, **{commit.step: commit.captured_at for commit in self.commits.values()}}
        known = {self.start_step: self.training_at} | {at: seen[at] for at in seen if at > self.start_step}
        before = max((known_step for known_step in known if known_step <= step), default=None)
        after = min((known_step for known_step in known if known_step >= step), default=None)
        if before is None:
            return self.training_at
        if after is None:
            return max(known[before], self.last_step_at or known[before])
        if after == before:
            return known[before]
        return known[before] + (known[after] - known[before]) * (step - before) / (after - before)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStory:
    """What the ledger needs of a journal."""

    submitted: Submitted
    attempts: tuple[AttemptStory, ...]  # that existed, in the order of their numbers
    refusals: tuple[LaunchRefused, ...]
    reasons: tuple[tuple[datetime, str], ...]  # why there was no machine, by instant
    last_at: datetime

    def nodes(self, attempt: AttemptStory) -> int:
        """Instances of an attempt: as many as the job asks for or, where it gives a range, as the launch brought."""
        resources = self.submitted.spec.get("resources")
        nodes = resources.get("nodes") if isinstance(resources, dict) else None
        return nodes if isinstance(nodes, int) and nodes > 0 else max(1, len(attempt.launched.members))


def gather(events: Sequence[Event]) -> JobStory:
    """What the events tell of the job and of each attempt that existed.

    Raises:
        ValueError: there is no Submitted, or an attempt was launched that was never placed, so that no price is known.
    """
    submitted = next((event for event in events if isinstance(event, Submitted)), None)
    if submitted is None:
        raise ValueError("a journal without a Submitted event tells of no job")
    placed = {event.attempt: event for event in events if isinstance(event, Placed)}
    stories: dict[int, AttemptStory] = {}
    for event in events:
        if isinstance(event, Launched) and event.attempt not in stories:
            if event.attempt not in placed:
                raise ValueError(f"attempt {event.attempt} was launched but never placed: its price is unknown")
            stories[event.attempt] = AttemptStory(placed=placed[event.attempt].landed(event.pool), launched=event)
    _tell(stories, events)
    return JobStory(
        submitted=submitted,
        attempts=tuple(stories[number] for number in sorted(stories)),
        refusals=tuple(event for event in events if isinstance(event, LaunchRefused)),
        reasons=tuple(_reasons(events)),
        last_at=max(event.at for event in events),
    )


def _tell(stories: dict[int, AttemptStory], events: Sequence[Event]) -> None:
    for event in events:
        if not isinstance(event, (Progressed, Noticed, AttemptExited, AttemptEnded)):
            continue
        story = stories.get(event.attempt)
        if story is None:
            continue  # it never existed: refused, or its launch is not known yet
        if isinstance(event, Progressed):
            story.learn(event.progress)
            story.uploading = event.uploading
        elif isinstance(event, Noticed):
            story.noticed = story.noticed or event
        elif isinstance(event, AttemptExited):
            story.exit = event.exit
            if event.exit.progress is not None:
                story.learn(event.exit.progress)
        else:
            story.ended = event


def _reasons(events: Iterable[Event]) -> Iterable[tuple[datetime, str]]:
    for event in events:
        if isinstance(event, Waited):
            yield event.at, event.reason
        elif isinstance(event, LaunchRefused):
            yield event.at, f"attempt {event.attempt} refused: {event.answer}"
