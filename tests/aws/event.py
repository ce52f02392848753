"""EventBridge events of EC2, put in process: real accounts cannot put events of source `aws.ec2`, EC2 itself does."""

from __future__ import annotations

import json
from typing import Any

from moto.events.models import events_backends


def publish(account: str, region: str, detail_type: str, instance_id: str, zone: str, **detail: Any) -> None:
    """Emits an event about an instance; rules of the test's account send it on, to a queue for instance.

    Source: EC2 user guide, "Spot Instance interruption notices" (2026-11). The newer pages show an ARN with a zone in
    the place of the region and no account; so does this.
    """
    events_backends[account][region].put_events(
        [
            {
                "Source": "aws.ec2",
                "DetailType": detail_type,
                "Detail": json.dumps({"instance-id": instance_id, **detail}),
                "Resources": [f"arn:aws:ec2:{zone}:instance/{instance_id}"],
            }
        ]
    )


def interruption(account: str, region: str, instance_id: str, zone: str) -> None:
    """The two-minute warning."""
    fields = {"instance-action": "terminate"}
    publish(account, region, "EC2 Spot Instance Interruption Warning", instance_id, zone, **fields)


def rebalance(account: str, region: str, instance_id: str, zone: str) -> None:
    """The recommendation to move."""
    publish(account, region, "EC2 Instance Rebalance Recommendation", instance_id, zone)
