"""How a command that is no service runs: until it is done or asked to stop, and how it says that it failed."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from runtime.telemetry import parse_time_ns

_AGE_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SINCE_SAYS = "no age (90m, 24h, 7d) and no time in UTC (2026-11-21, 2026-11-21T09:00:00Z)"


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


def since_ns(text: str, now_ns: int) -> int | None:
    """What `--since` means: an age or a time in UTC -> ns since the epoch; None for what is neither."""
    age = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if age is not None:
        return max(0, now_ns - int(age[1]) * _AGE_S[age[2]] * 1_000_000_000)
    if re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,9})?Z)?", text) is None:
        return None
    try:
        return parse_time_ns(text if text.endswith("Z") else f"{text}T00:00:00Z")
    except ValueError:
        return None
