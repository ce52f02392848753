"""The folder contract on a machine: a real agent, a real script, real SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from folder_stage import Stage, eventually

from spotrun.clock import SystemClock
from spotrun.job.message import Outcome, TrainingPhase
from spotrun.store import Lineage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def total(steps: int) -> str:
    return str(steps * (steps + 1) // 2)


def test_a_script_that_knows_nothing_of_spotrun_resumes_after_its_machine_is_gone(stage: Stage) -> None:
    """Killed without a word at step 40 with step 30 committed: goes on from 30, although the disk still has step 40, half
    of it; and ends with the result of a run without interruptions."""
    stage.hold(31)
    stage.start("python count.py 60 10")
    stage.held()
    assert set(stage.files(stage.committed(30))) == {
        f"checkpoint-{step}/{name}" for step in (10, 20, 30) for name in ("state.json", "weights.bin")
    }
    stage.kill()
    (stage.out / "checkpoint-40").mkdir()
    (stage.out / "checkpoint-40" / "weights.bin").write_bytes(b"half of")
    stage.release(31)
    stage.start("python count.py 60 10")
    told = stage.end()
    assert (told.outcome, told.exit_code) == (Outcome.COMPLETED, 0)
    assert stage.notes() == ["start 0", "start 30", "end 60"]
    assert (stage.out / "result.txt").read_text() == total(60)
    last = stage.commits()[-1]
    assert last.step == 60
    assert stage.files(last)["result.txt"].decode() == total(60)
    assert told.progress is not None
    assert (told.progress.phase, told.progress.step, told.progress.resumed_from) == (TrainingPhase.DONE, 60, 30)
    aside = stage.work / ".spotrun" / "aside" / "job-1" / "attempt-000002" / "checkpoint-40" / "weights.bin"
    assert aside.read_bytes() == b"half of"


def test_another_machine_finds_the_folder_as_it_was(stage: Stage) -> None:
    """Nothing of the first machine's disk is left: files, modes and times are what the commit says."""
    stage.hold(11)
    stage.start("python count.py 20 10")
    stage.held()
    stage.committed(10)
    before = {path: path.stat() for path in stage.out.rglob("*")}
    stage.kill()
    stage.out.rename(stage.root / "lost")
    stage.start("python count.py 20 10")
    eventually(lambda: stage.notes()[1:] == ["start 10"], "the second start")
    for path, status in before.items():
        assert (path.stat().st_mode, path.stat().st_mtime_ns) == (status.st_mode, status.st_mtime_ns)
    beat = eventually(lambda: (beat := stage.heartbeat()) and beat.progress and beat, "a heartbeat")
    assert beat.progress is not None
    assert beat.progress.told
    assert (beat.progress.step, beat.progress.resumed_from) == (10, 10)


def test_at_a_notice_the_script_is_told_and_what_it_saves_is_committed(stage: Stage) -> None:
    """SIGTERM, a save, exit code 0: the job is not completed by that, and the next attempt goes on from there."""
    stage.hold(25)
    stage.start("python count.py 60 10 handler")
    stage.held()
    stage.committed(20)
    assert stage.agent is not None
    os.kill(stage.agent.pid, signal.SIGTERM)  # the machine shuts down: a notice of 120 s
    told = stage.end()
    assert told.outcome is Outcome.STOPPED
    last = stage.commits()[-1]
    assert (last.step, last.on_notice) == (25, True)
    assert "before the deadline" in stage.said()
    stage.release(25)
    stage.start("python count.py 60 10 handler")
    assert stage.end().outcome is Outcome.COMPLETED
    assert stage.notes() == ["start 0", "SIGTERM 25", "start 25", "end 60"]
    assert (stage.out / "result.txt").read_text() == total(60)


def test_a_script_that_is_deaf_is_left_alone_at_a_notice(stage: Stage) -> None:
    """SIGTERM would only end it; what it has written whole is committed, and it may go on."""
    stage.hold(21)
    stage.start("python count.py 40 10")
    stage.held()
    assert stage.agent is not None
    os.kill(stage.agent.pid, signal.SIGTERM)
    eventually(lambda: "has no handler for SIGTERM" in stage.said(), "the sentence")
    assert stage.committed(20).attempt == 1
    stage.release(21)
    assert stage.end().outcome is Outcome.COMPLETED


def test_a_script_hears_the_signal_that_it_knows(stage: Stage) -> None:
    """SIGUSR1, as clusters send it."""
    stage.hold(15)
    stage.start("python count.py 60 10 usr1", signal="SIGUSR1")
    stage.held()
    assert stage.agent is not None
    os.kill(stage.agent.pid, signal.SIGTERM)
    assert stage.end().outcome is Outcome.STOPPED
    assert stage.notes() == ["start 0", "SIGUSR1 15"]
    assert stage.commits()[-1].step == 15


def test_a_crash_in_the_middle_of_a_file_commits_what_was_whole(stage: Stage) -> None:
    """Half a checkpoint is never committed, whatever its name."""
    (stage.work / "crash.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "out = Path('out')\n"
        "(out / 'step-1.pt').write_bytes(b'one' * 1000)\n"
        "while not (Path(os.environ['WORK']) / 'go').exists():\n"
        "    time.sleep(0.01)\n"
        "(out / 'step-2.pt').write_bytes(b'tw')\n"
        "raise SystemExit(3)\n"
    )
    stage.start("python crash.py")
    stage.committed(1)
    (stage.work / "go").touch()
    told = stage.end()
    assert (told.outcome, told.exit_code) == (Outcome.FAILED, 3)
    assert set(stage.files(stage.commits()[-1])) == {"step-1.pt"}
    assert "was writing to its folder when it ended" in stage.said()


