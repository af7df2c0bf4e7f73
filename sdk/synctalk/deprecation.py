"""Names that go: each still works, and warns once a process. ``docs/deprecations.md`` lists them."""

from __future__ import annotations

import warnings
from functools import cache

__all__ = ["deprecated"]


@cache
def deprecated(old: str, new: str) -> None:
    """Warn, the first time, that ``old`` goes and ``new`` is its place; the warning points at the caller's caller."""
    warnings.warn(f"{old} is deprecated: use {new} (docs/deprecations.md)", DeprecationWarning, stacklevel=3)
