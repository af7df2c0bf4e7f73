"""The web application: pages, avatars, health, metrics, the WebSocket; who may come in is decided here."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware

from synctalk._version import __version__
from synctalk.avatar import Avatar
from synctalk.control import MAX_POSE_DEG
from synctalk.errors import MediaError
from synctalk.executor import Executor
from synctalk.serve import messages
from synctalk.serve.conversation import Conversation, GoneError, RefusedError
from synctalk.serve.gate import Gate
from synctalk.serve.guard import Door, RateLimit, network
from synctalk.serve.metrics import Metrics
from synctalk.serve.poster import poster
from synctalk.serve.settings import ServeSettings
from synctalk.serve.sound import Speech, decode

__all__ = ["Host", "create_app"]

_LOG = logging.getLogger("synctalk.serve")

_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/player.js": ("player.js", "text/javascript; charset=utf-8"),
    "/microphone.js": ("microphone.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""All that is ever read from files; it is read when the server starts."""

_WRONG_TOKEN_COST = 10.0
_BURST_S = 5.0
_MAX_UPLOADS = 4
_CLOSE = {"unauthorised": 4401, "unknown_avatar": 4404, "full": 4503, "idle": 4408}
_CLOSE_OTHER = 4400


class AvatarInfo(BaseModel):
    """An avatar that can be talked to."""

    id: str
    name: str
    width: int
    height: int
    fps: int
    lookahead_ms: float
    expressions: list[str]
    max_pose_deg: list[float]
    poster: str
    """A picture, as a data URL."""


class Avatars(BaseModel):
    """What this server has."""

    avatars: list[AvatarInfo]
    can_say: bool
    """Whether text can be spoken."""
    ice_servers: list[str]
    version: str


class Health(BaseModel):
    """``full``: it works, and has no room for another session now."""

    status: str


class Accepted(BaseModel):
    """A sound that will be spoken."""

    seconds: float


class Problem(BaseModel):
    """A word for programs and a sentence for people."""

    error: str
    message: str


class Host:
    """What all connections share."""

    def __init__(self, avatars: Mapping[str, Avatar], settings: ServeSettings) -> None:
        """avatars: by the name that clients choose them by. Raises: BundleError: one that cannot be drawn."""
        self.avatars, self.settings = dict(avatars), settings
        self.executor = Executor(max_sessions=settings.max_sessions)
        self.conversations: dict[str, Conversation] = {}
        self.metrics = Metrics(lambda: self.executor.load, lambda: len(self.conversations))
        self.door = Door(settings)
        self.rate = RateLimit(settings.requests_per_s, _BURST_S * settings.requests_per_s)
        self.uploads = asyncio.Semaphore(_MAX_UPLOADS)
        """Uploads that are in memory at once; others wait in their sockets."""
        self._addresses: Counter[str] = Counter()
        command, seconds = settings.speech_command, settings.speech_timeout_s
        self.speech = Speech(command, seconds, settings.max_sound_s) if command else None
        self.infos = [_info(name, avatar) for name, avatar in self.avatars.items()]

    @property
    def is_full(self) -> bool:
        """Whether a further session would be refused for their number."""
        return len(self.conversations) >= self.settings.max_sessions

    async def converse(self, socket: WebSocket) -> None:
        """One WebSocket, from its first message to its end. Raises: RefusedError, GoneError."""
        start = await self._start(socket)
        address = network(socket.client.host if socket.client else "")
        if not self.door.opens_to(start.token):
            self.rate.take(address, _WRONG_TOKEN_COST)
            raise RefusedError("unauthorised", "the token is missing or wrong")
        if start.avatar not in self.avatars:
            raise RefusedError("unknown_avatar", "there is no such avatar here")
        if self.is_full or self._addresses[address] >= self.settings.max_sessions_per_address:
            raise RefusedError("full", "all places are taken: try again later, or close another page")
        one = Conversation(socket, self.avatars[start.avatar], self.executor, self.settings, self.metrics)
        self.conversations[one.id] = one
        self._addresses[address] += 1
        try:
            await one.run(start.transport, self.speech)
        finally:
            del self.conversations[one.id]
            self._addresses[address] -= 1
            self._addresses += Counter()  # forgets those at zero

    async def _start(self, socket: WebSocket) -> messages.Start:
        try:
            async with asyncio.timeout(self.settings.start_timeout_s):
                start = messages.parse(await socket.receive_text())
        except (ValueError, KeyError, TimeoutError) as error:
            raise RefusedError("bad_message", "the first message must be 'start'") from error
        if not isinstance(start, messages.Start):
            raise RefusedError("bad_message", "the first message must be 'start'")
        return start


def _info(name: str, avatar: Avatar) -> AvatarInfo:
    about = avatar.info()
    width, height = avatar.size
    return AvatarInfo(
        id=name,
        name=about.name or name,
        width=width,
        height=height,
        fps=avatar.fps,
        lookahead_ms=about.lookahead_ms,
        expressions=list(about.expressions),
        max_pose_deg=list(MAX_POSE_DEG),
        poster="data:image/png;base64," + base64.b64encode(poster(avatar)).decode(),
    )


