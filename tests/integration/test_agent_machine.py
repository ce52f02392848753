"""An attempt on a rented machine, with real processes: what is fetched, what is kept, and that it always ends itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rented_machine import RentedMachine, wait_for

from spotrun.agent.cache import cache_prefix
from spotrun.job.machine import Bundle, LaunchDocument, Package
from spotrun.job.message import Outcome, TrainingPhase

TRAIN = """
import os, json
from pathlib import Path

import package.answer as answer

cache = Path(os.environ["HOME"], ".cache/things")
seen = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
out = Path(os.environ["SPOTRUN_OUTPUT_DIR"], "told.json")
told = {"answer": answer.ANSWER, "cached": seen, "cwd": os.getcwd(), "region": os.environ.get("AWS_DEFAULT_REGION"),
        "instance": os.environ["SPOTRUN_INSTANCE"], "bundle": os.environ.get("SPOTRUN_BUNDLE"), "set up": Path("ready").read_text()}
out.write_text(json.dumps(told))
print("trained")
"""
SET_UP = """
import os
from pathlib import Path

cache = Path(os.environ["HOME"], ".cache/things")
new = cache / f"deep/{os.environ['SPOTRUN_ATTEMPT']}"
new.parent.mkdir(parents=True, exist_ok=True)
new.write_text("a wheel")
Path("ready").write_text(os.environ["SPOTRUN_ATTEMPT"])
print("setting up")
"""
# Attached as far as the agent can see: it tells progress, and saves when it is asked to.
SAVER = """
import json, os, sys, time
from datetime import datetime, timezone
from pathlib import Path

scratch = Path(os.environ["SPOTRUN_SCRATCH"])
request = scratch / "request.json"
last = ""
while True:
    now = datetime.now(timezone.utc).isoformat()
    (scratch / "new.json").write_text(json.dumps({"phase": "training", "at": now, "training_at": now, "step": 1}))
    (scratch / "new.json").replace(scratch / "progress.json")
    text = request.read_text() if request.exists() else ""
    if text != last:
        last = text
        print("saved for", json.loads(text)["ask"], flush=True)
        if json.loads(text)["ask"] == "stop":
            sys.exit(0)
    time.sleep(0.01)
"""

Rent = Callable[..., RentedMachine]


@pytest.fixture
def rent(tmp_path: Path) -> Iterator[Rent]:
    """Gives machines that share a store and nothing else."""
    rented: list[RentedMachine] = []

    def one(attempt: int = 1) -> RentedMachine:
        rented.append(RentedMachine(tmp_path, attempt))
        return rented[-1]

    yield one
    for machine in rented:
        machine.close()


def test_an_attempt_fetches_sets_up_runs_keeps_and_ends_its_machine(rent: Rent) -> None:
    """The second attempt, on another machine, finds what the first one put into the cache."""
    for attempt, cached in ((1, ["deep/1"]), (2, ["deep/1", "deep/2"])):
        machine = rent(attempt)
        bundle = machine.bundle(
            **{"train": TRAIN, "set_up": SET_UP, "package/__init__": "", "package/answer": "ANSWER = 42"}
        )
        machine.launch(
            bundle, command="python train.py", setup=["python set_up.py"], cache=["~/.cache/things", "absent"]
        )
        machine.start()
        told = machine.end()
        assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0), machine.log()
        assert json.loads(machine.store.read("output/told.json")) == {
            "answer": 42,
            "cached": cached,
            "cwd": str(machine.folder / "work"),
            "region": "eu-west-9",
            "instance": machine.id,
            "bundle": None,
            "set up": str(attempt),
        }
        lines = machine.log().splitlines()
        wanted = [
            "[spotrun] setup: python set_up.py",
            "setting up",
            f"[spotrun] attempt {attempt} starts python",
            "trained",
        ]
        assert [line for line in lines if line in wanted] == wanted
        assert told.progress is not None
        assert told.progress.setup_at is not None
        assert told.progress.setup_until is not None


def test_a_setup_command_that_fails_is_the_end_of_the_attempt(rent: Rent) -> None:
    """Its exit code counts like the command's, which is not started."""
    machine = rent()
    bundle = machine.bundle(train="print('never')", set_up="import sys; print('no such wheel'); sys.exit(7)")
    machine.launch(bundle, command="python train.py", setup=["python set_up.py", "python train.py"])
    machine.start()
    told = machine.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 7)
    assert told.tail[-2:] == (
        "no such wheel",
        "[spotrun] setup: python set_up.py ended with exit code 7; the command is not started",
    )
    assert "never" not in machine.log()


def test_setup_is_a_phase_that_heartbeats_tell(rent: Rent) -> None:
    """A stop in the middle of it ends the setup command at once."""
    machine = rent()
    slow = "import time\nprint('downloading', flush=True)\nwhile True: time.sleep(0.01)"
    machine.launch(machine.bundle(set_up=slow), command="python train.py", setup=["python set_up.py"])
    machine.start()
    beat = wait_for(lambda: (it := machine.heartbeat()) and it.progress and it, "news of the setup")
    assert beat.progress.phase is TrainingPhase.SETUP
    assert beat.progress.setup_at is not None
    assert beat.progress.setup_until is None
    control = {"attempt": 1, "lease_until": "2099-01-01T00:00:00Z", "ask": "stop", "reason": "enough"}
    machine.store.write(machine.place.control, [json.dumps(control).encode()])
    assert machine.end().outcome is Outcome.STOPPED


