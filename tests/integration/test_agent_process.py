"""The agent as it runs on an instance: real processes, a real store of files, a metadata service on loopback.

Job time runs a hundred times as fast as wall time. Every wait has a deadline; every process is gone at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest
from instance_metadata import PATIENCE_S, Metadata, wait_for

from spotrun.clock import ScaledClock
from spotrun.errors import StoreMissing
from spotrun.job.message import Ask, Control, Exit, Heartbeat, Outcome, Place, parse
from spotrun.job.spec import JobSpec
from spotrun.store import FileStore

SCALE = 100.0
PLACE = Place(1)
HUGE_LEASE_S = 1e6

# A training without torch: it records what it is told until the test lets it finish. Its child records signals too,
# and what it starts in a session of its own must not outlive the attempt.
TRAINING = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

scratch = Path(os.environ["SPOTRUN_SCRATCH"])
behaviour = set(sys.argv[1:])
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
CHILD = '''
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: Path(sys.argv[1]).write_text("SIGTERM"))
Path(sys.argv[2]).touch()
while True:
    time.sleep(0.01)
'''
files = [str(scratch / "child-heard"), str(scratch / "child-ready")]
rank = {"LOCAL_RANK": "0"} if "launcher" in behaviour else {}
child = subprocess.Popen(
    [sys.executable, "-c", CHILD, *files], start_new_session="daemon" in behaviour, env={**os.environ, **rank}
)
while not (scratch / "child-ready").exists():
    time.sleep(0.01)
if "deaf" in behaviour:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
if "stubborn" in behaviour:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
asked, last = [], None
while not (scratch / "finish").exists():
    request = scratch / "request.json"
    if request.exists() and request.read_text() != last:
        last = request.read_text()
        asked.append(json.loads(last))
    (scratch / "told.new").write_text(json.dumps({"heard": heard, "asked": asked}))
    (scratch / "told.new").replace(scratch / "told")
    (scratch / "ready").touch()
    if asked and asked[-1]["ask"] == "stop" and heard:
        print("saved and stopped", flush=True)
        break
    if "leaver" in behaviour and heard:
        print("saved and left", flush=True)
        break
    time.sleep(0.005)
if "attached" in behaviour:
    (scratch / "progress.json").write_text('{"phase": "done", "at": "2026-01-01T12:00:00Z"}')
"""

# The agent with a store that fails and shorter floors, for what the environment cannot say.
VARIANT = """
import dataclasses, os, sys, time
from pathlib import Path
from spotrun.agent import Supervisor, Timing, read_environment
from spotrun.agent.bell import Bell
from spotrun.errors import StoreDenied, StoreUnavailable
from spotrun.store import FileStore

work = Path(os.environ["SPOTRUN_WORKDIR"])

class FailingStore(FileStore):
    failures = int(sys.argv[1])

    def write(self, key, parts):
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the network is away")
        if key.startswith("output/"):
            if (work / "refuse").exists():
                raise StoreDenied("not allowed to write there")
            while (work / "hold").exists():
                time.sleep(0.01)
        super().write(key, parts)

config = dataclasses.replace(read_environment(os.environ), timing=Timing(grace_wall_s=0.5))
bell = Bell()
store = FailingStore(config.place_uri.removeprefix("file://"))
supervisor = Supervisor(config, store=store, clock=config.clock(), bell=bell)
bell.listen(supervisor.notices.signalled)
sys.exit(0 if supervisor.run() else 1)
"""


