"""How a command that is no service runs: until it is done or asked to stop, and how it says that it failed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn


def run_until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work`, whose event is set on SIGINT or SIGTERM, and return when it does."""

    async def whole() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(whole())


def fail(sentence: str, status: int) -> NoReturn:
    """One sentence on stderr, and out: 1 it failed, 2 bad arguments or settings."""
    sys.stderr.write(f"mintline {sentence}\n")
    sys.exit(status)
