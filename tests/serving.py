"""A server in a thread, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from synctalk import Avatar
from synctalk.serve.app import Host, create_app
from synctalk.serve.server import create_server
from synctalk.serve.settings import ServeSettings


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    port: int
    host: Host

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def wait_for_sessions(self, n: int, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while (len(self.host.conversations), self.host.executor.n_sessions) != (n, n):
            assert time.monotonic() < end, f"{len(self.host.conversations)} sessions, expected {n}"
            time.sleep(0.02)


@contextmanager
def running(settings: ServeSettings, avatars: Mapping[str, Avatar] | None = None) -> Iterator[Running]:
    """settings: with port 0."""
    app = create_app(avatars or {"mock": Avatar.mock()}, settings)
    server = create_server(app, settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end, "the server does not start"
            time.sleep(0.01)
        yield Running(server.servers[0].sockets[0].getsockname()[1], app.state.host)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
