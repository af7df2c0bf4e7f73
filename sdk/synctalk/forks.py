"""Forked processes (gunicorn's preload, multiprocessing's ``fork``): a child has none of its parent's other threads, and
their locks in any state. What needs neither renews itself in the child; what cannot says so at once.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

__all__ = ["Birthplace", "Renewable", "renew_in_children"]


class Renewable(Protocol):
    """Something with locks or threads."""

    def renew_after_fork(self) -> None:
        """Called in a child, which has one thread: make new locks, forget the threads, wait for nothing."""


_RENEWABLE: WeakSet[Renewable] = WeakSet()


def renew_in_children(one: Renewable) -> None:
    """Call ``one.renew_after_fork()`` in every child that is forked while it lives."""
    _watch_forks()
    _RENEWABLE.add(one)


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew)


def _renew() -> None:
    for one in list(_RENEWABLE):
        one.renew_after_fork()


class Birthplace:
    """The process that something was made in."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process, not a child of it."""
        return os.getpid() == self._pid