@pytest.mark.parametrize(
    "case", ["no document", "another document", "another attempt's", "code of somebody else", "no spec"]
)
def test_what_is_wrong_with_a_launch_is_told_and_ends_the_machine(rent: Rent, case: str) -> None:
    """The user reads a sentence; the machine does not wait for anybody."""
    machine = rent()
    bundle = machine.bundle(train="print('never')")
    machine.launch(bundle, command="python train.py")
    match case:
        case "no document":
            machine.store.delete(machine.document.key)
            sentence = f"no object under '{machine.document.key}'"
        case "another document":
            machine.store.write(machine.document.key, [b'{"attempt": 1, "environment": {"PATH": "sesame"}}'])
            sentence = f"{machine.document.key} is not what this machine was launched with: its digest differs"
        case "another attempt's":
            machine.replace(LaunchDocument(attempt=7, environment={}))
            sentence = "is for attempt 7, and this machine is attempt 1"
        case "code of somebody else":
            assert bundle.code is not None
            machine.store.write(bundle.code.key, [b"x" * bundle.code.size_bytes])
            sentence = f"{bundle.code.key} is not the code that was submitted"
        case "no spec":
            machine.replace(LaunchDocument(attempt=1, environment={"SPOTRUN_LEASE_S": "sesame"}))
            sentence = "SPOTRUN_LEASE_S is malformed"
    machine.start()
    told = machine.end()
    assert told.outcome is Outcome.START_FAILED
    assert sentence in "\n".join(told.tail)
    assert "sesame" not in "\n".join(told.tail)
    assert "never" not in machine.log()


def test_a_machine_whose_order_cannot_be_read_ends_itself(rent: Rent) -> None:
    """There is nobody whom it could tell."""
    machine = rent()
    machine.start(b"{")
    assert machine.agent is not None
    assert machine.agent.wait(60.0) == 1
    assert machine.off.read_text() == "-h now "
    assert "the agent failed: ValidationError" in machine.told()


def test_a_lease_that_nobody_renews_saves_and_ends_the_machine(rent: Rent) -> None:
    """The second guard: a controller that is gone for good leaves nothing that bills."""
    machine = rent()
    machine.launch(machine.bundle(train=SAVER), command="python train.py", lease_s=20.0)
    machine.start()
    told = machine.end()
    assert told.outcome is Outcome.LEASE_EXPIRED
    assert "saved for stop" in machine.log()
    assert "no controller renewed the lease: this attempt ends itself before it costs more" in machine.log()


def test_a_recommendation_to_rebalance_saves_and_goes_on(rent: Rent) -> None:
    """It is no notice: nothing ends, and the heartbeat tells of it."""
    machine = rent()
    machine.launch(machine.bundle(train=SAVER), command="python train.py")
    machine.start()
    wait_for(lambda: (it := machine.heartbeat()) and it.progress, "the training to tell of itself")
    assert "saved" not in machine.log()
    machine.metadata.facts["events/recommendations/rebalance"] = '{"noticeTime": "2026-11-27T12:00:00Z"}'
    wait_for(lambda: "saved for save" in machine.log(), "a save")
    beat = wait_for(lambda: (it := machine.heartbeat()) and it.recommended_at and it, "the heartbeat to tell of it")
    assert beat.notice_deadline is None
    assert machine.agent is not None
    assert machine.agent.poll() is None


def test_a_recommendation_may_be_ignored(rent: Rent) -> None:
    """Then nobody even looks for it, and a notice is heard as ever."""
    machine = rent()
    machine.metadata.facts["events/recommendations/rebalance"] = '{"noticeTime": "2026-11-27T12:00:00Z"}'
    machine.launch(machine.bundle(train=SAVER), command="python train.py", ec2={"rebalance": "ignore"})
    machine.start()
    wait_for(lambda: (it := machine.heartbeat()) and it.progress, "the training to tell of itself")
    machine.metadata.facts["spot/instance-action"] = '{"action": "terminate", "time": "2099-11-27T12:00:00Z"}'
    beat = wait_for(lambda: (it := machine.heartbeat()) and it.notice_deadline and it, "the notice")
    assert beat.recommended_at is None
    assert "rebalance" not in machine.log()


def test_a_bundle_without_code_runs_what_the_image_has(rent: Rent) -> None:
    """A command may be a program of the image."""
    machine = rent()
    machine.launch(Bundle(), command=["python", "-c", "print('from the image')"])
    machine.start()
    assert machine.end().outcome is Outcome.COMPLETED
    assert "from the image" in machine.log()


