"""`spotrun iam`: the policies to give to people and machines, as JSON for the AWS console, CLI or Terraform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spotrun.providers.ec2.policy_document import PolicyDocument
    from spotrun.providers.ec2.scope import Scope

__all__ = ["app", "scope_of"]

app = typer.Typer(help="Print least-privilege IAM policies, as JSON.", no_args_is_help=True)

_JobFile = Annotated[
    Path | None, typer.Argument(help="A job file, to take bucket, prefix, inputs and keys from.", metavar="[JOB_FILE]")
]
_Bucket = Annotated[str, typer.Option("--bucket", help="The bucket of the runs.", show_default="the job file's")]
_Prefix = Annotated[
    str | None,
    typer.Option("--prefix", help="Where in the bucket the runs lie; '' for all of it.", show_default="runs"),
]
_Key = Annotated[str, typer.Option("--kms-key", help="ARN of the key that encrypts the runs.")]
_Partition = Annotated[str, typer.Option("--partition", help="aws, aws-cn or aws-us-gov.")]


@app.command("controller")
def controller(
    job_file: _JobFile = None,
    bucket: _Bucket = "",
    prefix: _Prefix = None,
    kms_key: _Key = "",
    disk_key: Annotated[str, typer.Option("--disk-key", help="ARN of the key that encrypts the disks.")] = "",
    role: Annotated[
        str, typer.Option("--role", help="Name of the instance's role.", show_default="spotrun-instance")
    ] = "",
    queue: Annotated[
        str, typer.Option("--queue", help="Name of the queue for notices.", show_default="spotrun-notices")
    ] = "",
    partition: _Partition = "aws",
) -> None:
    """For whoever runs `spotrun launch`: creates and ends only machines that carry the tag spotrun:managed."""
    from dataclasses import replace

    from spotrun.providers.ec2.policy_document import controller_policy

    scope = scope_of(job_file, bucket=bucket, prefix=prefix, kms_key=kms_key, partition=partition)
    chosen = replace(scope, role=role or scope.role, queue=queue or scope.queue, disk_key=disk_key or scope.disk_key)
    _print(controller_policy(chosen))


@app.command("instance")
def instance(
    job_file: _JobFile = None,
    bucket: _Bucket = "",
    prefix: _Prefix = None,
    read: Annotated[list[str] | None, typer.Option("--read", help="s3:// URL of an input; may be repeated.")] = None,
    kms_key: _Key = "",
    image: Annotated[
        list[str] | None, typer.Option("--image", help="ARN of an ECR repository to pull from; may be repeated.")
    ] = None,
    partition: _Partition = "aws",
) -> None:
    """For the role that the machines carry: the runs, the inputs, and nothing of EC2."""
    from dataclasses import replace

    from spotrun.providers.ec2.policy_document import instance_policy

    scope = scope_of(job_file, bucket=bucket, prefix=prefix, kms_key=kms_key, partition=partition)
    _print(instance_policy(replace(scope, reads=(*scope.reads, *(read or ())), images=tuple(image or ()))))


@app.command("trust")
def trust(partition: _Partition = "aws") -> None:
    """Who may take on the instance's role: only EC2."""
    from spotrun.providers.ec2.policy_document import trust_policy
    from spotrun.providers.ec2.scope import check_partition

    check_partition(partition)
    _print(trust_policy(partition))


def scope_of(job_file: Path | None, *, bucket: str, prefix: str | None, kms_key: str, partition: str) -> Scope:
    """What the policies are to allow: what the job file says, unless an option says otherwise.

    Raises:
        SpecError: no bucket is named, or what is named is none.
    """
    from spotrun.errors import SpecError
    from spotrun.providers.ec2.scope import DEFAULT_PREFIX, Scope, scope_of_job

    if job_file is None:
        if not bucket:
            raise SpecError("which bucket do the runs lie in? Give --bucket NAME, or a job file")
        return Scope(
            bucket=bucket,
            prefix=DEFAULT_PREFIX if prefix is None else prefix.strip("/"),
            kms_key=kms_key or None,
            partition=partition,
        )
    from dataclasses import replace

    from spotrun.job import load_spec

    scope = scope_of_job(load_spec(job_file), partition=partition)
    return replace(
        scope,
        bucket=bucket or scope.bucket,
        prefix=scope.prefix if prefix is None else prefix.strip("/"),
        kms_key=kms_key or scope.kms_key,
    )


def _print(document: PolicyDocument) -> None:
    typer.echo(json.dumps(document, indent=2))
