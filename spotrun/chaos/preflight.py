"""`--preflight`: what can be known of a script's chances before its first interruption, measured on an undisturbed run.

fits        can a save finish within the notice, at the size and speed measured here?
hears       does SIGTERM reach the script's Python, and what does it do?
interval    how much work would an interruption without notice lose at most?
workers     do loader workers die of a signal that goes to the whole group?
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

from spotrun.chaos.fault import Fault, Point, Profile
from spotrun.chaos.trial import Stage, Trial, try_out
from spotrun.errors import SpotrunError
from spotrun.store import BlobStore, CommitEntry, open_store, read_log, read_manifest
from spotrun.units import format_bytes

__all__ = ["Finding", "look_ahead"]

_PROBE_BYTES_MAX = 64 << 20  # of a probe of the place's bandwidth
_PROBE_BYTES_MIN = 1 << 20
_PROBE_KEY = "preflight/probe"
_LOST_S = 30 * 60.0  # of work at one interruption is a lot at any price of a machine
_SHARE = 0.5  # of the notice that a save may take: the machine may be slower when it goes


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        good: whether all is well; None where it cannot be told.
    """

    question: str
    good: bool | None
    answer: str
    advice: str = ""


def look_ahead(
    stage: Stage, reference: Trial, profile: Profile, *, place: str = "", interval_s: float | None = None
) -> Iterator[Finding]:
    """Looks at what the uninterrupted run has shown, and sends one signal to another.

    Args:
        place: where the job will keep its checkpoints, to measure its bandwidth; the local disk without it.
        interval_s: between saves, as the job will have it; None for one that is chosen from the cost of a save.
    """
    yield _fits(stage, reference, place)
    yield from _hears(stage, profile, reference)
    yield _loses(profile, interval_s)


def _fits(stage: Stage, reference: Trial, place: str) -> Finding:
    question = f"Can a save finish within the notice of {stage.notice_s:.0f} s?"
    entries = [entry for entry in read_log(open_store(reference.store)) if isinstance(entry, CommitEntry)]
    if not entries:
        return Finding(question=question, good=None, answer="nothing was committed, so its size is not known")
    size = sum(blob.size for blob in read_manifest(open_store(reference.store), entries[-1]).blobs)
    store = open_store(place or reference.store)
    speed = _bandwidth(store, size, stage)
    takes_s = size / speed
    where = place or "this disk"
    answer = (
        f"a checkpoint has {format_bytes(size)}; at {format_bytes(int(speed))}/s to {where} that takes {takes_s:.1f} s"
    )
    good = takes_s <= stage.notice_s * _SHARE
    advice = (
        ""
        if good
        else "save more often, so that less changes in between, or use a place or a machine with more bandwidth"
    )
    return Finding(question=question, good=good, answer=answer, advice=advice)


def _bandwidth(store: BlobStore, size: int, stage: Stage) -> float:
    probe = os.urandom(max(_PROBE_BYTES_MIN, min(size, _PROBE_BYTES_MAX)))
    since = stage.clock.monotonic()
    store.write(_PROBE_KEY, [probe])
    took_s = max(stage.clock.monotonic() - since, 1e-6)
    with contextlib.suppress(SpotrunError):  # a probe that stays behind harms nothing
        store.delete(_PROBE_KEY)
    return len(probe) / took_s


def _hears(stage: Stage, profile: Profile, reference: Trial) -> Iterator[Finding]:
    question = "Does SIGTERM reach the script's Python?"
    fault = Fault(point=Point.STEP, step=max(1, profile.steps // 2), notice=True)
    told = try_out(replace(stage, notice_s=min(stage.notice_s, 30.0)), reference.directory.parent / "signalled", [fault],
                   profile=profile)  # fmt: skip
    life = told.attempts[0].life
    if life.noticed_s is None:
        yield Finding(question=question, good=None, answer="the script was over before the signal was sent")
    elif life.saved_s is not None:
        took_s = life.saved_s - life.noticed_s
        yield Finding(question=question, good=True, answer=f"yes: a commit followed {took_s:.2f} s after it")
    elif not life.lost and life.exit_code == -signal.SIGTERM:
        yield Finding(
            question=question, good=False, answer="it ends the process at once: the script has no handler",
            advice="spotrun.attach has one; or handle SIGTERM: set a flag, and save between two steps",
        )  # fmt: skip
    elif life.lost:
        yield Finding(
            question=question, good=False, answer="nothing followed: no commit, and the process went on to its end",
            advice="attach in the main thread, and call run.checkpoint_if_needed() in what takes long between two steps",
        )  # fmt: skip
    else:
        yield Finding(question=question, good=True, answer=f"yes: the script ended with exit code {life.exit_code}")
    yield _workers(stage, profile, reference)


def _workers(stage: Stage, profile: Profile, reference: Trial) -> Finding:
    question = "Do loader workers live through a signal to the whole group?"
    fault = Fault(point=Point.STEP, step=max(1, profile.steps // 2), notice=True)
    told = try_out(replace(stage, signals_group=True, notice_s=min(stage.notice_s, 30.0)),
                   reference.directory.parent / "signalled-group", [fault], profile=profile)  # fmt: skip
    life = told.attempts[0].life
    if life.children == 0:
        return Finding(question=question, good=True, answer="there are none at that point")
    if life.saved_s is not None:
        return Finding(question=question, good=True, answer=f"yes: of {life.children} the training still saved")
    return Finding(
        question=question, good=False, answer=f"no: with {life.children} of them the training could not save",
        advice="send SIGTERM to the main process only, as spotrun's agent does, or set worker_init_fn to ignore it",
    )  # fmt: skip


def _loses(profile: Profile, interval_s: float | None) -> Finding:
    question = "How much work would an interruption without notice lose?"
    if interval_s is None:
        answer = f"a step takes {profile.step_s:.3g} s; the interval between saves is chosen from what a save costs"
        return Finding(question=question, good=None, answer=answer, advice="--interval 10m says what the job will have")
    steps = interval_s / profile.step_s if profile.step_s else 0.0
    answer = f"up to {interval_s + profile.step_s:.1f} s, {steps:.0f} steps, at one save every {interval_s:g} s"
    good = interval_s + profile.step_s <= _LOST_S
    advice = (
        ""
        if good
        else f"more than {_LOST_S / 60:.0f} minutes of work at each interruption: save more often, or --interval auto"
    )
    return Finding(question=question, good=good, answer=answer, advice=advice)
