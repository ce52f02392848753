"""What a job cannot ask for when it runs on machines that are not this computer: they see nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spotrun.job.field import shown, wrong

if TYPE_CHECKING:
    from spotrun.job.checkpoint import Checkpoint
    from spotrun.job.spec import JobSpec

__all__ = ["NODES_MAX", "refuse_on_ec2"]

NODES_MAX = (
    64  # machines of a gang: what was launched all or none must also be there together, and each reads the store
)


def refuse_on_ec2(spec: JobSpec) -> None:
    """Refuses what an EC2 instance could not reach.

    Raises:
        PydanticCustomError: with the field and why.
    """
    if spec.resources.nodes.most > NODES_MAX:
        raise wrong(f"must be at most {NODES_MAX}, not {spec.resources.nodes}", field="resources.nodes")
    if spec.checkpoint is None:
        raise wrong(
            "is missing; an instance is lost with its disk, and its work must be somewhere else: add checkpoint.uri, "
            "like s3://bucket/runs",
            field="checkpoint",
        )
    _refuse_place(spec.checkpoint)
    for name, url in spec.inputs.items():
        if url.startswith(("/", "~", "file:")) or ".." in url.split("/"):
            raise wrong(
                f"{shown(url)} is on this computer, which an instance does not see; give a URL like s3://bucket/data, or a "
                "path inside of the working directory",
                field=f"inputs.{name}",
            )


def _refuse_place(checkpoint: Checkpoint) -> None:
    if not checkpoint.uri.startswith("s3://"):
        raise wrong(
            f"must be on s3:// with provider: ec2, not {shown(checkpoint.uri)}: it is where this computer and the instances "
            "meet",
            field="checkpoint.uri",
        )
    if checkpoint.options.profile is not None:
        raise wrong(
            "is a profile of this computer, and instances have the role of ec2.instance_profile; set AWS_PROFILE here "
            "instead",
            field="checkpoint.options.profile",
        )
    if checkpoint.signing is not None and checkpoint.signing.kms is None:
        raise wrong(
            "must be by a kms key with provider: ec2: other keys are not on the instance", field="checkpoint.signing"
        )
