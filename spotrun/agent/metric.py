"""The training's metrics on their way to the store: the growing file, followed by offset, whole lines only."""

from __future__ import annotations

import contextlib
from pathlib import Path

from spotrun.job.message import SHIPPED

__all__ = ["MetricTail"]

_CHUNK_BYTES_MAX = 1 << 20


class MetricTail:
    """Follows `metrics.jsonl`. A line without its end is left for the next look. One thread only."""

    def __init__(self, path: Path, *, chunk_bytes_max: int = _CHUNK_BYTES_MAX) -> None:
        self._path = path
        self._shipped = path.with_name(SHIPPED)
        self._chunk_bytes_max = chunk_bytes_max
        self._offset = 0

    def confirm(self) -> None:
        """Tells the training that everything taken so far is in the store: a commit need not carry it any more."""
        draft = self._shipped.with_name(f".{SHIPPED}.new")
        with contextlib.suppress(OSError):  # then the next commit carries more than it must
            draft.write_text(str(self._offset), encoding="ascii")
            draft.replace(self._shipped)

    def take(self) -> bytes:
        """The next whole lines, up to a chunk; empty when there is no news."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                block = file.read(self._chunk_bytes_max)
        except FileNotFoundError:
            return b""  # nothing written yet
        end = block.rfind(b"\n") + 1
        if not end and len(block) == self._chunk_bytes_max:
            end = len(block)  # no line is that long: pass it on as it is rather than wait for its end forever
        self._offset += end
        return block[:end]
