"""From a job's spec to the provider it names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from spotrun.clock import ScaledClock, SystemClock
from spotrun.errors import SpecError
from spotrun.job.spec import GeneratorMarket, JobSpec, Resources, TraceMarket
from spotrun.market import price_file
from spotrun.market.generator import GeneratorConfig
from spotrun.market.price_file import PriceFile, read_price_file
from spotrun.market.price_table import DEFAULT_INSTANCE_TYPE, instance_type, instance_types_with
from spotrun.market.simulated import TraceConfig, open_market
from spotrun.market.source import PriceSource
from spotrun.providers.local.provider import LocalProvider, LocalSettings
from spotrun.providers.local.state import check_job_id
from spotrun.providers.provider import Provider
from spotrun.store import BlobStore, open_store

if TYPE_CHECKING:
    from spotrun.providers.ec2.aws import Aws, Pacing
    from spotrun.providers.ec2.provider import Ec2Provider

__all__ = ["Connector", "connect"]


class Connector:
    """Opens the providers of a process's jobs. The jobs of an AWS account share what was learnt of it.

    Args:
        home: where spotrun keeps its state.
        open_store: a store at a URI, with options if the job has some.
        pacing: how often AWS may be asked.
    """

    def __init__(
        self, home: Path, *, open_store: Callable[..., BlobStore] = open_store, pacing: Pacing | None = None
    ) -> None:
        self._home = home
        self._open_store = open_store
        self._pacing = pacing
        self._aws: Aws | None = None

    def __call__(
        self,
        spec: JobSpec,
        *,
        job_id: str,
        submitted_at: datetime,
        clock: SystemClock | ScaledClock,
        workdir: Path | None = None,
    ) -> Provider:
        """The provider of a job.

        Args:
            spec: the job's spec.
            job_id: names its machines.
            submitted_at: job time of the submission: a simulated market begins here, and `max_wait` does.
            clock: the job's clock.
            workdir: the directory of the submission, to which relative paths of the spec refer; default: the present one.

        Raises:
            SpecError: the spec asks for what the provider cannot give, or names files it cannot read.
            ProviderError: the provider cannot work with this id.
        """
        check_job_id(job_id)
        _refuse_memory(spec)
        if spec.provider == "ec2":
            return self.ec2(spec, job_id=job_id, submitted_at=submitted_at)
        return _local(spec, submitted_at=submitted_at, home=self._home, clock=clock, workdir=workdir)

    def complete(self, spec: JobSpec) -> JobSpec:
        """The spec with the regions that AWS's configuration names, where it names none itself: a controller with another
        configuration must look for the job's machines where they are.

        Raises:
            SpecError: there is none.
        """
        if spec.provider != "ec2" or spec.resources.regions:
            return spec
        regions = (self._opened().account.home_region(),)
        return spec.model_copy(update={"resources": spec.resources.model_copy(update={"regions": regions})})

    def ec2(self, spec: JobSpec, *, job_id: str, submitted_at: datetime) -> Ec2Provider:
        """The EC2 provider of a job. Nothing is asked of AWS yet."""
        # boto3 is paid for by those who use it.
        from spotrun.providers.ec2.provider import Ec2Provider  # noqa: PLC0415

        assert spec.checkpoint is not None, "the spec requires it"
        uri, options = f"{spec.checkpoint.uri.rstrip('/')}/{job_id}", spec.checkpoint.options.given()
        return Ec2Provider(
            self._opened(),
            spec,
            submitted_at=submitted_at,
            place=lambda: self._open_store(uri, options) if options else self._open_store(uri),
            clock=SystemClock(),
        )

    def _opened(self) -> Aws:
        from spotrun.providers.ec2.aws import open_aws  # noqa: PLC0415

        self._aws = self._aws or open_aws(SystemClock(), kept=_kept_prices(self._home), pacing=self._pacing)
        return self._aws


def _kept_prices(home: Path) -> PriceFile:
    """What `spotrun prices --refresh` has read. A damaged file stops no job: it only serves where AWS gives no prices."""
    try:
        return read_price_file(home / price_file.NAME)
    except SpecError:
        return PriceFile()


def connect(
    spec: JobSpec,
    *,
    job_id: str,
    submitted_at: datetime,
    home: Path,
    clock: SystemClock | ScaledClock,
    workdir: Path | None = None,
) -> Provider:
    """The provider of a single job; see `Connector`."""
    return Connector(home)(spec, job_id=job_id, submitted_at=submitted_at, clock=clock, workdir=workdir)


def _local(
    spec: JobSpec, *, submitted_at: datetime, home: Path, clock: SystemClock | ScaledClock, workdir: Path | None
) -> LocalProvider:
    types = _instance_types(spec.resources)
    market = open_market(
        _market_config(spec.local.market, workdir or Path()),
        start=submitted_at,
        regions=spec.resources.regions,
        instance_types=types,
    )
    settings = LocalSettings(
        instance_types=types,
        notice=spec.local.notice,
        launch_delay=spec.local.launch_delay,
        aws=_needs_aws(spec),
        inherited=_key_variables(spec),
        spot_source=_spot_source(spec.local.market),
    )
    return LocalProvider(market, home=home, clock=clock, settings=settings)


def _spot_source(market: GeneratorMarket | TraceMarket) -> PriceSource:
    match market:
        case GeneratorMarket(seed=seed):
            return PriceSource(name=f"spotrun's market generator, seed {seed}", simulated=True)
        case TraceMarket(prices=None, seed=seed):
            return PriceSource(name=f"spotrun's price generator, seed {seed}", simulated=True)
        case TraceMarket(prices=file):
            return PriceSource(name=f"recorded spot prices ({file}), replayed", simulated=True)


def _refuse_memory(spec: JobSpec) -> None:
    places = {f"inputs.{name}": url for name, url in spec.inputs.items()}
    if spec.checkpoint is not None:
        places["checkpoint.uri"] = spec.checkpoint.uri
    for field, url in places.items():
        if url.lower().startswith("memory:"):
            raise SpecError(
                f"{field}: {url} is the memory of one process, and each attempt is another one, which would find nothing "
                "there; give a directory, or a URL like s3://bucket/path"
            )


def _market_config(market: GeneratorMarket | TraceMarket, workdir: Path) -> GeneratorConfig | TraceConfig:
    if isinstance(market, GeneratorMarket):
        return GeneratorConfig(
            seed=market.seed,
            zones=market.zones,
            mean_up=market.mean_up,
            mean_down=market.mean_down,
            without_notice=market.without_notice,
        )
    return TraceConfig(
        availability={zone: workdir / Path(file).expanduser() for zone, file in market.availability.items()},
        prices=None if market.prices is None else workdir / Path(market.prices).expanduser(),
        seed=market.seed,
        without_notice=market.without_notice,
    )


def _instance_types(resources: Resources) -> tuple[str, ...]:
    """The types asked for. All pools of a local zone come and go together, so an accelerator alone means the cheapest
    type that is sold where the job may be."""
    if resources.accelerator is None:
        return tuple(instance_type(name).name for name in resources.instance_types) or (DEFAULT_INSTANCE_TYPE,)
    fitting = instance_types_with(resources.accelerator)
    names = [known.name for known in fitting]
    unfit = [name for name in resources.instance_types if instance_type(name).name not in names]
    if unfit:
        raise SpecError(
            f"resources.instance_types: {', '.join(unfit)} does not have {resources.accelerator}; "
            f"these have: {', '.join(names)}"
        )
    near = [known.name for known in fitting if set(known.regions) & set(resources.regions)]
    return resources.instance_types or tuple((near or names)[:1])


def _key_variables(spec: JobSpec) -> tuple[str, ...]:
    """The variable that holds the key that signs the log: its value reaches machines only by inheritance."""
    signing = spec.checkpoint.signing if spec.checkpoint else None
    return (signing.key_env,) if signing and signing.key_env else ()


def _needs_aws(spec: JobSpec) -> bool:
    uris = [*spec.inputs.values(), *([spec.checkpoint.uri] if spec.checkpoint else [])]
    if spec.checkpoint is not None and spec.checkpoint.signing is not None and spec.checkpoint.signing.kms:
        return True
    return any(uri.startswith(("s3:", "s3a:")) for uri in uris)
