"""What AWS sells, for how much, and to whom: the pure parts, on recorded JSON."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from spotrun.errors import ProviderError
from spotrun.market.offer import MarketKind, PriceStep
from spotrun.providers.ec2.candidate import Candidate, faulted, offered, reasons
from spotrun.providers.ec2.list_price import parse_products
from spotrun.providers.ec2.machine_type import MachineType, fitting, machine_type
from spotrun.providers.ec2.quota import Quota, parse_quotas
from spotrun.providers.ec2.spot_price import parse_rows

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=timezone.utc)


def type_told(name: str, vcpus: int, gpu: str = "", count: int = 0, memory_mib: int = 0) -> MachineType:
    told: dict[str, Any] = {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": vcpus},
        "MemoryInfo": {"SizeInMiB": vcpus * 4096},
        "SupportedUsageClasses": ["on-demand", "spot"],
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
    }
    if gpu:
        told["GpuInfo"] = {"Gpus": [{"Name": gpu, "Count": count, "MemoryInfo": {"SizeInMiB": memory_mib}}]}
    return machine_type(told)


TYPES = [
    type_told("g5.8xlarge", 32, "A10G", 1, 24576),
    type_told("g5.xlarge", 4, "A10G", 1, 24576),
    type_told("g5.12xlarge", 48, "A10G", 4, 24576),
    type_told("g6.xlarge", 4, "L4", 1, 22888),
    type_told("p4d.24xlarge", 96, "A100", 8, 40960),
    type_told("p4de.24xlarge", 96, "A100", 8, 81920),
    type_told("c7i.large", 2),
]


@pytest.mark.parametrize(
    ("accelerator", "names"),
    [
        ("A10G:1", ["g5.xlarge", "g5.8xlarge"]),
        ("a10g", ["g5.xlarge", "g5.8xlarge"]),
        ("A10G:4", ["g5.12xlarge"]),
        ("A100:8", ["p4d.24xlarge", "p4de.24xlarge"]),
        ("A100-80GB:8", ["p4de.24xlarge"]),
        ("H100:8", []),
    ],
)
def test_an_accelerator_finds_the_types_that_have_exactly_it(accelerator: str, names: list[str]) -> None:
    """The smallest machine first; a size asks for memory."""
    assert [known.name for known in fitting(TYPES, accelerator)] == names


def test_neuron_devices_are_accelerators_too() -> None:
    """AWS tells them in a place of their own."""
    known = machine_type(
        {
            "InstanceType": "trn1.2xlarge",
            "NeuronInfo": {"NeuronDevices": [{"Name": "Trainium", "Count": 1, "MemoryInfo": {"SizeInMiB": 32768}}]},
        }
    )
    assert known.has("trainium:1")


QUOTAS = parse_quotas(
    [
        {"QuotaName": "All G and VT Spot Instance Requests", "QuotaCode": "L-3819A6DF", "Value": 8.0},
        {"QuotaName": "All P4, P3 and P2 Spot Instance Requests", "QuotaCode": "L-7212CCBC", "Value": 96.0},
        {"QuotaName": "All P5 Spot Instance Requests", "QuotaCode": "L-C4BD4855", "Value": 192.0},
        {
            "QuotaName": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
            "QuotaCode": "L-34B43A08",
            "Value": 640.0,
        },
        {"QuotaName": "Running On-Demand P instances", "QuotaCode": "L-417A185B", "Value": 0.0},
        {"QuotaName": "EC2-VPC Elastic IPs", "QuotaCode": "L-0263D0A3", "Value": 5.0},
    ]
)


@pytest.mark.parametrize(
    ("name", "market", "code"),
    [
        ("g5.xlarge", MarketKind.SPOT, "L-3819A6DF"),
        ("vt1.3xlarge", MarketKind.SPOT, "L-3819A6DF"),
        ("p4d.24xlarge", MarketKind.SPOT, "L-7212CCBC"),
        ("p3dn.24xlarge", MarketKind.SPOT, "L-7212CCBC"),
        ("p5en.48xlarge", MarketKind.SPOT, "L-C4BD4855"),
        ("c7i.large", MarketKind.SPOT, "L-34B43A08"),
        ("t3.large", MarketKind.SPOT, "L-34B43A08"),
        ("p5.48xlarge", MarketKind.ON_DEMAND, "L-417A185B"),
        ("g5.xlarge", MarketKind.ON_DEMAND, None),
        ("trn1.2xlarge", MarketKind.SPOT, None),
        ("dl1.24xlarge", MarketKind.SPOT, None),
    ],
)
def test_a_type_counts_against_the_quota_that_names_its_family(name: str, market: MarketKind, code: str | None) -> None:
    """Found by name, so that a family that AWS splits off is found as well; a type of none is not limited by us."""
    found = [quota for quota in QUOTAS if quota.market is market and quota.covers(name)]
    assert [quota.code for quota in found] == ([] if code is None else [code])


def candidate(name: str, spot: str | None, on_demand: str | None = "1.006", **more: Any) -> Candidate:
    made: dict[str, Any] = {"vcpus": 4, "zone": "use1-az4", "market": MarketKind.SPOT, **more}
    return Candidate(
        region="us-east-1",
        instance_type=name,
        price_usd_per_hour=None if spot is None else Decimal(spot),
        on_demand_usd_per_hour=None if on_demand is None else Decimal(on_demand),
        **made,
    )


SMALL = Quota(name="All G and VT Spot Instance Requests", code="L-1", market=MarketKind.SPOT, families=("g",), vcpus=4)


def test_what_cannot_or_should_not_be_launched_is_left_out_with_its_reason() -> None:
    """Each for its own reason; the rest are offers."""
    found = faulted(
        [
            candidate("g5.xlarge", "0.40"),
            candidate("g5.2xlarge", "0.45", "1.212", vcpus=8, quota=SMALL),
            candidate("g5.4xlarge", "1.10", "1.624"),
            candidate("g5.8xlarge", None),
            candidate("g7.xlarge", "0.50", None),
            candidate("g6.xlarge", "0.30", zone="use1-az5", fault="use1-az5 has no subnet of ours"),
        ],
        nodes=1,
        alike=True,
    )
    assert [offer.instance_type for offer in offered(found)] == ["g5.xlarge"]
    assert list(reasons(found)) == [
        (
            "quota 'All G and VT Spot Instance Requests' of us-east-1 is 4 vCPUs, and g5.2xlarge needs 8: ask for more in "
            "Service Quotas (L-1)"
        ),
        "g5.4xlarge asks more on spot than another type that fits asks on demand",
        "g5.8xlarge has no spot price in use1-az4",
        "no on-demand price of g7.xlarge in us-east-1 is known: allow pricing:GetProducts",
        "use1-az5 has no subnet of ours",
    ]


def test_types_that_the_job_names_are_not_judged_by_one_another() -> None:
    """Who asks for a large machine beside a small one wants either."""
    both = [candidate("g5.xlarge", "0.40"), candidate("p5.48xlarge", "22", "55.04")]
    assert len(offered(faulted(both, nodes=1, alike=False))) == 2
    assert len(offered(faulted(both, nodes=1, alike=True))) == 1


def test_a_gang_counts_all_its_machines_against_the_quota() -> None:
    """Two machines of four vCPUs need eight."""
    (found,) = faulted([candidate("g5.xlarge", "0.40", quota=SMALL)], nodes=2, alike=False)
    assert "g5.xlarge needs 8" in found.fault


def test_spot_rows_are_told_by_zone_id() -> None:
    """From the id, or from the name; rows of zones that are not the account's are left out."""
    row = {"InstanceType": "g5.xlarge", "SpotPrice": "0.4012", "Timestamp": NOW}
    rows = [
        {**row, "AvailabilityZone": "us-east-1d"},
        {**row, "AvailabilityZoneId": "use1-az6", "AvailabilityZone": "us-east-1x"},
        {**row, "AvailabilityZone": "us-east-1-bos-1a"},
    ]
    step = PriceStep(at=NOW, usd_per_hour=Decimal("0.4012"))
    assert list(parse_rows(rows, {"us-east-1d": "use1-az4"})) == [
        ("use1-az4", "g5.xlarge", step),
        ("use1-az6", "g5.xlarge", step),
    ]


