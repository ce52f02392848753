"""Where and how often this process saves: the one place of the library that reads the environment."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from spotrun.clock import Clock, clock_from_text
from spotrun.errors import SpecError
from spotrun.policy.retention import Retention, retention_from_json, retention_from_text
from spotrun.store.log import Signing
from spotrun.store.option import StoreOptions
from spotrun.store.signing import open_signing, signing_key
from spotrun.store.witness import Witness
from spotrun.units import parse_duration

__all__ = ["Interval", "Settings", "read_settings"]

Interval = float | timedelta | str | None

_KEEP_LAST = 3
_SILENCE = timedelta(seconds=30)  # longer than any call that holds the interpreter's lock, shorter than a notice


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the environment and the script say about saving.

    Attributes:
        job: the job's id, or the run's name outside a job.
        attempt: the attempt's number; None outside a job, where it is the newest plus one.
        writer: names this process in the log.
        place: the URI of the run's place in the store.
        scratch: where progress.json and metrics.jsonl go, and request.json comes from.
        interval: time between commits, in job time; None for a policy's choice.
        mtbi: expected time between interruptions, in job time, if known.
        keep: which commits to keep; the last `keep_last` of them without it.
        signing: signs and checks the log; None without a key.
        world: how many processes the launcher says it started.
        options: how the place is reached; None for what the environment says, as in a job.
        silence: wall time without a sign of life after which another process of this training counts as dead.
        strict: refuse to go on under other circumstances than those that were saved.
        witness: is told where this process is; nobody, but under the resilience harness.
    """

    job: str
    attempt: int | None
    writer: str
    place: str
    scratch: Path
    clock: Clock
    interval: timedelta | None
    keep_last: int
    mtbi: timedelta | None
    keep: Retention | None = None
    signing: Signing | None = None
    world: int = 1
    silence: timedelta = _SILENCE
    strict: bool = False
    options: StoreOptions | None = None
    witness: Witness = field(default_factory=Witness)

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise SpecError(f"keep_last must be at least 1, not {self.keep_last}: a resume needs a commit")
        if self.interval is not None and self.interval <= timedelta(0):
            raise SpecError(f"interval must be positive, it is {self.interval}")
        if self.mtbi is not None and self.mtbi <= timedelta(0):
            raise SpecError(f"SPOTRUN_MTBI_S must be positive, it is {self.mtbi.total_seconds():g}")

    @property
    def in_job(self) -> bool:
        """Whether a controller launched this process."""
        return self.attempt is not None


def read_settings(
    *,
    uri: str | None,
    name: str | None,
    interval: Interval,
    keep_last: int | None,
    options: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of this process. What the job says goes before what the script says.

    Raises:
        SpecError: a value makes no sense.
    """
    environment = os.environ
    chosen = None if options is None else StoreOptions.read(options)
    if folder := environment.get("SPOTRUN_FOLDER"):
        raise SpecError(
            f"checkpoint.folder: this job's agent keeps {folder} for a script that does not use spotrun, and this script "
            "calls spotrun.attach: both would write checkpoints of one run. Remove checkpoint.folder from the job file"
        )
    asked = _interval(environment.get("SPOTRUN_INTERVAL"), "SPOTRUN_INTERVAL")
    common: dict[str, Any] = {
        "clock": clock_from_text(environment.get("SPOTRUN_CLOCK")),
        "interval": asked if asked is not None else _interval(interval, "interval"),
        "keep_last": _number(environment.get("SPOTRUN_KEEP_LAST"), "SPOTRUN_KEEP_LAST") or keep_last or _KEEP_LAST,
        "mtbi": _interval(environment.get("SPOTRUN_MTBI_S"), "SPOTRUN_MTBI_S"),
        "world": _number(environment.get("WORLD_SIZE"), "WORLD_SIZE") or 1,
        "silence": _interval(environment.get("SPOTRUN_RANK_TIMEOUT"), "SPOTRUN_RANK_TIMEOUT") or _SILENCE,
    }
    root = environment.get("SPOTRUN_CHECKPOINT_URI")
    key = signing_key(environment.get("SPOTRUN_SIGNING"))
    common["witness"] = Witness(environment.get("SPOTRUN_WITNESS", ""))
    common["strict"] = environment.get("SPOTRUN_STRICT", "") not in ("", "0")
    common["keep"] = _retention(environment.get("SPOTRUN_KEEP"), asked=common["keep_last"])
    job = environment.get("SPOTRUN_JOB_ID")
    attempt = _number(environment.get("SPOTRUN_ATTEMPT"), "SPOTRUN_ATTEMPT")
    if job and attempt and root:
        return Settings(
            job=job,
            attempt=attempt,
            writer=environment.get("SPOTRUN_INSTANCE") or socket.gethostname(),
            place=f"{root.rstrip('/')}/{job}",
            scratch=Path(environment.get("SPOTRUN_SCRATCH") or "."),
            signing=open_signing(key, run=job, environment=environment),
            **common,
        )
    own = _run_name(name)
    local = Path.cwd() / ".spotrun" / own
    root = uri or root
    return Settings(
        job=own,
        attempt=None,
        writer=f"{socket.gethostname()}:{os.getpid()}",
        place=f"{root.rstrip('/')}/{own}" if root else local.as_uri(),
        scratch=local,
        signing=open_signing(key, run=own, environment=environment),
        options=chosen,
        **common,
    )


def _run_name(name: str | None) -> str:
    script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else ""
    chosen = name if name is not None else re.sub(r"[^A-Za-z0-9_.-]", "-", script).lstrip("-.")
    if not chosen and name is None:
        raise SpecError("this run has no script to be named after (a notebook?): give attach(name=...)")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", chosen):
        raise SpecError(f"name {chosen!r} is not fit for a directory: use letters, digits, '.', '-' and '_'")
    return chosen


def _interval(value: Interval, what: str) -> timedelta | None:
    if value is None or value in ("", "auto"):
        return None
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=float(value))
    except ValueError:
        pass
    try:
        return parse_duration(str(value))
    except ValueError as err:
        raise SpecError(f"{what}: {err}") from None


def _retention(value: str | None, *, asked: int) -> Retention:
    try:
        if not value:
            return Retention(last=asked)
        return retention_from_json(value) if value.startswith("{") else retention_from_text(value)
    except ValueError as err:
        raise SpecError(f"SPOTRUN_KEEP: {err}" if value else f"keep_{err}") from None


def _number(value: str | None, what: str) -> int | None:
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise SpecError(f"{what} is {value!r}, which is not a number") from None
