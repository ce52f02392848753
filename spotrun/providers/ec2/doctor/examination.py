"""The whole look at an account: who asks first, then everything else at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spotrun.clock import Clock
from spotrun.providers.doctor.round import Area, make_round
from spotrun.providers.doctor.verdict import Light, Remedy, Verdict, red, yellow
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.doctor import bucket, identity, limit, queue, region, role
from spotrun.providers.ec2.doctor.identity import Identity
from spotrun.providers.ec2.doctor.question import Question
from spotrun.providers.ec2.image import Images
from spotrun.providers.ec2.network import Networks
from spotrun.providers.ec2.quota import Quotas

__all__ = ["Examination", "carry_out", "examine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What came of it. `reached` tells whether the account could be asked at all."""

    verdicts: tuple[Verdict, ...]
    reached: bool


def examine(account: Account, question: Question, *, clock: Clock, more: Sequence[Area] = ()) -> Examination:
    """Looks at everything that the question is about.

    Args:
        account: whose.
        question: what a job needs.
        clock: wall time.
        more: areas to be looked at at the same time, told last.
    """
    here = question.regions[0]
    who: list[Identity] = []

    def introduce() -> Sequence[Verdict]:
        who.append(identity.look(account, here))
        return identity.check(who[0], now=clock.now(), lasts=question.lasts)

    first = make_round([Area("credentials", introduce)], clock=clock)
    if not who or not who[0].arn:
        bad = first if question.for_job else [_mild(verdict) for verdict in first]
        return Examination(
            verdicts=(*bad, _unseen(question, answered=bool(who)), *make_round(more, clock=clock)), reached=False
        )
    where: list[region.Region] = []

    def look_around() -> Sequence[Verdict]:
        where.extend(region.look_at_regions(account, question))
        return region.check_regions(where, assumed=question.assumed)

    first += make_round([Area("region", look_around)], clock=clock)
    usable = tuple(each.name for each in where if each.enabled)
    areas = _areas(account, replace(question, regions=usable), who[0], clock) if usable else []
    return Examination(verdicts=(*first, *make_round([*areas, *more], clock=clock)), reached=True)


def carry_out(account: Account, remedy: Remedy) -> None:
    """Sends a remedy's requests, in order.

    Raises:
        ProviderError: one was refused; those before it have been done, and all of them may be repeated.
    """
    for request in remedy.requests:
        client = account.client(request.service, request.region)
        with account.asking(f"to {request.operation.replace('_', ' ')}"):
            getattr(client, request.operation)(**request.parameters)


def _areas(account: Account, question: Question, who: Identity, clock: Clock) -> list[Area]:
    here, scope = question.regions[0], question.scope
    catalog = Catalog(account, clock=clock)
    networks = Networks(account, catalog, clock=clock)
    areas = [
        Area(
            "instance profile",
            lambda: role.check(role.look(account, question.profile, here), scope=scope, region=here),
        ),
        Area("quota", lambda: limit.check(limit.look(catalog, Quotas(account, clock=clock), question))),
        Area(
            "network",
            lambda: region.check_networks(
                region.look_at_networks(account, networks, question), named=bool(question.subnets)
            ),
        ),
        Area("image", lambda: region.check_images(region.look_at_images(Images(account, clock=clock), question))),
        Area(
            "metadata",
            lambda: region.check_metadata(region.look_at_metadata(account, question), docker=question.docker),
        ),
    ]
    if question.queue is not None:
        areas.append(Area("queue", lambda: _queues(account, question, who)))
    if scope is not None and not question.elsewhere:
        areas.append(
            Area(
                "bucket",
                lambda: bucket.check(bucket.look(account, scope.bucket, here), regions=question.regions),
            )
        )
    return areas


def _queues(account: Account, question: Question, who: Identity) -> Sequence[Verdict]:
    assert question.queue is not None, "asked for only if the question names one"
    partition = who.arn.split(":")[1]
    found = [queue.look(account, question.queue, each) for each in question.regions]
    return queue.check(found, account=who.account, partition=partition, wanted=question.for_job)


def _unseen(question: Question, *, answered: bool) -> Verdict:
    what = "region, instance profile, quotas, network, image and bucket were not looked at"
    told = red if question.for_job else yellow
    if answered:
        return told("account", f"{what}: nobody is signed in", "sign in, then run spotrun doctor again")
    return told(
        "account", f"{what}: AWS could not be asked", "is the network there, and is a proxy needed (HTTPS_PROXY)?"
    )


def _mild(verdict: Verdict) -> Verdict:
    """Without a job for it, an account is optional."""
    if verdict.light is not Light.RED:
        return verdict
    return yellow(verdict.area, f"{verdict.sentence}; only provider: local can be used", verdict.fix)
