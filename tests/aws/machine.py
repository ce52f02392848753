"""One instance as a machine: its user data run as processes, its metadata service, its power switch."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .catalog import zone_id_of
from .init import MARK, Init, Timer, processes_of
from .metadata import Metadata, Role, instant_text
from .shim import moved, write_shims

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class Machine:
    """A machine that boots as soon as it is made.

    Args:
        instance: moto's object.
        account: of the instance.
        environment: what every process of the machine sees of the world, `AWS_ENDPOINT_URL` above all.
        role: of the instance's profile.
        power_off: called, in a thread of the machine's, when it asks to be shut down.
        wheels: where unpacked wheels are kept for the next machine.
    """

    def __init__(
        self,
        instance: Any,
        *,
        account: str,
        environment: Mapping[str, str],
        role: Role | None,
        power_off: Callable[[], None],
        wheels: Path,
    ) -> None:
        self.id = str(instance.id)
        self.folder = Path(tempfile.mkdtemp(prefix="ec2-"))
        programs = self.folder / "programs"
        for folder in (programs, self.folder / "root", self.folder / "etc/systemd/system"):
            folder.mkdir(parents=True)
        write_shims(programs, str(self.folder / "init"), wheels)
        text = instance.user_data.decode().encode() if instance.user_data else b""
        self.metadata = _metadata(instance, account, text, role)
        self._console = (self.folder / "console").open("wb")
        self._init = Init(
            mark=self.id,
            folder=self.folder,
            environment={
                "PATH": f"{programs}:{_SYSTEM_PATH}",
                "LANG": "C.UTF-8",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
                "SPOTRUN_IMDS": self.metadata.url.rstrip("/"),
                **environment,
            },
            console=self._console,
            power_off=power_off,
        )
        self._over = threading.Event()
        if text:
            script = self.folder / "user-data"
            script.write_text(moved(text.decode(), self.folder, programs))
            script.chmod(0o755)
            self._init.run(["bash", str(script)])

    @property
    def timers(self) -> list[Timer]:
        """The timers that are set."""
        return list(self._init.timers)

    def elapse(self, unit: str) -> None:
        """Lets the time of a timer pass."""
        for timer in self.timers:
            if timer.unit == unit:
                timer.clock.cancel()
                self._init.run(timer.command)

    def console(self) -> str:
        """What the machine has printed."""
        return (self.folder / "console").read_text(errors="replace")

    def processes(self) -> list[Any]:
        """What runs on it."""
        return processes_of(self.id)

    def shut_down(self, patience_s: float) -> None:
        """Asks everything to end, waits for at most `patience_s`, then switches off. Returns when it is off."""
        self._init.stop(patience_s)
        self._off()

    def switch_off(self) -> None:
        """Switches off, as a host that dies. Returns when it is off."""
        self._init.kill()
        self._off()

    def _off(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self.metadata.close()

    def remove(self) -> None:
        """Frees what a machine that is off still holds here."""
        self._init.join()
        self._console.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _metadata(instance: Any, account: str, text: bytes, role: Role | None) -> Metadata:
    region, zone = instance.region_name, instance.placement.zone
    facts = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "instance-id": instance.id,
        "instance-life-cycle": instance.lifecycle or "on-demand",
        "instance-type": instance.instance_type,
        "local-ipv4": f"127.{instance.private_ip.partition('.')[2]}",  # so that machines can reach each other here
        "placement/availability-zone": zone,
        "placement/availability-zone-id": zone_id_of(region, zone),
        "placement/region": region,
        "reservation-id": "r-0",
    }
    if instance.metadata_options.instance_metadata_tags == "enabled":
        facts |= {f"tags/instance/{tag['key']}": tag["value"] for tag in instance.get_tags()}
    identity = {
        "accountId": account,
        "architecture": "x86_64",
        "availabilityZone": zone,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "pendingTime": instant_text(datetime.now(timezone.utc)),  # noqa: TID251 - the world has its own clock
        "privateIp": instance.private_ip,
        "region": region,
        "version": "2017-09-30",
    }
    return Metadata(
        facts=facts,
        identity=identity,
        user_data=text,
        role=role,
        token_required=instance.metadata_options.http_tokens == "required",
    )


__all__ = ["MARK", "Machine"]
