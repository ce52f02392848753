"""The command's output on its way to the store: bounded in memory, in order, with its last lines kept at hand.

Output never waits for the store: a training must not stand still because its log cannot be shipped. What is not
shipped yet is held in memory up to a limit; beyond it the newest output is dropped, and a line in its place says
how much. The last lines are kept apart and are always the true last ones.
"""

from __future__ import annotations

import codecs
import sys
import threading
from collections import deque

__all__ = ["OutputLog"]

_PENDING_BYTES_MAX = 8 << 20  # hours of ordinary output during a store outage, nothing beside a training's memory
_CHUNK_BYTES_MAX = 1 << 20
_TAIL_LINES = 40
_TAIL_LINE_CHARACTERS = 2000  # a 'line' may be a progress bar of any length


class OutputLog:
    """Takes bytes from the command and sentences from the agent, gives chunks of UTF-8 text. Thread-safe."""

    def __init__(self, *, pending_bytes_max: int = _PENDING_BYTES_MAX, chunk_bytes_max: int = _CHUNK_BYTES_MAX) -> None:
        self._pending_bytes_max = pending_bytes_max
        self._chunk_bytes_max = chunk_bytes_max
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = bytearray()
        self._dropped = 0
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self.received = 0  # bytes that the command has printed
        self._partial = ""  # the last line so far, its end not seen yet

    def feed(self, data: bytes) -> None:
        """Adds output of the command, cut anywhere."""
        with self._lock:
            self.received += len(data)
            self._add(self._decoder.decode(data))

    def close(self) -> None:
        """Says that the command's output has ended."""
        with self._lock:
            self._add(self._decoder.decode(b"", final=True))

    def say(self, sentence: str) -> None:
        """Adds a line of the agent's own; also to the agent's stderr, for when the store cannot be reached."""
        with self._lock:
            self._add(f"{self._new_line()}[spotrun] {sentence}\n")
        sys.stderr.write(f"[spotrun] {sentence}\n")
        sys.stderr.flush()

    def take(self) -> bytes:
        """The next chunk of whole characters, of whole lines where it can; empty when there is no news."""
        with self._lock:
            if self._dropped:
                # What was dropped came after everything pending, so its place is here, at the end.
                note = f"[spotrun] dropped {self._dropped} bytes of output, which came faster than the store took it\n"
                self._pending += (b"" if self._pending.endswith(b"\n") else b"\n") + note.encode()
                self._dropped = 0
            cut = self._cut()
            chunk = bytes(self._pending[:cut])
            del self._pending[:cut]
            return chunk

    def tail(self) -> tuple[str, ...]:
        """The last lines, as a terminal would show them."""
        with self._lock:
            last = (_shown(self._partial),) if self._partial else ()
            return (*self._lines, *last)[-_TAIL_LINES:]

    def _new_line(self) -> str:
        return "\n" if self._partial else ""

    def _add(self, text: str) -> None:
        if not text:
            return
        *ends, self._partial = (self._partial + text).rsplit("\n", _TAIL_LINES + 1)
        self._lines.extend(_shown(line) for line in ends[-_TAIL_LINES:])
        self._partial = self._partial[-_TAIL_LINE_CHARACTERS:]
        data = text.encode()
        if self._dropped or len(self._pending) + len(data) > self._pending_bytes_max:
            self._dropped += len(data)  # the rest of a gap is dropped too, until its note is taken
        else:
            self._pending += data

    def _cut(self) -> int:
        if len(self._pending) <= self._chunk_bytes_max:
            return len(self._pending)
        cut = self._pending.rfind(b"\n", 0, self._chunk_bytes_max) + 1
        if cut:
            return cut
        cut = self._chunk_bytes_max
        while self._pending[cut] & 0xC0 == 0x80:  # in the middle of a character
            cut -= 1
        return cut


def _shown(line: str) -> str:
    """A line as a terminal shows it: of a progress bar, the last state."""
    return line.rstrip("\r").rsplit("\r", 1)[-1][-_TAIL_LINE_CHARACTERS:]
