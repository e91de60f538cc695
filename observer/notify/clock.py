"""The notifier's time. Tests give it another one, in which an hour passes at once."""

from __future__ import annotations

import asyncio
import contextlib

from runtime import telemetry


class Clock:
    def now_ns(self) -> int:
        return telemetry.now_ns()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, at most for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
