"""Keeps the `watch` bucket in step with what this process's users hold, so that ingest subscribes to just those mints.

An entry says until when the trades are needed and is renewed while the mint is held, so what a killed process left
behind ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

from runtime import buckets
from runtime.bus import Unavailable
from runtime.process import Process
from schemas.codec import encode
from schemas.events import Watch

INTERVAL_S = 0.25
VALID_NS = 600 * 1_000_000_000
RENEW_NS = VALID_NS // 2


class Watching:
    def __init__(self, process: Process, wanted: Callable[[], Set[str]], clock: Callable[[], int]) -> None:
        """wanted: the mints whose trades are needed now; asked in our own time, and only while the process is ready:
        before, what is held is still being read. Entries are keyed `bots-<instance>.<mint>`."""
        self._process = process
        self._prefix = f"bots-{process.instance}"
        self._wanted = wanted
        self._clock = clock
        self._until_ns: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._process.is_ready:
                continue
            now_ns, wanted = self._clock(), self._wanted()
            new = [mint for mint in wanted if self._until_ns.get(mint, 0) - now_ns < RENEW_NS]
            old = [mint for mint in self._until_ns if mint not in wanted]
            if not new and not old:
                continue
            until_ns = now_ns + VALID_NS
            watch = encode(Watch(until_at_ns=until_ns))
            values: list[tuple[str, bytes | None]] = [(f"{self._prefix}.{mint}", watch) for mint in new]
            values += [(f"{self._prefix}.{mint}", None) for mint in old]
            try:
                await buckets.put_many(self._process.bus, "watch", values)
            except Unavailable:
                continue
            self._until_ns.update(dict.fromkeys(new, until_ns))
            for mint in old:
                del self._until_ns[mint]
