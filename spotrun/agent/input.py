"""Inputs: what the job names is brought to the machine before the command starts."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from spotrun.agent.environment import input_variable
from spotrun.agent.log import OutputLog
from spotrun.clock import Clock
from spotrun.errors import SpecError, StoreMissing, StoreUnavailable

__all__ = ["fetch_inputs"]

_TRIES = 4  # a passing failure of an object store is over within a minute
_PAUSE_S = 5.0  # doubled after each try
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def fetch_inputs(
    inputs: Mapping[str, str], *, work_directory: Path, target: Path, log: OutputLog, clock: Clock
) -> dict[str, Path]:
    """Makes every input available as a path: local ones where they are, others copied below `target`/<name>.

    Args:
        inputs: name -> URL, or path relative to `work_directory`.

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
            found[name] = _download(name, url, target / name, clock=clock)
            log.say(f"input {name}: downloaded to {found[name]}")
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


def _download(name: str, url: str, target: Path, *, clock: Clock) -> Path:
    pause = threading.Event()  # nobody sets it: the agent abandons this thread when it must end
    for turn in range(_TRIES):
        try:
            return _copy(name, url, target)
        except StoreUnavailable:
            if turn == _TRIES - 1:
                raise
            pause.wait(clock.wall(_PAUSE_S * 2**turn))
    raise AssertionError("unreachable: the last try returns or raises")


def _copy(name: str, url: str, target: Path) -> Path:
    try:
        system, path = url_to_fs(url)
        if not system.exists(path):
            raise _InputMissing(name, _shown(url))
        target.mkdir(parents=True, exist_ok=True)
        if system.isdir(path):
            system.get(path.rstrip("/") + "/", f"{target}/", recursive=True)
            return target
        file = target / (path.rstrip("/").rsplit("/", 1)[-1] or name)
        system.get_file(path, str(file))
    except StoreMissing:
        raise
    except (ValueError, ImportError) as err:  # fsspec: no such protocol, or its package is not installed
        raise SpecError(f"input {name}: {_shown(url)} cannot be read: {err}") from err
    except Exception as err:  # fsspec's file systems raise whatever their clients do
        raise StoreUnavailable(f"input {name}: {_shown(url)} could not be read: {type(err).__name__}") from err
    return file


def _shown(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
