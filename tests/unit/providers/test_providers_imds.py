"""The metadata service answers as EC2's does, to the client that the agent really uses and to a bare one."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import pytest

from spotrun.agent.metadata import MetadataService
from spotrun.market import MarketKind
from spotrun.providers.local.imds import MetadataServer

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    """A machine's metadata service, on loopback."""
    metadata = MetadataServer(
        instance_id="i-0123456789abcdef0", zone="use1-az4", instance_type="g5.xlarge", market=MarketKind.SPOT
    )
    yield metadata
    metadata.close()


def ask(server: MetadataServer, method: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def token(server: MetadataServer) -> dict[str, str]:
    status, body = ask(server, "PUT", "/latest/api/token", **{TTL: "21600"})
    assert status == 200
    return {TOKEN: body}


def test_nothing_is_told_without_a_token(server: MetadataServer) -> None:
    """IMDSv2 is required: 401 for none and for a wrong one."""
    assert ask(server, "GET", "/latest/meta-data/instance-id")[0] == 401
    assert ask(server, "GET", "/latest/meta-data/instance-id", **{TOKEN: "guess"})[0] == 401


@pytest.mark.parametrize("ttl", ["0", "21601", "-1", "ten", "²", ""])
def test_a_token_needs_a_life_from_1_to_21600_seconds(server: MetadataServer, ttl: str) -> None:
    """400 otherwise, and for any other path."""
    headers = {TTL: ttl.encode().decode("latin-1")}
    assert ask(server, "PUT", "/latest/api/token", **headers)[0] == 400
    assert ask(server, "PUT", "/latest/api/token")[0] == 400
    assert ask(server, "PUT", "/elsewhere", **{TTL: "60"})[0] == 400


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("instance-id", "i-0123456789abcdef0"),
        ("instance-type", "g5.xlarge"),
        ("instance-life-cycle", "spot"),
        ("placement/availability-zone-id", "use1-az4"),
    ],
)
def test_a_machine_knows_itself(server: MetadataServer, path: str, value: str) -> None:
    """What it was launched as."""
    assert ask(server, "GET", f"/latest/meta-data/{path}", **token(server)) == (200, value)


def test_there_is_no_action_until_one_is_announced(server: MetadataServer) -> None:
    """404, then whole seconds, never later than the loss itself."""
    path = "/latest/meta-data/spot/instance-action"
    assert ask(server, "GET", path, **token(server))[0] == 404
    server.publish_termination(datetime(2026, 9, 18, 10, 22, 0, 999999, timezone(timedelta(hours=2))))
    assert ask(server, "GET", path, **token(server)) == (
        200,
        '{"action": "terminate", "time": "2026-09-18T08:22:00Z"}',
    )
    assert ask(server, "GET", "/latest/meta-data/events/recommendations/rebalance", **token(server))[0] == 404


def test_the_agents_own_client_understands_it(server: MetadataServer) -> None:
    """Both sides speak the same dialect."""
    service = MetadataService(server.url)
    assert service.deadline() is None
    at = datetime(2026, 9, 18, 8, 22, tzinfo=timezone.utc)
    server.publish_termination(at)
    assert service.deadline() == at


def test_on_demand_machines_say_so() -> None:
    """The life cycle is spot or on-demand."""
    metadata = MetadataServer(
        instance_id="i-0123456789abcdef0", zone="use1-az4", instance_type="g5.xlarge", market=MarketKind.ON_DEMAND
    )
    try:
        assert ask(metadata, "GET", "/latest/meta-data/instance-life-cycle", **token(metadata)) == (200, "on-demand")
    finally:
        metadata.close()
