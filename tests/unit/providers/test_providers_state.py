"""The state folder: whole or not there, locked by one, readable whatever happened."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from spotrun.clock import ScaledClock, SystemClock
from spotrun.errors import ProviderError
from spotrun.market import MarketKind
from spotrun.providers.local.post_mortem import settle
from spotrun.providers.local.state import EndRecord, HostRecord, Machine, StateFolder, folders, instance_id
from spotrun.providers.provider import EndCause

NOW = SystemClock().now()


def machine(id_: str, **changes: object) -> Machine:
    return Machine(
        **{  # type: ignore[arg-type]
            "id": id_,
            "job_id": "job-1",
            "attempt": 1,
            "token": "t",
            "zone": "use1-az1",
            "instance_type": "g5.xlarge",
            "market": MarketKind.SPOT,
            "launched_at": NOW,
            "ready_at": NOW,
            "notice_at": None,
            "loss_at": NOW + timedelta(hours=1),
            "clock": ScaledClock(NOW, 2.0).to_text(),
            "agent_argv": ("true",),
            "environment": {},
            "tags": {},
            **changes,
        }
    )


def made(home: Path, **changes: object) -> StateFolder:
    id_ = instance_id(home, "t")
    folder = StateFolder.of(home, job_id="job-1", id=id_)
    assert folder.create(machine(id_, **changes))
    return folder


def test_ids_follow_from_home_and_token(tmp_path: Path) -> None:
    """The same launch finds the same folder; other homes and tokens never collide with it."""
    assert instance_id(tmp_path, "t") == instance_id(tmp_path / ".", "t")
    assert len({instance_id(tmp_path, "t"), instance_id(tmp_path, "u"), instance_id(tmp_path / "x", "t")}) == 3
    assert instance_id(tmp_path, "t").startswith("i-")
    assert len(instance_id(tmp_path, "t")) == 19


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    """The second maker learns that it was late, and changes nothing."""
    folder = made(tmp_path)
    assert not folder.create(machine(folder.path.name, attempt=2))
    assert folder.machine().attempt == 1
    assert [path.name for path in folder.path.parent.iterdir()] == [folder.path.name]
    assert folder.path.stat().st_mode & 0o077 == 0


def test_records_come_back_as_written(tmp_path: Path) -> None:
    """Instants to the microsecond, kinds as enums."""
    folder = made(tmp_path)
    assert folder.machine() == machine(folder.path.name)
    record = HostRecord(metadata_url="http://127.0.0.1:1", agent_started_at=NOW)
    folder.write_host(record)
    assert folder.host() == record
    end = EndRecord(cause=EndCause.EXITED, ended_at=NOW)
    folder.write_end(end)
    assert folder.end() == end


def test_the_lock_is_held_by_one(tmp_path: Path) -> None:
    """And free again after the block."""
    folder = made(tmp_path)
    with folder.lock() as first:
        with folder.lock() as second:
            assert (first, second) == (True, False)
    with folder.lock() as third:
        assert third


def test_only_ids_are_looked_up(tmp_path: Path) -> None:
    """No pattern and no path gets through, and unfinished folders are not seen."""
    folder = made(tmp_path)
    (folder.path.parent / ".new-abc").mkdir()
    assert [found.path for found in folders(tmp_path)] == [folder.path]
    assert [found.path for found in folders(tmp_path, id=folder.path.name)] == [folder.path]
    for nonsense in ("*x", "i-*", "..", "", "i-0123456789abcdefg"):
        assert folders(tmp_path, id=nonsense) == []
    assert folders(tmp_path, job_id="../*") == []
    assert folders(tmp_path / "nowhere") == []


def test_a_damaged_machine_record_is_told_with_its_path(tmp_path: Path) -> None:
    """Somebody edited it."""
    folder = made(tmp_path)
    (folder.path / "machine.json").write_text("{")
    with pytest.raises(ProviderError, match=r"machine\.json is missing or damaged"):
        folder.machine()


def test_a_machine_that_may_still_start_is_left_alone(tmp_path: Path) -> None:
    """Launched a moment ago, its host on the way: no verdict."""
    now = SystemClock().now()
    folder = made(tmp_path, launched_at=now, ready_at=now, clock=ScaledClock(now, 2.0).to_text())
    folder.beat(now)
    assert settle(folder) is None
    assert folder.end() is None


def test_a_machine_whose_host_never_came_is_lost_and_costs_nothing(tmp_path: Path) -> None:
    """Launched and spawned long ago, nobody took the lock: it ended when it was launched."""
    now = SystemClock().now()
    long_ago = now - timedelta(hours=1)
    folder = made(tmp_path, launched_at=long_ago, ready_at=long_ago, clock=ScaledClock(now, 2.0).to_text())
    folder.beat(now)  # spawned just now, by a controller that came back
    assert settle(folder) is None
    folder.beat(now - timedelta(minutes=30))
    end = settle(folder)
    assert end is not None
    assert (end.cause, end.ended_at) == (EndCause.LOST, long_ago)
    assert settle(folder) == end


def test_a_machine_with_a_living_host_is_left_alone(tmp_path: Path) -> None:
    """The lock is the only proof of life that counts."""
    folder = made(tmp_path)
    folder.write_host(HostRecord(metadata_url="http://127.0.0.1:1"))
    with folder.lock():
        assert settle(folder) is None
    end = settle(folder)
    assert end is not None
    assert end.cause is EndCause.LOST


def test_a_torn_beat_is_no_beat(tmp_path: Path) -> None:
    """It is written without sync, every second."""
    folder = made(tmp_path)
    assert folder.last_beat() is None
    folder.beat(NOW)
    assert folder.last_beat() == NOW
    (folder.path / "beat").write_text('"2026-')
    assert folder.last_beat() is None
