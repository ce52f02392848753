"""Notices of interruptions by EventBridge and SQS, for a controller that hears of them within seconds.

Optional: without a queue the machine's agent tells of its notice through the store, and the listing of instances of the
end. A rule sends the events of the whole account and region into the queue, so messages about machines that are not ours
are left for others, and removed when they are old.

An event's `resources` holds an ARN whose form differs between documents; the instance is in `detail.instance-id`.

Source: Amazon EC2 User Guide, 'Spot Instance interruption notices' (EventBridge event, two minutes of warning).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import CredentialsExpired, ProviderError
from spotrun.providers.ec2.account import Account

__all__ = ["INTERRUPTION", "Notice", "Notices", "parse_notice"]

INTERRUPTION = "EC2 Spot Instance Interruption Warning"
WARNING = timedelta(minutes=2)

EVERY_S = 5.0  # between two looks into a queue: as often as AWS advises a machine to ask its metadata
_DOWN_S = 600.0  # a queue that cannot be read is left alone for so long
_OLD = timedelta(minutes=10)  # a notice is over after two
_LOOKS_MAX = 10  # of ten messages each, in one call

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """An instance is to be taken back at `deadline`, at the latest."""

    instance_id: str
    at: datetime
    deadline: datetime


def parse_notice(body: str) -> Notice | None:
    """The notice in a message's body; None for other events and for what is no event."""
    try:
        event: Any = json.loads(body)
        if event["detail-type"] != INTERRUPTION:
            return None
        at = datetime.fromisoformat(str(event["time"]).replace("Z", "+00:00"))
        if at.tzinfo is None:
            return None
        return Notice(instance_id=str(event["detail"]["instance-id"]), at=at, deadline=at + WARNING)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


class Notices:
    """What queues have told. Thread-safe.

    Args:
        every_s: between two looks into a queue.
    """

    def __init__(self, account: Account, *, clock: Clock, every_s: float = EVERY_S) -> None:
        self._account = account
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self._next: dict[tuple[str, str], float] = {}
        self._heard: dict[str, Notice] = {}

    def hear(self, queue: str, region: str, ours: Collection[str]) -> Mapping[str, datetime]:
        """Instance id -> deadline, of everything heard so far. A queue that cannot be read is logged, and is no error.

        Args:
            queue: its name.
            region: where it is.
            ours: ids of the instances whose notices are to be taken out of the queue.

        Raises:
            CredentialsExpired: nothing can be asked at all.
        """
        with self._lock:
            key, now = (queue, region), self._clock.monotonic()
            if now >= self._next.get(key, float("-inf")):
                self._next[key] = now + self._every_s
                try:
                    self._read(queue, region, ours)
                except CredentialsExpired:
                    raise
                except ProviderError as error:
                    self._next[key] = now + _DOWN_S
                    _logger.warning("notices of %s in %s cannot be read: %s", queue, region, error)
            return {id_: notice.deadline for id_, notice in self._heard.items()}

    def _read(self, queue: str, region: str, ours: Collection[str]) -> None:
        client = self._account.client("sqs", region)
        with self._account.asking(f"for notices in the queue {queue} of {region}"):
            url = client.get_queue_url(QueueName=queue)["QueueUrl"]
            for _ in range(_LOOKS_MAX):
                told = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
                messages = told.get("Messages", ())
                done = [message for message in messages if self._take(message["Body"], ours)]
                if done:
                    entries = [
                        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                        for number, message in enumerate(done)
                    ]
                    client.delete_message_batch(QueueUrl=url, Entries=entries)
                if not messages:
                    return

    def _take(self, body: str, ours: Collection[str]) -> bool:
        """Whether the message has served its purpose."""
        notice = parse_notice(body)
        if notice is None:
            return True
        if notice.instance_id in ours:
            self._heard[notice.instance_id] = notice
            return True
        return self._clock.now() - notice.at > _OLD
