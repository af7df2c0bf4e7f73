"""What a server may do and how much of it; safe as it stands."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from synctalk.errors import SyncTalkError

__all__ = ["MIN_TOKEN", "ServeSettings", "is_loopback"]

MIN_TOKEN = 16
"""Characters that a token must have at least."""


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, whom it lets in, and its limits."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    """What clients must show; demanded where ``host`` is not this machine alone."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins (``https://talk.example.com``) beside the server's own whose pages may connect."""
    speech_command: tuple[str, ...] = ()
    """A text-to-speech program and its arguments: text on its input, a wav on its output."""
    ice_servers: tuple[str, ...] = ()
    """STUN or TURN servers for WebRTC across networks."""
    certificate: Path | None = None
    """TLS: a PEM file; with ``certificate_key`` the server speaks https."""
    certificate_key: Path | None = None

    max_sessions: int = 16
    max_sessions_per_address: int = 8
    max_connections: int = 256
    max_connections_per_address: int = 64
    max_sound_s: float = 120.0
    """Sound that may wait in a session; an upload's length, too."""
    max_upload_bytes: int = 32 << 20
    max_text: int = 600
    """Characters that are spoken at once."""
    header_timeout_s: float = 10.0
    """How long a connection may take to ask for something."""
    start_timeout_s: float = 10.0
    """How long a WebSocket may take to say its first message."""
    body_timeout_s: float = 30.0
    send_timeout_s: float = 5.0
    """A client that takes nothing for so long is let go."""
    idle_timeout_s: float = 600.0
    """A session of which nothing was asked for so long is closed."""
    ping_s: float = 10.0
    """How often a WebSocket must show that it lives."""
    speech_timeout_s: float = 30.0
    requests_per_s: float = 20.0
    """Of one address, all together; in bursts of five seconds' worth."""
    messages_per_s: float = 200.0
    """Of one session; in bursts of two seconds' worth."""

    def __post_init__(self) -> None:
        """Raises: SyncTalkError: it would be open to others without a token, or the token is weak."""
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise SyncTalkError(
                f"the token has {len(self.token)} characters: give {MIN_TOKEN} or more, such as from "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        if self.token is None and not is_loopback(self.host):
            raise SyncTalkError(
                f"{self.host} can be reached by others: give a token (--token or SYNCTALK_TOKEN), or listen on 127.0.0.1"
            )
        if (self.certificate is None) != (self.certificate_key is None):
            raise SyncTalkError("TLS needs both --tls-cert and --tls-key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
