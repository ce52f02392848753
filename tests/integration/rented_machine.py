"""A rented machine as a folder: an order, a store, a metadata service, and `shutdown` as a program that leaves a mark."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
from instance_metadata import PATIENCE_S, Metadata, wait_for

from spotrun.clock import ScaledClock
from spotrun.controller.pack import pack
from spotrun.errors import StoreMissing
from spotrun.job.machine import Bundle, LaunchDocument, MachineOrder, Package
from spotrun.job.message import Exit, Heartbeat, Place, parse
from spotrun.job.spec import JobSpec
from spotrun.store import FileStore

__all__ = ["JOB", "PATIENCE_S", "RentedMachine", "sha256", "wait_for"]

JOB = "job-1"


class RentedMachine:
    """One attempt of a job whose place is a folder. `root` may be shared: the store is what attempts have in common.

    Args:
        node: of several machines of the attempt, which, from 0; their addresses are in this order.
    """

    def __init__(self, root: Path, attempt: int = 1, node: int = 0) -> None:
        self.id = f"i-{uuid.uuid4().hex[:17]}"
        self.attempt = attempt
        self.place = Place(attempt, node=node)
        self.store = FileStore(root / "runs" / JOB)
        self.uri = (root / "runs").as_uri()
        self.disk = root / f"machine-{attempt}-{node}"
        self.home = self.disk / "home"
        self.folder = self.disk / "job"
        self.programs = self.disk / "bin"
        for folder in (self.home, self.programs):
            folder.mkdir(parents=True)
        self.off = self.disk / "off"
        self.program("shutdown", f'printf "%s " "$@" >>"{self.off}"')
        facts = {"instance-id": self.id, "placement/region": "eu-west-9", "local-ipv4": f"127.0.0.{node + 2}"}
        self.metadata = Metadata(**facts)
        self.agent: subprocess.Popen[bytes] | None = None
        self.document = LaunchDocument(attempt=attempt, environment={})

    def program(self, name: str, text: str) -> None:
        """Puts a program of bash on the machine's PATH, before all others."""
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def bundle(self, **files: str) -> Bundle:
        """Leaves code in the place: names as in Python, their contents."""
        tree = self.disk / "submitted"
        names = sorted(f"{name}.py" for name in files)
        for name, text in files.items():
            path = tree / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        archive = io.BytesIO()
        digest, size = pack(tree, names, archive, bytes_max=10**9)
        code = Package(key=f"code/{digest}.tar.gz", sha256=digest, size_bytes=size)
        self.store.write(code.key, [archive.getvalue()])
        return Bundle(code=code)

    def order(self, **changes: Any) -> MachineOrder:
        """The order, as user data would carry it."""
        values: dict[str, Any] = {
            "job_id": JOB,
            "attempt": self.attempt,
            "place": f"{self.uri}/{JOB}",
            "launch_sha256": self.document.sha256,
            "requirement": "spotrun==0.1.0",
            "deadline": datetime.now(timezone.utc) + timedelta(hours=1),  # noqa: TID251  a real machine's clock
            "max_wait": timedelta(hours=1),
            "lease_s": 1e6,
        }
        return MachineOrder(**{**values, **changes})

    def launch(self, bundle: Bundle, *, lease_s: float = 1e6, scale: float = 1.0, **spec: Any) -> None:
        """Writes the launch document. With a `scale`, job time runs so many times as fast from now on."""
        wanted = {"name": "test", "provider": "ec2", "checkpoint": {"uri": "s3://elsewhere/runs"}, **spec}
        environment = {
            "SPOTRUN_JOB_ID": JOB,
            "SPOTRUN_ATTEMPT": str(self.attempt),
            "SPOTRUN_CHECKPOINT_URI": self.uri,
            "SPOTRUN_SPEC": json.dumps(JobSpec.model_validate(wanted).to_json()),
            "SPOTRUN_WORKDIR": "/where/it/was/submitted",
            "SPOTRUN_LEASE_S": str(lease_s),
            "SPOTRUN_CLOCK": ScaledClock(datetime.now(timezone.utc), scale).to_text(),  # noqa: TID251  its origin
            "SPOTRUN_BUNDLE": bundle.to_bytes().decode(),
        }
        document = LaunchDocument(attempt=self.attempt, environment=environment)
        self.document = document
        self.store.write(document.key, [document.to_bytes()])

    def replace(self, document: LaunchDocument) -> None:
        """Has the machine launched with this document instead, under the key that it will read."""
        self.document = document
        self.store.write(self.order().launch_key, [document.to_bytes()])

    def environment(self, **more: str) -> dict[str, str]:
        """What the machine's processes inherit."""
        return {
            **os.environ,
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "SPOTRUN_IMDS": self.metadata.url,
            **more,
        }

    def start(self, order: bytes | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Starts the agent as the unit does."""
        file = self.disk / "attempt.json"
        file.write_bytes(order or self.order().to_bytes())
        with (self.disk / "agent.log").open("wb") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "spotrun.agent.machine", str(file), str(self.folder)],
                env=dict(environment or self.environment()),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def told(self) -> str:
        """What the agent said on the console."""
        return (self.disk / "agent.log").read_text()

    def end(self) -> Exit:
        """The exit record, once the agent has ended by itself and the machine was told to shut down."""
        assert self.agent is not None
        self.agent.wait(PATIENCE_S)
        assert self.off.read_text() == "-h now ", self.told()
        told = parse(Exit, self.store.read(self.place.exit))
        assert told is not None
        return told

    def heartbeat(self) -> Heartbeat | None:
        try:
            return parse(Heartbeat, self.store.read(self.place.heartbeat))
        except StoreMissing:
            return None

    def log(self) -> str:
        """The job's log of this attempt."""
        return b"".join(self.store.read(key) for key in self.store.list(f"{self.place.prefix}/log/")).decode()

    def switch_off(self) -> None:
        """Everything on it is gone at one blow, as when its host dies."""
        left = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in left:
            process.kill()
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(PATIENCE_S)
        psutil.wait_procs(left, timeout=PATIENCE_S)

    def close(self) -> None:
        """Nothing of the machine lives on."""
        self.metadata.close()
        self.switch_off()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.pid != os.getpid() and process.environ().get("SPOTRUN_IMDS") == self.metadata.url
        except psutil.Error:
            return False


def sha256(data: bytes) -> str:
    """The digest as documents write it."""
    return hashlib.sha256(data).hexdigest()
