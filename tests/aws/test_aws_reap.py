"""`spotrun reap` against the small AWS: what is found in every region, what stays, what goes, and what it costs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from spotrun.job.message import Control

from .runner import Runner
from .shell import Shell
from .stage import User, folder_job
from .world import World

Clients = Callable[..., Any]
HERE, THERE = "us-east-1", "us-west-2"


@pytest.fixture
def shell(world: World, tmp_path: Path) -> Shell:
    """With an empty home."""
    return Shell(tmp_path, **world.environment())


def tags(job: str, place: str) -> list[dict[str, str]]:
    named = {"job": job, "attempt": "1", "token": f"spotrun-{job}-1", "place": place, "managed": "true"}
    return [{"Key": f"spotrun:{name}", "Value": value} for name, value in named.items()]


def launch(world: World, clients: Clients, job: str, *, region: str = THERE, place: str = "s3://runs/gpt") -> str:
    """What a controller of another home launches; gives the instance's id."""
    ec2, name = clients("ec2", region=region), f"spotrun-{job}-1"
    kinds = ("instance", "volume")
    ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={"ImageId": world.image(region), "InstanceType": "g5.xlarge"},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags(job, place)}],
    )
    told = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "1"},
                "Overrides": [{"InstanceType": "g5.xlarge"}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        SpotOptions={"AllocationStrategy": "price-capacity-optimized"},
        TagSpecifications=[{"ResourceType": kind, "Tags": tags(job, place)} for kind in kinds],
    )
    return str(told["Instances"][0]["InstanceIds"][0])


def lease(clients: Clients, bucket: str, *, ago: timedelta, place: str = "gpt") -> None:
    """The lease of attempt 1, as its controller left it in the store."""
    until = datetime.now(timezone.utc) - ago  # noqa: TID251 - the world's own time is wall time
    body = Control(attempt=1, lease_until=until).to_bytes()
    clients("s3").put_object(Bucket=bucket, Key=f"{place}/attempts/000001/control.json", Body=body)


def test_a_machine_that_nobody_holds_goes_in_whatever_region_and_all_that_is_its_own(
    world: World, shell: Shell, clients: Clients, bucket: str
) -> None:
    """Its lease ran out long ago: shown with its price, ended after a yes, confirmed; then nothing is left."""
    id_ = launch(world, clients, "gpt-1")
    lease(clients, bucket, ago=timedelta(hours=1))
    clients("ec2", region=HERE).create_volume(
        AvailabilityZone="us-east-1a",
        Size=100,
        TagSpecifications=[{"ResourceType": "volume", "Tags": tags("gpt-1", "s3://runs/gpt")}],
    )

    shown = shell.run("reap", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert id_ in shown.stdout
    assert "0.4024" in shown.stdout
    assert "no controller has renewed its lease" in shown.stdout
    assert len(world.instances(alive=True)) == 1

    here = ("reap", "--region", HERE, "--region", THERE)
    assert shell.run(*here, says="n\n").stdout.endswith("nothing was ended\n")
    assert len(world.instances(alive=True)) == 1

    done = shell.run(*here, says="y\n")
    assert done.returncode == 0, done.stderr
    assert "ended 3 things" in done.stdout
    assert "cost $0.41 an hour" in done.stdout
    assert world.leftovers() == []


def test_what_may_be_anothers_stays_until_the_user_says_so(
    world: World, shell: Shell, clients: Clients, bucket: str
) -> None:
    """A lease that is held protects even from --all; without a lease it takes --all."""
    held = launch(world, clients, "gpt-1")
    lease(clients, bucket, ago=timedelta(minutes=-30))
    unknown = launch(world, clients, "gpt-2", place="s3://runs/elsewhere")
    foreign = clients("ec2", region=THERE).run_instances(ImageId=world.image(THERE), MinCount=1, MaxCount=1)

    told = json.loads(shell.run("reap", "--yes", "--json", "--region", THERE).stdout)
    assert {each["id"]: each["standing"] for each in told["found"] if each["kind"] == "instance"} == {
        held: "needed",
        unknown: "unknown",
    }
    assert not any(each["ended"] for each in told["found"])

    shell.run("reap", "--yes", "--all", "--region", THERE)
    assert {each.id for each in world.instances(alive=True)} == {held, foreign["Instances"][0]["InstanceId"]}


def test_an_end_that_ec2_refuses_is_told_and_is_exit_code_1(
    world: World, shell: Shell, clients: Clients, bucket: str
) -> None:
    """What is still there costs money: the id, the reason, and no claim of success."""
    id_ = launch(world, clients, "gpt-1")
    lease(clients, bucket, ago=timedelta(hours=1))
    world.faults.fail("ec2", "TerminateInstances", code="UnauthorizedOperation", times=99)
    told = shell.run("reap", "--yes", "--region", THERE)
    assert told.returncode == 1
    assert f"{id_} is still there" in told.stderr
    assert "spotrun iam controller" in told.stderr


def test_a_region_that_cannot_be_looked_at_is_not_passed_over(world: World, shell: Shell, clients: Clients) -> None:
    """Something may be left there, so it is said, and counts as a failure."""
    launch(world, clients, "gpt-1", region=HERE, place="s3://runs/elsewhere")
    world.faults.fail("ec2", "DescribeVolumes", code="UnauthorizedOperation", times=1)
    told = shell.run("reap", "--dry-run", "--region", THERE)
    assert told.returncode == 1
    assert f"{THERE} could not be looked at" in told.stderr


def test_without_an_account_this_computer_is_looked_at(tmp_path: Path) -> None:
    """And what was not looked at is said."""
    told = Shell(tmp_path).run("reap")
    assert told.returncode == 0, told.stderr
    assert "AWS was not looked at" in told.stdout
    assert Shell(tmp_path).run("reap", "--json").returncode == 2


def test_a_job_under_way_is_left_alone_from_every_home_until_nobody_holds_it(
    world: World, runner: Runner, user: User, clients: Clients
) -> None:
    """Reap in the job's own home and in another one, even with --all. Then the computer is gone and with it the home, and the
    machine hangs: its tags and its lease in the store are enough. The answer to its end is lost, and it is ended all the same."""
    stray = (f"--home={user.home.parent / 'stray'}", "reap", "--region", HERE, "--yes", "--all")
    controller = user.launch(folder_job(user))
    first = user.training(1)
    user.committed(at_least=5)
    own = json.loads(user.spotrun("reap", "--region", HERE, "--yes", "--json", "--all").stdout)
    assert {each["standing"] for each in own["found"]} == {"needed"}
    there = user.spotrun(*stray)
    assert "holds its lease until" in there.stdout
    assert [each.id for each in world.instances(alive=True)] == [first.id]

    controller.kill()
    controller.wait()
    for process in runner.machine(first.id).processes():
        process.send_signal(signal.SIGSTOP)
    (job_id,) = user.jobs()
    user.forget()
    lease(clients, "runs", ago=timedelta(hours=1), place=f"x/{job_id}")
    lost = world.faults.lose("ec2", "TerminateInstances")
    done = user.spotrun("reap", "--region", HERE, "--yes")
    assert "no controller has renewed its lease" in done.stdout
    user.settled()
    assert lost.met == 1
    assert world.find(first.id).state_reason.code == "Client.UserInitiatedShutdown"
