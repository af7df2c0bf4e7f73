"""Whose likeness an avatar is, and what that person agreed to: ``who; what for; until 2027-01-01`` in the manifest.

The end is the last day on which the avatar may speak, UTC. Texts of older bundles that are not written so still load:
their first part is who, the rest what for.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache

from synctalk.errors import BundleError
from synctalk.manifest import Manifest

__all__ = ["NOT_STATED", "Consent", "check_consent"]

NOT_STATED = "not stated"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Consent:
    """What the person shown agreed to; ``who`` is empty where nothing is stated."""

    who: str = ""
    purpose: str = ""
    until: date | None = None

    @staticmethod
    def parse(text: str, *, is_strict: bool = False) -> Consent:
        """The inverse of ``str``. Raises: ValueError: with ``is_strict``, an end that is not a date, or nobody."""
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if not parts or text.strip() == NOT_STATED:
            return Consent()
        until = None
        if len(parts) > 1 and (match := re.fullmatch(r"until\s+(\S.*)", parts[-1], re.IGNORECASE)):
            try:
                until = date.fromisoformat(match[1])
                del parts[-1]
            except ValueError:
                if is_strict:
                    raise ValueError(f"{parts[-1]!r}: expected a date, such as 'until 2027-01-01'") from None
        if is_strict and re.match(r"until\s", parts[0], re.IGNORECASE):
            raise ValueError(f"{text!r} names nobody: expected 'who; what for; until 2027-01-01'")
        return Consent(parts[0], "; ".join(parts[1:]), until)

    def __str__(self) -> str:
        end = f"until {self.until.isoformat()}" if self.until else ""
        return "; ".join(part for part in (self.who, self.purpose, end) if part) or NOT_STATED

    def is_expired(self, today: date | None = None) -> bool:
        """Whether its last day has passed; today (UTC) if left out."""
        return self.until is not None and (today or datetime.now(UTC).date()) > self.until

    def to_dict(self) -> dict[str, str]:
        """For people and programs: ``who``, ``purpose``, ``until``; ``not stated`` where it is not."""
        end = f"{self.until.isoformat()}{' (expired)' if self.is_expired() else ''}" if self.until else ""
        return {
            "who": self.who or NOT_STATED,
            "purpose": self.purpose or NOT_STATED,
            "until": end or NOT_STATED,
        }


def check_consent(manifest: Manifest, *, allow_expired: bool = False, today: date | None = None) -> None:
    """Refuse an avatar whose consent has expired; say once, in the log, where none is stated.

    Raises: BundleError: expired, and not ``allow_expired``.
    """
    consent = Consent.parse(manifest.consent)
    if not consent.who:
        _warn_once(manifest.id, manifest.name)
    if not consent.is_expired(today):
        return
    message = f"{manifest.name}: the consent of {consent.who} ended on {consent.until}"
    if not allow_expired:
        raise BundleError(
            f"{message}: ask anew and export again with --consent, or answer for it yourself with "
            "allow_expired_consent=True (--allow-expired-consent)"
        )
    _LOG.warning("%s; used all the same, as the caller asked", message)


@cache
def _warn_once(avatar_id: str, name: str) -> None:
    _LOG.warning(
        "%s (id %s) states no consent of the person it shows: export it with --consent 'who; what for; until DATE'",
        name,
        avatar_id,
    )
