"""Every provider keeps the one contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws.world import World
from local_world import World as LocalWorld
from provider_contract import JOB, ProviderContract, Raise

from spotrun.clock import SystemClock
from spotrun.job import JobSpec
from spotrun.job.ec2 import DEFAULT_IMAGE
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.aws import open_aws
from spotrun.providers.ec2.provider import Ec2Provider
from spotrun.providers.local.provider import LocalProvider
from spotrun.providers.local.sweep import sweep
from spotrun.providers.provider import Instance, InstanceState, Provider
from spotrun.store import MemoryStore

SPOT_FOR_A_DAY = (1,) * 1440
A_FEW_MINUTES = (1, 1, 1, *((0,) * 600))  # the market's zone is lost in the fourth
NONE = (0,) * 1440


class LocalStage:
    """Real processes on this computer, a minute of the market in a second."""

    def __init__(self, home: Path, counts: tuple[int, ...]) -> None:
        home.mkdir()
        self._world = LocalWorld(home, counts=counts)
        self.provider: Provider = self._world.provider

    def again(self) -> Provider:
        return LocalProvider(
            self._world.market, home=self._world.home, clock=self._world.clock, settings=self._world.settings
        )

    def environment(self) -> dict[str, str]:
        return {"SPOTRUN_JOB_ID": JOB}

    def take(self, instance: Instance) -> None:
        """The market does it by itself."""

    def look(self) -> None:
        """Nothing is remembered."""

    def living(self) -> int:
        return sum(it.state is not InstanceState.ENDED for it in self.again().observe(JOB))


class TestLocalProvider(ProviderContract):
    """Local processes."""

    @pytest.fixture
    def raised(self, tmp_path: Path) -> Iterator[Raise]:
        counts = {"calm": SPOT_FOR_A_DAY, "doomed": A_FEW_MINUTES, "empty": NONE}
        homes = []

        def make(kind: str) -> LocalStage:
            homes.append(tmp_path / kind)
            return LocalStage(homes[-1], counts[kind])

        yield make
        for home in homes:
            sweep(home)


class _Ahead(SystemClock):
    """Wall time that can be moved on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class Ec2Stage:
    """Instances of a small AWS on loopback."""

    def __init__(self, world: World, kind: str) -> None:
        self._world = world
        self._clock = _Ahead()
        self._store = MemoryStore()
        world.image_parameters.add(DEFAULT_IMAGE.removeprefix("ssm:"))
        keys = world.credentials.issue()
        self._session = {
            "aws_access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
            "region_name": "us-east-1",
        }
        self._session["aws_session_token"] = keys.get("AWS_SESSION_TOKEN", "") or None  # type: ignore[assignment]
        iam = boto3.client("iam", endpoint_url=world.url, **self._session)  # type: ignore[call-overload]
        iam.create_instance_profile(InstanceProfileName="spotrun-instance")
        iam.close()
        if kind == "empty":
            world.capacity.set(0, market="spot")
        self.provider: Provider = self.again()

    def again(self) -> Provider:
        account = Account(new_session=lambda: boto3.Session(**self._session))  # type: ignore[arg-type]
        spec = JobSpec.model_validate(
            {
                "name": "contract",
                "command": "python train.py",
                "checkpoint": {"uri": "s3://runs/x"},
                "provider": "ec2",
                "resources": {"instance_types": ["g5.xlarge"], "regions": ["us-east-1"]},
            }
        )
        return Ec2Provider(
            open_aws(self._clock, account=account),
            spec,
            submitted_at=self._clock.now() - timedelta(minutes=1),
            place=lambda: self._store,
            clock=self._clock,
        )

    def environment(self) -> dict[str, str]:
        return {
            "SPOTRUN_JOB_ID": JOB,
            "SPOTRUN_CHECKPOINT_URI": "s3://runs/x",
            "SPOTRUN_LEASE_S": "300",
            "SPOTRUN_BUNDLE": json.dumps({"requirement": "spotrun==0.1.0"}),
        }

    def take(self, instance: Instance) -> None:
        self._world.interrupt(instance.id)

    def look(self) -> None:
        self._clock.ahead_s += 20.0

    def living(self) -> int:
        return len(self._world.instances(alive=True))


class TestEc2Provider(ProviderContract):
    """EC2's interface."""

    @pytest.fixture
    def raised(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raise]:
        world = World()
        monkeypatch.setenv("AWS_ENDPOINT_URL", world.url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        try:
            yield lambda kind: _stage(world, kind)
        finally:
            world.close()


def _stage(world: World, kind: str) -> Any:
    return Ec2Stage(world, kind)
