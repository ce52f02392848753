"""Scenario files: what is interrupted where and how often, in two acts. With the faults on, nothing may be lost; then
they are off, and the training must come to its end.

    name: nightly              # every field is optional
    points: [step, save]       # where; all by default
    notice: 0.5                # share of the interruptions that are announced, where a training can hear it
    notice_window: 2m          # from a notice to the end of the machine
    interruptions: 3           # in one run, at most
    again: 0.5                 # chance of another one after each
    saves: 8                   # checkpoints in an uninterrupted run
    alone: 0.5                 # of several processes: share of the interruptions without notice that kill one of them alone
    trace: zone.json           # instead of points and dice: the outages of a recorded market (see `spotrun.market.trace`)
    lasts: 24h                 # how long the uninterrupted run is taken to be in the trace's time
    enumerate_calls: false     # instead: each call of a save to the store, before and after, one a run
    runs: 20
    seed: 0
    script: train.py           # the workload, where the command line names none
    args: [--epochs, "2"]
    must_reach: [save]         # points that some run must have been interrupted at, or it fails
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spotrun.chaos.fault import Point
from spotrun.errors import SpecError
from spotrun.units import parse_duration

__all__ = ["Scenario", "load_scenario", "shipped"]

_SIZE_MAX = 64 << 10  # bytes of a scenario file


class Scenario(BaseModel):
    """What is interrupted where and how often. The fields are described at the top of this module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "default"
    points: Sequence[Point] = tuple(Point)
    notice: float = Field(default=0.5, ge=0, le=1)
    notice_window: str = "2m"
    interruptions: int = Field(default=3, ge=1, le=50)
    again: float = Field(default=0.5, ge=0, le=1)
    saves: int = Field(default=8, ge=1)
    alone: float = Field(default=0.5, ge=0, le=1)
    trace: str = ""
    lasts: str = "24h"
    enumerate_calls: bool = False
    runs: int = Field(default=20, ge=1, le=10_000)
    seed: int = 0
    script: str = ""
    args: Sequence[str] = ()
    must_reach: Sequence[Point] = ()

    @field_validator("points")
    @classmethod
    def _some(cls, points: Sequence[Point]) -> Sequence[Point]:
        if not points:
            raise ValueError("name at least one point")
        return points

    @field_validator("notice_window", "lasts")
    @classmethod
    def _a_duration(cls, text: str) -> str:
        if parse_duration(text).total_seconds() <= 0:
            raise ValueError("must be positive")
        return text

    @property
    def notice_s(self) -> float:
        """From a notice to the end of the machine."""
        return parse_duration(self.notice_window).total_seconds()

    @property
    def lasts_s(self) -> float:
        """How long the uninterrupted run is taken to be in the trace's time."""
        return parse_duration(self.lasts).total_seconds()


def shipped() -> list[str]:
    """Names of the scenarios that come with spotrun."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def load_scenario(wanted: str) -> Scenario:
    """A shipped scenario by its name, or a file.

    Raises:
        SpecError: there is none, or a field is wrong; says which.
    """
    path = Path(wanted)
    if wanted in shipped():
        text = (_folder() / f"{wanted}.yaml").read_bytes()
    elif path.is_file() and path.stat().st_size <= _SIZE_MAX:
        text = path.read_bytes()
    else:
        raise SpecError(f"{wanted} is neither a scenario file nor one of {', '.join(shipped())}")
    try:
        found: Any = yaml.safe_load(text) or {}
        return Scenario.model_validate({"name": path.stem, **found} if isinstance(found, dict) else found)
    except (yaml.YAMLError, RecursionError) as err:
        raise SpecError(f"{wanted} is not YAML: {err}") from None
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in err.errors())
        raise SpecError(f"scenario {wanted}: {problems}") from None


def _folder() -> Any:
    return files("spotrun.chaos") / "scenarios"
