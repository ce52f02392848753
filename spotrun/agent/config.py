"""What the agent inherits: its environment, read once, into one frozen value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from spotrun.agent.gang import Gang
from spotrun.clock import Clock, ScaledClock, SystemClock, clock_from_text
from spotrun.errors import SpecError
from spotrun.job.machine import BUNDLE_VARIABLE, Bundle
from spotrun.job.spec import JobSpec

__all__ = ["DEFAULT_METADATA_URL", "AgentConfig", "Timing", "at_least", "read_environment"]

DEFAULT_METADATA_URL = "http://169.254.169.254"  # EC2's link-local address, the same on every instance


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How often and how long. `_s` is job time; the `_wall_s` beside it is its floor in wall time, for fast clocks."""

    beat_s: float = 5.0  # between heartbeats
    beat_wall_s: float = 0.25
    poll_s: float = 5.0  # between looks at the metadata service; AWS recommends 5 s
    poll_wall_s: float = 0.05
    notice_s: float = 120.0  # what a notice by signal alone leaves, as on EC2
    start_s: float = 300.0  # after which a command that has not attached is taken to be at work, not starting
    start_wall_s: float = 20.0  # to import torch on a busy machine
    grace_s: float = 120.0  # for the training to save and end once asked to
    grace_wall_s: float = 10.0
    finish_s: float = 300.0  # for the last chunks and the exit record
    finish_wall_s: float = 30.0
    kill_wall_s: float = 30.0  # for the kernel to end a killed process; longer means it hangs in a device


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """One attempt, as the agent is told of it. Values of environments stay out of its repr."""

    job_id: str
    attempt: int
    instance_id: str
    checkpoint_uri: str  # the job's place in the store is `<checkpoint_uri>/<job_id>`
    work_directory: Path  # where the command runs
    scratch: Path  # of this attempt alone
    lease_s: float  # the first lease, from the agent's start
    clock_text: str  # `Clock.to_text()`, handed on to the training
    mtbi_s: str | None  # expected seconds between interruptions, handed on to the training
    metadata_url: str
    spec: JobSpec = field(repr=False)
    inherited: Mapping[str, str] = field(repr=False)  # the whole environment, handed on to the training
    bundle: Bundle = field(default_factory=Bundle, repr=False)  # what the submission left for this machine
    gang: Gang | None = None  # the machines of an attempt that has several
    timing: Timing = Timing()

    @property
    def node(self) -> int:
        """Which machine of the attempt this is, from 0."""
        return self.gang.rank if self.gang is not None else 0

    @property
    def place_uri(self) -> str:
        """The job's place in the store."""
        return f"{self.checkpoint_uri.rstrip('/')}/{self.job_id}"

    @property
    def output_directory(self) -> Path:
        """What the command leaves here is uploaded at the end."""
        return self.scratch / "output"

    def clock(self) -> SystemClock | ScaledClock:
        """The job's clock."""
        return clock_from_text(self.clock_text)


def read_environment(environment: Mapping[str, str]) -> AgentConfig:
    """The configuration in an environment; the only place where the agent reads one.

    Raises:
        SpecError: variables are missing or malformed; each is named with what it should hold, never with its value.
    """
    reader = _Reader(environment)
    job_id = reader.text("SPOTRUN_JOB_ID", "the job's id")
    attempt = reader.number("SPOTRUN_ATTEMPT", "the attempt's number, from 1")
    instance_id = reader.text("SPOTRUN_INSTANCE", "the instance's id")
    checkpoint_uri = reader.text("SPOTRUN_CHECKPOINT_URI", "where the job's runs are stored")
    work_directory = reader.text("SPOTRUN_WORKDIR", "the directory in which the command runs")
    scratch = reader.text("SPOTRUN_SCRATCH", "a directory of this attempt")
    lease_s = reader.number("SPOTRUN_LEASE_S", "the first lease in seconds, positive")
    spec = reader.spec("SPOTRUN_SPEC")
    clock_text = reader.clock("SPOTRUN_CLOCK")
    metadata_url = reader.url("SPOTRUN_IMDS", DEFAULT_METADATA_URL)
    bundle = reader.bundle()
    if reader.problems or spec is None:
        raise SpecError(reader.problems)
    return AgentConfig(
        job_id=job_id,
        attempt=int(attempt),
        instance_id=instance_id,
        checkpoint_uri=checkpoint_uri,
        work_directory=Path(work_directory).absolute(),
        scratch=Path(scratch).absolute(),
        lease_s=lease_s,
        clock_text=clock_text,
        mtbi_s=environment.get("SPOTRUN_MTBI_S"),
        metadata_url=metadata_url,
        spec=spec,
        inherited=dict(environment),
        bundle=bundle,
    )


def at_least(clock: Clock, seconds: float, wall_s: float) -> float:
    """`seconds` of job time, or what `wall_s` of wall time are in it if that is more."""
    return max(seconds, wall_s / clock.wall(1.0))


class _Reader:
    """Reads variables and collects what is wrong with them, so that the user sees all of it at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str, meaning: str) -> str:
        value = self._environment.get(name, "")
        if not value:
            self.problems.append(f"{name} is not set: it must hold {meaning}")
        return value

    def number(self, name: str, meaning: str) -> float:
        text = self.text(name, meaning)
        try:
            value = float(text) if text else 1.0
        except ValueError:
            value = 0.0
        if not 0.0 < value < float("inf"):
            self.problems.append(f"{name} is malformed: it must hold {meaning}")
        return value

    def spec(self, name: str) -> JobSpec | None:
        text = self.text(name, "the job's spec as JSON")
        if not text:
            return None
        try:
            return JobSpec.model_validate(json.loads(text))
        except ValidationError as err:
            # Only places and reasons: the input holds the user's environment, which may hold secrets.
            for problem in err.errors(include_input=False, include_url=False, include_context=False):
                where = ".".join(str(part) for part in problem["loc"])
                self.problems.append(f"{name} is malformed at {where or 'its top'}: {problem['msg']}")
        except ValueError as err:
            self.problems.append(f"{name} is not JSON: {type(err).__name__}")
        return None

    def bundle(self) -> Bundle:
        try:
            return Bundle.of(self._environment)
        except ValueError:
            self.problems.append(f"{BUNDLE_VARIABLE} is malformed: it must hold a bundle as JSON")
        return Bundle()

    def clock(self, name: str) -> str:
        text = self._environment.get(name, "")
        try:
            clock_from_text(text)
        except ValueError:
            self.problems.append(f"{name} is malformed: it must hold a clock as Clock.to_text() writes it")
        return text

    def url(self, name: str, default: str) -> str:
        text = self._environment.get(name) or default
        try:
            parts = urlsplit(text)
            usable = parts.scheme == "http" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:
            self.problems.append(f"{name} is malformed: it must hold an http URL of a host and a port")
        return text
