"""Credentials: whose they are, where they come from, and whether they outlive the job.

A controller whose credentials run out can neither launch nor renew a lease. What runs goes on for the length of its lease,
then saves and ends; nothing is lost, but nothing goes on either until somebody signs in. So short-lived credentials for a
long job are told before the launch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError

from spotrun.errors import CredentialsExpired, Denied
from spotrun.providers.doctor.verdict import Verdict, green, red, yellow
from spotrun.providers.ec2.account import Account
from spotrun.units import format_duration, write_duration

__all__ = ["Identity", "check", "has_credentials", "look", "sign_in_cache", "token_expiry"]

_SOURCES_MAX = 5  # a profile that takes its credentials from another, and so on

# Where boto3 found them, in its own words, and what renews them.
_RENEWED = {
    "iam-role": "the role of this machine",
    "container-role": "the role of this container",
    "assume-role-with-web-identity": "the web identity of this machine",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        arn, account: as STS tells them; empty if it did not.
        method: where boto3 found the credentials, in its own words; empty if it found none.
        temporary: whether they come with a session token.
        expires: when they, or the session that renews them, run out; None if that cannot be known.
        profile: of the AWS configuration, if one is chosen.
        fault: why STS did not accept them.
    """

    arn: str = ""
    account: str = ""
    method: str = ""
    temporary: bool = False
    expires: datetime | None = None
    profile: str = ""
    fault: str = ""


def check(identity: Identity, *, now: datetime, lasts: timedelta) -> tuple[Verdict, ...]:
    """The verdicts. `lasts` is how long the controller will need them."""
    sign_in = f"aws sso login{f' --profile {identity.profile}' if identity.profile else ''}"
    if not identity.method:
        fix = "aws configure sso (once), then aws sso login; or set AWS_PROFILE to a profile that exists"
        return (red("credentials", "there are none: boto3 found nothing in environment, files or machine", fix),)
    if identity.fault:
        fix = f"{sign_in}, or renew what AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN hold"
        return (red("credentials", identity.fault, fix),)
    who = green("credentials", f"{identity.arn}, account {identity.account}, from {_source(identity)}")
    if identity.arn.endswith(":root"):
        fix = "make a user or role with the policy of `spotrun iam controller`"
        who = yellow("credentials", f"these are the root user's, who may do everything in {identity.account}", fix)
    return (who, _life(identity, now=now, lasts=lasts, sign_in=sign_in))


def look(account: Account, region: str) -> Identity:
    """Asks boto3's chain, then STS. No network is needed to find that there are none.

    Raises:
        ProviderError: STS could not be reached, which says nothing of the credentials.
    """
    try:
        session = boto3.Session()
        profile = "" if session.profile_name == "default" else str(session.profile_name)
        found = session.get_credentials()
    except BotoCoreError as error:  # the chain itself failed: an unknown profile, a session that is over
        return Identity(method="chain", fault=f"the credentials cannot be had: {error}")
    if found is None:
        return Identity(profile=profile)
    method = str(found.method)
    try:
        with account.asking("who this is"):
            frozen = found.get_frozen_credentials()
            told = account.client("sts", region).get_caller_identity()
    except (CredentialsExpired, Denied) as error:
        return Identity(method=method, profile=profile, fault=str(error))
    signed_in = sign_in_cache(session._session.full_config.get("profiles", {}), session.profile_name)
    expires = token_expiry(Path.home(), signed_in) if signed_in else getattr(found, "_expiry_time", None)
    return Identity(
        arn=str(told["Arn"]),
        account=str(told["Account"]),
        method="sso" if signed_in else method,
        temporary=bool(frozen.token),
        expires=expires if signed_in or method == "env" else None,
        profile=profile,
    )


def has_credentials() -> bool:
    """Whether boto3's chain finds some, good or not. Nothing is asked of AWS; a machine's metadata service may be."""
    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:
        return True  # something is configured, and wrong: whoever uses it is told what


def sign_in_cache(profiles: Mapping[str, Mapping[str, str]], name: str) -> str:
    """The session or start URL that a profile is signed in with, itself or through its source; empty if with none."""
    for _ in range(_SOURCES_MAX):
        profile = profiles.get(name, {})
        if "sso_session" in profile or "sso_start_url" in profile:
            return str(profile.get("sso_session") or profile["sso_start_url"])
        if "source_profile" not in profile:
            return ""
        name = profile["source_profile"]
    return ""


def token_expiry(user: Path, signed_in: str) -> datetime | None:
    """When the token of a sign-in runs out, as the AWS tools keep it below the user's folder; None if they keep none."""
    name = hashlib.sha1(signed_in.encode(), usedforsecurity=False).hexdigest()
    try:
        kept = json.loads((user / ".aws" / "sso" / "cache" / f"{name}.json").read_text(encoding="utf-8"))
        told = datetime.fromisoformat(str(kept["expiresAt"]).replace("Z", "+00:00"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if told.tzinfo else None


def _life(identity: Identity, *, now: datetime, lasts: timedelta, sign_in: str) -> Verdict:
    renewed = _RENEWED.get(identity.method)
    if renewed:
        return green("expiry", f"renewed by {renewed}")
    if not identity.temporary:
        return green("expiry", "long-lived keys, which do not expire; `aws configure sso` would be safer")
    needed = write_duration(lasts)
    what = "what runs then saves and ends when its lease is over, and waits for somebody to sign in"
    if identity.expires is None:
        if identity.method == "env":
            return yellow(
                "expiry",
                f"a session token from the environment, which nobody can renew, for up to {needed}: {what}",
                "use a profile (AWS_PROFILE) that boto3 can renew, or run the controller on a machine with a role",
            )
        if identity.method == "sso":
            return yellow(
                "expiry", f"a sign-in that may end at any time, and the job may take {needed}: {what}", sign_in
            )
        return green("expiry", f"renewed by boto3 from {_source(identity)}")
    left = identity.expires - now
    until = f"{identity.expires:%F %H:%M} UTC"
    if left <= timedelta(0):
        return red("expiry", f"ran out at {until}", sign_in)
    if left < lasts:
        fix = f"{sign_in} before the launch and again before {until}; a controller takes up new credentials by itself"
        told = f"signed in for {format_duration(left)} more (until {until}), and the job may take {needed}: {what}"
        return yellow("expiry", told, fix)
    return green("expiry", f"until {until}, longer than the {needed} that are needed")


def _source(identity: Identity) -> str:
    names = {
        "env": "environment variables",
        "shared-credentials-file": "the AWS credentials file",
        "config-file": "the AWS configuration file",
        "sso": "an SSO session",
        "login": "an AWS sign-in session",
        "assume-role": "an assumed role",
        "custom-process": "a credential process",
        **_RENEWED,
    }
    name = names.get(identity.method, identity.method)
    return f"{name} (profile {identity.profile})" if identity.profile else name
