"""`spotrun prices` against the small AWS: read, kept, dated, and used where AWS gives none."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from spotrun.clock import SystemClock
from spotrun.market.price_file import NAME, OnDemandRow, PriceFile, read_price_file
from spotrun.market.price_table import AS_OF
from spotrun.providers.ec2.aws import open_aws

from .shell import Shell
from .world import World


def test_prices_are_read_kept_and_shown_with_their_dates(world: World, tmp_path: Path) -> None:
    """On-demand of every type, spot of every zone; the next command needs no account."""
    world.prices.set("0.3", zone="usw2-az1", instance_type="g5.xlarge")
    shell = Shell(tmp_path, **world.environment())
    told = shell.run("prices", "--refresh", "--region", "us-west-2", "--type", "g5.xlarge")
    assert told.returncode == 0, told.stderr
    assert "read by `spotrun prices --refresh`, as of" in told.stdout
    kept = read_price_file(tmp_path / "home" / NAME)
    assert len({row.instance_type for row in kept.on_demand}) > 5
    assert len({row.instance_type for row in kept.spot}) > 5

    alone = json.loads(Shell(tmp_path).run("prices", "--type", "g5.xlarge", "--region", "us-west-2", "--json").stdout)
    (line,) = alone["prices"]
    assert Decimal(line["on_demand_usd_per_hour"]) == Decimal("1.006")
    assert {row["zone"]: Decimal(row["usd_per_hour"]) for row in line["spot"]}["usw2-az1"] == Decimal("0.3")


def test_without_permission_for_the_price_list_spot_prices_are_read_all_the_same(world: World, tmp_path: Path) -> None:
    """What stays as it was is said, and the built-in table stands in."""
    world.faults.fail("pricing", "GetProducts", code="AccessDeniedException", times=9)
    told = Shell(tmp_path, **world.environment()).run("prices", "--refresh", "--type", "g5.xlarge")
    assert told.returncode == 0, told.stderr
    assert "on-demand prices of us-east-1 stay as they were" in told.stderr
    assert "built into spotrun" in told.stdout
    assert "use1-az1" in told.stdout


def test_without_credentials_what_is_known_is_shown_and_a_refresh_is_refused(tmp_path: Path) -> None:
    """At once, and nothing is written."""
    shell = Shell(tmp_path)
    assert "2026-07-20" in shell.run("prices").stdout
    told = shell.run("prices", "--refresh")
    assert told.returncode == 2
    assert "no credentials" in told.stderr
    assert not (tmp_path / "home" / NAME).exists()
    assert shell.run("prices", "--type", "nope.large").returncode == 2


@pytest.mark.parametrize(("day", "usd"), [(date.max, "1.5"), (date.min, "1.006")])
def test_where_aws_gives_no_price_the_newer_of_kept_and_built_in_stands(
    world: World, monkeypatch: pytest.MonkeyPatch, day: date, usd: str
) -> None:
    """A plan and a report tell that price with its date."""
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    world.faults.fail("pricing", "GetProducts", code="AccessDeniedException", times=9)
    row = OnDemandRow(instance_type="g5.xlarge", region="us-east-1", usd_per_hour=Decimal("1.5"), as_of=day)
    aws = open_aws(SystemClock(), kept=PriceFile(on_demand=(row,)))
    price = aws.list_prices.price("g5.xlarge", "us-east-1")
    assert price is not None
    assert price.usd_per_hour == Decimal(usd)
    assert price.source.as_of == (day if usd == "1.5" else AS_OF)


def test_credentials_that_ran_out_change_nothing(world: World, tmp_path: Path) -> None:
    """The file stays, and the sentence says how to sign in."""
    environment = world.environment()
    world.credentials.expire(environment["AWS_ACCESS_KEY_ID"])
    told = Shell(tmp_path, **environment).run("prices", "--refresh")
    assert told.returncode == 2
    assert "aws sso login" in told.stderr
    assert not (tmp_path / "home" / NAME).exists()