def create_app(avatars: Mapping[str, Avatar], settings: ServeSettings) -> FastAPI:
    """The application; ``app.state.host`` is its ``Host``. avatars: by the names that clients see."""
    host = Host(avatars, settings)
    app = FastAPI(
        title="synctalk",
        version=__version__,
        description="Talking avatars. The WebSocket at /api/session is described in docs/serving.md.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.host = host
    _add_pages(app)
    _add_routes(app, host)
    app.add_exception_handler(HTTPException, _on_problem)
    app.add_exception_handler(404, _on_missing)
    app.add_exception_handler(405, _on_missing)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    app.add_middleware(Gate, door=host.door, rate=host.rate, metrics=host.metrics)
    return app


def _add_pages(app: FastAPI) -> None:
    folder = files("synctalk.serve") / "web"
    for path, (name, kind) in _PAGES.items():
        content = (folder / name).read_bytes()

        async def page(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        app.add_api_route(path, page, include_in_schema=False)


def _add_routes(app: FastAPI, host: Host) -> None:
    settings = host.settings

    def allowed(request: Request, authorization: Annotated[str | None, Header()] = None) -> None:
        scheme, _, token = (authorization or "").partition(" ")
        if not host.door.opens_to(token.strip() if scheme.lower() == "bearer" else None):
            address = request.client.host if request.client else ""
            host.rate.take(address, _WRONG_TOKEN_COST)
            raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})

    locked = {"dependencies": [Depends(allowed)], "responses": {401: {"model": Problem}}}

    @app.get("/health")
    async def health() -> Health:
        """Whether the server works; without a token."""
        return Health(status="full" if host.is_full else "ok")

    @app.get("/metrics", response_class=Response, **locked)  # type: ignore[arg-type]
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(host.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api/avatars", **locked)  # type: ignore[arg-type]
    async def avatars() -> Avatars:
        """The avatars, and what this server can do."""
        return Avatars(
            avatars=host.infos,
            can_say=host.speech is not None,
            ice_servers=list(settings.ice_servers),
            version=__version__,
        )

    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem} for code in (401, 404, 408, 409, 413, 415)
    }

    @app.post("/api/sessions/{session}/sound", dependencies=[Depends(allowed)], responses=problems)
    async def sound(session: str, request: Request) -> Accepted:
        """Let an open session speak a sound file (wav, flac, ogg, mp3, m4a or webm), given as the request's body."""
        conversation = host.conversations.get(session)
        if conversation is None:
            raise HTTPException(404, "there is no such session")
        try:
            async with host.uploads:
                data = await _body(request, settings)
                samples, rate = await asyncio.to_thread(decode, data, settings.max_sound_s)
            await conversation.speak(samples, rate)
        except MediaError as error:
            raise HTTPException(415, str(error)) from error
        except RefusedError as refusal:
            raise HTTPException(409, refusal.message) from refusal
        except RuntimeError as error:
            raise HTTPException(404, "the session is closed") from error
        return Accepted(seconds=len(samples) / rate)

    @app.websocket("/api/session")
    async def session(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await host.converse(socket)
        except RefusedError as refusal:
            host.metrics.refused.labels(refusal.code).inc()
            await _dismiss(socket, refusal, settings.send_timeout_s)
        except (GoneError, WebSocketDisconnect):
            return
        except Exception:
            _LOG.exception("a session failed")
            await _dismiss(socket, RefusedError("internal", "something failed here"), settings.send_timeout_s)


async def _body(request: Request, settings: ServeSettings) -> bytes:
    """Raises: HTTPException: too much, or too slow."""
    too_much = HTTPException(413, f"at most {settings.max_upload_bytes >> 20} MB")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > settings.max_upload_bytes:
        raise too_much
    pieces, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for piece in request.stream():
                size += len(piece)
                if size > settings.max_upload_bytes:
                    raise too_much
                pieces.append(piece)
    except TimeoutError as error:
        raise HTTPException(408, "this took too long") from error
    return b"".join(pieces)


async def _dismiss(socket: WebSocket, refusal: RefusedError, timeout_s: float) -> None:
    """Say why, and close."""
    try:
        async with asyncio.timeout(timeout_s):
            await socket.send_json({"type": "error", "code": refusal.code, "message": refusal.message})
            await socket.close(_CLOSE.get(refusal.code, _CLOSE_OTHER))
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        return  # it has left already


_WORDS = {401: "unauthorised", 404: "not_found", 405: "not_allowed", 408: "too_slow", 409: "refused"}


def _problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    problem = Problem(error=_WORDS.get(status, "bad_request"), message=message)
    return JSONResponse(problem.model_dump(), status, headers)


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), error.headers)


async def _on_missing(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    detail = error.detail if isinstance(error, HTTPException) else "there is nothing here"
    return _problem(status, str(detail))


async def _on_invalid(_request: Request, _error: Exception) -> Response:
    return _problem(422, "the request is not understood")


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return _problem(500, "something failed here")
