"""The job file's `code`: what is brought to a machine that is not this one."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from spotrun.job.field import Whole, shown, wrong
from spotrun.job.section import Section

__all__ = ["Code"]

_URL = re.compile(r"(https|ssh|file)://[^\s\\]+")
_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:[^\s\\]+")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def _git(value: object) -> object:
    text = value if isinstance(value, str) else ""
    if "@" in text and text.startswith("https://"):
        raise wrong(
            "holds credentials, which the job's journal would keep; let the machine read the repository without"
        )
    if _URL.fullmatch(text) is None and _SCP.fullmatch(text) is None:
        raise wrong(f"{shown(value)} is no repository; write its https:// or ssh:// URL")
    return value


def _commit(value: object) -> object:
    if not isinstance(value, str) or _COMMIT.fullmatch(value) is None:
        raise wrong(
            f"{shown(value)} is no commit; write all of its 40 hexadecimal digits, as `git rev-parse HEAD` prints them: "
            "a branch would move between two attempts"
        )
    return value


class Code(Section):
    """What is brought to a machine that is not this one: the working directory, or a commit of a git repository."""

    section: ClassVar[str] = "code"

    git: Annotated[str, BeforeValidator(_git)] | None = None
    """URL of a git repository to run from, instead of the working directory."""

    commit: Annotated[str, BeforeValidator(_commit)] | None = None
    """The commit of it, in full."""

    max_mb: Annotated[Whole, Field(ge=1, le=10_000)] = 100
    """The most megabytes that the packed working directory may have, so that no data set is taken for code."""

    @model_validator(mode="after")
    def _agree(self) -> Code:
        given: dict[str, Any] = {"git": self.git, "commit": self.commit}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 1:
            other = "commit" if missing[0] == "git" else "git"
            raise wrong(f"is missing beside {other}: both together say what runs", field=missing[0])
        return self
