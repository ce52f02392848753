"""The AWS account that a process works in: one session, one client for each service and region, one translation of errors.

Credentials, endpoint and default region come from boto3's own chain and from nowhere else. All jobs of a process share
one account, and with it what was learnt of prices, types, quotas and instances.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from spotrun.errors import CredentialsExpired, ProviderError, SpecError
from spotrun.providers.ec2.error import answer_of, refusal

__all__ = ["Account"]

# `legacy` repeats 500s, and a pool without capacity answers with one: a launch asks once, whatever the answer.
_PATIENT = Config(
    retries={"mode": "standard", "total_max_attempts": 4},
    connect_timeout=5,
    read_timeout=30,
    user_agent_extra="spotrun",
)
_ONCE = _PATIENT.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=60))


class Account:
    """The account behind boto3's credentials. Thread-safe.

    Args:
        new_session: makes a session; called again after credentials were refused, which reads the chain anew.
    """

    def __init__(self, *, new_session: Callable[[], Any] = boto3.Session) -> None:
        self._new_session = new_session
        self._lock = threading.RLock()
        self._session: Any = None
        self._clients: dict[tuple[str, str, bool], Any] = {}

    def home_region(self) -> str:
        """The region that AWS's configuration names.

        Raises:
            SpecError: it names none.
        """
        with self._lock:
            region = self._opened().region_name
        if not region:
            raise SpecError(
                "resources.regions: names no region, and neither do AWS_REGION, AWS_DEFAULT_REGION and the AWS "
                "configuration; write it like [us-east-1]"
            )
        return str(region)

    def client(self, service: str, region: str, *, once: bool = False) -> Any:
        """The client of a service in a region.

        Args:
            service, region: as boto3 names them.
            once: for calls that must not be repeated behind our back: each is one request.
        """
        with self._lock:
            key = (service, region, once)
            if key not in self._clients:
                with self.asking(f"for {service} in {region}"):
                    self._clients[key] = self._opened().client(
                        service, region_name=region, config=_ONCE if once else _PATIENT
                    )
            return self._clients[key]

    @contextmanager
    def asking(self, doing: str, *, pool: str = "") -> Iterator[None]:
        """Turns what AWS and botocore raise into errors of ours; `doing` says what was asked, as in `for prices`.

        Raises:
            ProviderError: as `spotrun.providers.ec2.error.refusal` tells it.
        """
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError) as err:
            told = refusal(answer_of(err), doing=doing, pool=pool)
            if isinstance(told, CredentialsExpired):
                self.renew()
            raise told from err

    def renew(self) -> None:
        """Forgets session and clients, so that the next call finds new credentials, if there are some."""
        with self._lock:
            self._session = None
            self._clients.clear()

    def pages(self, operation: str, region: str, *, doing: str, service: str = "ec2", **request: Any) -> Iterator[Any]:
        """The pages of a listing.

        Raises:
            ProviderError: it could not be had.
        """
        paginator = self.client(service, region).get_paginator(operation)
        with self.asking(doing):
            pages = iter(paginator.paginate(**request))
            for _ in range(_PAGES_MAX):
                page = next(pages, None)
                if page is None:
                    return
                yield page
        raise ProviderError(f"AWS gave more than {_PAGES_MAX} pages {doing}; that is not believed")

    def _opened(self) -> Any:
        if self._session is None:
            self._session = self._new_session()
        return self._session


_PAGES_MAX = 1000  # of 100 entries at least: no listing of ours is near it
