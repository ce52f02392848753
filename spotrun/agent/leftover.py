"""What a command leaves behind on the machine: its descendants, found as such or by the instance's tag."""

from __future__ import annotations

import os

import psutil

__all__ = ["kill_leftovers"]

_ROUNDS_MAX = 5  # a process may fork while the others are being killed
_ROUND_WALL_S = 1.0  # to wait for killed processes in each round


def kill_leftovers(instance_id: str, *, spare: int | None) -> int:
    """Kills every process of the instance but this one, those it descends from (the host) and `spare`.

    Returns:
        How many still live: they hang in the kernel, and only the end of the machine ends them.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    if spare is not None:
        spared.add(spare)
    living: list[psutil.Process] = []
    for _ in range(_ROUNDS_MAX):
        living = [process for process in _processes(instance_id) if process.pid not in spared]
        if not living:
            return 0
        for process in living:
            _kill(process)
        # Only others' children or orphans: `spare`, our own child, must be reaped by who started it.
        _, living = psutil.wait_procs(living, timeout=_ROUND_WALL_S)
    return len(living)


def _processes(instance_id: str) -> list[psutil.Process]:
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        if process.pid not in found and _carries(process, instance_id):
            found[process.pid] = process
    if os.getpgrp() == os.getpid():  # the group is ours: whoever hid its environment is still in it
        for process in psutil.process_iter():
            if process.pid not in found and _group(process) == os.getpgrp():
                found[process.pid] = process
    return [process for process in found.values() if _alive(process)]


def _carries(process: psutil.Process, instance_id: str) -> bool:
    try:
        return process.environ().get("SPOTRUN_INSTANCE") == instance_id
    except psutil.Error:
        return False  # gone, or not ours to look at


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return  # gone meanwhile; a living one is counted at the end
