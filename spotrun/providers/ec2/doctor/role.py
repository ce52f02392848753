"""The instance profile that the machines carry, and the role that spot itself needs in every account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from spotrun.providers.doctor.verdict import Remedy, Request, Verdict, green, red, yellow
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.policy_document import instance_policy, trust_policy
from spotrun.providers.ec2.scope import Scope

__all__ = ["Roles", "check", "look", "role_creation"]

_SPOT_ROLE = "AWSServiceRoleForEC2Spot"
_SPOT_SERVICE = "spot.amazonaws.com"
_POLICY = "spotrun-runs"  # the inline policy of the role
_MISSING = "NoSuchEntity"


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """What is to be known; None where it may not be looked at.

    Attributes:
        profile: the instance profile's name.
        profile_there, role_there: whether there is one of this name.
        roles: names of the roles in the profile, one at most.
        trusts_ec2: whether EC2 may take on the role in it.
        spot_role: whether the account has the role that spot needs.
    """

    profile: str
    profile_there: bool | None = None
    role_there: bool | None = None
    roles: tuple[str, ...] = ()
    trusts_ec2: bool | None = None
    spot_role: bool | None = None


def check(roles: Roles, *, scope: Scope | None, region: str) -> tuple[Verdict, ...]:
    """The verdicts. `scope` is what a new role would be for; without it none can be offered."""
    return (_profile(roles, scope, region), _spot(roles, region))


def look(account: Account, profile: str, region: str) -> Roles:
    """Asks IAM.

    Raises:
        ProviderError: it could not be asked.
    """
    client = account.client("iam", region)
    with account.asking(f"for the instance profile {profile}"):
        told = _asked(lambda: client.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"])
        spot = _asked(lambda: client.get_role(RoleName=_SPOT_ROLE)["Role"])
        role = None if told else _asked(lambda: client.get_role(RoleName=profile)["Role"])
    carried = told["Roles"] if told else []
    return Roles(
        profile=profile,
        profile_there=None if told is None else bool(told),
        role_there=None if role is None else bool(role),
        roles=tuple(str(each["RoleName"]) for each in carried),
        trusts_ec2=_trusts(carried[0].get("AssumeRolePolicyDocument")) if carried else None,
        spot_role=None if spot is None else bool(spot),
    )


def role_creation(scope: Scope, *, region: str, roles: Roles) -> tuple[Request, ...]:
    """The requests for role, policy and profile, as far as they are missing."""
    name = roles.profile

    def iam(operation: str, **parameters: Any) -> Request:
        return Request(service="iam", region=region, operation=operation, parameters=parameters)

    trust = json.dumps(trust_policy(scope.partition))
    policy = json.dumps(instance_policy(scope))
    requests = []
    if not roles.role_there and not roles.roles:
        requests.append(iam("create_role", RoleName=name, AssumeRolePolicyDocument=trust))
        requests.append(iam("put_role_policy", RoleName=name, PolicyName=_POLICY, PolicyDocument=policy))
    if not roles.profile_there:
        requests.append(iam("create_instance_profile", InstanceProfileName=name))
    if not roles.roles:
        requests.append(iam("add_role_to_instance_profile", InstanceProfileName=name, RoleName=name))
    return tuple(requests)


def _profile(roles: Roles, scope: Scope | None, region: str) -> Verdict:
    name = roles.profile
    if roles.profile_there is None:
        fix = "the policy of `spotrun iam controller` allows it"
        return yellow("instance profile", f"whether {name} is there may not be looked at", fix)
    if not roles.profile_there or not roles.roles:
        said = f"there is no instance profile {name}" if not roles.profile_there else f"{name} has no role in it"
        sentence = f"{said}: machines could not reach the store"
        if scope is None:
            return red(
                "instance profile", sentence, "spotrun doctor JOB_FILE --fix, or --bucket NAME: it needs a bucket"
            )
        requests = role_creation(scope, region=region, roles=roles)
        title = f"make role and instance profile {name}, for s3://{scope.bucket}/{scope.prefix}"
        return red("instance profile", sentence, "spotrun doctor --fix", remedy=Remedy(title=title, requests=requests))
    if roles.trusts_ec2 is False:
        fix = f'aws iam update-assume-role-policy --role-name {roles.roles[0]} --policy-document "$(spotrun iam trust)"'
        return red("instance profile", f"EC2 may not take on {roles.roles[0]}, the role in {name}", fix)
    return green("instance profile", f"{name}, with the role {roles.roles[0]}")


def _spot(roles: Roles, region: str) -> Verdict:
    command = f"aws iam create-service-linked-role --aws-service-name {_SPOT_SERVICE}"
    if roles.spot_role is None:
        return yellow("spot role", f"whether {_SPOT_ROLE} is there may not be looked at", command)
    if not roles.spot_role:
        request = Request(
            service="iam",
            region=region,
            operation="create_service_linked_role",
            parameters={"AWSServiceName": _SPOT_SERVICE},
        )
        remedy = Remedy(title=f"make the role {_SPOT_ROLE}", requests=(request,))
        return red("spot role", f"{_SPOT_ROLE} is missing: this account has never used spot", command, remedy=remedy)
    return green("spot role", f"{_SPOT_ROLE} is there")


def _trusts(document: object) -> bool | None:
    if not isinstance(document, Mapping):
        return None
    statements = document.get("Statement", [])
    listed = [statements] if isinstance(statements, Mapping) else list(statements)
    return any("ec2.amazonaws.com" in json.dumps(each.get("Principal", "")) for each in listed)


def _asked(ask: Any) -> Any:
    """What IAM tells; {} if there is none of this name, None if we may not ask."""
    try:
        return ask()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == _MISSING:
            return {}
        if code.startswith("AccessDenied"):
            return None
        raise
