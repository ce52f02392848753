"""What a job needs of an account, as the doctor asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from spotrun.job.ec2 import DEFAULT_IMAGE
from spotrun.job.spec import JobSpec, OnShortage, Resources
from spotrun.market.offer import MarketKind
from spotrun.providers.ec2.scope import INSTANCE_ROLE, Scope, scope_of_job

__all__ = ["Question", "question_of_job"]

_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is looked for; the defaults are those of a job file that says nothing.

    Attributes:
        regions: where; never empty.
        assumed: whether nobody has named the regions.
        scope: the bucket and prefix of the runs, and what else the instance is to reach; None if no bucket is known.
        elsewhere: whether the bucket is another service's than AWS's; then only the store itself is tried.
        for_job: whether a job file asks; then what is missing is red.
        lasts: how long the credentials have to live: the job's `max_wait`.
        queue: the queue of notices that the job names; None if it names none.
    """

    regions: tuple[str, ...]
    assumed: bool = False
    scope: Scope | None = None
    elsewhere: bool = False
    for_job: bool = False
    resources: Resources = field(default_factory=Resources)
    markets: tuple[MarketKind, ...] = (MarketKind.SPOT,)
    lasts: timedelta = _DAY
    image: str = DEFAULT_IMAGE
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    profile: str = INSTANCE_ROLE
    docker: bool = False
    queue: str | None = None


def question_of_job(spec: JobSpec, *, regions: Sequence[str]) -> Question:
    """What this job needs in these regions.

    Raises:
        SpecError: it does not save to S3.
    """
    markets = (MarketKind.SPOT, *((MarketKind.ON_DEMAND,) if spec.limits.on_shortage is OnShortage.ON_DEMAND else ()))
    return Question(
        regions=tuple(regions),
        scope=scope_of_job(spec),
        elsewhere=spec.checkpoint is not None and spec.checkpoint.options.endpoint is not None,
        for_job=True,
        resources=spec.resources,
        markets=markets,
        lasts=spec.limits.max_wait or spec.limits.max_run,
        image=spec.ec2.image,
        subnets=spec.ec2.subnets,
        security_groups=spec.ec2.security_groups,
        profile=spec.ec2.instance_profile,
        docker=spec.ec2.docker is not None,
        queue=spec.ec2.queue,
    )