class Machine:
    """An instance: a scratch directory, a metadata service, and an agent to start on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.id = f"i-{uuid.uuid4().hex}"  # not from the folder's name: tests side by side may share it
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        self.training = root / "training.py"
        self.training.write_text(TRAINING)
        self.store = FileStore(root / "runs" / "job-1")
        self.clock = ScaledClock(datetime.now(timezone.utc), SCALE)  # noqa: TID251  the origin of job time
        self.metadata = Metadata()
        self.agent: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: str | tuple[str, ...],
        *,
        lease_s: float = HUGE_LEASE_S,
        variant: int | None = None,
        **spec: object,
    ) -> None:
        described = JobSpec.model_validate({"name": "test", "command": command, **spec})
        environment = {
            **os.environ,
            "SPOTRUN_JOB_ID": "job-1",
            "SPOTRUN_ATTEMPT": "1",
            "SPOTRUN_INSTANCE": self.id,
            "SPOTRUN_CHECKPOINT_URI": f"file://{self.root}/runs",
            "SPOTRUN_WORKDIR": str(self.root),
            "SPOTRUN_SCRATCH": str(self.scratch),
            "SPOTRUN_LEASE_S": str(lease_s),
            "SPOTRUN_CLOCK": self.clock.to_text(),
            "SPOTRUN_IMDS": self.metadata.url,
            "SPOTRUN_SPEC": json.dumps(described.to_json()),
        }
        program = ["-m", "spotrun.agent"] if variant is None else ["-c", VARIANT, str(variant)]
        with (self.root / "agent.log").open("wb") as log:
            self.agent = subprocess.Popen(
                [sys.executable, *program], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def train(self, *behaviour: str, **options: object) -> None:
        """Starts the recording training and waits until it records."""
        self.start(("python", "training.py", *behaviour), **options)  # type: ignore[arg-type]
        wait_for((self.scratch / "ready").exists, "the training to start")

    def told(self) -> dict[str, list]:
        """What the training has recorded."""
        return json.loads((self.scratch / "told").read_text())

    def finish(self) -> None:
        (self.scratch / "finish").touch()

    def control(self, **values: object) -> None:
        told = {"attempt": 1, "lease_until": self.clock.now() + timedelta(seconds=HUGE_LEASE_S), **values}
        self.store.write(PLACE.control, [Control.model_validate(told).to_bytes()])

    def heartbeat(self) -> Heartbeat | None:
        try:
            return parse(Heartbeat, self.store.read(PLACE.heartbeat))
        except StoreMissing:
            return None

    def end(self) -> Exit:
        """The exit record, once the agent has ended by itself."""
        assert self.agent is not None
        code = self.agent.wait(PATIENCE_S)
        assert code == 0, (self.root / "agent.log").read_text()
        told = parse(Exit, self.store.read(PLACE.exit))
        assert told is not None
        return told

    def log(self) -> str:
        """All log chunks, in order, none missing."""
        keys = self.store.list(f"{PLACE.prefix}/log/")
        assert keys == [PLACE.log(number) for number in range(len(keys))]
        return b"".join(self.store.read(key) for key in keys).decode()

    def processes(self) -> list[psutil.Process]:
        """Whatever carries this machine's tag."""
        return [process for process in psutil.process_iter() if self._carries(process)]

    def close(self) -> None:
        self.metadata.close()
        left = self.processes()
        for process in left:
            process.kill()
        if self.agent is not None:
            self.agent.wait(PATIENCE_S)
        psutil.wait_procs(left, timeout=PATIENCE_S)

    def _carries(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("SPOTRUN_INSTANCE") == self.id
        except psutil.Error:
            return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_a_command_that_completes_leaves_log_metrics_outputs_and_its_outcome(machine: Machine) -> None:
    """Everything it printed arrives complete and in order; the torn last metrics line does not."""
    (machine.root / "data.txt").write_text("41")
    (machine.root / "train.py").write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "for number in range(20000):\n"
        "    print('line', number, file=sys.stderr if number % 2 else sys.stdout)\n"
        "scratch = Path(os.environ['SPOTRUN_SCRATCH'])\n"
        'scratch.joinpath(\'metrics.jsonl\').write_text(\'{"step": 1}\\n{"step": 2}\\n{"ste\')\n'
        "out = Path(os.environ['SPOTRUN_OUTPUT_DIR'], 'deep')\n"
        "out.mkdir()\n"
        "out.joinpath('answer').write_text(str(int(open(os.environ['SPOTRUN_INPUT_DATA']).read()) + 1))\n"
        "print(os.environ['GREETING'], sys.executable)\n"
    )
    machine.start("python train.py", inputs={"data": "data.txt"}, environment={"GREETING": "good day"})
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0)
    printed = [line for line in machine.log().splitlines() if not line.startswith("[spotrun]")]
    assert printed == [*(f"line {number}" for number in range(20000)), f"good day {sys.executable}"]
    assert machine.store.read(PLACE.metrics(0)) == b'{"step": 1}\n{"step": 2}\n'
    assert machine.store.list(f"{PLACE.prefix}/metrics/") == [PLACE.metrics(0)]
    assert machine.store.read("output/deep/answer") == b"42"
    assert machine.processes() == []


