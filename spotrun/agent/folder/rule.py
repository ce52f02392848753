"""Which names mean what: temporary, growing, not ours. Patterns are the shell's; `*` also passes over slashes.

A pattern without a slash is compared with every name of a path, so that `logs` is the folder and all in it. A pattern
with a slash is compared with the whole path below the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

from spotrun.job.spec import Folder
from spotrun.store.key import TEMPORARY

__all__ = ["GROWING", "TEMPORARIES", "Rules"]

TEMPORARIES = (
    "*.tmp",  # what most writers call a file before its rename
    "*.temp",
    "*.part",
    "*.partial",
    "*.incomplete",  # huggingface_hub
    "tmp-checkpoint-*",  # transformers before 4.40
    "*.orbax-checkpoint-tmp-*",
    "*~",
    ".nfs*",  # what NFS makes of a deleted file that is still open
)
"""Names of files that are not finished: while one is being written, no generation is whole; none is ever committed."""

GROWING = ("events.out.tfevents.*", "*.log", "*.jsonl", "*.csv", "*.tsv", "*.wandb")
"""Names of files that are appended to all the time: committed as they are at a moment, and not waited for."""


@dataclass(frozen=True, slots=True)
class _Patterns:
    names: re.Pattern[str] | None
    paths: re.Pattern[str] | None

    def fits(self, path: str) -> bool:
        if self.names is not None and any(self.names.fullmatch(name) for name in path.split("/")):
            return True
        return self.paths is not None and self.paths.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Rules:
    """What names mean in one folder. Paths are relative to it, with slashes."""

    ignored: _Patterns
    temporary: _Patterns
    growing: _Patterns
    done: _Patterns | None

    @staticmethod
    def of(folder: Folder) -> Rules:
        """The rules of a job's folder: the built-in ones and the user's."""
        return Rules(
            ignored=_patterns((TEMPORARY, *folder.ignore)),
            temporary=_patterns(TEMPORARIES),
            growing=_patterns((*GROWING, *folder.growing)),
            done=None if folder.done is None else _patterns((folder.done,)),
        )


def _patterns(texts: Iterable[str]) -> _Patterns:
    cleaned = [text.strip("/") for text in texts]
    return _Patterns(
        names=_any_of(text for text in cleaned if "/" not in text),
        paths=_any_of(text for text in cleaned if "/" in text),
    )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    translated = [translate(pattern) for pattern in patterns]
    return re.compile("|".join(f"(?:{each})" for each in translated)) if translated else None
