"""Inputs: what the job names is brought to the machine before the command starts."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from spotrun.agent.download import Download
from spotrun.agent.environment import input_variable
from spotrun.agent.log import OutputLog
from spotrun.clock import Clock
from spotrun.errors import SpecError, StoreMissing, StoreUnavailable
from spotrun.units import format_bytes

__all__ = ["fetch_inputs"]

_TRIES = 4  # a passing failure of an object store is over within a minute
_PAUSE_S = 5.0  # doubled after each try
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # trying again would find the same disk
_TOLD_EVERY_S = 30.0  # of job time, while a download goes on
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def fetch_inputs(
    inputs: Mapping[str, str],
    *,
    work_directory: Path,
    target: Path,
    log: OutputLog,
    clock: Clock,
    moved: Callable[[int], None] = lambda _: None,
) -> dict[str, Path]:
    """Makes every input available as a path: local ones where they are, others copied below `target`/<name>.

    Args:
        inputs: name -> URL, or path relative to `work_directory`.
        moved: is told of bytes that have come, from any thread.

    Returns:
        name -> file or directory.

    Raises:
        SpecError: a name cannot be a variable's.
        StoreMissing, StoreUnavailable: an input is not there, or could not be read.
    """
    _check_names(inputs)
    found: dict[str, Path] = {}
    for name, url in inputs.items():
        local = _local_path(url, work_directory)
        if local is None:
            log.say(f"input {name}: downloading {_shown(url)}")
            found[name] = _Input(name, url, target / name, log=log, clock=clock, moved=moved).fetch()
        elif local.exists():
            log.say(f"input {name}: using {local} where it is")
            found[name] = local
        else:
            raise _InputMissing(name, str(local))
    return found


class _InputMissing(StoreMissing):
    def __init__(self, name: str, where: str) -> None:
        super().__init__(where)
        self.args = (f"input {name}: there is nothing at {where}",)


def _check_names(inputs: Mapping[str, str]) -> None:
    variables: dict[str, str] = {}
    for name in inputs:
        if not _NAME.fullmatch(name):
            raise SpecError(f"inputs: {name!r} is no name for an input; use letters, digits, '_', '-' and '.'")
        other = variables.setdefault(input_variable(name), name)
        if other != name:
            raise SpecError(f"inputs: {other!r} and {name!r} would both be told as {input_variable(name)}; rename one")


def _local_path(url: str, work_directory: Path) -> Path | None:
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    if "://" in url or "::" in url:
        return None
    return work_directory / Path(url).expanduser()


class _Input:
    """One input on its way, patiently."""

    def __init__(
        self, name: str, url: str, target: Path, *, log: OutputLog, clock: Clock, moved: Callable[[int], None]
    ) -> None:
        self._name = name
        self._url = url
        self._target = target
        self._log = log
        self._clock = clock
        self._moved = moved
        self._download: Download | None = None
        self._lock = threading.Lock()
        self._seen = 0
        self._told_s = clock.monotonic()

    def fetch(self) -> Path:
        """Downloads it; gives where it is."""
        pause = threading.Event()  # nobody sets it: the agent abandons this thread when it must end
        for turn in range(_TRIES):
            try:
                path = self._try()
                size = self._download.bytes_done if self._download else 0
                self._log.say(f"input {self._name}: {format_bytes(size)} downloaded to {path}")
                return path
            except StoreUnavailable as err:
                if turn == _TRIES - 1:
                    raise
                self._log.say(f"{err}; trying again, what has come is kept")
                pause.wait(self._clock.wall(_PAUSE_S * 2**turn))
        raise AssertionError("unreachable: the last try returns or raises")

    def _try(self) -> Path:
        shown = _shown(self._url)
        try:
            if self._download is None:
                system, path = url_to_fs(self._url)
                self._download = Download(system, path, self._target, name=self._name)
            return self._download.run(moved=self._tell)
        except FileNotFoundError:
            raise _InputMissing(self._name, shown) from None
        except (ValueError, ImportError) as err:  # fsspec: no such protocol, or its package is not installed
            raise SpecError(f"input {self._name}: {shown} cannot be read: {err}") from err
        except Exception as err:  # fsspec's file systems raise whatever their clients do
            if isinstance(err, OSError) and err.errno in _FULL:
                raise SpecError(
                    f"input {self._name}: {shown} does not fit on this machine's disk ({err.strerror}); give it a larger one"
                ) from err
            raise StoreUnavailable(f"input {self._name}: {shown} could not be read: {type(err).__name__}") from err

    def _tell(self) -> None:
        download = self._download
        assert download is not None, "it is the one that tells"
        with self._lock:
            news, self._seen = download.bytes_done - self._seen, download.bytes_done
            due = self._clock.monotonic() - self._told_s >= _TOLD_EVERY_S
            if due:
                self._told_s = self._clock.monotonic()
            self._moved(news)
        if due:
            done, total = format_bytes(download.bytes_done), format_bytes(download.bytes_total)
            self._log.say(f"input {self._name}: {done} of {total}")


def _shown(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
