"""The small AWS as fixtures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest

from .runner import Runner
from .stage import User
from .world import World


@pytest.fixture(scope="session", autouse=True)
def _one_loader() -> Iterator[None]:
    """boto3's sessions read the model of a service once for all of them: EC2's takes half a second each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture
def world() -> Iterator[World]:
    """An empty AWS account on loopback."""
    made = World()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the machines of all tests find wheels that were unpacked before."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture
def runner(world: World, wheels: Path) -> Iterator[Runner]:
    """Instances of the world are machines that run."""
    made = Runner(world, wheels)
    try:
        yield made
    finally:
        made.close()
        left = [process for machine in made.machines() for process in machine.processes()]
        assert left == []
        assert world.problems == []


@pytest.fixture
def user(world: World, runner: Runner, bucket: str, tmp_path: Path) -> Iterator[User]:
    """Somebody at a terminal, with a bucket and an instance profile. After the test nothing may be left."""
    world.give_profile()
    made = User(world, runner, tmp_path / "user")
    try:
        yield made
    finally:
        made.close()
    assert world.leftovers() == []


@pytest.fixture
def clients(world: World) -> Iterator[Callable[..., Any]]:
    """Makes boto3 clients of the world: `clients("ec2", region="us-west-2")`. They try once."""
    made = []

    def client(service: str, *, region: str = "us-east-1", **more: Any) -> Any:
        more.setdefault("config", boto3.session.Config(retries={"total_max_attempts": 1, "mode": "standard"}))
        keys = {
            "aws_access_key_id": "AKIATESTOFTHEWORLD00",
            "aws_secret_access_key": "secret",
            "endpoint_url": world.url,
            "region_name": region,
        }
        made.append(boto3.client(service, **{**keys, **more}))
        return made[-1]

    yield client
    for each in made:
        each.close()


@pytest.fixture
def bucket(clients: Callable[..., Any]) -> str:
    """A bucket of the world."""
    clients("s3").create_bucket(Bucket="runs")
    return "runs"
