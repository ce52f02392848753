"""Ends everything that runs under a home, whatever its controllers are doing: for `spotrun reap`, and after tests."""

from __future__ import annotations

from pathlib import Path

from spotrun.clock import SystemClock
from spotrun.errors import ProviderError
from spotrun.providers.local.post_mortem import settle
from spotrun.providers.local.process import HOST_TAG, INSTANCE_TAG, kill_tagged
from spotrun.providers.local.state import StateFolder, folders

__all__ = ["living", "sweep"]

_PATIENCE_WALL_S = 15.0  # a host needs its grace and the time to end what it runs


def living(home: Path) -> tuple[str, ...]:
    """The ids of the machines under a home that have not ended."""
    return tuple(folder.path.name for folder in folders(home) if not _ended(folder))


def sweep(home: Path) -> tuple[str, ...]:
    """Ends every machine under a home and returns when all have ended, within half a minute.

    Returns:
        The ids of those that were still living.

    Raises:
        ProviderError: some could not be ended; all that could, have.
    """
    found = [folder for folder in folders(home) if folder.end() is None]
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


def _force(folder: StateFolder) -> bool:
    kill_tagged(HOST_TAG, folder.path.name)
    kill_tagged(INSTANCE_TAG, folder.path.name)
    return _ended(folder)


def _ended(folder: StateFolder) -> bool:
    try:
        return settle(folder) is not None
    except ProviderError:
        return False  # its record is damaged: it does not keep the others from being ended
