"""The uninterrupted run of a job's command: the same script, arguments and environment, one process, nobody kills it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from spotrun.agent.command import arguments
from spotrun.agent.config import DEFAULT_METADATA_URL, AgentConfig
from spotrun.agent.environment import training_environment
from spotrun.agent.input import fetch_inputs
from spotrun.agent.log import OutputLog
from spotrun.clock import SystemClock
from spotrun.errors import SpotrunError
from spotrun.job import Checkpoint, JobSpec, Progress
from spotrun.job.message import parse

__all__ = ["Reference", "ReferenceFailed", "run_reference"]

_POLL_S = 0.25  # between looks at the progress
_NEVER = timedelta(
    days=7
)  # the longest interval there is: only the final state is needed, and fewer saves are less to wait for
_TAIL_LINES = 20


class ReferenceFailed(SpotrunError):
    """The uninterrupted run ended with an error, so there is nothing to compare with."""

    def __init__(self, exit_code: int, tail: str) -> None:
        self.exit_code = exit_code
        super().__init__(f"the uninterrupted run ended with exit code {exit_code}; its last lines:\n{tail}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What an uninterrupted run left: its losses by step, and the place of its final state."""

    losses: Mapping[int, float]
    place: str


def run_reference(
    spec: JobSpec, *, job_id: str, workdir: Path, directory: Path, report: Callable[[Progress], None] = lambda _: None
) -> Reference:
    """Runs the command of `spec` from the start, with its state under `directory`, and waits for it.

    Args:
        spec: the job.
        job_id: as in the interrupted run: a script may depend on it.
        workdir: where the command runs.
        directory: new, for the reference's state, metrics and log.
        report: called now and then with the progress.

    Raises:
        ReferenceFailed: it exited with another code than 0.
        SpecError: it cannot be started.
    """
    scratch = directory / "scratch"
    (scratch / "output").mkdir(parents=True)
    config = _config(spec, job_id=job_id, workdir=workdir, directory=directory, scratch=scratch)
    environment = training_environment(
        config,
        fetch_inputs(
            spec.inputs, work_directory=workdir, target=scratch / "inputs", log=OutputLog(), clock=SystemClock()
        ),
    )
    log = directory / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments(spec.command),
            cwd=workdir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _await(process, scratch, report)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        raise ReferenceFailed(process.returncode, "\n".join(tail))
    return Reference(losses=_losses(scratch / "metrics.jsonl"), place=config.place_uri)


def _config(spec: JobSpec, *, job_id: str, workdir: Path, directory: Path, scratch: Path) -> AgentConfig:
    uri = (directory / "store").absolute().as_uri()
    quiet = Checkpoint(uri=uri, interval=_NEVER)
    return AgentConfig(
        job_id=job_id,
        attempt=1,
        instance_id=f"reference-{job_id}",
        checkpoint_uri=uri,
        work_directory=workdir,
        scratch=scratch.absolute(),
        lease_s=_NEVER.total_seconds(),
        clock_text="",
        mtbi_s=None,
        metadata_url=DEFAULT_METADATA_URL,
        spec=spec.model_copy(update={"checkpoint": quiet}),
        inherited=dict(os.environ),
    )


def _await(process: subprocess.Popen[bytes], scratch: Path, report: Callable[[Progress], None]) -> None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
        try:
            progress = parse(Progress, (scratch / "progress.json").read_bytes())
        except FileNotFoundError:
            progress = None
        if progress is not None:
            report(progress)
        if process.returncode is not None:
            return


def _losses(metrics: Path) -> dict[int, float]:
    losses = {}
    if metrics.exists():
        for line in metrics.read_text().splitlines():
            row = json.loads(line)
            if isinstance(row.get("loss"), int | float):
                losses[int(row["step"])] = float(row["loss"])
    return losses
