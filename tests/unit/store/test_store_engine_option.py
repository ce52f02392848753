"""Options of a store: what is accepted, what is refused, and that no secret gets in."""

from __future__ import annotations

import pytest

from spotrun.errors import SpecError
from spotrun.store import StoreOptions


def test_options_are_read_from_mappings_and_json_and_written_without_defaults() -> None:
    """The same both ways; nothing given is nothing written."""
    given = {"endpoint": "https://s3.example.com:9000", "region": "eu-central-1", "profile": "train", "sse": "aws:kms",
             "kms_key": "alias/k", "requester_pays": True, "connections": 16}  # fmt: skip
    options = StoreOptions.read(given)
    assert options.to_json() == given
    assert StoreOptions.read('{"region": "eu-central-1"}') == StoreOptions(region="eu-central-1")
    assert StoreOptions.read(None) == StoreOptions.read("") == StoreOptions.read({}) == StoreOptions()
    assert StoreOptions.read(options) is options
    assert StoreOptions().to_json() == {}


@pytest.mark.parametrize("name", ["aws_secret_access_key", "key", "secret", "token", "session_token", "password",
                                  "access_key", "credentials", "account_key"])  # fmt: skip
def test_secrets_are_refused_with_the_way_to_go(name: str) -> None:
    """They would be stored with the job; the sentence names the option and not what it holds."""
    with pytest.raises(SpecError, match="use a profile") as caught:
        StoreOptions.read({name: "canary"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"colour": "red"}, "colour is not known; there are endpoint"),
        ({"sse": "rot13"}, "sse must be one of AES256"),
        ({"kms_key": "k"}, "kms_key needs sse"),
        ({"kms_key": "k", "sse": "AES256"}, "kms_key needs sse"),
        ({"endpoint": "ftp://x"}, "endpoint must be"),
        ({"endpoint": "https://user:password@host"}, "endpoint must be"),
        ({"endpoint": "https://host:port"}, "endpoint must be"),
        ({"region": ""}, "region must be text"),
        ({"profile": "a\nb"}, "profile must be text"),
        ({"requester_pays": "yes"}, "requester_pays must be true or false"),
        ({"connections": 0}, "connections must be"),
        ({"connections": True}, "connections must be"),
        ({"connections": 10_000}, "connections must be"),
        ("[1]", "must be names and values"),
        ("{", "not JSON"),
    ],
)
def test_what_makes_no_sense_is_refused(given: object, told: str) -> None:
    """At once, by name."""
    with pytest.raises(SpecError, match=told):
        StoreOptions.read(given)  # type: ignore[arg-type]


def test_each_kind_of_place_takes_its_own() -> None:
    """Others are refused where they were given for this place, and left out where they were not."""
    options = StoreOptions(region="r", endpoint="http://host")
    options.check("s3://b", "s3")
    with pytest.raises(SpecError, match="region means nothing to gs://b"):
        options.check("gs://b", "gs")
    assert options.fit("gs") == StoreOptions(endpoint="http://host")
    assert options.fit("file") == StoreOptions()
