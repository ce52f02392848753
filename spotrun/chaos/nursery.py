"""`python -m spotrun.chaos.nursery`: a process that has imported torch once and forks a child for each script.

Real processes and real kills at the price of a fork; importing torch anew costs seconds each time. A request is a line
of JSON on stdin, answered by the child's process id and, once it has ended, by its exit code. Each child leads a
session of its own, so that a kill of its group takes its loader workers along, as the end of a machine would. Where
several processes train together, the child forks them and does what torchrun does: once one fails, the others are asked
to end, and killed half a minute later.

Arguments are modules to import beforehand.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy

from spotrun.chaos.child import run_script

__all__ = ["serve"]

_GRACE_S = 30  # as torchrun gives the processes of a training of which one has failed


def serve() -> dict[str, Any] | None:
    """Answers requests until stdin ends; in a child, returns its request instead."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if request["processes"] > 1:
            _import_for_several()
        pid = os.fork()
        if pid == 0:
            return request
        _say(pid)
        _say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return None


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _import_for_several() -> None:
    for name in ("torch.distributed.fsdp", "torch.distributed.device_mesh", "spotrun.checkpoint.distributed.gang"):
        importlib.import_module(name)


def _lead(request: dict[str, Any]) -> dict[str, str]:
    """Forks the processes of a training; in each of them, returns what its launcher tells it. Never returns otherwise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = request["processes"]
    living = set()
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            told = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            return {name: str(value) for name, value in told.items()}
        living.add(pid)

    def send(number: int) -> None:
        for each in living:
            os.kill(each, number)

    signal.signal(signal.SIGALRM, lambda *_: send(signal.SIGKILL))
    failed = False
    while living:
        pid, status = os.wait()
        living.discard(pid)
        if status and not failed:
            failed = True
            send(signal.SIGTERM)
            signal.alarm(_GRACE_S)
    os._exit(int(failed))


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    launched = _lead(request) if request["processes"] > 1 else {}
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["environment"] | launched)
    os.chdir(request["cwd"])
    numpy.random.seed()  # as in a new process; Python's own generator does that by itself
    run_script(Path(request["place"]), request["argv"], witness=request["witness"], detect=request["detect"])


if __name__ == "__main__":
    torch: Any = importlib.import_module("torch")
    importlib.import_module("spotrun.checkpoint")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads half of torch
    gc.freeze()  # children need not walk, and thereby copy, what was imported
    asked = serve()
    if asked is not None:
        _become(asked)
