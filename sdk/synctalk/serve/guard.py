"""Who may come in, and how often: hosts and origins, the token, rates."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from synctalk.serve.settings import ServeSettings, is_loopback

__all__ = ["Door", "RateLimit", "TokenBucket", "network"]

_MAX_ADDRESSES = 10_000
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}


class TokenBucket:
    """So many a second, and bursts up to ``burst``."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._at = burst, clock()

    def take(self, n: float = 1.0) -> bool:
        """Whether there is room for ``n`` more; they count only if so."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < n:
            return False
        self._left -= n
        return True


class RateLimit:
    """A bucket for each address; of the longest silent ones it forgets."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, n: float = 1.0) -> bool:
        """Whether that address may do ``n`` more things now."""
        key = network(address)
        bucket = self._buckets.pop(key, None) or TokenBucket(self._per_s, self._burst, self._clock)
        self._buckets[key] = bucket
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.take(n)


def network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(getattr(ip, "ipv4_mapped", None) or ip)


class Door:
    """Checks hosts, origins and the token."""

    def __init__(self, settings: ServeSettings) -> None:
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}
        self._is_local = is_loopback(settings.host)
        self._hosts = _LOCAL_NAMES | {urlsplit(origin).hostname or "" for origin in self._origins}
        self._digest = None if settings.token is None else _digest(settings.token)

    @property
    def is_locked(self) -> bool:
        """Whether a token is demanded."""
        return self._digest is not None

    def opens_to(self, token: str | None) -> bool:
        """Whether a token is the right one, in a time that tells nothing about it; always without a lock."""
        return self._digest is None or hmac.compare_digest(_digest(token or ""), self._digest)

    def knows_host(self, host: str | None) -> bool:
        """Whether a request's Host header is ours. A server for this machine alone answers to no other name:
        otherwise any web page could reach it under a name of its own (DNS rebinding)."""
        return not self._is_local or _hostname(host) in self._hosts

    def knows_origin(self, origin: str | None, host: str | None) -> bool:
        """Whether the page that asks is ours, or one that was allowed. Programs send no origin."""
        if origin is None:
            return True
        parts = urlsplit(origin)
        is_own = parts.scheme in ("http", "https") and parts.netloc != "" and parts.netloc == (host or "")
        return is_own or origin.rstrip("/").lower() in self._origins


def _digest(token: str) -> bytes:
    """Of one length, so that comparing tells nothing about the token's."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _hostname(host: str | None) -> str:
    try:
        return urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:
        return ""
