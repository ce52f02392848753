"""What each region must have for a job: to be enabled, a network to launch in, the image; and what it sets for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from spotrun.errors import CredentialsExpired, ProviderError
from spotrun.providers.doctor.verdict import Verdict, green, red, yellow
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.doctor.question import Question
from spotrun.providers.ec2.image import Images
from spotrun.providers.ec2.network import Networks

__all__ = [
    "Found",
    "Region",
    "check_images",
    "check_metadata",
    "check_networks",
    "check_regions",
    "look_at_images",
    "look_at_metadata",
    "look_at_networks",
    "look_at_regions",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A region that a job names. `enabled` is None where AWS knows no region of this name."""

    name: str
    enabled: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a region has of something.

    Attributes:
        name: of what was found, if it has one.
        told: in a few words.
        fault: why a launch there would fail; empty if it would not.
        doubt: what may fail; empty if nothing.
    """

    region: str
    name: str = ""
    told: str = ""
    fault: str = ""
    doubt: str = ""


def check_regions(regions: Sequence[Region], *, assumed: bool = False) -> tuple[Verdict, ...]:
    """One verdict for all that are well, one for each that is not. `assumed`: nobody has named them."""
    told: list[Verdict] = []
    if assumed:
        names = ", ".join(region.name for region in regions)
        fix = f"aws configure set region {names}, or name resources.regions in the job file"
        told.append(yellow("region", f"neither you nor the AWS configuration names one: {names} was looked at", fix))
    for region in regions:
        if region.enabled is None:
            told.append(red("region", f"AWS has no region {region.name}", "mend resources.regions in the job file"))
        elif not region.enabled:
            fix = f"aws account enable-region --region-name {region.name} (takes minutes to hours)"
            told.append(red("region", f"{region.name} is not enabled for this account", fix))
    well = [region.name for region in regions if region.enabled]
    return (green("region", f"{', '.join(well)}: enabled"), *told) if well else tuple(told)


def check_networks(found: Sequence[Found], *, named: bool) -> tuple[Verdict, ...]:
    """Where machines would be put. `named`: whether the job names subnets."""
    told: list[Verdict] = []
    for each in found:
        if each.fault:
            fix = (
                "mend ec2.subnets and ec2.security_groups"
                if named
                else f"aws ec2 create-default-vpc --region {each.region}"
            )
            told.append(red("network", each.fault, fix))
        elif each.doubt:
            fix = "let the subnet give public addresses, or route it through a NAT gateway or an endpoint for S3"
            told.append(yellow("network", f"{each.region}: {each.doubt}", fix))
    well = [f"{each.region} ({each.told})" for each in found if not each.fault]
    return (green("network", f"{', '.join(well)}; no inbound port is needed"), *told) if well else tuple(told)


def check_images(found: Sequence[Found]) -> tuple[Verdict, ...]:
    """What machines would boot."""
    bad = tuple(red("image", each.fault, "set ec2.image, see docs/aws.md") for each in found if each.fault)
    well: dict[str, list[str]] = {}
    for each in found:
        if not each.fault:
            well.setdefault(each.name, []).append(f"{each.told} in {each.region}")
    told = "; ".join(f"{name}: {', '.join(ids)}" for name, ids in well.items())
    return (green("image", told), *bad) if well else bad


def check_metadata(found: Sequence[Found], *, docker: bool) -> tuple[Verdict, ...]:
    """What the account sets is told; a launch says all of it itself, so nothing depends on it."""
    hops = "2 hops, for the container" if docker else "1 hop"
    told = ", ".join(f"{each.region}: {each.told}" for each in found if each.told)
    rest = f"; the account's default for other machines: {told}" if told else ""
    return (green("metadata", f"spotrun's machines answer IMDSv2 only, {hops}{rest}"),)


def look_at_regions(account: Account, question: Question) -> list[Region]:
    """Asks EC2 for all regions there are.

    Raises:
        ProviderError: it could not be asked.
    """
    client = account.client("ec2", question.regions[0])
    with account.asking("for its regions"):
        told = client.describe_regions(AllRegions=True)["Regions"]
    status = {str(each["RegionName"]): str(each.get("OptInStatus", "")) for each in told}
    return [
        Region(name=name, enabled=status[name] != "not-opted-in" if name in status else None)
        for name in question.regions
    ]


def look_at_networks(account: Account, networks: Networks, question: Question) -> list[Found]:
    """Looks for subnets and groups as a launch would.

    Raises:
        ProviderError: it could not be asked.
    """
    found = []
    for region in question.regions:
        network = networks.find(region, subnets=question.subnets, security_groups=question.security_groups)
        zones = ", ".join(sorted(network.subnets))
        hidden = _without_address(account, region, question.subnets) if question.subnets and network.subnets else ()
        doubt = f"{', '.join(hidden)} give machines no public address: can they reach S3 from there?" if hidden else ""
        what = "the named subnets" if question.subnets else "default VPC"
        found.append(Found(region=region, told=f"{what}: {zones}", fault=network.fault, doubt=doubt))
    return found


def look_at_images(images: Images, question: Question) -> list[Found]:
    """Resolves the image in each region as a launch would."""
    found = []
    for region in question.regions:
        try:
            image = images.find(question.image, region)
        except CredentialsExpired:
            raise
        except ProviderError as error:
            found.append(Found(region=region, fault=str(error)))
        else:
            found.append(Found(region=region, name=image.name or question.image, told=image.id))
    return found


def look_at_metadata(account: Account, question: Question) -> list[Found]:
    """Asks what each region sets for new machines; what cannot be asked is left out."""
    found = []
    for region in question.regions:
        try:
            told: dict[str, Any] = account.client("ec2", region).get_instance_metadata_defaults()["AccountLevel"]
        except (ClientError, BotoCoreError, ResponseParserError, KeyError):  # nothing depends on it
            continue
        tokens = {"required": "IMDSv2 only", "optional": "IMDSv1, too"}.get(str(told.get("HttpTokens")), "not set")
        found.append(Found(region=region, told=tokens))
    return found


def _without_address(account: Account, region: str, subnets: Sequence[str]) -> tuple[str, ...]:
    pages = account.pages(
        "describe_subnets",
        region,
        doing=f"for the subnets of {region}",
        Filters=[{"Name": "subnet-id", "Values": list(subnets)}],
    )
    return tuple(
        sorted(
            str(told["SubnetId"]) for page in pages for told in page["Subnets"] if not told.get("MapPublicIpOnLaunch")
        )
    )
