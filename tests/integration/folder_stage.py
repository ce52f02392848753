"""A machine for the folder's tests: an agent, a store of files, and a script that knows nothing of spotrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import psutil

from spotrun.clock import ScaledClock
from spotrun.errors import StoreMissing
from spotrun.job.message import Exit, Heartbeat, Place, parse
from spotrun.job.spec import JobSpec
from spotrun.store import CommitEntry, FileStore, read_log, read_manifest

SCALE = 100.0
PATIENCE_S = 120.0
T = TypeVar("T")

# Counts. Saves every `every` numbers, into a file of its own by rename; reads the newest when it starts. With `handler` it
# saves at SIGTERM or SIGUSR1 and ends with 0. It stands still at the numbers that files `hold-N` name, until they go.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path

out, work = Path("out"), Path(os.environ["WORK"])
steps, every = int(sys.argv[1]), int(sys.argv[2])
heard = []
if "handler" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
if "usr1" in sys.argv:
    signal.signal(signal.SIGUSR1, lambda *_: heard.append("SIGUSR1"))

def save(step, total):
    place = out / f"checkpoint-{step}"
    place.mkdir(parents=True, exist_ok=True)
    draft = place / "state.json.tmp"
    draft.write_text(json.dumps({"step": step, "total": total}))
    (place / "weights.bin").write_bytes(step.to_bytes(4, "big") * 50_000)
    draft.replace(place / "state.json")

def note(text):
    with (work / "notes").open("a") as file:
        file.write(text + "\\n")

found = sorted((int(path.name.split("-")[1]) for path in out.glob("checkpoint-*")), reverse=True)
step = total = 0
if found:
    state = json.loads((out / f"checkpoint-{found[0]}" / "state.json").read_text())
    step, total = state["step"], state["total"]
    assert (out / f"checkpoint-{step}" / "weights.bin").read_bytes() == step.to_bytes(4, "big") * 50_000
note(f"start {step}")
while step < steps:
    step, total = step + 1, total + step + 1
    if step % every == 0:
        save(step, total)
    while (work / f"hold-{step}").exists() and not heard:
        (work / "held").write_text(str(step))
        time.sleep(0.01)
    if heard:
        save(step, total)
        note(f"{heard[0]} {step}")
        sys.exit(0)
    time.sleep(0.002)
save(step, total)
(out / "result.txt").write_text(str(total))
note(f"end {step}")
"""


def eventually(look: Callable[[], T | None], what: str) -> T:
    """The first true value that `look` gives."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never came: {what}")


class Stage:
    """One job's place and working directory; attempts follow one another on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.work.mkdir()
        (self.work / "count.py").write_text(SCRIPT)
        self.out = self.work / "out"
        self.store = FileStore(root / "runs" / "job-1")
        self.clock = ScaledClock(datetime.now(timezone.utc), SCALE)  # noqa: TID251  the origin of job time
        self.agent: subprocess.Popen[bytes] | None = None
        self.attempt = 0
        self.id = ""
        self.ids: list[str] = []

    def hold(self, step: int) -> None:
        """The script stands still once it has come to this step."""
        (self.work / f"hold-{step}").touch()

    def release(self, step: int) -> None:
        (self.work / f"hold-{step}").unlink()

    def start(self, command: str, *, interval: str = "auto", **folder: object) -> None:
        """Starts the next attempt's agent."""
        self.attempt += 1
        self.id = f"i-{uuid.uuid4().hex}"
        self.ids.append(self.id)
        scratch = self.root / f"scratch-{self.attempt}"
        scratch.mkdir()
        section = {"path": "out", "quiet": "20s", **folder}  # 0.5 s of wall time at least, whatever is said
        spec = JobSpec.model_validate(
            {
                "name": "test",
                "command": command,
                "checkpoint": {"uri": f"file://{self.root}/runs", "interval": interval, "folder": section},
                "environment": {"WORK": str(self.work)},
            }
        )
        environment = {
            **os.environ,
            "SPOTRUN_JOB_ID": "job-1",
            "SPOTRUN_ATTEMPT": str(self.attempt),
            "SPOTRUN_INSTANCE": self.id,
            "SPOTRUN_CHECKPOINT_URI": f"file://{self.root}/runs",
            "SPOTRUN_WORKDIR": str(self.work),
            "SPOTRUN_SCRATCH": str(scratch),
            "SPOTRUN_LEASE_S": "1e6",
            "SPOTRUN_CLOCK": self.clock.to_text(),
            "SPOTRUN_IMDS": "http://127.0.0.1:1",
            "SPOTRUN_SPEC": json.dumps(spec.to_json()),
        }
        with (self.root / f"agent-{self.attempt}.log").open("wb") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "spotrun.agent"], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """The machine is gone, without a word."""
        assert self.agent is not None
        os.killpg(self.agent.pid, signal.SIGKILL)
        self.agent.wait(PATIENCE_S)
        self._sweep(self.id)

    def end(self) -> Exit:
        """The exit record, once the agent has ended by itself."""
        assert self.agent is not None
        code = self.agent.wait(PATIENCE_S)
        assert code == 0, self.said()
        told = parse(Exit, self.store.read(Place(self.attempt).exit))
        assert told is not None
        return told

    def heartbeat(self) -> Heartbeat | None:
        try:
            return parse(Heartbeat, self.store.read(Place(self.attempt).heartbeat))
        except StoreMissing:
            return None

    def said(self) -> str:
        """What the agent said on this machine."""
        return (self.root / f"agent-{self.attempt}.log").read_text()

    def commits(self) -> list[CommitEntry]:
        return [entry for entry in read_log(self.store) if isinstance(entry, CommitEntry)]

    def committed(self, step: int) -> CommitEntry:
        """Waits for a commit of this step."""
        return eventually(
            lambda: next((entry for entry in self.commits() if entry.step == step), None),
            f"a commit of step {step}; there are {[entry.step for entry in self.commits()]}",
        )

    def files(self, entry: CommitEntry) -> dict[str, bytes]:
        """What a commit holds, put together from its blobs."""
        manifest = read_manifest(self.store, entry)
        return {
            file["path"]: b"".join(
                self.store.read(manifest.blobs[blob].key, start, end) for blob, start, end in file["pieces"]
            )
            for file in manifest.state["folder"]["files"]
        }

    def notes(self) -> list[str]:
        try:
            return (self.work / "notes").read_text().splitlines()
        except FileNotFoundError:
            return []

    def held(self) -> None:
        """Waits until the script stands still."""
        eventually((self.work / "held").exists, f"the hold; the agent said {self.said()}")

    def close(self) -> None:
        for each in self.ids:
            self._sweep(each)
        if self.agent is not None:
            self.agent.wait(PATIENCE_S)

    def _sweep(self, instance: str) -> None:
        left = [process for process in psutil.process_iter() if _carries(process, instance)]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=PATIENCE_S)


def _carries(process: psutil.Process, instance: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("SPOTRUN_INSTANCE") == instance
    except psutil.Error:
        return False
