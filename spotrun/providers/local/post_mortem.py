"""What to do about a machine without a host: clear up and write its last word."""

from __future__ import annotations

from datetime import datetime

from spotrun.clock import ScaledClock, SystemClock, clock_from_text
from spotrun.providers.local.process import INSTANCE_TAG, kill_tagged
from spotrun.providers.local.state import EndRecord, StateFolder
from spotrun.providers.provider import EndCause

__all__ = ["settle"]

_START_WALL_S = 60.0  # a host that has not started so long after it was spawned never will


def settle(folder: StateFolder) -> EndRecord | None:
    """How the machine ended; None while it lives or may still start.

    A free lock without an end record means that the host died or never came. The processes of the machine are then
    killed by their tag and the record is written. Safe to call from any process at any time.
    """
    end = folder.end()
    if end is not None:
        return end
    with folder.lock() as ours:
        if not ours:
            return None  # the host lives, or somebody else is settling it
        end = folder.end()
        if end is None:
            end = _last_word(folder)
            if end is not None:
                folder.write_end(end)
        return end


def _last_word(folder: StateFolder) -> EndRecord | None:
    machine = folder.machine()
    clock = clock_from_text(machine.clock)
    if folder.host() is not None:
        return _lost(folder, machine.id, machine.launched_at, clock)
    if folder.termination_asked():
        return EndRecord(cause=EndCause.TERMINATED, ended_at=clock.now(), detail="it had not started yet")
    spawned_at = folder.last_beat() or machine.launched_at
    if clock.wall((clock.now() - spawned_at).total_seconds()) > _START_WALL_S:
        return EndRecord(
            cause=EndCause.LOST, ended_at=machine.launched_at, detail="its host never started; see its host.log"
        )
    return None


def _lost(folder: StateFolder, id: str, launched_at: datetime, clock: SystemClock | ScaledClock) -> EndRecord:  # noqa: A002
    found, living = kill_tagged(INSTANCE_TAG, id)
    detail = f"its host died; {found} of its processes were still running and were ended"
    if living:
        detail += f", but {living} hang in the kernel"
    # Its processes ran until now; without any, all went down together, as when the whole computer stops.
    last = clock.now() if found else folder.last_beat() or clock.now()
    return EndRecord(cause=EndCause.LOST, ended_at=max(last, launched_at), detail=detail)
