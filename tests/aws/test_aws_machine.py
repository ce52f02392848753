"""Instances as machines: user data that run, metadata that are asked, ends in EC2's order, and nothing left."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from .machine import Machine
from .runner import Runner
from .wait import until
from .world import World

Clients = Callable[..., Any]

UNIT = """\
mkdir -p /etc/spotrun
cat >/etc/spotrun/work <<'WORK'
{work}
WORK
cat >/etc/spotrun/work.service <<'TEXT'
[Unit]
Description=Work
[Service]
Environment=COLOUR=red
ExecStart=bash /etc/spotrun/work
ExecStopPost=shutdown -h now
KillMode=mixed
TEXT
systemctl link /etc/spotrun/work.service
systemctl start --no-block work.service
"""
ASK = """\
token=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $SPOTRUN_IMDS/latest/api/token)
trap 'echo asked to end; exit' TERM
while :; do
  curl -s -H "X-aws-ec2-metadata-token: $token" -w ' %{http_code}\\n' $SPOTRUN_IMDS/latest/meta-data/spot/instance-action
  sleep 0.1
done
"""
LIST = """\
python3 - <<'CODE'
import boto3
print(boto3.Session().get_credentials().method, "lists", boto3.client("s3", "us-east-1").list_buckets()["Buckets"])
CODE
echo $COLOUR
"""


def launch(clients: Clients, world: World, user_data: str, **data: Any) -> str:
    ec2, iam = clients("ec2"), clients("iam")
    iam.create_role(RoleName="spotrun-instance", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="spotrun-instance")
    iam.add_role_to_instance_profile(InstanceProfileName="spotrun-instance", RoleName="spotrun-instance")
    ec2.create_launch_template(
        LaunchTemplateName="template",
        LaunchTemplateData={
            "ImageId": world.image("us-east-1"),
            "InstanceType": "g5.xlarge",
            "IamInstanceProfile": {"Name": "spotrun-instance"},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required"},
            "UserData": base64.b64encode(("#!/bin/bash\n" + user_data).encode()).decode(),
            **data,
        },
    )
    told = ec2.create_fleet(
        Type="instant",
        SpotOptions={"AllocationStrategy": "price-capacity-optimized"},
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {"LaunchTemplateName": "template", "Version": "1"}}],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    )
    ec2.delete_launch_template(LaunchTemplateName="template")
    (one,) = told["Instances"][0]["InstanceIds"]
    return str(one)


def booted(runner: Runner, instance_id: str) -> Machine:
    return until(lambda: runner.machine(instance_id), "the machine to boot")


def says(machine: Machine, text: str) -> None:
    until(lambda: text in machine.console(), f"{text!r} on the console", told=machine.console)


def ended(world: World, instance_id: str) -> str:
    until(lambda: world.find(instance_id).state == "terminated", "the end of the instance")
    return str(world.find(instance_id).state_reason.code)


def test_user_data_run_with_the_role_of_the_profile_and_the_machine_ends_itself(
    world: World, runner: Runner, clients: Clients, bucket: str
) -> None:
    """boto3 on the machine finds keys and region in the metadata; the end of the unit is the end of the machine."""
    one = launch(clients, world, UNIT.format(work=LIST))
    machine = booted(runner, one)
    says(machine, "iam-role lists [{'Name': 'runs'")
    says(machine, "red")
    assert ended(world, one) == "Client.InstanceInitiatedShutdown"
    assert world.leftovers() == []


def test_a_notice_is_in_the_metadata_and_the_end_begins_with_sigterm(
    world: World, runner: Runner, clients: Clients
) -> None:
    """404 until the notice; then action and time; when EC2 takes the instance, what runs gets SIGTERM first."""
    runner.patience_s = 60.0
    one = launch(clients, world, UNIT.format(work=ASK))
    machine = booted(runner, one)
    says(machine, " 404")
    runner.notice(one)
    says(machine, '{"action": "terminate", "time": "')
    assert world.find(one).state == "running"  # as on EC2, until the deadline
    runner.take(one)
    assert "asked to end" in machine.console()
    assert ended(world, one) == "Server.SpotInstanceTermination"
    assert world.leftovers() == []


def test_a_machine_that_is_killed_leaves_nothing_running(world: World, runner: Runner, clients: Clients) -> None:
    """No signal reaches it, and even what has left its session is gone."""
    work = "trap 'echo asked to end' TERM; setsid sleep 1000 & echo working; sleep 1000; sleep 1000"
    one = launch(clients, world, UNIT.format(work=work))
    machine = booted(runner, one)
    says(machine, "working")
    assert machine.processes()
    runner.kill(one)
    assert "asked to end" not in machine.console()
    assert machine.processes() == []
    assert ended(world, one) == "Server.SpotInstanceTermination"


def test_a_timer_ends_a_machine_that_nobody_else_ends(world: World, runner: Runner, clients: Clients) -> None:
    """The guard needs no process of the machine's own; the user's end of an instance says so."""
    guard = "systemd-run --unit=guard --on-active=3600s --timer-property=AccuracySec=1s shutdown -h now\necho armed\n"
    one = launch(clients, world, guard)
    machine = booted(runner, one)
    says(machine, "armed")
    assert [(timer.unit, timer.delay_s) for timer in machine.timers] == [("guard", 3600.0)]
    machine.elapse("guard")
    assert ended(world, one) == "Client.InstanceInitiatedShutdown"


def test_terminate_passes_through_shutting_down(world: World, runner: Runner, clients: Clients) -> None:
    """The request is answered at once, the end comes once the machine is down; what stops is not terminated."""
    one = launch(clients, world, UNIT.format(work="echo working; sleep 1000"))
    says(booted(runner, one), "working")
    told = clients("ec2").terminate_instances(InstanceIds=[one])["TerminatingInstances"]
    assert [each["CurrentState"]["Name"] for each in told] == ["shutting-down"]
    assert ended(world, one) == "Client.UserInitiatedShutdown"
