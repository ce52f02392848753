"""`python -m spotrun.chaos.nursery`: a process that has imported torch once and forks a child for each script.

Real processes and real kills at the price of a fork; importing torch anew costs seconds each time. A request is a line
of JSON on stdin, answered by the child's process id and, once it has ended, by its exit code. Each child leads a
session of its own, so that a kill of its group takes its loader workers along, as the end of a machine would.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy

from spotrun.chaos.child import run_script

__all__ = ["serve"]


def serve() -> dict[str, Any] | None:
    """Answers requests until stdin ends; in a child, returns its request instead."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        _say(pid)
        _say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return None


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    numpy.random.seed()  # as in a new process; Python's own generator does that by itself
    run_script(Path(request["place"]), request["argv"], witness=request["witness"], detect=request["detect"])


if __name__ == "__main__":
    torch: Any = importlib.import_module("torch")
    importlib.import_module("spotrun.checkpoint")
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads half of torch
    gc.freeze()  # children need not walk, and thereby copy, what was imported
    asked = serve()
    if asked is not None:
        _become(asked)
