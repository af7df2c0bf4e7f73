"""How far building is, on the terminal, for those who wait minutes for it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .builder import Say

__all__ = ["shown_progress"]

_LOG = logging.getLogger(__name__)


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[Say]:
    """Something to tell of phases: a bar on the stream (stderr unless given) where it is a terminal, else log lines of
    level DEBUG. The bar comes with the first phase, so nothing is shown where nothing is built, and goes at the end."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda phase, done: _LOG.debug("TensorRT: %s %.0f %%", phase, 100 * done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("building engines: {task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=True)
    task = bar.add_task("", total=1.0)

    def say(phase: str, done: float) -> None:
        bar.start()
        bar.update(task, description=phase, completed=done)

    try:
        yield say
    finally:
        bar.stop()
