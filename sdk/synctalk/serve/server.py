"""uvicorn, with the patience that strangers get: limits on connections, on silence and on slowness."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from synctalk.serve.guard import network
from synctalk.serve.messages import MAX_MESSAGE
from synctalk.serve.settings import ServeSettings

__all__ = ["create_server"]

_MAX_HEADERS = 16 << 10
_BACKLOG = 64
"""Connections that wait to be taken, and that are taken before anything else is done."""


def create_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """A server that is ready to run; port 0 takes a free one."""
    http, sockets = _protocols(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=http,
        ws=sockets,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=settings.ping_s,
        ws_ping_timeout=settings.ping_s,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=_MAX_HEADERS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,
        backlog=_BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="error",
        lifespan="off",
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
    )
    return uvicorn.Server(config)


def _protocols(settings: ServeSettings) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
    """Classes that keep a server's limits; one pair a server, for they count its connections."""
    patience = settings.header_timeout_s
    open_now: Counter[str] = Counter()  # connections by address; an upgraded one goes on as the same

    def forget(address: str) -> None:
        open_now[address] -= 1
        if not open_now[address]:
            del open_now[address]

    class Http(H11Protocol):
        """A connection must ask for something in time, all of it, and there may be only so many."""

        _address = ""
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            peer = transport.get_extra_info("peername")
            self._address = network(peer[0]) if peer else ""
            open_now[self._address] += 1
            if (
                open_now[self._address] > settings.max_connections_per_address
                or open_now.total() > settings.max_connections
            ):
                self.transport = transport
                transport.abort()
                return
            super().connection_made(transport)
            self._wait_for_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:  # the head of a request is not complete
                self._wait_for_request()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            forget(self._address)
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._stop_waiting()
            super().handle_websocket_upgrade(event)

        def _wait_for_request(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(patience, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    class Socket(WebSocketsSansIOProtocol):
        """What is closed and not read by the other side is dropped."""

        def connection_lost(self, exc: Exception | None) -> None:
            forget(network(self.client[0]) if self.client else "")
            super().connection_lost(exc)

        def keepalive_timeout(self) -> None:
            super().keepalive_timeout()
            self.transport.abort()

        def on_task_complete(self, task: asyncio.Task[Any]) -> None:
            super().on_task_complete(task)
            self.loop.call_later(settings.send_timeout_s, self.transport.abort)

    return Http, Socket
