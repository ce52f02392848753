"""Placement scores: AWS's own guess, from 1 to 10, of how likely a zone is to have spot capacity now.

Free, but only a limited number of new questions a day are answered, and a score of fewer than three types is always low.
So it is asked for where a person looks, never in the loop of a controller.

Source: Amazon EC2 User Guide, 'Spot placement score'; API Reference, GetSpotPlacementScores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spotrun.errors import CredentialsExpired, ProviderError
from spotrun.providers.ec2.account import Account

__all__ = ["REGIONS_MAX", "placement_scores"]

REGIONS_MAX = 10  # of one question, by AWS


def placement_scores(
    account: Account, *, names: Sequence[str], regions: Sequence[str], nodes: int
) -> Mapping[str, int]:
    """Zone id -> score, for the best zones of these regions; empty where AWS does not say.

    Args:
        account: who asks.
        names: instance types, any of which will do.
        regions: where.
        nodes: machines that are asked for in one zone.

    Raises:
        CredentialsExpired: nothing can be asked at all.
    """
    client = account.client("ec2", regions[0], once=True)
    try:
        with account.asking("for placement scores"):
            told = client.get_spot_placement_scores(
                InstanceTypes=list(names)[:_TYPES_MAX],
                TargetCapacity=nodes,
                SingleAvailabilityZone=True,
                RegionNames=list(regions)[:REGIONS_MAX],
            )
    except CredentialsExpired:
        raise
    except ProviderError:
        return {}
    return {
        str(score["AvailabilityZoneId"]): int(score["Score"])
        for score in told.get("SpotPlacementScores", ())
        if score.get("AvailabilityZoneId")
    }


_TYPES_MAX = 1000
