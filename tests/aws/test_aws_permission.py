"""The policies that `spotrun iam` prints: they suffice for a whole job, and more than that is denied."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .demand import Demand
from .permission import allows
from .runner import Runner
from .stage import User, folder_job
from .world import World

Clients = Callable[..., Any]

# Tells the test what it found, and leaves something for the next attempt.
SET_UP = """\
import json, os, pathlib
remote, cache = pathlib.Path(os.environ["REMOTE"]), pathlib.Path("kept/things")
attempt = os.environ["SPOTRUN_ATTEMPT"]
here = sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file())
(remote / ("set-up-" + attempt)).write_text(json.dumps(here))
cache.mkdir(parents=True, exist_ok=True)
(cache / attempt).write_text("a wheel")
print("set up", flush=True)
"""


def denied(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as err:
        call(**arguments)
    return str(err.value.response["Error"]["Code"])


def test_conditions_count() -> None:
    """What is allowed on what is ours is denied on what is not, and on what has no tag at all."""
    policy = [
        {
            "Effect": "Allow",
            "Action": "ec2:Terminate*",
            "Resource": "arn:aws:ec2:*:*:instance/*",
            "Condition": {"StringEquals": {"aws:ResourceTag/spotrun:managed": "true"}},
        }
    ]

    def may(resource: str, **tags: str) -> bool:
        context = {f"aws:ResourceTag/spotrun:{key}": value for key, value in tags.items()}
        return allows(policy, Demand(action="ec2:TerminateInstances", resource=resource, context=context))

    ours = "arn:aws:ec2:us-east-1:1:instance/i-1"
    assert may(ours, managed="true")
    assert not may(ours, managed="false")
    assert not may(ours)
    assert not may("arn:aws:ec2:us-east-1:1:volume/vol-1", managed="true")
    never = [*policy, {"Effect": "Deny", "Action": "*", "Resource": "*"}]
    assert not allows(never, Demand(action="ec2:TerminateInstances", resource=ours))


def test_the_printed_policies_suffice_for_a_whole_job_and_permit_no_more(
    world: World, runner: Runner, user: User, clients: Clients
) -> None:
    """Controller and machine are held to them from the launch through an interruption to the end. Code, setup and caches come
    to every machine: the second finds what the first one's setup made, although that was lost without a notice."""
    (user.work / "set_up.py").write_text(SET_UP)
    (user.work / ".gitignore").write_text("*.bin\n")
    (user.work / "data.bin").write_text("large")
    (user.work / ".env").write_text("TOKEN=sesame")
    job = folder_job(user, setup=["python set_up.py"], cache=["kept"])
    user.write(job)
    printed = {who: json.loads(user.spotrun("iam", who, "job.yaml").stdout) for who in ("controller", "instance")}
    world.permissions.hold("user", printed["controller"])
    world.permissions.hold("spotrun-instance", printed["instance"])
    process = user.launch(job)
    first = user.training(1)
    user.until(lambda: [key for key in world.bucket("runs") if key.endswith("/current.json")], "the cache to be kept")
    user.committed(at_least=5)
    runner.kill(first.id)
    second = user.training(2)
    user.finish()
    ended = user.ended()
    user.settled(process)
    user.spotrun("reap", "--dry-run", "--region", "us-east-1")
    assert world.permissions.denied == []
    check_what_came_to_machines(world, user, ended.id)

    mine = {name.lower(): value for name, value in user.keys.items()}
    issued = world.credentials.issue("spotrun-instance")
    machine = {name.lower(): value for name, value in issued.items()}
    ec2, s3 = clients("ec2", **mine), clients("s3", **machine)
    foreign = clients("ec2").run_instances(ImageId=world.image("us-east-1"), MinCount=1, MaxCount=1)["Instances"][0]
    assert denied(ec2.terminate_instances, InstanceIds=[foreign["InstanceId"]]) == "UnauthorizedOperation"
    assert denied(ec2.run_instances, ImageId="ami-12345678", MinCount=1, MaxCount=1) == "UnauthorizedOperation"
    untagged = {"LaunchTemplateName": "untagged", "LaunchTemplateData": {"ImageId": "ami-12345678"}}
    assert denied(ec2.create_launch_template, **untagged) == "UnauthorizedOperation"
    tag = [{"Key": "spotrun:managed", "Value": "true"}]
    assert denied(ec2.create_tags, Resources=[foreign["InstanceId"]], Tags=tag) == "UnauthorizedOperation"
    assert denied(s3.put_object, Bucket="runs", Key="elsewhere/key", Body=b"") == "AccessDenied"
    assert denied(s3.list_objects_v2, Bucket="runs") == "AccessDenied"
    assert denied(s3.delete_bucket, Bucket="runs") == "AccessDenied"
    assert denied(clients("ec2", **machine).terminate_instances, InstanceIds=[second.id]) == "UnauthorizedOperation"
    everybody = clients("ec2")
    everybody.terminate_instances(InstanceIds=[foreign["InstanceId"]])
    for interface in everybody.describe_network_interfaces()["NetworkInterfaces"]:  # moto leaves it
        everybody.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
    user.settled()


def check_what_came_to_machines(world: World, user: User, job_id: str) -> None:
    """The code as git would take it, no secret, and the cache; the report tells setup apart."""
    code = [".gitignore", "job.yaml", "set_up.py", "train.py"]
    assert json.loads((user.remote / "set-up-1").read_text()) == code
    assert json.loads((user.remote / "set-up-2").read_text()) == sorted([*code, "kept/things/1"])
    assert "left out, because they look like secrets: .env" in user.said()
    assert not [key for key in world.bucket("runs") if "sesame" in key]
    report = json.loads(user.spotrun("report", job_id, "--json").stdout)
    # Told apart for each; machines here boot so fast that setup may be over before its launch is answered, and none is billed.
    assert all("setup" in attempt["time_s"] for attempt in report["attempts"])
    assert "[spotrun] setup: python set_up.py\nset up\n" in user.spotrun("logs", job_id).stdout
