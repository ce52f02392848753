"""Outputs: what the command left in its output directory goes to the job's place in the store."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

from spotrun.clock import Clock
from spotrun.errors import StoreError, StoreUnavailable
from spotrun.store.blob import BlobStore

__all__ = ["OUTPUT_PREFIX", "output_files", "upload_outputs"]

OUTPUT_PREFIX = "output/"

_TRIES = 6  # for each file; with the pauses a store may be away for five minutes of job time
_PAUSE_S = 10.0  # doubled after each try


def output_files(directory: Path) -> list[Path]:
    """The regular files below `directory`, sorted; links to files count, links to directories are not followed."""
    paths = (Path(parent) / name for parent, _, names in os.walk(directory) for name in names)
    return sorted(path for path in paths if path.is_file())


def upload_outputs(
    store: BlobStore, directory: Path, *, clock: Clock, abandoned: threading.Event, prefix: str = OUTPUT_PREFIX
) -> int:
    """Uploads every file to `<prefix><path below directory>`, replacing what an earlier attempt left there.

    Returns:
        How many files were uploaded; `abandoned` ends it early.

    Raises:
        StoreError: a file could not be read or uploaded; names it.
    """
    uploaded = 0
    for path in output_files(directory):
        name = path.relative_to(directory).as_posix()
        for turn in range(_TRIES):
            if abandoned.is_set():
                return uploaded
            try:
                _upload(store, prefix + name, path)
                break
            except StoreUnavailable as err:
                if turn == _TRIES - 1:
                    raise StoreUnavailable(f"output {name} could not be uploaded in {_TRIES} tries: {err}") from err
                abandoned.wait(clock.wall(_PAUSE_S * 2**turn))
            except StoreError as err:
                raise StoreError(f"output {name} could not be uploaded: {err}") from err
            except OSError as err:
                raise StoreError(f"output {name} could not be read: {err.strerror}") from err
        uploaded += 1
    return uploaded


def _upload(store: BlobStore, key: str, path: Path) -> None:
    with path.open("rb") as file:
        if not path.stat().st_size:
            store.write(key, [b""])
            return
        # Mapped, not read: an output may be larger than memory.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            store.write(key, [view])
