"""Where the attempts of a job run, and what each of them is told at its launch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

from spotrun.controller.bill import offer_of, others_of
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.outside import JobClock
from spotrun.controller.timing import Timing, at_least
from spotrun.job import Attempt, GeneratorMarket, Job, JobSpec
from spotrun.job.machine import BUNDLE_VARIABLE
from spotrun.providers.provider import LaunchRequest, Provider

__all__ = ["Stage", "launch_request", "lease_life"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where the attempts of one job run, and what they inherit beside the spec."""

    provider: Provider
    mailbox: Mailbox
    clock: JobClock
    uri: str  # the root below which the job has its place
    workdir: str  # where the command runs, on this computer
    life: timedelta  # of the lease: how long an attempt outlives the last word of a controller
    bundle: str = ""  # what was left in the job's place for other machines, as JSON


def lease_life(spec: JobSpec, clock: JobClock, timing: Timing) -> timedelta:
    """How long an attempt goes on without a word of a controller. A machine elsewhere may do so for longer: that this
    computer sleeps, or that credentials have run out, should not end a training."""
    if spec.provider == "ec2":
        return spec.ec2.lease
    return at_least(clock, timing.attempt_lease_s, timing.attempt_lease_wall_s)


def launch_request(job: Job, attempt: Attempt, stage: Stage) -> LaunchRequest:
    """The launch of an attempt. Made of the journal alone, so that a repeated launch is the same request."""
    tags = {"spotrun:job": job.id, "spotrun:attempt": str(attempt.number), "spotrun:token": attempt.token}
    return LaunchRequest(
        token=attempt.token,
        job_id=job.id,
        attempt=attempt.number,
        offer=offer_of(attempt),
        others=others_of(attempt),
        environment=_environment(job, attempt, stage),
        tags={**job.spec.tags, **tags},
    )


def _environment(job: Job, attempt: Attempt, stage: Stage) -> dict[str, str]:
    """What the agent inherits."""
    environment = {
        "SPOTRUN_JOB_ID": job.id,
        "SPOTRUN_ATTEMPT": str(attempt.number),
        "SPOTRUN_CHECKPOINT_URI": stage.uri,
        "SPOTRUN_SPEC": json.dumps(job.spec.to_json()),
        "SPOTRUN_CLOCK": stage.clock.to_text(),
        "SPOTRUN_WORKDIR": stage.workdir,
        "SPOTRUN_LEASE_S": f"{stage.life.total_seconds():g}",
    }
    if stage.bundle:
        environment[BUNDLE_VARIABLE] = stage.bundle
    market = job.spec.local.market
    if job.spec.provider == "local" and isinstance(market, GeneratorMarket) and attempt.market == "spot":
        environment["SPOTRUN_MTBI_S"] = f"{market.mean_up.total_seconds():g}"
    return environment
