"""`resources.nodes`: how many machines train together. A number, or a range of which each attempt takes what comes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from spotrun.job.field import shown, wrong

__all__ = ["GangSize", "Nodes"]

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class GangSize:
    """From `least` to `most` machines, which are the same where the number is fixed.

    An attempt has as many as its launch brought, and keeps them: one that loses a machine is over.
    """

    least: int
    most: int

    @property
    def is_elastic(self) -> bool:
        """Whether attempts may differ in size."""
        return self.least < self.most

    @property
    def is_single(self) -> bool:
        """Whether an attempt is one machine, and nothing of several is needed."""
        return self.most == 1

    def came(self, named: int) -> int:
        """How many machines an attempt has whose launch named so many. Of a fixed gang all have come, whatever was named."""
        return named if self.is_elastic and named else self.least

    def to_json(self) -> int | str:
        """As a job file has it."""
        return str(self) if self.is_elastic else self.least

    def __str__(self) -> str:
        return f"{self.least}..{self.most}" if self.is_elastic else f"{self.least}"


def _parsed(value: object) -> GangSize:
    if isinstance(value, GangSize):
        return value
    if isinstance(value, bool):
        raise wrong(f"must be a number, not {shown(value)}")
    if isinstance(value, str) and ".." in value:
        return _range(value)
    if not isinstance(value, int) and not (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise wrong(f"must be a whole number, or a range like 2..8, not {shown(value)}")
    number = int(value)
    if number < 1:
        raise wrong(f"must be at least 1, not {shown(value)}")
    return GangSize(least=number, most=number)


def _range(text: str) -> GangSize:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise wrong(f"{shown(text)} is no range; write the fewest and the most machines, like 2..8")
    least, most = int(match[1]), int(match[2])
    if least < 1:
        raise wrong(f"must begin with at least 1, not {shown(text)}")
    if least > most:
        raise wrong(f"{shown(text)} begins with more machines than it ends with; write {most}..{least}")
    if least == most:
        raise wrong(f"{shown(text)} is a single number; write {least}")
    return GangSize(least=least, most=most)


Nodes = Annotated[
    GangSize,
    BeforeValidator(_parsed),
    PlainSerializer(GangSize.to_json, return_type=int | str, when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[1-9][0-9]*\.\.[1-9][0-9]*$"}]}
    ),
]
