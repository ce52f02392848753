"""What user data tell a machine, from the request for its launch. Pure."""

from __future__ import annotations

from datetime import datetime

from spotrun.errors import SpecError
from spotrun.job.machine import Bundle, LaunchDocument, MachineOrder
from spotrun.job.spec import JobSpec
from spotrun.providers.provider import LaunchRequest

__all__ = ["order_of"]


def order_of(request: LaunchRequest, spec: JobSpec, *, submitted_at: datetime) -> MachineOrder:
    """The order of an attempt.

    Args:
        request: its launch.
        spec: the job.
        submitted_at: which `max_wait` counts from.

    Raises:
        SpecError: the submission left nothing for machines in the job's place.
    """
    bundle = Bundle.of(request.environment)
    if bundle.wheel is None and bundle.requirement is None:
        raise SpecError(
            f"{request.job_id} was submitted without spotrun itself for its machines; submit it again with this version"
        )
    nodes = spec.resources.nodes
    options = spec.checkpoint.options.given() if spec.checkpoint else {}
    return MachineOrder(
        job_id=request.job_id,
        attempt=request.attempt,
        place=f"{request.environment['SPOTRUN_CHECKPOINT_URI'].rstrip('/')}/{request.job_id}",
        launch_sha256=LaunchDocument(attempt=request.attempt, environment=request.environment).sha256,
        store={name: value for name, value in options.items() if isinstance(value, str | int | bool)},
        wheel=bundle.wheel,
        requirement=None if bundle.wheel is not None else bundle.requirement,
        deadline=submitted_at + spec.limits.max_wait,
        max_wait=spec.limits.max_wait,
        lease_s=float(request.environment["SPOTRUN_LEASE_S"]),
        docker=spec.ec2.docker,
        nodes=nodes.least,
        nodes_most=nodes.most if nodes.is_elastic else None,
        rebalance=spec.ec2.rebalance.value,
    )
