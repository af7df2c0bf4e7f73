"""What every request passes first: host, origin, rate; and the headers that every answer gets."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synctalk.serve.guard import Door, RateLimit
from synctalk.serve.metrics import Metrics

__all__ = ["Gate"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, door: Door, rate: RateLimit, metrics: Metrics) -> None:
        self._app, self._door, self._rate, self._metrics = app, door, rate, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
            return
        status, word, message = refusal
        self._metrics.refused.labels(word).inc()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = JSONResponse({"error": word, "message": message}, status)
        await answer(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        if not self._door.knows_host(host):
            return 421, "wrong_host", "this server has another name"
        if not self._door.knows_origin(origin, host):
            return 403, "wrong_origin", "pages from there may not connect: start with --allow-origin"
        address = scope["client"][0] if scope.get("client") else ""
        if scope["path"] != "/health" and not self._rate.take(address):
            return 429, "too_fast", "too many requests: wait a little"
        return None


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
