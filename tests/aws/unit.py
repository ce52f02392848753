"""Unit files of systemd, as far as a machine of this world runs them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_SPANS = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# What needs no doing here: order and dependencies of the boot, where output goes, limits of the kernel.
_IDLE = {
    "After", "Before", "Description", "Documentation", "Requires", "StandardError", "StandardOutput", "Wants", "WantedBy",
    "KillSignal", "LimitMEMLOCK", "LimitNOFILE", "LimitSTACK", "OOMPolicy", "OOMScoreAdjust", "TasksMax", "User", "Nice",
    "StartLimitIntervalSec", "SendSIGKILL", "TimeoutStartSec",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """A service. Commands are lists of words."""

    name: str
    kind: str = "simple"
    start_before: tuple[tuple[str, ...], ...] = ()
    start: tuple[str, ...] = ()
    stop_post: tuple[tuple[str, ...], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    directory: str | None = None
    kill_mode: str = "control-group"
    restart: str = "no"
    stop_s: float = 90.0  # systemd's own default


def read_unit(path: Path) -> Unit:
    """The service in a file. A setting that this world does not know is an error, so that nothing is taken for granted."""
    values: dict[str, list[str]] = {}
    text = path.read_text().replace("\\\n", " ")
    for line in map(str.strip, text.splitlines()):
        if not line or line[0] in "#;[":
            continue
        name, _, value = line.partition("=")
        values.setdefault(name.strip(), []).append(value.strip())
    known = _IDLE | {
        "Type", "ExecStartPre", "ExecStart", "ExecStopPost", "Environment", "WorkingDirectory", "KillMode", "Restart",
        "TimeoutStopSec", "RemainAfterExit",
    }  # fmt: skip
    assert not set(values) - known, f"{path.name}: {sorted(set(values) - known)} is not known to this world"

    def commands(name: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(shlex.split(each.lstrip("-+!@"))) for each in values.get(name, []))

    pairs = [word.partition("=") for each in values.get("Environment", []) for word in shlex.split(each)]
    return Unit(
        name=path.name,
        kind=values.get("Type", ["simple"])[-1],
        start_before=commands("ExecStartPre"),
        start=commands("ExecStart")[-1],
        stop_post=commands("ExecStopPost"),
        environment=tuple((name, value) for name, _, value in pairs),
        directory=values.get("WorkingDirectory", [None])[-1],
        kill_mode=values.get("KillMode", ["control-group"])[-1],
        restart=values.get("Restart", ["no"])[-1],
        stop_s=span_s(values.get("TimeoutStopSec", ["90"])[-1]),
    )


def span_s(text: str) -> float:
    """Seconds of a time span as systemd reads it: `90`, `90s`, `1h 5min`."""
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)", text)
    assert parts, f"{text!r} is no time span"
    return sum(float(number) * _SPANS[unit] for number, unit in parts)
