"""The files in the attempt's scratch directory through which the agent and the training talk."""

from __future__ import annotations

from pathlib import Path

from spotrun.job.message import Progress, Request, parse

__all__ = ["Mailbox"]

_PROGRESS_BYTES_MAX = 1 << 20  # it is a few hundred bytes; the bound keeps a broken one out of memory


class Mailbox:
    """`progress.json` and `metrics.jsonl` from the training, `request.json` to it."""

    def __init__(self, scratch: Path) -> None:
        self.metrics = scratch / "metrics.jsonl"
        self._progress = scratch / "progress.json"
        self._request = scratch / "request.json"
        self._last: Progress | None = None

    def progress(self) -> Progress | None:
        """What the training last told; a torn or absent file leaves the last good one. None before the first."""
        try:
            with self._progress.open("rb") as file:
                told = parse(Progress, file.read(_PROGRESS_BYTES_MAX))
        except FileNotFoundError:
            told = None
        if told is not None:
            self._last = told
        return self._last

    def ask(self, request: Request) -> str:
        """Replaces the request as a whole: the training sees the old one or the new one. Says why it could not, if the disk
        is full, say; empty if it did."""
        draft = self._request.with_suffix(".json.new")
        try:
            draft.write_bytes(request.to_bytes())
            draft.replace(self._request)
        except OSError as err:
            return f"{self._request} cannot be written ({err.strerror or err})"
        return ""
