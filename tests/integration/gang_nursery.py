"""A process that has imported torch once, and forks the processes of a training for each request.

Requests are lines of JSON on stdin, each answered by a line with the exit codes by rank (negative for a signal):
    world, argv, cwd, environment; output: a file for each rank, `<output>.<rank>`
    signal: [path, rank, number]: once that file exists, that rank gets the signal
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint
import torch.distributed.device_mesh
import torch.distributed.fsdp
import torch.distributed.tensor

import spotrun
import spotrun.checkpoint.attachment
import spotrun.checkpoint.dcp

assert spotrun
assert torch.distributed.fsdp
assert torch.distributed.tensor
assert torch.distributed.device_mesh
assert torch.distributed.checkpoint
assert spotrun.checkpoint.dcp

_LIMIT_S = 150.0  # generous: machines that run tests are busy


def serve() -> dict[str, Any] | None:
    """Answers requests; in a child, returns what it is to do."""
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(request["world"]):
            pid = os.fork()
            if pid == 0:
                return {**request, "rank": rank, "port": port}
            children.append(pid)
        sys.stdout.write(json.dumps(watch(children, request)) + "\n")
        sys.stdout.flush()
    return None


def watch(children: list[int], request: dict[str, Any]) -> list[int]:
    """Waits for the end of all, sending what is to be sent; kills what takes too long."""
    handles = [os.pidfd_open(pid) for pid in children]
    if "signal" in request:
        path, rank, number = request["signal"]
        while not Path(path).exists() and not select.select([handles[rank]], [], [], 0.005)[0]:
            pass
        os.kill(children[rank], number)
    codes = []
    for pid, handle in zip(children, handles, strict=True):
        if not select.select([handle], [], [], _LIMIT_S)[0]:
            os.kill(pid, signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.close(handle)
    return codes


def become(request: dict[str, Any]) -> None:
    """In the child: runs the script as if a launcher had started it anew."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(f"{request['output']}.{request['rank']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    rank = str(request["rank"])
    os.environ.update(request.get("environment", {}))
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(request["world"]), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(request["port"]))  # fmt: skip
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    gc.freeze()
    work = serve()
    if work is not None:
        become(work)