def test_setup_commands_and_caches_work_on_a_users_own_computer_too(machine: Machine) -> None:
    """Each attempt sets up before its inputs come; a folder of the working directory is kept in the store."""
    (machine.root / "set_up.py").write_text(
        "from pathlib import Path\nPath('kept').mkdir()\nPath('kept/x').write_text('1')"
    )
    machine.start(
        ("python", "-c", "print(open('kept/x').read())"), setup=["python set_up.py"], cache=["kept", "~/.cache/pip"]
    )
    told = machine.end()
    assert told.outcome is Outcome.COMPLETED, machine.log()
    assert told.progress is not None
    assert told.progress.setup_at is not None
    assert told.progress.setup_until is not None
    lines = [line for line in machine.log().splitlines() if line == "1" or "setup" in line or "cache" in line]
    assert lines[0] == "[spotrun] cache ~/.cache/pip: it is in this computer's own home, where it stays anyway"
    assert lines[2:] in (  # kept behind the command, which may end before
        ["[spotrun] setup: python set_up.py", "1", "[spotrun] cache kept: 1 files kept, 10.2 kB"],
        ["[spotrun] setup: python set_up.py", "[spotrun] cache kept: 1 files kept, 10.2 kB", "1"],
    )
    assert len(machine.store.list("cache/")) == 2


def test_a_command_that_fails_tells_its_exit_code_and_last_lines(machine: Machine) -> None:
    """What a user needs to see first."""
    machine.start(("python", "-c", "import sys; [print(n) for n in range(100)]; sys.exit(3)"))
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 3)
    assert told.tail == tuple(str(number) for number in range(60, 100))


def test_a_missing_script_is_a_failure_in_pythons_own_words(machine: Machine) -> None:
    """Exit code 2 and the interpreter's sentence."""
    machine.start("python missing.py")
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 2)
    assert "can't open file" in told.tail[-1]


@pytest.mark.parametrize(
    ("command", "inputs", "sentence"),
    [
        ("no-such-program --x", {}, "the program 'no-such-program' was not found"),
        ("./data.txt", {}, "the program './data.txt' may not be run"),
        ("python train.py", {"train": "nowhere/data"}, "input train: there is nothing at"),
    ],
)
def test_what_cannot_start_says_why(machine: Machine, command: str, inputs: dict[str, str], sentence: str) -> None:
    """In one sentence, as the outcome of the attempt."""
    (machine.root / "data.txt").write_text("no program")
    machine.start(command, inputs=inputs)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.START_FAILED, None)
    assert sentence in told.tail[-1]


def test_a_notice_reaches_the_training_once_and_only_its_main_process(machine: Machine) -> None:
    """A signal to the whole group would kill loader workers in the middle of the save."""
    machine.train("attached")
    deadline = machine.clock.now() + timedelta(seconds=120)
    machine.metadata.deadline = deadline
    wait_for(lambda: machine.told()["asked"] and machine.told()["heard"], "the training to be told")
    wait_for(lambda: (beat := machine.heartbeat()) and beat.notice_deadline == deadline, "a heartbeat with the notice")
    beats = machine.heartbeat().beat
    wait_for(lambda: machine.heartbeat().beat > beats + 3, "more looks at the metadata service")
    told = machine.told()
    assert told["heard"] == ["SIGTERM"]
    assert [
        (request["ask"], datetime.fromisoformat(request["deadline"].replace("Z", "+00:00")))
        for request in told["asked"]
    ] == [("save", deadline)]
    assert not (machine.scratch / "child-heard").exists()
    machine.finish()
    assert machine.end().outcome is Outcome.COMPLETED


