"""From a job's spec to a provider: what is offered, and what is refused before anything runs."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from spotrun.clock import ScaledClock
from spotrun.errors import ProviderError, SpecError
from spotrun.job.spec import JobSpec
from spotrun.market import MarketKind, Offer
from spotrun.providers.connect import connect
from spotrun.providers.provider import Provider

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


def provider(tmp_path: Path, **fields: Any) -> Provider:
    spec = JobSpec.model_validate({"name": "n", "command": "true", **fields})
    return connect(
        spec, job_id="job-1", submitted_at=START, home=tmp_path, clock=ScaledClock(START, 60.0), workdir=tmp_path
    )


def offers(tmp_path: Path, **fields: Any) -> list[Offer]:
    return list(provider(tmp_path, **fields).offers())


def test_a_job_that_asks_for_nothing_gets_a_gpu_in_four_zones(tmp_path: Path) -> None:
    """One spot offer for each zone, one on-demand offer for the region, at dated list prices."""
    found = offers(tmp_path)
    spot = [offer for offer in found if offer.market is MarketKind.SPOT]
    on_demand = [offer for offer in found if offer.market is MarketKind.ON_DEMAND]
    assert [offer.zone for offer in spot] == ["use1-az1", "use1-az2", "use1-az3", "use1-az4"]
    assert [(offer.region, offer.instance_type, str(offer.price_usd_per_hour)) for offer in on_demand] == [
        ("us-east-1", "g5.xlarge", "1.006")
    ]
    assert {offer.provider for offer in found} == {"local"}


def test_an_accelerator_means_its_cheapest_type_and_given_types_are_all_offered(tmp_path: Path) -> None:
    """The pools of a simulated zone come and go together, so a dearer type would only be dearer."""
    assert {offer.instance_type for offer in offers(tmp_path, resources={"accelerator": "T4:1"})} == {"g4dn.xlarge"}
    west = {"accelerator": "A10G:4", "regions": ["us-west-2"]}
    assert {offer.instance_type for offer in offers(tmp_path, resources=west)} == {"g5.24xlarge"}
    asked = {"accelerator": "A10G:1", "instance_types": ["g5.2xlarge", "g5.xlarge"]}
    found = offers(tmp_path, resources=asked)
    assert len(found) == len(set(found)) == 2 * (4 + 1)


def test_a_type_is_offered_only_where_its_price_is_known(tmp_path: Path) -> None:
    """p3dn is not on the list of us-east-2; no report may guess a price."""
    found = offers(tmp_path, resources={"instance_types": ["p3dn.24xlarge"], "regions": ["us-east-2", "us-west-2"]})
    assert {offer.region for offer in found} == {"us-west-2"}


def test_the_market_of_the_spec_is_the_market(tmp_path: Path) -> None:
    """Trace files are found from the directory of the submission; prices come from the given rows."""
    (tmp_path / "zone.json").write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": [1, 0]}))
    row = {
        "Timestamp": "2025-01-01T00:00:00Z",
        "AvailabilityZone": "us-east-1f",
        "InstanceType": "p3.2xlarge",
        "SpotPrice": "0.4803",
    }
    (tmp_path / "prices.json").write_text(json.dumps([row]))
    market = {"availability": {"us-east-1f": "zone.json"}, "prices": "prices.json"}
    found = offers(tmp_path, resources={"accelerator": "V100"}, local={"market": market})
    prices = {offer.market: str(offer.price_usd_per_hour) for offer in found}
    assert prices == {MarketKind.SPOT: "0.4803", MarketKind.ON_DEMAND: "3.06"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"resources": {"accelerator": "A10G:3"}}, r"resources\.accelerator: .*A10G:1"),
        ({"resources": {"instance_types": ["g5.huge"]}}, r"resources\.instance_types: .*'g5\.huge'"),
        (
            {"resources": {"accelerator": "A10G:1", "instance_types": ["p3.2xlarge"]}},
            r"resources\.instance_types: p3\.2xlarge does not have A10G:1",
        ),
        ({"resources": {"regions": ["mars"]}}, r"resources\.regions: 'mars' is not a region"),
        ({"resources": {"regions": ["eu-west-1"]}}, r"resources\.regions: no on-demand price of g5\.xlarge"),
        ({"local": {"market": {"availability": {"use1-az1": "no.json"}}}}, r"no\.json: cannot be read"),
    ],
)
def test_what_cannot_be_given_is_refused_with_the_field(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    """Before anything runs, in a sentence that starts with the field's path."""
    with pytest.raises(SpecError, match=problem):
        provider(tmp_path, **fields)


def test_a_job_id_that_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    """Paths are generated, never joined from whatever comes."""
    with pytest.raises(ProviderError, match="cannot be a job's id"):
        connect(
            JobSpec(name="n", command="true"),
            job_id="a/b",
            submitted_at=START,
            home=tmp_path,
            clock=ScaledClock(START, 60.0),
        )


def test_prices_of_a_foreign_pool_are_refused(tmp_path: Path) -> None:
    """Not a KeyError from somewhere below."""
    ours, theirs = provider(tmp_path), offers(tmp_path, resources={"regions": ["us-west-2"]})
    with pytest.raises(ProviderError, match=r"usw2-az1/g5\.xlarge is not in this market"):
        ours.prices(theirs[0], START, START + timedelta(hours=1))
