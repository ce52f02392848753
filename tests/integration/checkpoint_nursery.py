"""A process that has imported torch once, and forks a child for each request: real processes at the price of a fork.

Requests are lines of JSON on stdin, each answered by a line with the child's exit code (negative for a signal):
    argv: the script and its arguments, run as __main__;    cwd, environment;    output: file for stdout and stderr
    events: [when, what] in turn: "kill", "int", "term", "notice" or "stop", after so many seconds or, for [path, lines],
        once that file has so many lines; the child's end cuts all waiting short
    storage: [n, "before" or "after"]: the child kills itself around the n-th call to the store, counted from `armed`
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spotrun.checkpoint import hold
from spotrun.job.message import Ask, Request
from spotrun.store import BlobStore, open_store

_CHILD_LIMIT_S = 150.0


def serve() -> dict[str, Any] | None:
    """Answers requests; in a child, returns the request instead."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        sys.stdout.write(json.dumps(watch(pid, request)) + "\n")
        sys.stdout.flush()
    return None


def watch(pid: int, request: dict[str, Any]) -> int:
    """Lets the events happen to the child and waits for its end."""
    child = os.pidfd_open(pid)
    for when, what in [*request.get("events", []), [_CHILD_LIMIT_S, "kill"]]:
        if ends_before(child, when):
            break
        if what in ("notice", "stop"):
            ask = Request(ask=Ask.SAVE if what == "notice" else Ask.STOP)
            scratch = Path(request["environment"]["SPOTRUN_SCRATCH"])
            (scratch / "request.new").write_bytes(ask.to_bytes())
            (scratch / "request.new").rename(scratch / "request.json")
        signals = {"kill": signal.SIGKILL, "int": signal.SIGINT}
        os.kill(pid, signals.get(what, signal.SIGTERM))
    os.close(child)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ends_before(child: int, when: float | list[Any]) -> bool:
    """Waits for the moment; tells whether the child ended first."""
    if not isinstance(when, list):
        return bool(select.select([child], [], [], when)[0])
    path, lines = Path(when[0]), when[1]
    while not (path.exists() and path.read_bytes().count(b"\n") >= lines):
        if select.select([child], [], [], 0.001)[0]:
            return True
    return False


def become(request: dict[str, Any]) -> None:
    """In the child: runs the script as if it had been started anew."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.update(request.get("environment", {}))
    os.chdir(request["cwd"])
    sys.argv = list(request["argv"])
    if "storage" in request:
        call, when = request["storage"]
        hold.open_store = lambda uri, options: KillingStore(open_store(uri, options), call, when)
    torch.manual_seed(os.getpid()), np.random.seed(os.getpid())
    runpy.run_path(sys.argv[0], run_name="__main__")


class KillingStore:
    """Kills this process before or after a call to the store, once the file `armed` is there."""

    def __init__(self, inner: BlobStore, call: int, when: str) -> None:
        self.inner, self.left, self.when = inner, call, when

    def __getattr__(self, name: str) -> Any:
        what = getattr(self.inner, name)
        if not callable(what):
            return what

        def call(*arguments: Any, **more: Any) -> Any:
            self.left -= Path("armed").exists()
            dies = self.left == 0
            if dies and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = what(*arguments, **more)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def main(arguments: Sequence[str]) -> None:
    assert not arguments
    torch.set_num_threads(1)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer of a process loads half of torch
    gc.freeze()  # children need not walk, and thereby copy, what was imported
    request = serve()
    if request is not None:
        become(request)


if __name__ == "__main__":
    main(sys.argv[1:])
