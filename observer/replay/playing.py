"""How a replay runs as a command: its pace, its progress on a terminal, and a reader that goes away."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

# Shorter files are done before anybody could read a bar.
PROGRESS_BYTES_MIN: Final = 2 << 20
STEP_BYTES: Final = 1 << 16


def pace(speed: float) -> Callable[[int], None]:
    """Waits until a frame's turn has come; only the output's pace, never its content, depends on it. 0: never waits."""
    first: tuple[int, float] | None = None

    def wait(at_ns: int) -> None:
        nonlocal first
        if not speed:
            return
        if first is None:
            first = (at_ns, time.monotonic())
        time.sleep(max(0.0, first[1] + (at_ns - first[0]) / 1e9 / speed - time.monotonic()))

    return wait


@contextlib.contextmanager
def progress(file: Path, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr where that is a terminal that shows no lines, for a file that takes a while; nothing elsewhere.

    Gives what is to be told the bytes of each line; None where nothing is shown.
    """
    size = file.stat().st_size
    if size < PROGRESS_BYTES_MIN or not sys.stderr.isatty() or (sys.stdout.isatty() and not quiet):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task, waiting = shown.add_task(file.name, total=size), 0

        def on_read(count: int) -> None:
            nonlocal waiting
            waiting += count
            if waiting >= STEP_BYTES:
                shown.advance(task, waiting)
                waiting = 0

        yield on_read


def hush_stdout() -> None:
    """Nobody reads stdout any more: what is still in its buffer goes nowhere instead of raising at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
