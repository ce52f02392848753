"""The queue that EventBridge sends notices to, so that a controller hears of an interruption before the next heartbeat.

It is optional: the instance hears of its own notice from the metadata service and saves, queue or not. Each region has its
own queue, of the same name, and its own rule.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from spotrun.providers.doctor.verdict import Remedy, Request, Verdict, green, red, yellow
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.notice import INTERRUPTION
from spotrun.providers.ec2.policy_document import queue_policy

__all__ = ["Queue", "check", "creation", "look"]

_KEPT_S = 3600  # a notice is news for two minutes; an hour shows a person what came
_ABSENT = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "ResourceNotFoundException"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """What is to be known; None where it may not be looked at.

    Attributes:
        there: whether there is a queue of this name.
        fed: whether an enabled rule of EventBridge of this name sends to it.
    """

    name: str
    region: str
    there: bool | None = None
    fed: bool | None = None


def check(queues: Sequence[Queue], *, account: str, partition: str, wanted: bool) -> tuple[Verdict, ...]:
    """A verdict for each region. `wanted`: whether the job names the queue."""
    return tuple(_one(queue, account, partition, wanted=wanted) for queue in queues)


def look(account: Account, name: str, region: str) -> Queue:
    """Asks SQS and EventBridge.

    Raises:
        ProviderError: they could not be asked.
    """
    with account.asking(f"for the queue {name}"):
        there = _asked(lambda: account.client("sqs", region).get_queue_url(QueueName=name)["QueueUrl"])
        events = account.client("events", region)
        rule = _asked(lambda: events.describe_rule(Name=name))
        targets = _asked(lambda: events.list_targets_by_rule(Rule=name)["Targets"]) if rule else rule
    fed = None
    if targets is not None:
        aims = [str(target.get("Arn", "")) for target in targets]
        fed = bool(rule) and rule.get("State") == "ENABLED" and any(arn.endswith(f":{name}") for arn in aims)
    return Queue(name=name, region=region, there=None if there is None else bool(there), fed=fed)


def creation(queue: Queue, *, account: str, partition: str) -> tuple[Request, ...]:
    """The requests for queue, rule and target. All of them may be repeated."""
    queue_arn = f"arn:{partition}:sqs:{queue.region}:{account}:{queue.name}"
    rule_arn = f"arn:{partition}:events:{queue.region}:{account}:rule/{queue.name}"
    attributes = {
        "MessageRetentionPeriod": str(_KEPT_S),
        "Policy": json.dumps(queue_policy(queue_arn, rule_arn)),
        "SqsManagedSseEnabled": "true",
    }
    pattern = json.dumps({"source": ["aws.ec2"], "detail-type": [INTERRUPTION]})

    def request(service: str, operation: str, **parameters: Any) -> Request:
        return Request(service=service, region=queue.region, operation=operation, parameters=parameters)

    return (
        request("sqs", "create_queue", QueueName=queue.name, Attributes=attributes),
        request("events", "put_rule", Name=queue.name, EventPattern=pattern, State="ENABLED"),
        request("events", "put_targets", Rule=queue.name, Targets=[{"Id": "spotrun", "Arn": queue_arn}]),
    )


def _one(queue: Queue, account: str, partition: str, *, wanted: bool) -> Verdict:
    area = "queue"
    if queue.there is None:
        return yellow(area, f"{queue.name} in {queue.region} may not be looked at", "spotrun iam controller")
    remedy = Remedy(
        title=f"make the queue {queue.name} in {queue.region} and the rule that sends notices to it",
        requests=creation(queue, account=account, partition=partition),
    )
    fix = "spotrun doctor --create-queue"
    if not queue.there:
        sentence = f"there is no queue {queue.name} in {queue.region}"
        return (red if wanted else yellow)(area, sentence, fix, remedy=remedy)
    if queue.fed is False:
        sentence = f"{queue.name} in {queue.region} gets no notices: no rule of EventBridge of that name sends to it"
        return yellow(area, sentence, fix, remedy=remedy)
    return green(area, f"{queue.name} in {queue.region}" + ("" if queue.fed else "; its rule may not be looked at"))


def _asked(ask: Any) -> Any:
    """What AWS tells; {} if there is none, None if we may not ask."""
    try:
        return ask()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            return {}
        if code.startswith("AccessDenied"):
            return None
        raise
