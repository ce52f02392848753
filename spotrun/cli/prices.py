"""`spotrun prices`: what machines cost, from where that is known and of when; and reading it anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from spotrun.cli.home import home_of
from spotrun.units import format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from decimal import Decimal
    from pathlib import Path

    from spotrun.market.price_file import PriceFile, SpotRow
    from spotrun.market.price_table import InstanceType

__all__ = ["prices"]

_DEFAULT_REGION = "us-east-1"  # of the built-in table the one with every type


def prices(
    ctx: typer.Context,
    instance_type: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type, zone by zone; may be repeated.")
    ] = None,
    accelerator: Annotated[
        str, typer.Option("--accelerator", help="Only types with it, like A10G:1, zone by zone.")
    ] = "",
    region: Annotated[
        list[str] | None,
        typer.Option("--region", help="Only there; may be repeated.", show_default="all that are known"),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read them from AWS first, and keep them; needs credentials.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show on-demand and spot prices with source and date: built in, or as read by --refresh."""
    from spotrun.market.price_file import NAME, read_price_file

    path = home_of(ctx).path / NAME
    names = tuple(instance_type or ())
    if refresh:
        _refresh(path, tuple(region or ()), names, quiet=as_json)
    kept = read_price_file(path)
    lines = _lines(kept, names, accelerator, tuple(region or ()))
    if as_json:
        typer.echo(json.dumps({"prices": [line.told() for line in lines]}, indent=2))
    else:
        _show(lines, by_zone=bool(names or accelerator))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A type in a region."""

    name: str
    known: InstanceType | None
    region: str
    on_demand: Decimal | None
    source: str
    as_of: date | None
    spot: tuple[SpotRow, ...]

    def told(self) -> dict[str, object]:
        known = self.known
        return {
            "instance_type": self.name,
            "accelerator": None if known is None else known.accelerator,
            "accelerator_count": None if known is None else known.accelerator_count,
            "vcpus": None if known is None else known.vcpus,
            "memory_gib": None if known is None else known.memory_gib,
            "region": self.region,
            "on_demand_usd_per_hour": None if self.on_demand is None else str(self.on_demand),
            "source": self.source,
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
            "spot": [
                {"zone": row.zone, "usd_per_hour": str(row.usd_per_hour), "read_at": row.at.isoformat()}
                for row in self.spot
            ],
        }


def _refresh(path: Path, regions: tuple[str, ...], names: tuple[str, ...], *, quiet: bool) -> None:
    from spotrun.clock import SystemClock
    from spotrun.errors import CredentialsExpired, ProviderError, SpecError
    from spotrun.market.price_file import PriceFile, read_price_file, write_price_file
    from spotrun.providers.ec2.aws import open_aws
    from spotrun.providers.ec2.doctor.identity import has_credentials
    from spotrun.providers.ec2.price_reading import read_prices

    if not has_credentials():
        raise CredentialsExpired(
            "AWS tells prices only to accounts, and there are no credentials: sign in (aws sso login), or leave out "
            "--refresh to see what is built in"
        )
    clock = SystemClock()
    aws = open_aws(clock)
    regions = regions or (aws.account.home_region(),)
    if not quiet:
        typer.echo(f"reading the prices of {', '.join(regions)}", err=True)
    read = read_prices(aws, regions, names=names, clock=clock)
    for problem in read.problems:
        typer.secho(problem, err=True, fg=typer.colors.YELLOW)
    if not read.on_demand and not read.spot:
        raise ProviderError("no price could be read, and nothing was changed")
    try:
        before = read_price_file(path)
    except SpecError:
        before = PriceFile()  # damaged: it is made anew
    write_price_file(path, before.with_regions(read.regions, on_demand=read.on_demand, spot=read.spot))


def _lines(kept: PriceFile, names: tuple[str, ...], accelerator: str, regions: tuple[str, ...]) -> list[_Line]:
    """What is to be shown: of the named types every region that is known, of all types the regions that were read.

    Raises:
        SpecError: nothing is known of a type, an accelerator or a region.
    """
    from spotrun.errors import SpecError
    from spotrun.market.price_table import instance_types, instance_types_with

    built_in = {known.name: known for known in instance_types()}
    chosen = list(names)
    if accelerator:
        chosen += [known.name for known in instance_types_with(accelerator) if known.name not in names]
    wanted = chosen or list(built_in)
    read = sorted({row.region for row in kept.on_demand} | {row.region for row in kept.spot})
    there = {region for known in built_in.values() for region in known.regions}
    shown = regions or ((*dict.fromkeys([*sorted(there), *read]),) if chosen else tuple(read) or (_DEFAULT_REGION,))
    lines = [line for name in wanted for region in shown if (line := _line(kept, built_in.get(name), name, region))]
    for name in names:
        if not any(line.name == name for line in lines):
            where = f" in {', '.join(regions)}" if regions else ""
            raise SpecError(
                f"--type: no price of {name} is known{where}; read it: spotrun prices --refresh --type {name}"
                f"{''.join(f' --region {each}' for each in regions)}"
            )
    if not lines:
        raise SpecError(
            f"--region: no price is known in {', '.join(shown)}; read it: spotrun prices --refresh --region {shown[0]}"
        )
    return lines


def _line(kept: PriceFile, known: InstanceType | None, name: str, region: str) -> _Line | None:
    from spotrun.market import price_file, price_table

    row = kept.on_demand_row(name, region)
    spot = sorted(
        (each for each in kept.spot if (each.instance_type, each.region) == (name, region)), key=lambda each: each.zone
    )
    listed = known is not None and region in known.regions
    if row is not None and (not listed or row.as_of >= price_table.AS_OF):
        usd, source, as_of = row.usd_per_hour, price_file.SOURCE, row.as_of
    elif known is not None and listed:
        usd, source, as_of = known.usd_per_hour, price_table.SOURCE, price_table.AS_OF
    elif not spot:
        return None
    else:
        return _Line(name=name, known=known, region=region, on_demand=None, source="", as_of=None, spot=tuple(spot))
    return _Line(name=name, known=known, region=region, on_demand=usd, source=source, as_of=as_of, spot=tuple(spot))


def _show(lines: Sequence[_Line], *, by_zone: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ["type", "accelerator", "vCPU", "GiB", "region", "list $/h"]
    columns += ["zone", "spot $/h", "saves"] if by_zone else ["spot $/h, lowest", "highest", "zones"]
    table = Table(box=None, pad_edge=False)
    for column in columns:  # names are of no use when cut; headings may take another line
        table.add_column(column, no_wrap=column in ("type", "accelerator", "region", "zone"))
    for line in lines:
        known = line.known
        gpus = "" if known is None else f"{known.accelerator_count} × {known.accelerator}"
        sizes = ("", "") if known is None else (str(known.vcpus), str(known.memory_gib))
        fixed = (line.name, gpus, *sizes, line.region, "?" if line.on_demand is None else _short(line.on_demand))
        if by_zone:
            for number, row in enumerate(line.spot or (None,)):
                table.add_row(*(fixed if number == 0 else ("",) * len(fixed)), *_zone(row, line.on_demand))
        else:
            usd = [row.usd_per_hour for row in line.spot]
            table.add_row(*fixed, *((_short(min(usd)), _short(max(usd)), str(len(usd))) if usd else ("", "", "")))
    Console().print(table)
    for source, as_of in sorted({(line.source, str(line.as_of)) for line in lines if line.source}):
        typer.echo(f"on-demand: {source}, as of {as_of}")
    read = [row.at for line in lines for row in line.spot]
    if read:
        typer.echo(
            f"spot: AWS spot price history, Linux, as read between {min(read):%F %H:%M} and {max(read):%F %H:%M} UTC"
        )
    else:
        typer.echo("spot prices move by the hour and are not built in: spotrun prices --refresh reads them")


def _zone(row: SpotRow | None, on_demand: Decimal | None) -> tuple[str, str, str]:
    if row is None:
        return "", "", ""
    below = "" if not on_demand else format_percent(1 - row.usd_per_hour / on_demand)
    return row.zone, _short(row.usd_per_hour), below


def _short(usd: Decimal) -> str:
    """Without the zeros at the end that AWS writes."""
    return f"{usd.normalize():f}"
