"""A user at a terminal: a working directory, a home, credentials, and `spotrun` as a process that knows nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from spotrun.controller import Journal
from spotrun.job import Event, Job, fold

from .init import MARK, processes_of
from .runner import Runner
from .wait import until
from .world import Seen, World

_LINES = 40  # of each process, in the message of a failure
ROOT = Path(__file__).parents[2]
HASTY = Path(__file__).with_name("hasty.py")

# A training that cannot be changed: it goes on from the newest `out/step-<n>`, saves every fifth step and when it is asked
# to end, and has done enough when the test says so.
SCRIPT = """\
import os, pathlib, signal, sys, time
remote, out = pathlib.Path(os.environ["REMOTE"]), pathlib.Path("out")
out.mkdir(exist_ok=True)
step = max((int(path.name[5:]) for path in out.glob("step-*[0-9]")), default=0)
(remote / ("started-" + os.environ["SPOTRUN_ATTEMPT"])).write_text(str(step))
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def save():
    (out / "step.tmp").write_text(str(step))
    os.replace(out / "step.tmp", out / f"step-{step}")
    for path in out.glob("step-*"):
        if path.name != f"step-{step}":
            path.unlink()
while not (remote / "finish").exists():
    if asked:
        save()
        (remote / ("saved-" + os.environ["SPOTRUN_ATTEMPT"])).write_text(str(step))
        sys.exit(0)
    step += 1
    if step % 5 == 0:
        save()
    time.sleep(0.25)
save()
print("finished at", step, flush=True)
"""


# Two lines of the library. Two hundred steps, slow ones until the test is in a hurry; tells a digest of what it has learnt.
ATTACHED = """\
import hashlib, os, pathlib, time
import torch
import spotrun
remote = pathlib.Path(os.environ["REMOTE"])
torch.manual_seed(1)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
data = torch.utils.data.TensorDataset(torch.randn(400, 8), torch.randn(400, 1))
loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
run = spotrun.attach(model=model, optimizer=optimizer)
(remote / ("started-" + os.environ.get("SPOTRUN_ATTEMPT", "0"))).write_text(str(run.resumed_from or 0))
for epoch in run.epochs(2):
    for inputs, targets in run.batches(loader):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not (remote / "hurry").exists():
            time.sleep(0.2)
digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
(remote / "digest").write_text(digest)
"""


class User:
    """Somebody with an account.

    Args:
        world, runner: the account and its machines.
        folder: empty; the working directory, the home and the training's remote control lie in it.
    """

    def __init__(self, world: World, runner: Runner, folder: Path) -> None:
        self._world = world
        self._runner = runner
        self.home, self.work, self.remote = folder / "home", folder / "work", folder / "remote"
        for each in (self.home, self.work, self.remote):
            each.mkdir(parents=True)
        self.mark = f"user-{os.getpid()}-{folder.name}"
        self.keys = world.credentials.issue()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
            **world.environment(**self.keys),
        }
        (self.work / "train.py").write_text(SCRIPT)
        self._started: list[subprocess.Popen[bytes]] = []

    def spotrun(self, *arguments: str, check: bool = True, says: str = "") -> subprocess.CompletedProcess[str]:
        """A command, to its end, with `says` typed at its questions."""
        done = subprocess.run(
            [sys.executable, "-m", "spotrun", "--home", str(self.home), *arguments],
            cwd=self.work,
            env=self.environment,
            input=says,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *arguments: str, hasty: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """A command that goes on; what it says is in `said`."""
        program = [str(HASTY)] if hasty else ["-m", "spotrun"]
        with (self.home / "said").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, *program, "--home", str(self.home), *arguments],
                cwd=self.work,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def drive(self, **environment: str) -> subprocess.Popen[bytes]:
        """A controller in a hurry."""
        return self.start("controller", "--until-idle", **environment)

    def launch(self, job: Mapping[str, Any], *, hasty: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Hands a job in and follows it; returns once it is in the journal."""
        self.write(job)
        before = len(self.jobs())
        process = self.start("launch", "job.yaml", "--follow", "--yes", hasty=hasty, **environment)
        until(
            lambda: len(self.jobs()) > before or process.poll() is not None, "the job to be submitted", told=self.said
        )
        assert len(self.jobs()) > before, self.said()
        return process

    def write(self, job: Mapping[str, Any]) -> None:
        """Writes the job file."""
        (self.work / "job.yaml").write_text(yaml.safe_dump(dict(job)))

    def forget(self) -> None:
        """The home is lost."""
        shutil.rmtree(self.home)
        self.home.mkdir()

    def jobs(self) -> tuple[str, ...]:
        """Their ids."""
        if not (self.home / "journal.db").exists():
            return ()
        with contextlib.closing(Journal(self.home / "journal.db")) as journal:
            return journal.jobs()

    def job(self) -> Job:
        """The newest job, as its journal tells it."""
        return fold(self.events())

    def events(self) -> list[Event]:
        """The newest job's journal."""
        with contextlib.closing(Journal(self.home / "journal.db")) as journal:
            return [recorded.event for recorded in journal.events(journal.jobs()[-1])]

    def said(self) -> str:
        """What commands have said, and the machines."""
        path = self.home / "said"
        own = path.read_text(errors="replace") if path.exists() else ""
        parts = [own, *(f"--- {machine.id}\n{machine.console()}" for machine in self._runner.machines())]
        return "\n".join("\n".join(part.splitlines()[-_LINES:]) for part in parts)

    def until(self, found: Callable[[], Any], what: str) -> Any:
        """As `wait.until`, with all that was said in a failure."""
        return until(found, what, told=self.said)

    def ended(self, phase: str = "Completed") -> Job:
        """The job once it is over, in this phase."""
        self.until(lambda: self.job().ended_at is not None, "the end of the job")
        assert self.job().phase.value == phase, f"{self.job().cause}\n{self.said()}"
        return self.job()

    def training(self, attempt: int) -> Seen:
        """The instance of an attempt once its training is at work."""
        self.until((self.remote / f"started-{attempt}").exists, f"attempt {attempt} to train")
        found = [each for each in self._world.instances() if each.tags.get("spotrun:attempt") == str(attempt)]
        return found[-1]

    def resumed_at(self, attempt: int) -> int:
        """The step from which an attempt went on."""
        self.training(attempt)
        return int(self.until((self.remote / f"started-{attempt}").read_text, "its step"))

    def saved_at(self, attempt: int) -> int:
        """The step at which an attempt saved when it was asked to end."""
        path = self.remote / f"saved-{attempt}"
        return int(self.until(lambda: path.exists() and path.read_text(), f"the last save of attempt {attempt}"))

    def committed(self, at_least: int) -> int:
        """The step of the newest commit once it is this or a later one, as the store tells it."""

        def newest() -> int:
            bucket = self._world.bucket("runs")
            steps = [int(key.split("/")[-1].split("-")[0]) for key in bucket if "/manifests/" in key]
            return max(steps, default=0)

        self.until(lambda: newest() >= at_least, f"a commit of step {at_least}")
        return newest()

    def finish(self) -> None:
        """Tells the training that it has done enough."""
        (self.remote / "finish").touch()

    def settled(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Waits until nothing is left in the account and, if given, a process has ended well."""
        until(lambda: not self._world.leftovers(), "nothing to be left", told=lambda: f"{self._world.leftovers()}")
        if process is not None:
            self.until(lambda: process.poll() is not None, "the command to end")
            assert process.returncode == 0, self.said()

    def close(self) -> None:
        """Ends whatever of this user's still runs."""
        while left := processes_of(self.mark):
            for process in left:
                with contextlib.suppress(Exception):
                    process.kill()
        for started in self._started:
            started.wait(60)


def folder_job(user: User, **more: Any) -> dict[str, Any]:
    """A job of the training that cannot be changed."""
    return {
        "name": "steps",
        "command": "python train.py",
        "provider": "ec2",
        "resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"]},
        "limits": {"max_run": "1h", "max_wait": "2h"},
        "checkpoint": {
            "uri": "s3://runs/x",
            "interval": "1s",
            "folder": {"path": "out/", "quiet": "300ms"},
        },
        "environment": {"REMOTE": str(user.remote)},
        **more,
    }
