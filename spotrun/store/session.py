"""Sessions with AWS that share what describes its services: reading that takes longer than all requests of a save."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["sharing_models"]

_Session = TypeVar("_Session", bound=Any)

_LOADERS: list[Any] = []  # one, once it is needed; it holds files of the package, nothing of a user's


def sharing_models(session: _Session) -> _Session:
    """This session of botocore or aiobotocore, made to use the descriptions that another one has read."""
    if not _LOADERS:
        _LOADERS.append(session.get_component("data_loader"))
    session.register_component("data_loader", _LOADERS[0])
    return session
