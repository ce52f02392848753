"""The processes of a simulated machine: how they are found, and how all of them end.

A process belongs to the machine when its environment carries the machine's tag, or when it is in the agent's session.
A pid alone proves nothing: the agent's pid is used only by its parent, which keeps it from being dealt out anew by not
reaping the agent before everything else is gone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from subprocess import Popen
from typing import Any

import psutil

from spotrun.clock import SystemClock

__all__ = ["HOST_TAG", "INSTANCE_TAG", "kill_group", "kill_tagged", "wait_for_end"]

INSTANCE_TAG = "SPOTRUN_INSTANCE"  # carried by the agent and all it starts
HOST_TAG = "SPOTRUN_HOST"  # carried by the host alone

_KILL_WALL_S = 20.0  # a process that survives SIGKILL this long hangs in a device and needs a reboot
_ROUND_WALL_S = 0.01


def kill_group(agent: Popen[Any]) -> None:
    """Kills the agent's process group at one blow. Only its parent may, and only before reaping it."""
    try:
        os.killpg(agent.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
        return


def kill_tagged(tag: str, value: str, *, session: int | None = None) -> tuple[int, int]:
    """Kills every process whose environment says `tag=value`, again and again until none is left.

    Args:
        session: members of this session too; only while its leader is not reaped.

    Returns:
        How many were found at all, and how many still live: those hang in the kernel.
    """
    clock = SystemClock()
    until = clock.monotonic() + _KILL_WALL_S
    found: set[int] = set()
    while True:
        living = list(_members(tag, value, session))
        if not living or clock.monotonic() > until:
            return len(found), len(living)
        for process in living:
            found.add(process.pid)
            try:
                process.kill()
            except psutil.Error:
                continue  # gone meanwhile; the next round looks again
        clock.sleep(_ROUND_WALL_S)


def wait_for_end(process: Popen[Any]) -> None:
    """Blocks until a child of ours has ended, and leaves it unreaped, so that its pid stays its own."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return
    clock = SystemClock()  # macOS before Python 3.13
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        clock.sleep(0.02)


def _members(tag: str, value: str, session: int | None) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(tag) != value and (session is None or os.getsid(process.pid) != session):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue  # gone, or not ours to look at
