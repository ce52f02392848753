"""What the unit tests of the agent stand on: time that passes by being looked at, a store that fails to order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from spotrun.agent.config import AgentConfig, Timing
from spotrun.errors import StoreUnavailable
from spotrun.job.spec import JobSpec
from spotrun.store.memory import MemoryStore

START = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


class SteppingClock:
    """Virtual time: every look at `monotonic` moves it by `step_s`; wall time is as good as still."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.elapsed_s = 0.0
        self.step_s = step_s

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        self.elapsed_s += self.step_s
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += max(0.0, seconds)

    def wall(self, seconds: float) -> float:
        return seconds * 1e-6


class FailingStore(MemoryStore):
    """Refuses the next `failures` writes of keys that contain `where`, and remembers what was written, in order."""

    def __init__(self, *, failures: int = 0, where: str = "") -> None:
        super().__init__()
        self.failures = failures
        self.where = where
        self.written: list[str] = []

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        if self.failures and self.where in key:
            self.failures -= 1
            raise StoreUnavailable("the network is away")
        super().write(key, parts)
        self.written.append(key)


def make_config(scratch: Path, *, environment: dict[str, str] | None = None, **spec: object) -> AgentConfig:
    """A configuration as `read_environment` would give it."""
    scratch.mkdir(parents=True, exist_ok=True)
    return AgentConfig(
        job_id="job-1",
        attempt=3,
        instance_id="i-123",
        checkpoint_uri=f"file://{scratch}/runs",
        work_directory=scratch,
        scratch=scratch,
        lease_s=60.0,
        clock_text="",
        mtbi_s="7200",
        metadata_url="http://127.0.0.1:1",
        spec=JobSpec.model_validate({"name": "test", "command": "python train.py", **spec}),
        inherited=environment or {},
        timing=Timing(beat_wall_s=0.0, poll_wall_s=0.0, grace_wall_s=0.0, finish_wall_s=0.0),
    )
