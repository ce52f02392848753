"""From AWS's answers to our values. Pure, tested on recorded JSON.

Who ended an instance is told by its `StateReason`. `Server.Spot...` is an interruption; the instance that shut itself
down is told apart from the one that was terminated on the account's side by its `Client...` code; one that never ran has
codes of its own (`spotrun.providers.ec2.false_start`); every other `Server...` code, and none at all, is a machine that died. `shutting-down`
is not yet an end: its processes may still write.

Source: Amazon EC2 API Reference, StateReason (as of botocore 1.43).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from spotrun.providers.ec2.error import Answer
from spotrun.providers.ec2.false_start import code_of, false_start
from spotrun.providers.provider import EndCause, Instance, InstanceState

__all__ = ["FleetAnswer", "Refused", "Seen", "cause_of", "fleet_answer", "instances", "seen"]

_STATES = {"pending": InstanceState.PENDING, "terminated": InstanceState.ENDED}

_CAUSES = {
    "Client.InstanceInitiatedShutdown": EndCause.EXITED,
    "Client.UserInitiatedShutdown": EndCause.TERMINATED,
    "Client.InstanceTerminated": EndCause.TERMINATED,
    "Client.UserInitiatedHibernate": EndCause.TERMINATED,
}
_WHEN = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An instance of ours as a listing shows it, and where. `private_address` is empty until it has one."""

    instance: Instance
    region: str
    private_address: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """What a fleet said of one of its pools; type and subnet are empty if it did not say which."""

    answer: Answer
    instance_type: str = ""
    subnet: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetAnswer:
    """What a fleet launched and in which type and subnet, and what it could not."""

    instance_ids: tuple[str, ...]
    instance_type: str = ""
    subnet: str = ""
    refusals: tuple[Refused, ...] = ()


def fleet_answer(told: Mapping[str, Any]) -> FleetAnswer:
    """An answer of CreateFleet; instances and errors may come together."""
    lots = [lot for lot in told.get("Instances") or () if lot.get("InstanceIds")]
    instance_type, subnet = _where(lots[0]) if lots else ("", "")
    return FleetAnswer(
        instance_ids=tuple(str(id_) for lot in lots for id_ in lot["InstanceIds"]),
        instance_type=instance_type,
        subnet=subnet,
        refusals=tuple(_refused(error) for error in told.get("Errors") or ()),
    )


def instances(page: Mapping[str, Any], *, region: str, zones: Mapping[str, str]) -> Iterator[Seen]:
    """The instances of attempts in an answer of DescribeInstances; `region` and `zones` as for `seen`."""
    for reservation in page.get("Reservations") or ():
        for told in reservation.get("Instances") or ():
            entry = seen(told, region=region, zones=zones)
            if entry is not None:
                yield entry


def seen(told: Mapping[str, Any], *, region: str, zones: Mapping[str, str]) -> Seen | None:
    """One entry of `Instances` of DescribeInstances; None if it is not tagged as an attempt's.

    Args:
        told: the entry.
        region: where it was listed.
        zones: zone name -> zone id.
    """
    tags = {str(tag["Key"]): str(tag["Value"]) for tag in told.get("Tags") or ()}
    job_id, attempt, token = (tags.get(f"spotrun:{name}", "") for name in ("job", "attempt", "token"))
    if not job_id or not token or not attempt.isdigit():
        return None
    placement = told.get("Placement") or {}
    zone = placement.get("AvailabilityZoneId") or zones.get(placement.get("AvailabilityZone", ""), "")
    market = "spot" if told.get("InstanceLifecycle") == "spot" else "on_demand"
    state = _STATES.get(str(told["State"]["Name"]), InstanceState.RUNNING)
    cause, detail = _end(told) if state is InstanceState.ENDED else (None, "")
    instance = Instance(
        id=str(told["InstanceId"]),
        job_id=job_id,
        attempt=int(attempt),
        token=token,
        pool=f"{zone}/{told.get('InstanceType', '')}/{market}",
        state=state,
        launched_at=told["LaunchTime"],
        ended_at=_ended_at(told) if state is InstanceState.ENDED else None,
        end_cause=cause,
        detail=detail,
        taken=0 if cause is EndCause.LOST else None,  # the free first hour is for interruptions, not for broken hosts
    )
    return Seen(instance=instance, region=region, private_address=str(told.get("PrivateIpAddress") or ""))


def _end(told: Mapping[str, Any]) -> tuple[EndCause, str]:
    return false_start(told) or (cause_of(told), _detail(told))


def cause_of(told: Mapping[str, Any]) -> EndCause:
    """Who ended it, if it ever ran."""
    code = code_of(told)
    if code.startswith(("Server.Spot", "Server.InsufficientInstanceCapacity")):
        return (
            EndCause.INTERRUPTED
        )  # capacity that was promised and then taken back is an interruption before the start
    if code in _CAUSES:
        return _CAUSES[code]
    if code.startswith("Client.") or str(told.get("StateTransitionReason", "")).startswith("User initiated"):
        return EndCause.TERMINATED
    return EndCause.LOST


def _refused(told: Mapping[str, Any]) -> Refused:
    answer = Answer(code=str(told.get("ErrorCode", "Unknown")), words=str(told.get("ErrorMessage", "")))
    instance_type, subnet = _where(told)
    return Refused(answer=answer, instance_type=instance_type, subnet=subnet)


def _where(told: Mapping[str, Any]) -> tuple[str, str]:
    """Type and subnet of an entry of a fleet's answer, which repeats the override that it is about."""
    override = (told.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
    of = {**told, **override}
    return str(of.get("InstanceType", "")), str(of.get("SubnetId", ""))


def _ended_at(told: Mapping[str, Any]) -> datetime | None:
    """AWS writes the instant into a sentence, or nowhere."""
    match = _WHEN.search(str(told.get("StateTransitionReason", "")))
    if match is None:
        return None
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)


def _detail(told: Mapping[str, Any]) -> str:
    reason = told.get("StateReason") or {}
    code, message = str(reason.get("Code", "")), str(reason.get("Message", ""))
    return message if message.startswith(code) else f"{code}: {message}".strip(": ")
