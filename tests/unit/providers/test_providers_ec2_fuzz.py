"""Whatever AWS leaves out of an answer, it is read, and what comes as text from elsewhere may hold anything."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from fuzzing import as_json, bent, damaged, fuzz
from hypothesis import given
from hypothesis import strategies as st

from spotrun.errors import ProviderError
from spotrun.providers.ec2.list_price import parse_products
from spotrun.providers.ec2.machine_type import machine_type
from spotrun.providers.ec2.notice import parse_notice
from spotrun.providers.ec2.quota import parse_quotas
from spotrun.providers.ec2.refusal import deciding
from spotrun.providers.ec2.response import fleet_answer, instances
from spotrun.providers.ec2.spot_price import parse_rows

NOTICE = {
    "detail-type": "EC2 Spot Instance Interruption Warning", "time": "2026-03-01T12:00:00Z",
    "detail": {"instance-id": "i-1", "instance-action": "terminate"},
}  # fmt: skip
PRODUCT = {
    "publicationDate": "2026-03-01T00:00:00Z",
    "terms": {"OnDemand": {"a": {"priceDimensions": {"b": {"unit": "Hrs", "pricePerUnit": {"USD": "1.006"}}}}}},
}
FLEET = {
    "FleetId": "fleet-1", "Instances": [{"InstanceIds": ["i-1"], "InstanceType": "g5.xlarge"}],
    "Errors": [{"ErrorCode": "InsufficientInstanceCapacity", "ErrorMessage": "none"}],
}  # fmt: skip
TAGS = [{"Key": f"spotrun:{name}", "Value": value} for name, value in (("job", "j"), ("attempt", "1"), ("token", "t"))]
INSTANCE = {
    "InstanceId": "i-1", "State": {"Name": "terminated"}, "LaunchTime": datetime(2026, 3, 1, tzinfo=timezone.utc), "Tags": TAGS,
    "InstanceType": "g5.xlarge", "InstanceLifecycle": "spot", "Placement": {"AvailabilityZone": "us-east-1a"},
    "StateReason": {"Code": "Server.SpotInstanceTermination", "Message": "Server.SpotInstanceTermination: gone"},
    "StateTransitionReason": "Service initiated (2026-03-01 12:00:00 GMT)", "PrivateIpAddress": "10.0.0.1",
}  # fmt: skip
ROW = {
    "AvailabilityZone": "us-east-1a",
    "InstanceType": "g5.xlarge",
    "SpotPrice": "0.4",
    "Timestamp": datetime(2026, 3, 1, tzinfo=timezone.utc),
}
TYPE = {
    "InstanceType": "g5.xlarge", "VCpuInfo": {"DefaultVCpus": 4}, "MemoryInfo": {"SizeInMiB": 16384}, "SupportedUsageClasses": ["spot"],
    "GpuInfo": {"Gpus": [{"Name": "A10G", "Count": 1, "MemoryInfo": {"SizeInMiB": 24576}}]},
    "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
}  # fmt: skip
QUOTA = {"QuotaName": "All G and VT Spot Instance Requests", "QuotaCode": "L-3819A6DF", "Value": 64.0}
ZONES = {"us-east-1a": "use1-az1"}
REQUIRED = {"InstanceId", "State", "LaunchTime", "Key", "Value", "Name", "InstanceType", "SpotPrice", "Timestamp"}


@st.composite
def thinned(draw: st.DrawFn, document: Any) -> Any:
    """The answer without some of its optional members: botocore gives the rest their types."""
    if isinstance(document, dict):
        kept = {}
        for key, value in document.items():
            if key in REQUIRED or draw(st.integers(0, 3)):
                kept[key] = draw(thinned(value))
        return kept
    return [draw(thinned(item)) for item in document] if isinstance(document, list) else document


@fuzz
@given(body=damaged(as_json(NOTICE)) | bent(NOTICE).map(as_json))
def test_a_message_of_a_queue_is_a_notice_or_nothing(body: bytes) -> None:
    """Anybody whom the queue's policy lets may write into it."""
    notice = parse_notice(body.decode("utf-8", "surrogatepass") if body.isascii() else body.decode("latin-1"))
    assert notice is None or (notice.deadline > notice.at and notice.at.tzinfo is not None)


@fuzz
@given(product=bent(PRODUCT))
def test_a_product_gives_a_price_or_none(product: Any) -> None:
    """Never a wrong one, and never a crash: the price list is JSON in JSON, which botocore does not look into."""
    found = parse_products([json.dumps(product), json.dumps(PRODUCT)], today=date(2026, 3, 1))
    assert found is not None
    assert found.usd_per_hour >= Decimal("1.006")


@fuzz
@given(fleet=thinned(FLEET), instance=thinned(INSTANCE), kind=thinned(TYPE), quota=thinned(QUOTA))
def test_answers_without_their_optional_members_are_read(fleet: Any, instance: Any, kind: Any, quota: Any) -> None:
    """What AWS documents as always there is; all else may be missing."""
    assert deciding(refused.answer for refused in fleet_answer(fleet).refusals).code
    list(instances({"Reservations": [{"Instances": [instance]}, {}]}, region="us-east-1", zones=ZONES))
    assert machine_type(kind).name == "g5.xlarge"
    parse_quotas([quota])


@fuzz
@given(price=st.text(max_size=20) | st.sampled_from(["NaN", "-1", "0", "Infinity", "1e-400", "0.4"]))
def test_a_spot_price_is_above_zero_or_refused(price: str) -> None:
    """Money is never reckoned with what is no number."""
    try:
        ((zone, _, step),) = parse_rows([{**ROW, "SpotPrice": price}], ZONES)
    except ProviderError:
        return
    assert zone == "use1-az1"
    assert step.usd_per_hour > 0