def test_a_script_that_attaches_to_a_kept_folder_is_refused_in_words(stage: Stage) -> None:
    """There would be two writers of one run."""
    (stage.work / "attach.py").write_text(
        "import spotrun, torch\nspotrun.attach(model=torch.nn.Linear(1, 1))\nprint('attached')\n"
    )
    stage.start("python attach.py")
    told = stage.end()
    assert told.outcome is Outcome.FAILED
    assert any("checkpoint.folder" in line for line in told.tail)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [({"path": "file"}, "is no directory"), ({"path": "link"}, "not inside of the working directory")],
)
def test_a_folder_that_cannot_be_one_starts_nothing(stage: Stage, folder: dict[str, object], sentence: str) -> None:
    """With a sentence that says what to do."""
    (stage.work / "file").touch()
    (stage.work / "link").symlink_to(stage.root)
    stage.start("python count.py 5 5", **folder)
    told = stage.end()
    assert told.outcome is Outcome.START_FAILED
    assert sentence in told.tail[-1]


def test_what_is_in_the_folder_before_the_first_attempt_is_what_it_starts_from(stage: Stage) -> None:
    """It is committed first; so an attempt that is lost before it has committed anything costs nothing of it, and what that
    attempt wrote does not come in the way of the next."""
    (stage.out / "checkpoint-7").mkdir(parents=True)
    (stage.out / "checkpoint-7" / "state.json").write_text('{"step": 7, "total": 28}')
    (stage.out / "checkpoint-7" / "weights.bin").write_bytes((7).to_bytes(4, "big") * 50_000)
    stage.hold(9)
    stage.start("python count.py 20 8")
    stage.held()
    stage.kill()
    assert [entry.step for entry in stage.commits()] == [7]
    stage.release(9)
    stage.start("python count.py 20 8")
    assert stage.end().outcome is Outcome.COMPLETED
    assert stage.notes() == ["start 7", "start 7", "end 20"]
    assert (stage.out / "result.txt").read_text() == total(20)


def test_a_newer_attempt_ends_this_one(stage: Stage) -> None:
    """The command of a machine that was taken for lost is killed as soon as it would commit: its work belongs to nobody."""
    stage.hold(11)
    stage.start("python count.py 60 10")
    stage.held()
    stage.committed(10)
    Lineage(stage.store, attempt=9, writer="another", clock=SystemClock()).claim()
    stage.hold(21)
    stage.release(11)
    told = stage.end()
    assert told.outcome is Outcome.FENCED
    assert [entry.attempt for entry in stage.commits()] == [1, 1]
    assert "end 60" not in stage.notes()


def test_an_interval_is_kept_but_not_at_a_notice_nor_at_the_end(stage: Stage) -> None:
    """Ten hours: of all generations only those are committed that would otherwise be lost."""
    stage.hold(25)
    stage.start("python count.py 60 10 handler", interval="10h")
    stage.held()
    assert stage.agent is not None
    os.kill(stage.agent.pid, signal.SIGTERM)
    assert stage.end().outcome is Outcome.STOPPED
    assert [entry.step for entry in stage.commits()] == [0, 25]
    stage.release(25)
    stage.start("python count.py 60 10 handler", interval="10h")
    assert stage.end().outcome is Outcome.COMPLETED
    assert [entry.step for entry in stage.commits()] == [0, 25, 60]


TORCH = """
import os, sys, time
from pathlib import Path
import torch

out, path = Path("out"), Path("out/last.ckpt")
torch.manual_seed(3)
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.Adam(model.parameters())
first = 0
if path.exists():
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    first = state["step"]
print("begins at", first, flush=True)
for step in range(first + 1, 41):
    batch = torch.randn(4, 8)
    loss = (model(batch) - batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(), "step": step}
        torch.save(state, path)
    while step == 15 and (Path(os.environ["WORK"]) / "hold").exists():
        (Path(os.environ["WORK"]) / "held").touch()
        time.sleep(0.01)
(out / "loss.txt").write_text(repr(loss.item()))
"""


def test_a_pytorch_script_with_its_own_checkpoints_ends_with_the_same_bits(stage: Stage) -> None:
    """torch.save over one file, in place; killed without a word, resumed on an empty disk."""
    (stage.work / "train.py").write_text(TORCH)
    (stage.work / "hold").touch()
    stage.start("python train.py")
    stage.held()
    eventually(lambda: [entry for entry in stage.commits() if entry.size], "a commit of the first checkpoint")
    stage.kill()
    (stage.work / "hold").unlink()
    stage.out.rename(stage.root / "lost")
    stage.start("python train.py")
    told = stage.end()
    assert told.outcome is Outcome.COMPLETED
    assert "begins at 10" in told.tail
    quiet = stage.root / "quiet"
    (quiet / "out").mkdir(parents=True)
    (quiet / "train.py").write_text(TORCH)
    subprocess.run(
        [sys.executable, "train.py"], cwd=quiet, check=True, timeout=100, env={**os.environ, "WORK": str(quiet)}
    )
    assert (stage.out / "loss.txt").read_text() == (quiet / "out" / "loss.txt").read_text()


def test_two_jobs_cannot_keep_one_folder_on_one_machine(stage: Stage) -> None:
    """Each would move the other's files aside."""
    stage.hold(11)
    stage.start("python count.py 60 10")
    stage.held()
    first = stage.agent
    stage.start("python count.py 60 10")
    told = stage.end()
    assert told.outcome is Outcome.START_FAILED
    assert "held by another job" in told.tail[-1]
    assert first is not None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
