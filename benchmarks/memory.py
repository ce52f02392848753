"""How much memory a process and its children take, without disturbing them.

The training process: the kernel's own high-water mark (VmHWM), reset through `clear_refs`; it misses nothing and costs
nothing. Its children: their anonymous memory (RssAnon), looked at 20 times a second from outside. What they share with
the training process (staging buffers, libraries) is counted there, once.
"""

import ctypes
import gc
import os
import re
import threading
from collections import deque
from pathlib import Path

import psutil

MB = 1e6
LOOK_S = 0.05
LOOKS = 4  # a child counts with the least of its last looks: before `exec` it shows the memory of its parent


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The most this process has held since `reset_peak`."""
    return _field("VmHWM", os.getpid())


def held_mb() -> float:
    return _field("VmRSS", os.getpid())


def give_back() -> None:
    """Returns freed memory to the system, so that it is not taken for memory in use."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


class Children:
    """Watches the children of a process from outside; a context manager.

    Attributes:
        phase: what the process is doing now, a key of `peak_mb`.
    """

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.phase = "start"
        self.peak_mb: dict[str, float] = {}

    def __enter__(self) -> "Children":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: dict[int, deque[float]] = {}
        while not self._over.wait(LOOK_S):
            try:
                children = self._process.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            seen = {child.pid: seen.get(child.pid, deque([0.0] * LOOKS, LOOKS)) for child in children}
            for process, looks in seen.items():
                looks.append(_field("RssAnon", process))
            held = sum(min(looks) for looks in seen.values())
            self.peak_mb[self.phase] = max(held, self.peak_mb.get(self.phase, 0.0))


def _field(name: str, process: int) -> float:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.M)
    except OSError:
        return 0.0  # it has ended
    return int(found.group(1)) * 1024 / MB if found else 0.0
