"""What AWS's error codes mean, as one table, and the errors of ours that they become.

A code comes as an exception of botocore or, from a fleet, as an entry beside the instances. Either way it is told once:
which kind it is, AWS's own words, and what to do. A code that the table does not have means that nothing is known: what
was asked is asked again, with the same token. The exceptions are the families `Invalid...`, `Missing...` and
`Malformed...`: AWS will say the same tomorrow.

Sources: karpenter-provider-aws, `pkg/errors/errors.go`, and gardener's list of codes for what is capacity, quota and
network; Amazon EC2 API Reference, 'Error codes for the Amazon EC2 API'. Seen 2026-11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from spotrun.errors import CapacityRefused, CredentialsExpired, Denied, ProviderError, QuotaRefused, Throttled

__all__ = ["REFUSALS", "Answer", "Kind", "answer_of", "kind_of", "refusal"]

_WORDS_MAX = 400  # of AWS's own words; an authorization failure carries kilobytes of encoded text


class Kind(str, Enum):
    """What a code means for a launch."""

    CAPACITY = "capacity"  # another pool may have some, this one later
    QUOTA = "quota"  # only the user can raise it
    NETWORK = "network"  # subnet, interface or disk: mended in the account, other pools may work
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"  # none, or run out: new ones mend it
    DENIED = "denied"  # the same answer tomorrow
    UNKNOWN = "unknown"  # it may have happened or not


_NONE_FOUND = "NoCredentials"  # our own code: boto3 had nothing to sign with, so AWS was never asked

_CODES: dict[Kind, tuple[str, ...]] = {
    Kind.CAPACITY: (
        "InsufficientInstanceCapacity",
        "UnfulfillableCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientVolumeCapacity",
        "ReservationCapacityExceeded",
        "SpotMaxPriceTooLow",
        "Unsupported",  # the type is not sold in this zone
    ),
    Kind.QUOTA: (
        "MaxSpotInstanceCountExceeded",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxFleetCountExceeded",
    ),
    Kind.NETWORK: (
        "InsufficientFreeAddressesInSubnet",
        "NetworkInterfaceLimitExceeded",
        "VolumeLimitExceeded",
        "MaxIOPSLimitExceeded",
    ),
    Kind.THROTTLED: (
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "SlowDown",
    ),
    Kind.CREDENTIALS: (
        _NONE_FOUND,
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "AuthFailure",
    ),
    Kind.DENIED: (
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedAccess",
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        "OptInRequired",
        "PendingVerification",
        "Blocked",
        "UnsupportedOperation",
        "OperationNotPermitted",
    ),
    Kind.UNKNOWN: (
        # A template made a moment ago is not seen everywhere at once, and its name says Invalid.
        "InvalidLaunchTemplateId.NotFound",
        "InvalidLaunchTemplateId.NotFoundException",
        "InvalidLaunchTemplateName.NotFoundException",
        "InvalidLaunchTemplateName.NotFound",
    ),
}
# After these nothing was launched, for certain.
REFUSALS = frozenset({Kind.CAPACITY, Kind.QUOTA, Kind.NETWORK, Kind.DENIED})

_KIND = {code: kind for kind, codes in _CODES.items() for code in codes}
_SAME_TOMORROW = ("Invalid", "Missing", "Malformed", "AuthFailure.")

_ADVICE = {
    _NONE_FOUND: (
        "Sign in with `aws configure sso` (once) and `aws sso login`, or set AWS_PROFILE to a profile that exists; what runs "
        "goes on meanwhile"
    ),
    "MaxSpotInstanceCountExceeded": "Ask for a higher quota of spot vCPUs of this family (Service Quotas, Amazon EC2)",
    "VcpuLimitExceeded": "Ask for a higher quota of on-demand vCPUs of this family (Service Quotas, Amazon EC2)",
    "InsufficientFreeAddressesInSubnet": "Free addresses in the subnet, or name others in ec2.subnets",
    "VolumeLimitExceeded": "Delete volumes that nobody needs, or ask for a higher quota of gp3 storage",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "The account has never used spot; run once: aws iam create-service-linked-role --aws-service-name "
        "spot.amazonaws.com"
    ),
    "UnauthorizedOperation": "The policy that is needed is printed by `spotrun iam controller`",
    "AccessDenied": "The policy that is needed is printed by `spotrun iam controller`",
    "AccessDeniedException": "The policy that is needed is printed by `spotrun iam controller`",
    "OptInRequired": "The region, or the service, must be enabled for the account first",
    "PendingVerification": "AWS is still verifying the account for this region; it takes minutes to hours",
    "InvalidAMIID.NotFound": "ec2.image must exist in each of resources.regions",
    "InvalidAMIID.Malformed": "ec2.image must be the id of an image",
    "InvalidKeyPair.NotFound": "ec2.key_name must exist in each of resources.regions",
}
_ADVICE_FOR_WORDS = {  # where a code says too little
    "iamInstanceProfile": (
        "`spotrun doctor JOB_FILE --fix` makes the instance profile; one that was made within the last minute is not known "
        "everywhere yet"
    ),
}
_ADVICE_OF_KIND = {
    Kind.CREDENTIALS: (
        "Renew them, for instance with `aws sso login`; what runs goes on meanwhile. New ones in files are found at the "
        "next try; after a change of environment variables start `spotrun controller` anew"
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What AWS said: a code, or an exception's name, and words."""

    code: str
    words: str

    @property
    def kind(self) -> Kind:
        """What it means."""
        return kind_of(self.code)

    def __str__(self) -> str:
        return f"{self.code}: {self.words}" if self.words else self.code


