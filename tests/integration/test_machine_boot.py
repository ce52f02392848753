"""User data as an instance runs them: a real shell, a real virtual environment, the wheel of this very spotrun from S3.

Stand-ins are only what would need an instance: `systemd-run` notes the timer, `systemctl` runs the unit's programs, `shutdown`
leaves a mark, the metadata service gives the role's credentials.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from instance_metadata import Metadata
from moto.server import ThreadedMotoServer
from rented_machine import JOB, sha256, wait_for

from spotrun.controller.pack import pack
from spotrun.controller.wheel import build_wheel
from spotrun.job.machine import Bundle, LaunchDocument, MachineOrder, Package
from spotrun.job.message import Exit, Outcome
from spotrun.job.spec import JobSpec
from spotrun.providers.ec2.userdata import user_data

REGION = "us-east-1"
_numbers = itertools.count()

# `start` runs ExecStart and, when that is over in whatever way, ExecStopPost: as systemd does.
SYSTEMCTL = """
case "$1" in
  link) ln -s "$2" "{disk}/linked" ;;
  start)
    start=$(sed -n 's/^ExecStart=//p' "{disk}/linked")
    stop=$(sed -n 's/^ExecStopPost=//p' "{disk}/linked")
    setsid bash -c 'cd / ; $0; $1' "$start" "$stop" </dev/null >>"{disk}/console" 2>&1 &
    ;;
esac
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server of this module's own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Instance:
    """An instance that has not booted yet, and a bucket."""

    def __init__(self, root: Path, endpoint: str) -> None:
        self.disk = root
        self.bucket = f"boot-{next(_numbers)}"
        self.s3 = boto3.client(
            "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
        )
        self.s3.create_bucket(Bucket=self.bucket)
        role = {"AccessKeyId": "ASIAROLE", "SecretAccessKey": "c", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
        self.metadata = Metadata(
            **{
                "instance-id": "i-0123456789abcdef0",
                "placement/region": REGION,
                "iam/security-credentials/": "spotrun-instance",
                "iam/security-credentials/spotrun-instance": json.dumps({"Code": "Success", **role}),
            }
        )
        self.environment = {
            "PATH": f"{root}/bin:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(root),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
            "SPOTRUN_IMDS": self.metadata.url,
            "PIP_NO_INDEX": "1",  # everything else is in the image
        }
        (root / "bin").mkdir()
        self.off = root / "off"
        self.program("shutdown", 'printf "%s " "$@" >>"{disk}/off"')
        self.program("systemd-run", 'printf "%s\\n" "$@" >"{disk}/timer"')
        self.program("systemctl", SYSTEMCTL)
        self.boots: subprocess.Popen[bytes] | None = None
        self.document = LaunchDocument(attempt=1, environment={})

    def program(self, name: str, text: str) -> None:
        path = self.disk / "bin" / name
        path.write_text("#!/bin/bash\n" + text.replace("{disk}", str(self.disk)) + "\n")
        path.chmod(0o755)

    def put(self, key: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=f"runs/{JOB}/{key}", Body=data)

    def prepare(self, script: str) -> None:
        """Leaves what a submission and a launch leave."""
        (self.disk / "tree").mkdir()
        (self.disk / "tree" / "train.py").write_text(script)
        archive = io.BytesIO()
        digest, size = pack(self.disk / "tree", ["train.py"], archive, bytes_max=10**9)
        code = Package(key=f"code/{digest}.tar.gz", sha256=digest, size_bytes=size)
        self.put(code.key, archive.getvalue())
        spec = {"name": "boot", "command": "python train.py", "provider": "ec2"}
        described = JobSpec.model_validate({**spec, "checkpoint": {"uri": f"s3://{self.bucket}/runs"}})
        environment = {
            "SPOTRUN_JOB_ID": JOB,
            "SPOTRUN_ATTEMPT": "1",
            "SPOTRUN_CHECKPOINT_URI": f"s3://{self.bucket}/runs",
            "SPOTRUN_SPEC": json.dumps(described.to_json()),
            "SPOTRUN_LEASE_S": "1000000",
            "SPOTRUN_BUNDLE": Bundle(code=code).to_bytes().decode(),
        }
        self.document = LaunchDocument(attempt=1, environment=environment)
        self.put(self.document.key, self.document.to_bytes())

    def wheel(self) -> Package:
        name, data = build_wheel()
        self.put(f"wheel/{name}", data)
        return Package(key=f"wheel/{name}", sha256=sha256(data), size_bytes=len(data))

    def boot(self, **changes: Any) -> None:
        """Runs the user data, both of their folders moved below the disk."""
        order = MachineOrder(
            **{
                "job_id": JOB,
                "attempt": 1,
                "place": f"s3://{self.bucket}/runs/{JOB}",
                "launch_sha256": self.document.sha256,
                "requirement": "spotrun==0.1.0",
                "deadline": datetime.now(timezone.utc) + timedelta(hours=1),  # noqa: TID251  a real machine's clock
                "max_wait": timedelta(hours=2),
                "lease_s": 300.0,
                **changes,
            }
        )
        text = user_data(order).replace("/etc/spotrun", f"{self.disk}/etc").replace("/opt/spotrun", f"{self.disk}/opt")
        script = self.disk / "user-data"
        script.write_text(text)
        with (self.disk / "console").open("ab") as console:
            self.boots = subprocess.Popen(
                ["bash", str(script)], env=self.environment, stdout=console, stderr=console, start_new_session=True
            )

    def console(self) -> str:
        return (self.disk / "console").read_text()

    def wait_off(self) -> None:
        """Until the machine has been told to shut down."""
        wait_for(lambda: self.off.exists() and self.off.read_text(), f"the end of the machine; {self.console()}")

    def last_word(self) -> Exit:
        found = self.s3.get_object(Bucket=self.bucket, Key=f"runs/{JOB}/attempts/000001/exit.json")
        return Exit.model_validate_json(found["Body"].read())

    def agents(self) -> list[psutil.Process]:
        return [it for it in self._processes() if "spotrun.agent.machine" in it.cmdline()]

    def close(self) -> None:
        self.metadata.close()
        self.s3.close()
        left = self._processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=30.0)
        if self.boots is not None:
            self.boots.wait(30.0)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("SPOTRUN_IMDS") == self.metadata.url
                if ours and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def instance(tmp_path: Path, endpoint: str) -> Iterator[Instance]:
    made = Instance(tmp_path, endpoint)
    yield made
    made.close()