@pytest.mark.parametrize("price", ["", "free", "0", "-1", "NaN"])
def test_a_spot_price_that_is_none_is_refused(price: str) -> None:
    """A bill must not be built on it."""
    row = {"InstanceType": "g5.xlarge", "SpotPrice": price, "Timestamp": NOW, "AvailabilityZoneId": "use1-az6"}
    with pytest.raises(ProviderError, match=r"as the spot price of g5\.xlarge in use1-az6"):
        list(parse_rows([row], {}))


def product(*prices: tuple[str, str]) -> str:
    dimensions = ", ".join(
        f'"r{n}": {{"unit": "{unit}", "pricePerUnit": {{"USD": "{usd}"}}}}' for n, (unit, usd) in enumerate(prices)
    )
    return (
        '{"product": {"attributes": {}}, "publicationDate": "2026-07-20T00:00:00Z", '
        f'"terms": {{"OnDemand": {{"t": {{"priceDimensions": {{{dimensions}}}}}}}}}}}'
    )


def test_a_list_price_has_its_date() -> None:
    """And zeros of reservations are not taken for prices."""
    found = parse_products([product(("Hrs", "0.0000000000")), product(("Hrs", "1.0060000000"))], today=NOW.date())
    assert found is not None
    assert found.usd_per_hour == Decimal("1.006")
    assert found.source.as_of == date(2026, 7, 20)
    assert parse_products([product(("Hrs", "0")), product(("GB", "3"))], today=NOW.date()) is None
    assert parse_products([], today=NOW.date()) is None