@pytest.mark.parametrize("behaviour", ["deaf", "launcher"])
def test_a_main_process_to_which_sigterm_is_the_end_survives_a_notice(machine: Machine, behaviour: str) -> None:
    """Without a handler, or as torchrun would be: the training is asked through the file alone."""
    machine.train(behaviour)
    machine.metadata.deadline = machine.clock.now() + timedelta(seconds=120)
    wait_for(lambda: machine.told()["asked"], "the training to see the request")
    machine.finish()
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0)
    assert machine.told()["heard"] == []


@pytest.mark.parametrize("asked", ["notice", "stop"])
def test_a_full_disk_keeps_no_notice_and_no_stop_from_the_training(machine: Machine, asked: str) -> None:
    """The request cannot be written (every write to /dev/full is refused): the signal goes alone, and the agent says so."""
    (machine.scratch / "request.json.new").symlink_to("/dev/full")
    machine.train("leaver")
    if asked == "notice":
        machine.metadata.deadline = machine.clock.now() + timedelta(seconds=3000)
    else:
        machine.control(ask=Ask.STOP, reason="enough")
    told = machine.end()
    assert told.outcome is Outcome.STOPPED
    assert "No space left on device" in machine.log()
    assert "saved and left" in machine.log()
    assert machine.processes() == []


def test_sigterm_to_the_agent_counts_as_a_notice(machine: Machine) -> None:
    """The machine shuts down without the metadata service knowing."""
    machine.train("attached")
    before = machine.clock.now()
    machine.agent.send_signal(signal.SIGTERM)
    wait_for(lambda: machine.told()["asked"] and machine.told()["heard"], "the training to be told")
    beat = wait_for(
        lambda: (beat := machine.heartbeat()) and beat.notice_deadline and beat, "the notice in a heartbeat"
    )
    assert before + timedelta(seconds=120) <= beat.notice_deadline <= machine.clock.now() + timedelta(seconds=120)
    machine.finish()
    assert machine.end().outcome is Outcome.COMPLETED
    assert machine.told()["heard"] == ["SIGTERM"]


def test_a_script_that_leaves_at_a_notice_has_not_completed(machine: Machine) -> None:
    """Exit code 0 is its answer to the signal, not the end of its work: another attempt goes on."""
    machine.train("leaver")
    assert machine.agent is not None
    machine.agent.send_signal(signal.SIGTERM)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.STOPPED, 0)
    assert "saved and left" in told.tail
    assert any("another attempt goes on" in line for line in told.tail)


def test_a_stop_lets_the_training_save_and_ends_everything(machine: Machine) -> None:
    """Also what the training started in a session of its own."""
    machine.train("daemon")
    machine.control(ask=Ask.STOP, reason="the budget is spent")
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.STOPPED, 0)
    assert "saved and stopped" in told.tail
    assert any("the budget is spent" in line for line in told.tail)
    assert not (machine.scratch / "child-heard").exists()
    assert machine.processes() == []


def test_a_training_that_ignores_a_stop_is_killed(machine: Machine) -> None:
    """After its grace, with its children."""
    machine.train("stubborn", variant=0)
    machine.control(ask=Ask.STOP)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.STOPPED, -signal.SIGKILL)
    assert machine.processes() == []


def test_an_attempt_without_a_controller_ends_itself(machine: Machine) -> None:
    """The first lease runs out, the training saves, nothing is left to cost money."""
    machine.train(lease_s=300.0)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.LEASE_EXPIRED, 0)
    assert [request["ask"] for request in machine.told()["asked"]] == ["stop"]
    assert machine.processes() == []


def test_a_renewed_lease_keeps_the_attempt(machine: Machine) -> None:
    """Far past the first one."""
    machine.control()
    started = machine.clock.now()
    machine.train(lease_s=150.0)
    wait_for(lambda: machine.clock.now() > started + timedelta(seconds=400), "the first lease to be long over")
    machine.finish()
    assert machine.end().outcome is Outcome.COMPLETED