def kind_of(code: str) -> Kind:
    """What a code means; `UNKNOWN` for one that nobody has met yet."""
    known = _KIND.get(code)
    if known is not None:
        return known
    return Kind.DENIED if code.startswith(_SAME_TOMORROW) else Kind.UNKNOWN


def answer_of(error: Exception) -> Answer:
    """What AWS, or botocore on the way there, said."""
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return Answer(code=str(told.get("Code", "Unknown")), words=_short(str(told.get("Message", ""))))
    if isinstance(error, ResponseParserError):
        return Answer(
            code="NotAws", words="what answered does not speak as AWS does; is there a proxy or a sign-in page?"
        )
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Answer(code=_NONE_FOUND, words=_short(str(error)))
    unrenewed = (
        CredentialRetrievalError,
        MetadataRetrievalError,
        SSOError,
        TokenRetrievalError,
    )
    code = "ExpiredToken" if isinstance(error, unrenewed) else type(error).__name__
    return Answer(code=code, words=_short(str(error)))


def refusal(answer: Answer, *, doing: str, pool: str = "") -> ProviderError:
    """The error of ours for an answer.

    Args:
        answer: AWS's.
        doing: what was asked for, as in `to launch use1-az4/g5.xlarge/spot`.
        pool: what was to be launched, where a launch was asked for.
    """
    kind = answer.kind
    by_words = next((advice for words, advice in _ADVICE_FOR_WORDS.items() if words in answer.words), None)
    advice = by_words or _ADVICE.get(answer.code) or _ADVICE_OF_KIND.get(kind)
    told = str(answer).rstrip(".") if advice else str(answer)
    more = f". {advice}" if advice else ""
    match kind:
        case Kind.CAPACITY:
            return CapacityRefused(pool or doing, told)
        case Kind.QUOTA | Kind.NETWORK:
            return QuotaRefused(f"the account's limits do not allow {doing}: {told}{more}")
        case Kind.THROTTLED:
            return Throttled(f"AWS was asked too often {doing}: {told}; it may be asked again, less often")
        case Kind.CREDENTIALS if answer.code == _NONE_FOUND:
            return CredentialsExpired(f"AWS was not asked {doing}: boto3 finds no whole credentials{more}")
        case Kind.CREDENTIALS:
            return CredentialsExpired(f"AWS did not accept the credentials {doing}: {told}{more}")
        case Kind.DENIED:
            return Denied(f"AWS refused {doing}: {told}{more}")
        case Kind.UNKNOWN:
            return ProviderError(f"AWS could not be asked {doing}: {told}; it may be asked again")


def _short(words: str) -> str:
    words = " ".join(words.split("Encoded authorization failure message", maxsplit=1)[0].split())
    return words if len(words) <= _WORDS_MAX else words[: _WORDS_MAX - 3] + "..."