def test_a_damaged_cache_is_made_anew(rent: Rent) -> None:
    """It is a help and no condition; what is there afterwards replaces it."""
    machine = rent()
    record = {"key": f"cache/x/{'ab' * 32}.tar", "sha256": "ab" * 32, "size_bytes": 3, "listing": ""}
    machine.launch(machine.bundle(train="open('kept/file', 'w').write('1')", set_up="import os; os.makedirs('kept')"),
                   command="python train.py", setup=["python set_up.py"], cache=["kept"])  # fmt: skip
    prefix = cache_prefix("kept")
    machine.store.write(f"{prefix}/current.json", [json.dumps({**record, "key": f"{prefix}/{'ab' * 32}.tar"}).encode()])
    machine.store.write(f"{prefix}/{'ab' * 32}.tar", [b"xyz"])
    machine.start()
    assert machine.end().outcome is Outcome.COMPLETED
    assert "cache kept: not restored, the job goes on without it" in machine.log()
    assert json.loads(machine.store.read(f"{prefix}/current.json"))["size_bytes"] > 3
    assert machine.store.read(f"{prefix}/{'ab' * 32}.tar") == b"xyz"  # nothing is ever deleted


def test_a_package_of_no_size_is_no_code(rent: Rent) -> None:
    """An archive must be one."""
    machine = rent()
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    machine.store.write(f"code/{digest}.tar.gz", [b""])
    machine.launch(
        Bundle(code=Package(key=f"code/{digest}.tar.gz", sha256=digest, size_bytes=0)), command="python train.py"
    )
    machine.start()
    told = machine.end()
    assert told.outcome is Outcome.START_FAILED
    assert "the code could not be unpacked" in "\n".join(told.tail)


# Does what docker does, as far as the agent can tell: the client lives as long as the command, whose end is its own.
DOCKER = """
verb=$1; shift
if [ "$verb" != run ]; then echo "$verb $*" >>"{disk}/docker"; exit 0; fi
while [[ "$1" == --* ]]; do
  case "$1" in
    --rm | --init) shift ;;
    --entrypoint) entry=$2; shift 2 ;;
    *) shift 2 ;;
  esac
done
echo "run $1: $entry ${{*:2}}" >>"{disk}/docker"
exec "$entry" "${{@:2}}"
"""


def test_in_a_container_setup_changes_the_image_and_the_command_is_asked_by_file(rent: Rent) -> None:
    """No signal is sent to what cannot be looked into; a stop ends it all the same."""
    machine = rent()
    machine.program("docker", DOCKER.format(disk=machine.disk))
    bundle = machine.bundle(train=SAVER, set_up="open('ready', 'w').write('1')")
    machine.launch(bundle, command="python train.py", setup=["python set_up.py"], ec2={"docker": "my/training:1.4"})
    machine.start()
    wait_for(lambda: (it := machine.heartbeat()) and it.progress and it.progress.step, "the training to tell of itself")
    machine.metadata.facts["spot/instance-action"] = '{"action": "terminate", "time": "2099-11-27T12:00:00Z"}'
    wait_for(lambda: "saved for save" in machine.log(), "a save")
    del machine.metadata.facts["spot/instance-action"]
    control = {"attempt": 1, "lease_until": "2099-01-01T00:00:00Z", "ask": "stop", "reason": "enough"}
    machine.store.write(machine.place.control, [json.dumps(control).encode()])
    assert machine.end().outcome is Outcome.STOPPED
    assert "saved for stop" in machine.log()
    assert (machine.disk / "docker").read_text().splitlines() == [
        "pull --quiet my/training:1.4",
        "run my/training:1.4: python set_up.py",
        "commit spotrun-1-setup spotrun-1:ready",
        "rm --force spotrun-1-setup",
        "run spotrun-1:ready: python train.py",
    ]


def test_an_image_that_cannot_be_had_is_told(rent: Rent) -> None:
    """In docker's own words."""
    machine = rent()
    machine.program("docker", "echo 'manifest unknown' >&2; exit 1")
    machine.launch(machine.bundle(train=""), command="python train.py", ec2={"docker": "my/training:9"})
    machine.start()
    told = machine.end()
    assert told.outcome is Outcome.START_FAILED
    assert "ec2.docker: my/training:9 cannot be had: manifest unknown" in told.tail[-1]


def test_a_command_in_a_container_that_does_not_end_is_killed_there(rent: Rent) -> None:
    """The end of docker's client would leave the container: what nobody ends by asking is ended by docker."""
    machine = rent()
    machine.program("docker", DOCKER.format(disk=machine.disk))
    deaf = "import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('at work', flush=True)\nwhile True: time.sleep(0.05)"
    machine.launch(machine.bundle(train=deaf), command="python train.py", ec2={"docker": "my/training"}, scale=20.0)
    machine.start()
    wait_for(lambda: "at work" in machine.log(), "the command to run")
    control = {"attempt": 1, "lease_until": "2099-01-01T00:00:00Z", "ask": "stop", "reason": "enough"}
    machine.store.write(machine.place.control, [json.dumps(control).encode()])
    assert machine.end().outcome is Outcome.STOPPED
    assert (machine.disk / "docker").read_text().splitlines()[-1] == "kill spotrun-1"
