"""What a check says: green, yellow or red, one sentence, and the exact thing to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Light", "Remedy", "Request", "Verdict", "green", "red", "yellow"]


class Light(str, Enum):
    """How bad it is."""

    GREEN = "green"
    YELLOW = "yellow"  # works; costs more, or may stop working while a job runs
    RED = "red"  # a job would fail


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request to AWS, as boto3 names it: shown before it is sent."""

    service: str
    region: str
    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """What `spotrun doctor --fix` offers: requests in order, done all or up to the first that fails.

    Attributes:
        title: what they bring about, as the end of 'Shall I ...?'.
        requests: at least one.
    """

    title: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One line of the doctor's.

    Attributes:
        area: what was looked at, in a word or two.
        sentence: what was found and what it means.
        fix: the command, policy or step that mends it; empty if nothing needs mending.
        remedy: what --fix would do.
    """

    area: str
    light: Light
    sentence: str
    fix: str = ""
    remedy: Remedy | None = field(default=None, compare=False)


def green(area: str, sentence: str) -> Verdict:
    """All is well."""
    return Verdict(area=area, light=Light.GREEN, sentence=sentence)


def yellow(area: str, sentence: str, fix: str = "", *, remedy: Remedy | None = None) -> Verdict:
    """It works, but."""
    return Verdict(area=area, light=Light.YELLOW, sentence=sentence, fix=fix, remedy=remedy)


def red(area: str, sentence: str, fix: str = "", *, remedy: Remedy | None = None) -> Verdict:
    """A job would fail."""
    return Verdict(area=area, light=Light.RED, sentence=sentence, fix=fix, remedy=remedy)