def test_a_store_outage_neither_ends_the_training_nor_loses_its_log(machine: Machine) -> None:
    """The training goes on, and what it printed meanwhile arrives later, in order."""
    command = (
        "python",
        "-c",
        "import time\nfor n in range(100):\n    print(n, flush=True)\n    time.sleep(0.01)",
    )
    machine.start(command, variant=8)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0)
    lines = machine.log().splitlines()
    assert [line for line in lines if not line.startswith("[spotrun]")] == [str(number) for number in range(100)]
    assert any("the network is away" in line for line in lines)
    assert any("the store is back" in line for line in lines)


def test_a_flood_of_output_neither_stops_the_training_nor_fills_memory(machine: Machine) -> None:
    """What does not fit is counted, and the true last lines are kept."""
    command = (
        "python",
        "-c",
        "import sys\nline = 'x' * 99\nfor n in range(1_000_000):\n    sys.stdout.write(f'{line}\\n')\nprint('the end')",
    )
    machine.start(command, environment={"PYTHONUNBUFFERED": ""})
    agent = psutil.Process(machine.agent.pid)
    largest = 0

    def over() -> bool:
        nonlocal largest
        if machine.agent.poll() is None:
            largest = max(largest, agent.memory_info().rss)
        return machine.agent.poll() is not None

    wait_for(over, "the end of the flood")
    told = machine.end()
    assert told.outcome is Outcome.COMPLETED
    assert told.tail[-1] == "the end"
    assert largest < 200 << 20
    log = machine.log()
    dropped = sum(int(line.split()[2]) for line in log.splitlines() if line.startswith("[spotrun] dropped"))
    printed = sum(len(line) + 1 for line in log.splitlines() if not line.startswith("[spotrun]"))
    assert printed + dropped == pytest.approx(100 * 1_000_000 + len("the end\n"), abs=1000)  # newlines before notes


OUTPUT = ("python", "-c", "import os; open(os.environ['SPOTRUN_OUTPUT_DIR'] + '/model', 'w').write('weights')")


def test_heartbeats_go_on_while_outputs_are_uploaded(machine: Machine) -> None:
    """And say what is going on: an upload may take longer than a stall is allowed to."""
    hold = machine.root / "hold"
    hold.touch()
    machine.start(OUTPUT, variant=0)
    first = wait_for(
        lambda: (beat := machine.heartbeat()) and beat.uploading and beat, "a heartbeat that says uploading"
    )
    wait_for(lambda: machine.heartbeat().beat > first.beat + 2, "more heartbeats")
    hold.unlink()
    assert machine.end().outcome is Outcome.COMPLETED
    assert not machine.heartbeat().uploading
    assert machine.store.read("output/model") == b"weights"


def test_a_run_whose_outputs_cannot_be_stored_has_failed(machine: Machine) -> None:
    """It must not look complete: the results would be gone with the machine."""
    (machine.root / "refuse").touch()
    machine.start(OUTPUT, variant=0)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 0)
    assert "output model could not be uploaded: not allowed to write there" in told.tail[-1]


def test_an_upload_that_hangs_does_not_outlive_the_lease(machine: Machine) -> None:
    """Nothing keeps a machine that no controller knows of, not even a store that never answers."""
    (machine.root / "hold").touch()
    machine.start(OUTPUT, variant=0, lease_s=200.0)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.LEASE_EXPIRED, 0)


def test_a_stop_does_not_wait_for_a_download(machine: Machine) -> None:
    """The command has not begun, so there is nothing to save."""
    machine.start("python training.py", inputs={"data": f"{machine.metadata.url}/never"})
    wait_for(machine.heartbeat, "a heartbeat")
    machine.control(ask=Ask.STOP)
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.STOPPED, None)
    assert not (machine.scratch / "ready").exists()


def test_an_environment_it_cannot_work_with_is_refused(tmp_path: Path) -> None:
    """Every missing variable is named, on stderr, and the exit code says so."""
    told = subprocess.run(
        [sys.executable, "-m", "spotrun.agent"],
        env={"PATH": os.environ["PATH"], "SPOTRUN_JOB_ID": "job-1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert told.returncode == 2
    assert "SPOTRUN_SPEC is not set" in told.stderr
    assert "SPOTRUN_SCRATCH is not set" in told.stderr
