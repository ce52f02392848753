"""The one address of this AWS: a server on loopback with the layers before moto."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from .answer import error
from .call import Call, read_call
from .fault import Fault, Loss
from .table import answer_table

if TYPE_CHECKING:
    from .world import World


class Endpoint:
    """Serves a world until closed. The order of the layers: expired keys, permissions, faults, tables, moto."""

    def __init__(self, world: World) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._world = world
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """As for `AWS_ENDPOINT_URL`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        call = read_call(environ)
        fault = self._world.faults.meet(call)
        with self._world.launching:
            refusal = self._world.credentials.refuse(call) or self._world.permissions.refuse(call)
        if refusal is not None:
            return refusal.send(start)
        if fault is None:
            return self._answer(call, environ, start)
        if fault.gate is not None:
            return self._held(fault, call, environ, start)
        if fault.loss is Loss.AFTER:
            self._lose(call, environ)
        if fault.code:
            return error(call, fault.code, fault.message, status=fault.status).send(start)
        return _cut(environ, start)

    def _answer(self, call: Call, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        answer = answer_table(self._world, call)
        if answer is not None:
            return answer.send(start)
        return self._moto(environ, start)  # type: ignore[no-any-return]

    def _held(self, fault: Fault, call: Call, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        assert fault.gate is not None
        if fault.loss is Loss.BEFORE:
            fault.gate.hold()
            return self._answer(call, environ, start)
        kept: list[Any] = []
        body = list(self._answer(call, environ, lambda *told: kept.append(told)))
        fault.gate.hold()
        start(*kept[-1])
        return body

    def _lose(self, call: Call, environ: dict[str, Any]) -> None:
        list(self._answer(call, environ, lambda *_: None))


def _cut(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start("500 Cut", [("Content-Length", "0")])
    return [b""]


class _Handler(MotoRequestHandler):
    """Quiet: what goes wrong on purpose is no news."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Says nothing."""