def test_an_instance_boots_runs_its_attempt_and_ends(instance: Instance) -> None:
    """With nothing but its role: the wheel is this spotrun, and imports nothing from the place of the tests."""
    instance.prepare(
        "import shutil, spotrun, subprocess\n"
        "print('trained with', spotrun.__file__)\n"
        "for program in ('pip', 'torchrun'):\n"
        "    path = shutil.which(program)\n"
        "    print('found', path, 'for', open(path).readline().strip())\n"
        "print('works:', subprocess.run(['pip', '--version'], check=True, capture_output=True, text=True).stdout)\n"
    )
    instance.boot(wheel=instance.wheel(), requirement=None)
    instance.wait_off()
    told = instance.last_word()
    assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0), instance.console()
    (line,) = [line for line in told.tail if line.startswith("trained with")]
    assert line.startswith(f"trained with {instance.disk}/opt/venv/lib/")
    programs = f"{instance.disk}/opt/venv/bin"
    for program in ("pip", "torchrun"):
        assert f"found {programs}/{program} for #!{programs}/python" in told.tail
    assert any(line.startswith("works: pip ") for line in told.tail)
    assert instance.off.read_text() == "-h now " * instance.off.read_text().count("-h now ")
    options = (instance.disk / "timer").read_text().splitlines()
    assert options[-3:] == ["shutdown", "-h", "now"]
    (seconds,) = [int(it.removeprefix("--on-active=").removesuffix("s")) for it in options if "--on-active" in it]
    assert 4000 < seconds <= 4200  # an hour, and ten minutes for a last save


def test_an_agent_that_dies_takes_its_machine_along(instance: Instance) -> None:
    """Killed by the kernel for want of memory, say: the unit's end is the machine's."""
    instance.prepare("import time\nprint('at work', flush=True)\nwhile True: time.sleep(0.05)")
    instance.boot(wheel=instance.wheel(), requirement=None)
    key = f"runs/{JOB}/attempts/000001/heartbeat.json"
    wait_for(lambda: instance.s3.list_objects_v2(Bucket=instance.bucket, Prefix=key)["KeyCount"], "a heartbeat")
    for agent in instance.agents():
        agent.send_signal(signal.SIGKILL)
    instance.wait_off()


def test_a_wheel_of_somebody_else_is_not_installed(instance: Instance) -> None:
    """The machine ends, and the job learns why."""
    wheel = instance.wheel()
    instance.put(wheel.key, b"another one")
    instance.boot(wheel=wheel, requirement=None)
    instance.wait_off()
    told = instance.last_word()
    assert told.outcome is Outcome.START_FAILED
    assert f"{wheel.key} is not the wheel that was submitted: its digest differs" in told.tail
    assert told.tail[-1] == "[spotrun] the machine could not be made ready for the agent"
    assert "it ends itself now" in instance.console()


@pytest.mark.parametrize("broken", ["python3", "systemctl"])
def test_an_image_that_cannot_run_it_ends_at_once(instance: Instance, broken: str) -> None:
    """There is no state in which it waits and bills."""
    if broken == "python3":
        instance.program("python3", "exit 1")
        instance.program("python", "exit 1")
    else:
        instance.program("systemctl", "exit 1")
    instance.boot()
    instance.wait_off()
    assert "the machine could not be made ready" in instance.console()


def test_the_guard_needs_neither_systemd_nor_anything_after_it(instance: Instance) -> None:
    """The third guard: where no timer can be set, a process waits; here everything that comes after it hangs."""
    instance.program("systemd-run", "exit 1")
    instance.program("sleep", 'echo "$1" >"{disk}/slept"')
    instance.program("python3", "exec tail -f /dev/null")
    instance.boot(deadline=datetime(2026, 1, 1, tzinfo=timezone.utc))
    instance.wait_off()
    assert (instance.disk / "slept").read_text() == "60\n"  # the deadline is over; a minute to say so


def test_a_clock_that_is_behind_does_not_put_the_guard_off(instance: Instance) -> None:
    """From the start of the machine it never waits longer than max_wait and its grace."""
    instance.program("python3", "exit 1")
    instance.program("python", "exit 1")
    instance.boot(deadline=datetime(2099, 1, 1, tzinfo=timezone.utc))
    instance.wait_off()
    assert "--on-active=7800s" in (instance.disk / "timer").read_text().splitlines()


def test_a_machine_that_boots_again_ends(instance: Instance) -> None:
    """Its attempt is lost and the timer with it: a unit that is there for that is enabled."""
    instance.program("systemctl", 'printf "%s\\n" "$@" >>"{disk}/units"; exit 1')
    instance.boot()
    instance.wait_off()
    assert (instance.disk / "units").read_text().splitlines()[:2] == [
        "enable",
        f"{instance.disk}/etc/spotrun-rebooted.service",
    ]
    assert "ExecStart=shutdown -h now\n" in (instance.disk / "etc" / "spotrun-rebooted.service").read_text()
