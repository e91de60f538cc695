"""bots/watching.py: the watch bucket follows what is held. Real broker."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from bots import watching
from bots.watching import RENEW_NS, Watching
from runtime import buckets
from runtime.bus import Bus
from runtime.process import Process
from runtime.testing import eventually


class Half:
    """As much of a process as is needed, counting the rounds."""

    instance = "x"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.ready = True
        self.rounds = 0

    @property
    def is_ready(self) -> bool:
        self.rounds += 1
        return self.ready


async def test_entries_follow_what_is_held_but_not_while_that_is_being_read(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL_S", 0.01)
    process, wanted, now_ns = Half(bus), {"A"}, 0

    async def revision(mint: str) -> int:
        """0: there is no entry."""
        entry = await buckets.get(bus, "watch", f"bots-x.{mint}")
        return 0 if entry is None else entry.revision

    async def there(*mints: str) -> bool:
        return {mint for mint in ("A", "B") if await revision(mint)} == set(mints)

    async def rounds(count: int) -> None:
        target = process.rounds + count
        await eventually(lambda: process.rounds >= target, "some rounds")

    running = asyncio.create_task(Watching(cast("Process", process), lambda: wanted, lambda: now_ns).run())
    try:
        await eventually(lambda: there("A"), "the entry of what is held")
        first = await revision("A")
        process.ready, wanted = False, set()
        await rounds(5)
        process.ready, wanted = True, {"A", "B"}
        await eventually(lambda: there("A", "B"), "the entry of what is held besides")
        assert await revision("A") == first  # neither deleted in between nor written again
        now_ns = RENEW_NS + 1

        async def renewed() -> bool:
            return await revision("A") > first

        await eventually(renewed, "the entry to be renewed")
        wanted = set()
        await eventually(there, "nothing to be left")
    finally:
        running.cancel()
