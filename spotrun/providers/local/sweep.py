"""Ends everything that runs under a home, whatever its controllers are doing: for `spotrun reap`, and after tests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from spotrun.clock import SystemClock
from spotrun.errors import ProviderError
from spotrun.providers.leftover import Kind, Leftover
from spotrun.providers.local.post_mortem import settle
from spotrun.providers.local.process import HOST_TAG, INSTANCE_TAG, kill_tagged
from spotrun.providers.local.state import StateFolder, folders

__all__ = ["left_over", "living", "sweep"]

_PATIENCE_WALL_S = 15.0  # a host needs its grace and the time to end what it runs


def living(home: Path) -> tuple[str, ...]:
    """The ids of the machines under a home that have not ended."""
    return tuple(folder.path.name for folder in folders(home) if not _ended(folder))


def left_over(home: Path) -> tuple[Leftover, ...]:
    """The machines under a home that have not ended, each with its job."""
    found = []
    for folder in folders(home):
        if _ended(folder):
            continue
        try:
            machine = folder.machine()
        except ProviderError:  # its record is damaged: the folder still tells job and id
            found.append(_of_folder(folder))
            continue
        what = f"{machine.instance_type} {machine.market.value} in {machine.zone}, simulated"
        found.append(replace(_of_folder(folder), attempt=machine.attempt, what=what))
    return tuple(found)


def sweep(home: Path, *, only: Collection[str] | None = None) -> tuple[str, ...]:
    """Ends every machine under a home, or only those of these ids, and returns when all have ended, within half a minute.

    Returns:
        The ids of those that were still living.

    Raises:
        ProviderError: some could not be ended; all that could, have.
    """
    found = [folder for folder in folders(home) if folder.end() is None and (only is None or folder.path.name in only)]
    for folder in found:
        folder.ask_termination()
    clock = SystemClock()
    until = clock.monotonic() + _PATIENCE_WALL_S
    left = [folder for folder in found if not _ended(folder)]
    while left and clock.monotonic() < until:
        clock.sleep(0.05)
        left = [folder for folder in left if not _ended(folder)]
    stubborn = [str(folder.path) for folder in left if not _force(folder)]
    if stubborn:
        raise ProviderError(f"could not end every machine, or not record its end; see {', '.join(stubborn)}")
    return tuple(folder.path.name for folder in found)


def _of_folder(folder: StateFolder) -> Leftover:
    return Leftover(
        kind=Kind.PROCESS,
        id=folder.path.name,
        region="",
        job_id=folder.path.parent.name,
        attempt=0,
        usd_per_hour=Decimal(0),
    )


def _force(folder: StateFolder) -> bool:
    kill_tagged(HOST_TAG, folder.path.name)
    kill_tagged(INSTANCE_TAG, folder.path.name)
    return _ended(folder)


def _ended(folder: StateFolder) -> bool:
    try:
        return settle(folder) is not None
    except ProviderError:
        return False  # its record is damaged: it does not keep the others from being ended
