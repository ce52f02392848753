"""AWS's error codes: each of the table is told as what it is, and an unknown one as nothing known."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, TokenRetrievalError
from botocore.parsers import ResponseParserError

from spotrun.errors import CapacityRefused, CredentialsExpired, Denied, ProviderError, QuotaRefused, Throttled
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.error import Answer, Kind, answer_of, kind_of, refusal

POOL = "use1-az4/g5.xlarge/spot"

CODES: list[tuple[str, type[ProviderError], str]] = [
    ("InsufficientInstanceCapacity", CapacityRefused, ""),
    ("UnfulfillableCapacity", CapacityRefused, ""),
    ("InsufficientHostCapacity", CapacityRefused, ""),
    ("InsufficientReservedInstanceCapacity", CapacityRefused, ""),
    ("InsufficientVolumeCapacity", CapacityRefused, ""),
    ("ReservationCapacityExceeded", CapacityRefused, ""),
    ("SpotMaxPriceTooLow", CapacityRefused, ""),
    ("Unsupported", CapacityRefused, ""),
    ("MaxSpotInstanceCountExceeded", QuotaRefused, "higher quota of spot vCPUs"),
    ("VcpuLimitExceeded", QuotaRefused, "higher quota of on-demand vCPUs"),
    ("InstanceLimitExceeded", QuotaRefused, ""),
    ("MaxFleetCountExceeded", QuotaRefused, ""),
    ("InsufficientFreeAddressesInSubnet", QuotaRefused, "ec2.subnets"),
    ("NetworkInterfaceLimitExceeded", QuotaRefused, ""),
    ("VolumeLimitExceeded", QuotaRefused, "Delete volumes"),
    ("MaxIOPSLimitExceeded", QuotaRefused, ""),
    ("RequestLimitExceeded", Throttled, ""),
    ("ThrottlingException", Throttled, ""),
    ("ExpiredToken", CredentialsExpired, "aws sso login"),
    ("RequestExpired", CredentialsExpired, "aws sso login"),
    ("InvalidClientTokenId", CredentialsExpired, "aws sso login"),
    ("AuthFailure", CredentialsExpired, "aws sso login"),
    ("UnauthorizedOperation", Denied, "spotrun iam controller"),
    ("AccessDeniedException", Denied, "spotrun iam controller"),
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", Denied, "create-service-linked-role"),
    ("InvalidParameterValue", Denied, ""),
    ("InvalidUserData.Malformed", Denied, ""),
    ("InvalidAMIID.NotFound", Denied, "ec2.image"),
    ("MissingParameter", Denied, ""),
    ("OptInRequired", Denied, "enabled"),
    ("PendingVerification", Denied, "verifying"),
    ("Blocked", Denied, ""),
    ("InvalidLaunchTemplateName.NotFoundException", ProviderError, ""),
    ("InternalError", ProviderError, ""),
    ("Unavailable", ProviderError, ""),
    ("ACodeOfNextYear", ProviderError, ""),
]


@pytest.mark.parametrize(("code", "error", "advice"), CODES, ids=[code for code, _, _ in CODES])
def test_each_code_is_told_as_what_it_is(code: str, error: type[ProviderError], advice: str) -> None:
    """The class decides what the controller does, the words what the user reads."""
    told = refusal(Answer(code=code, words="AWS's own words."), doing="to launch it", pool=POOL)
    assert type(told) is error
    assert code in str(told)
    assert "AWS's own words." in str(told)
    assert advice in str(told)


def test_a_refusal_of_capacity_names_the_pool() -> None:
    """The policy avoids exactly this pool for a while."""
    told = refusal(Answer(code="InsufficientInstanceCapacity", words="none"), doing="to launch it", pool=POOL)
    assert isinstance(told, CapacityRefused)
    assert (told.offer, told.answer) == (POOL, "InsufficientInstanceCapacity: none")


def test_credentials_that_are_missing_or_cannot_be_renewed_are_credentials() -> None:
    """botocore raises them before AWS is asked; where there are none at all, nothing is said to have expired."""
    for error in (NoCredentialsError(), TokenRetrievalError(provider="sso", error_msg="run aws sso login")):
        assert answer_of(error).kind is Kind.CREDENTIALS
    told = str(refusal(answer_of(NoCredentialsError()), doing="for prices"))
    assert told.startswith("AWS was not asked for prices: boto3 finds no whole credentials. Sign in")


def test_a_connection_that_failed_means_that_nothing_is_known() -> None:
    """The launch may have arrived."""
    error = EndpointConnectionError(endpoint_url="https://ec2.us-east-1.amazonaws.com")
    assert answer_of(error).kind is Kind.UNKNOWN


def test_encoded_authorization_messages_are_cut() -> None:
    """They are kilobytes that only AWS can read."""
    words = "You are not authorized to perform this operation. Encoded authorization failure message: " + "x" * 5000
    error = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": words}}, "CreateFleet")
    assert answer_of(error).words == "You are not authorized to perform this operation."


def test_unknown_codes_of_families_that_stay_wrong_are_fatal() -> None:
    """What AWS calls invalid today it calls invalid tomorrow."""
    assert kind_of("InvalidSubnetID.NotFound") is Kind.DENIED
    assert kind_of("MalformedSomething") is Kind.DENIED


def test_a_missing_instance_profile_is_told_with_the_command_that_makes_it() -> None:
    """`InvalidParameterValue` alone says nothing; and AWS's full stop does not meet ours."""
    words = (
        "Value (spotrun-instance) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name."
    )
    told = str(refusal(Answer(code="InvalidParameterValue", words=words), doing="to launch x"))
    assert "Profile name. `spotrun doctor JOB_FILE --fix`" in told


def test_what_answers_in_the_place_of_aws_is_told_and_is_no_crash() -> None:
    """A proxy or a sign-in page sends HTML, which botocore's parser refuses with an error of another family."""

    class Session:
        region_name = "us-east-1"

    account = Account(new_session=Session)
    with pytest.raises(ProviderError, match="is there a proxy"), account.asking("for prices"):
        raise ResponseParserError("Unable to parse response: <!doctype html>")
