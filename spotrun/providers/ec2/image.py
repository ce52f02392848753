"""The machine image of a job, in each region: by id, by the name of a parameter that holds one, or by a pattern of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import Denied
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.memory import Memory

__all__ = ["Image", "Images"]

_AN_HOUR_S = 3600.0  # a new build of an image is used soon enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What must be known of an image to launch it. `root_gib` is the size of the disk that it was made on."""

    id: str
    name: str
    root_device: str
    root_gib: int
    architecture: str


class Images:
    """Finds images. What was found is kept for an hour."""

    def __init__(self, account: Account, *, clock: Clock) -> None:
        self._account = account
        self._found: Memory[tuple[str, str], Image] = Memory(_AN_HOUR_S, clock=clock)

    def find(self, wanted: str, region: str) -> Image:
        """The image that `ec2.image` means in a region.

        Raises:
            Denied: there is none.
            ProviderError: it could not be asked.
        """
        return self._found.get((wanted, region), lambda: self._ask(wanted, region))

    def _ask(self, wanted: str, region: str) -> Image:
        kind, _, rest = wanted.partition(":")
        if kind == "name":
            pattern, _, owner = rest.partition("@")
            filters = [{"Name": "name", "Values": [pattern]}, {"Name": "state", "Values": ["available"]}]
            found = self._described(wanted, region, Owners=[owner or "self"], Filters=filters)
        else:
            id_ = self._parameter(rest, region) if kind == "ssm" else wanted
            found = self._described(wanted, region, ImageIds=[id_])
        return _image(max(found, key=lambda told: (str(told.get("CreationDate", "")), str(told["ImageId"]))))

    def _described(self, wanted: str, region: str, **request: Any) -> list[dict[str, Any]]:
        client = self._account.client("ec2", region)
        with self._account.asking(f"for the image {wanted} in {region}"):
            found: list[dict[str, Any]] = client.describe_images(**request)["Images"]
        if not found:
            raise Denied(f"ec2.image: there is no image {wanted} in {region}; name one that exists in each region")
        return found

    def _parameter(self, name: str, region: str) -> str:
        client = self._account.client("ssm", region)
        with self._account.asking(f"for the parameter {name} in {region}"):
            try:
                return str(client.get_parameter(Name=name)["Parameter"]["Value"])
            except client.exceptions.ParameterNotFound:
                raise Denied(
                    f"ec2.image: there is no parameter {name} in {region}; name an image by id (ami-...) or another parameter"
                ) from None


def _image(told: dict[str, Any]) -> Image:
    root = str(told.get("RootDeviceName") or "/dev/xvda")
    disks = {
        str(mapping.get("DeviceName")): int(mapping.get("Ebs", {}).get("VolumeSize", 0))
        for mapping in told.get("BlockDeviceMappings", ())
    }
    return Image(
        id=str(told["ImageId"]),
        name=str(told.get("Name", "")),
        root_device=root,
        root_gib=disks.get(root, 0),
        architecture=str(told.get("Architecture", "x86_64")),
    )
