"""Kills an agent's hold on a folder with SIGKILL at every single operation, and looks at what is left.

    python folder_killed.py commit|restore DIRECTORY

Each life is a fork of this process, which has no threads of its own at that moment. Prints one line of JSON: how many
operations there were, and what was found wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spotrun.agent.config import AgentConfig
from spotrun.agent.folder import restore
from spotrun.agent.folder.custody import Custody
from spotrun.agent.folder.listing import scan
from spotrun.agent.folder.restore import Restoration
from spotrun.agent.folder.rule import Rules
from spotrun.agent.folder.upload import Uploader
from spotrun.clock import SystemClock
from spotrun.job.spec import Folder, JobSpec
from spotrun.store import FileStore

RULES = Rules.of(Folder(path="out"))
OPERATIONS_MAX = 400


class Doom:
    """Kills this process before its operation number `at`, or only counts."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def doomed(*arguments: Any, **named: Any) -> Any:
            self.step()
            return function(*arguments, **named)

        return doomed


class DoomedStore:
    """A store of files whose every operation may be the last; blobs one at a time, so that the order is one."""

    def __init__(self, inner: FileStore, doom: Doom) -> None:
        for name in ("read", "read_into", "write", "create", "list", "delete"):
            setattr(self, name, doom.over(getattr(inner, name)))


def config(root: Path, attempt: int) -> AgentConfig:
    spec = {"name": "a", "command": "a", "checkpoint": {"uri": "/runs", "folder": "out", "keep": {"last": 2}}}
    return AgentConfig(
        job_id="job",
        attempt=attempt,
        instance_id=f"i-{attempt}",
        checkpoint_uri="file:///runs",
        work_directory=root,
        scratch=root,
        lease_s=1.0,
        clock_text="",
        mtbi_s=None,
        metadata_url="",
        spec=JobSpec.model_validate(spec),
        inherited={},
    )


def custody(root: Path, store: Any, attempt: int) -> Custody:
    held = Custody(config(root, attempt), store, clock=SystemClock(), say=lambda text: None)
    held.claim()
    return held


def generation(out: Path, number: int) -> dict[str, bytes]:
    """Makes the folder this generation; what is in it. Every file differs from generation to generation."""
    shutil.rmtree(out, ignore_errors=True)
    dice = random.Random(number)
    files = {f"step-{number}/{name}": dice.randbytes(size) for name, size in (("a", 10), ("b", 2 << 20), ("c", 3000))}
    files["always"] = dice.randbytes(2 << 20)
    files["pointer"] = str(number).encode()
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / "latest").symlink_to(f"step-{number}")
    return files


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not any(part.is_symlink() for part in (path, *path.parents))
    }


def commit(root: Path, store: Any, attempt: int, step: int) -> None:
    held = custody(root, store, attempt)
    uploader = Uploader(store, root / "out", RULES, attempt=attempt)
    stored = uploader.store(scan(root / "out", RULES), urgent=True)
    held.commit(stored, step=step, captured_at=datetime.now(timezone.utc), on_notice=False)  # noqa: TID251
    held.prune()


def fetch(root: Path, store: Any, attempt: int) -> None:
    held = custody(root, store, attempt)
    (root / "out").mkdir(exist_ok=True)
    restoration = Restoration(store, root / "out", RULES, aside=root / f"aside-{attempt}", progress=lambda count: None)
    found = held.newest(lambda found: restoration.fetch(found.manifest, found.record))
    assert found is not None
    restoration.place(found.record)
    (root / "step").write_text(str(found.entry.step))


def life(act: Callable[..., Any], *arguments: Any) -> int:
    """Runs it in a process of its own; gives the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(*arguments)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "a life failed on its own"
    return 0


def killed_commits(root: Path) -> tuple[int, list[str]]:
    """Two generations are committed; the third one's commit is killed at each operation."""
    wrong: list[str] = []
    for at in range(1, OPERATIONS_MAX):
        place = root / str(at)
        (place / "out").mkdir(parents=True)
        plain = FileStore(place / "store")
        generations = {}
        for number in (1, 2):
            generations[number] = generation(place / "out", number)
            life(commit, place, plain, number, number)
        generations[3] = generation(place / "out", 3)
        ended = life(commit, place, DoomedStore(plain, Doom(at)), 3, 3)
        generation(place / "out", 4)  # what a lost attempt left on the disk
        life(fetch, place, plain, 4)
        step = int((place / "step").read_text())
        if contents(place / "out") != generations[step]:
            wrong.append(f"killed at operation {at}: step {step} came back as something else")
        if ended == 0 and step != 3:
            wrong.append(f"the commit at {at} was acknowledged, and step {step} came back")
        shutil.rmtree(place)
        if ended == 0:
            return at, wrong
    raise AssertionError("it does not end")


def killed_restores(root: Path) -> tuple[int, list[str]]:
    """A restore is killed at each operation on the folder; the next one must make it whole."""
    wrong: list[str] = []
    for at in range(1, OPERATIONS_MAX):
        place = root / str(at)
        (place / "out").mkdir(parents=True)
        plain = FileStore(place / "store")
        expected = generation(place / "out", 1)
        life(commit, place, plain, 1, 1)
        before = generation(place / "out", 2)
        ended = life(doomed_fetch, place, plain, Doom(at))
        halfway = contents(place / "out")
        for name, content in halfway.items():  # at any moment every name in place holds all of one file or the other
            if not name.startswith(".spotrun-tmp/") and content not in (expected.get(name), before.get(name)):
                wrong.append(f"killed at operation {at}: {name} is neither the old file nor the new one")
        life(fetch, place, plain, 3)
        if contents(place / "out") != expected or str((place / "out" / "latest").readlink()) != "step-1":
            wrong.append(f"killed at operation {at}: the next restore is not whole")
        shutil.rmtree(place)
        if ended == 0:
            return at, wrong
    raise AssertionError("it does not end")


def doomed_fetch(place: Path, store: FileStore, doom: Doom) -> None:
    for name in ("_write_at", "_dress", "_sync"):
        setattr(restore, name, doom.over(getattr(restore, name)))
    restore._THREADS = 1  # one order of operations, the same in each life
    for owner, name in (
        (shutil, "move"),
        (shutil, "rmtree"),
        (Path, "replace"),
        (Path, "mkdir"),
        (Path, "touch"),
        (Path, "chmod"),
        (Path, "symlink_to"),
    ):
        setattr(owner, name, doom.over(getattr(owner, name)))
    fetch(place, store, 2)


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # the machine stays up: only this process is killed
    operations, faults = {"commit": killed_commits, "restore": killed_restores}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"operations": operations, "wrong": faults}))
