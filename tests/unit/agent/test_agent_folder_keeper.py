"""What the keeper does over the life of a command, on a store that fails to order. Job time runs 200 times as fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agent_fakes import make_config

from spotrun.agent.bell import Bell
from spotrun.agent.folder import FolderKeeper
from spotrun.agent.folder.news import Newsroom
from spotrun.agent.log import OutputLog
from spotrun.agent.observation import Observation
from spotrun.clock import ScaledClock, SystemClock
from spotrun.errors import SpecError, StoreDenied, StoreUnavailable
from spotrun.job.message import TrainingPhase
from spotrun.job.spec import Folder
from spotrun.store import CommitEntry, MemoryStore, read_log, read_manifest

WAIT_S = 20.0


class Store(MemoryStore):
    """Refuses to write or create what `refuses` says."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: Callable[[str], bool] = lambda key: False
        self.refused = 0

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self.check(key)
        super().write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        self.check(key)
        return super().create(key, data)

    def check(self, key: str) -> None:
        if self.refuses(key):
            self.refused += 1
            raise StoreDenied(f"not allowed to write {key}")


class Desk:
    """A keeper in a thread; the test is the command."""

    def __init__(self, root: Path, store: Store, bell: Bell, *, interval: str = "auto", **folder: object) -> None:
        section = {"path": "out", **folder}
        spec = {"checkpoint": {"uri": "s3://b/runs", "folder": section, "interval": interval}}
        self.store = store
        self.out = root / "out"
        self.clock = ScaledClock(SystemClock().now(), 200.0)
        self.log = OutputLog()
        self.config = make_config(root, **spec)
        self.keeper = FolderKeeper(
            self.config, Folder.model_validate(section), store=store, clock=self.clock, log=self.log, bell=bell
        )
        self.thread = threading.Thread(target=self.keeper.run, daemon=True)

    def begin(self) -> None:
        self.keeper.prepare()
        self.keeper.begin(tuple)
        self.thread.start()

    def end(self, *, clean: bool) -> None:
        self.keeper.finish(clean=clean)
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def steps(self) -> list[int]:
        return [entry.step for entry in read_log(self.store) if isinstance(entry, CommitEntry)]

    def said(self) -> str:
        return "\n".join(self.log.tail())

    def until(self, look: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not look():
            assert time.monotonic() < end, f"never came: {what}; it said {self.said()}"
            time.sleep(0.01)


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def test_a_store_that_refuses_for_a_while_costs_only_time(tmp_path: Path, bell: Bell) -> None:
    """The command runs on; the failure is told once, and the folder is committed as soon as the store takes it."""
    desk = Desk(tmp_path, Store(), bell)
    desk.begin()
    desk.store.refuses = lambda key: key.startswith("blobs/")
    (desk.out / "step-1.pt").write_text("one")
    desk.until(lambda: desk.store.refused >= 2, "a second try")
    assert desk.steps() == [0]
    assert desk.said().count("could not be committed: not allowed") >= 1
    desk.store.refuses = lambda key: False
    desk.until(lambda: desk.steps() == [0, 1], "the commit")
    desk.end(clean=False)


def test_a_commit_of_which_nobody_knows_whether_it_took_place_is_made_again(tmp_path: Path, bell: Bell) -> None:
    """The log entry was refused, say by a reply that was lost: what belongs to no known commit is stored anew."""
    desk = Desk(tmp_path, Store(), bell)
    desk.begin()
    desk.store.refuses = lambda key: key.startswith("log/") and desk.store.refused == 0
    (desk.out / "step-1.pt").write_text("one")
    desk.until(lambda: desk.steps() == [0, 1], "the commit")
    desk.end(clean=False)


def test_the_last_state_of_a_success_that_cannot_be_committed_is_a_problem(tmp_path: Path, bell: Bell) -> None:
    """The outcome must not say that all is well."""
    desk = Desk(tmp_path, Store(), bell)
    desk.begin()
    desk.store.refuses = lambda key: key.startswith("blobs/")
    (desk.out / "result").write_text("42")
    desk.end(clean=True)
    assert desk.keeper.problem is not None
    assert "could not be committed in 5 tries" in desk.keeper.problem
    assert desk.keeper.news().phase is TrainingPhase.TRAINING


def test_a_success_commits_what_is_there_however_new(tmp_path: Path, bell: Bell) -> None:
    """Nobody is left who could be writing."""
    desk = Desk(tmp_path, Store(), bell, quiet="1h")
    desk.begin()
    (desk.out / "step-9.pt").write_text("nine")
    desk.end(clean=True)
    assert desk.steps() == [0, 9]
    assert (desk.keeper.problem, desk.keeper.news().phase) == (None, TrainingPhase.DONE)


def test_a_failure_commits_nothing_that_was_not_seen_whole(tmp_path: Path, bell: Bell) -> None:
    """It may be half of a file."""
    desk = Desk(tmp_path, Store(), bell, quiet="1h")
    desk.begin()
    (desk.out / "step-9.pt").write_text("ni")
    desk.end(clean=False)
    assert desk.steps() == [0]
    assert "was writing to its folder" in desk.said()


def test_a_failure_commits_what_was_seen_whole_and_waited_for_the_interval(tmp_path: Path, bell: Bell) -> None:
    """The interval spares the store, not the work."""
    desk = Desk(tmp_path, Store(), bell, interval="2d")
    desk.begin()
    (desk.out / "step-9.pt").write_text("nine")
    desk.until(lambda: desk.keeper._whole is not None and desk.keeper._whole.listing.files, "a whole look")
    assert desk.steps() == [0]
    desk.end(clean=False)
    assert desk.steps() == [0, 9]


def test_a_notice_hurries(tmp_path: Path, bell: Bell) -> None:
    """No interval any more; the margin is recorded."""
    desk = Desk(tmp_path, Store(), bell, interval="2d")
    desk.begin()
    (desk.out / "step-9.pt").write_text("nine")
    desk.keeper.notice(desk.clock.now() + timedelta(hours=10))
    desk.until(lambda: desk.steps() == [0, 9], "the commit")
    desk.end(clean=False)
    commit = desk.keeper.news().last_commit
    assert commit is not None
    assert commit.on_notice
    assert commit.margin_s is not None
    assert 0 < commit.margin_s < 36_000
    assert "before the deadline" in desk.said()


def test_a_folder_that_is_never_whole_is_complained_of_once(tmp_path: Path, bell: Bell) -> None:
    """With the name of what changes all the time, and what to do."""
    desk = Desk(tmp_path, Store(), bell, quiet="500ms")
    object.__setattr__(desk.keeper, "_patience", replace(desk.keeper._patience, quiet_s=2.0))
    desk.begin()
    count = 0

    def rewrite() -> bool:
        nonlocal count
        count += 1
        (desk.out / "state.json").write_text(str(count))
        return "state.json has just changed" in desk.said()

    desk.until(rewrite, "the complaint")
    for _ in range(20):
        rewrite()
    assert desk.said().count("could be committed for") == 1
    assert "checkpoint.folder.growing" in desk.said()
    desk.end(clean=False)


def test_the_heartbeat_tells_of_the_folder(tmp_path: Path, bell: Bell) -> None:
    """As of a training that speaks for itself: phase, step, last commit; what was printed and changed are signs of life."""
    desk = Desk(tmp_path, Store(), bell)
    observation = Observation(desk.config, clock=desk.clock, log=desk.log)
    observation.folder = desk.keeper.news
    assert observation.progress() is None
    desk.begin()
    (desk.out / "step-9.pt").write_text("nine")
    desk.log.feed(b"hello")
    desk.until(lambda: desk.steps() == [0, 9], "the commit")
    desk.until(lambda: desk.keeper.news().commits == 1, "its news")
    told = observation.progress()
    assert told is not None
    assert told.told
    assert (told.phase, told.step, told.output_bytes, told.commits) == (TrainingPhase.TRAINING, 9, 5, 1)
    assert told.folder_changes
    assert told.last_commit is not None
    assert told.attached_at is not None
    assert told.training_at is not None
    assert told.last_step_at is not None
    assert told.attached_at <= told.training_at <= told.last_commit.captured_at <= told.last_step_at
    desk.end(clean=True)
    over = observation.progress()
    assert over is not None
    assert over.phase is TrainingPhase.DONE


def test_a_store_that_is_away_at_the_start_is_waited_for(tmp_path: Path, bell: Bell) -> None:
    """An outage of minutes must not end a job."""
    store = Store()
    away = [3]

    def refuse(key: str) -> bool:
        if key.startswith("log/") and away[0]:
            away[0] -= 1
            raise StoreUnavailable("the network is away")
        return False

    store.refuses = refuse
    desk = Desk(tmp_path, store, bell)
    desk.begin()
    assert "the store is away, the command waits for its folder" in desk.said()
    desk.end(clean=True)
    assert desk.steps() == [0]


def test_a_folder_with_a_data_set_in_it_starts_nothing(
    tmp_path: Path, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence, before hours of uploading."""
    monkeypatch.setattr("spotrun.agent.folder.listing.FILES_MAX", 3)
    desk = Desk(tmp_path, Store(), bell)
    desk.out.mkdir()
    for number in range(5):
        (desk.out / str(number)).touch()
    with pytest.raises(SpecError, match=r"holds more than 50000 files.*checkpoint\.folder\.ignore"):
        desk.keeper.prepare()


def test_the_commit_holds_the_folder(tmp_path: Path, bell: Bell) -> None:
    """No tensors; the state names the files."""
    desk = Desk(tmp_path, Store(), bell)
    desk.begin()
    (desk.out / "step-9.pt").write_text("nine")
    desk.end(clean=True)
    entry = [each for each in read_log(desk.store) if isinstance(each, CommitEntry)][-1]
    manifest = read_manifest(desk.store, entry)
    assert manifest.tensors == {}
    assert [file["path"] for file in manifest.state["folder"]["files"]] == ["step-9.pt"]
    assert manifest.writer == "i-123/folder"


def test_a_warning_is_told_once_and_the_newest_stay_in_the_heartbeat() -> None:
    """A folder full of oddities must not fill the log."""
    log = OutputLog()
    newsroom = Newsroom(log)
    for number in range(1000):
        newsroom.warn(f"warning {number}")
        newsroom.warn("the same")
    assert len(newsroom.news.warnings) == 20
    assert b"".join(iter(log.take, b"")).count(b"the same") == 1
