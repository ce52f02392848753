"""What a submission would lead to, without doing it: the first placement, and the requests that its launch would send."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spotrun.controller.address import checkpoint_uri
from spotrun.controller.bundle import packed
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.outside import Outside
from spotrun.controller.stage import Stage, launch_request, lease_life
from spotrun.controller.submit import checked
from spotrun.controller.timing import Timing
from spotrun.job import JobSpec, Placed, Submitted, fold
from spotrun.market.offer import Offer
from spotrun.providers.provider import LaunchRequest
from spotrun.store import MemoryStore

__all__ = ["Rehearsal", "rehearse"]


@runtime_checkable
class Rehearsing(Protocol):
    """A provider whose launches are requests to somebody else."""

    def requests(self, request: LaunchRequest) -> Mapping[str, Mapping[str, Any]]:
        """The requests of a launch, by operation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What would happen first.

    Attributes:
        reason: why the job would be placed there, or why it would wait.
        requests: what would be sent, by operation; none if the job would wait, or its provider sends none.
    """

    reason: str
    requests: Mapping[str, Mapping[str, Any]]


def rehearse(
    spec: JobSpec,
    workdir: Path,
    *,
    outside: Outside,
    offers: Sequence[Offer] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Rehearsal:
    """Places the job's first attempt and makes its requests. Questions are asked; nothing is written or launched.

    Args:
        spec, workdir, outside, warn: as for `submit`.
        offers: what the provider offers, if it was asked already.

    Raises:
        SpecError: nothing could be submitted like this.
        ProviderError: the provider could not be asked.
    """
    workdir, at = workdir.absolute(), outside.wall.now()
    spec = checked(spec, workdir, outside=outside)
    job_id = f"{spec.name}-rehearsal"
    clock = outside.job_clock(spec, at)
    provider = outside.connect(spec, job_id=job_id, submitted_at=at, clock=clock, workdir=workdir)
    with packed(spec, workdir, warn=warn) as baggage:
        bundle = None if baggage is None else baggage.bundle.model_dump(mode="json", exclude_none=True)
    submitted = Submitted(at=at, job_id=job_id, spec=spec.to_json(), workdir=str(workdir), bundle=bundle)
    offered = provider.offers() if offers is None else offers
    event = outside.place(fold([submitted]), offered, at, Timing().polled(clock))
    if not isinstance(event, Placed):
        return Rehearsal(reason=event.reason, requests={})
    job = fold([submitted, event])
    stage = Stage(
        provider=provider,
        mailbox=Mailbox(MemoryStore()),
        clock=clock,
        uri=checkpoint_uri(spec, outside.home),
        workdir=str(workdir),
        life=lease_life(spec, clock, Timing()),
        bundle=json.dumps(bundle) if bundle else "",
    )
    assert job.attempt is not None, "it was placed"
    requests = provider.requests(launch_request(job, job.attempt, stage)) if isinstance(provider, Rehearsing) else {}
    return Rehearsal(reason=event.reason, requests=requests)
