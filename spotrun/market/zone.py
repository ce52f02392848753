"""Zones, their ids and names, and the regions they lie in.

AWS tells a zone in two ways: the id `use1-az4` is the same place for everybody, the name `us-east-1d` is dealt out anew
to each account. spotrun speaks in ids; names are read, since recorded traces and price rows often have nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spotrun.errors import SpecError

__all__ = ["Zone", "zone_id", "zone_of"]

_DIRECTIONS = {
    "north": "n",
    "south": "s",
    "east": "e",
    "west": "w",
    "central": "c",
    "northeast": "ne",
    "northwest": "nw",
    "southeast": "se",
    "southwest": "sw",
}
_WORDS = {short: word for word, short in _DIRECTIONS.items()}
_REGION = re.compile(r"([a-z]{2})(-gov)?-([a-z]+)-(\d)")
_NAME = re.compile(r"([a-z]{2}(?:-gov)?-[a-z]+-\d)[a-z]")
_ID = re.compile(r"([a-z]{2})(g?)(ne|nw|se|sw|n|s|e|w|c)(\d)-az\d+")


@dataclass(frozen=True, slots=True)
class Zone:
    """A place with capacity of its own: a zone id such as `use1-az4` and its region."""

    id: str
    region: str


def zone_id(region: str, number: int) -> str:
    """The id of a region's zone, e.g. `use1-az4` for `us-east-1` and 4.

    Raises:
        SpecError: the region is not written like AWS's.
    """
    match = _REGION.fullmatch(region)
    if match is None or match[3] not in _DIRECTIONS:
        raise SpecError(f"resources.regions: {region!r} is not a region; write it like us-east-1")
    return f"{match[1]}{'g' if match[2] else ''}{_DIRECTIONS[match[3]]}{match[4]}-az{number}"


def zone_of(text: str) -> Zone:
    """The zone written as an id (`use1-az4`) or a name (`us-east-1d`); its `id` is the text as given.

    Raises:
        SpecError: it is neither.
    """
    if named := _NAME.fullmatch(text):
        return Zone(text, named[1])
    if match := _ID.fullmatch(text):
        return Zone(text, f"{match[1]}{'-gov' if match[2] else ''}-{_WORDS[match[3]]}-{match[4]}")
    raise SpecError(f"{text!r} is not a zone; write its id like use1-az4 or its name like us-east-1d")
