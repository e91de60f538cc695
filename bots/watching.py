"""Keeps the `watch` bucket in step with what this process's users hold, so that ingest subscribes to just those mints.

An entry says until when the trades are needed and is renewed while the mint is held, so what a killed process left
behind ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from runtime import buckets
from runtime.bus import Bus, Unavailable
from schemas.codec import encode
from schemas.events import Watch

INTERVAL_S = 0.25
VALID_NS = 600 * 1_000_000_000
RENEW_NS = VALID_NS // 2


class Watching:
    def __init__(self, bus: Bus, watcher: str, clock: Callable[[], int]) -> None:
        """watcher: this process's instance; entries are keyed `bots-<watcher>.<mint>`."""
        self._bus = bus
        self._prefix = f"bots-{watcher}"
        self._clock = clock
        self._wanted: frozenset[str] = frozenset()
        self._until_ns: dict[str, int] = {}

    def want(self, mints: Iterable[str]) -> None:
        self._wanted = frozenset(mints)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            now_ns = self._clock()
            new = [mint for mint in self._wanted if self._until_ns.get(mint, 0) - now_ns < RENEW_NS]
            old = [mint for mint in self._until_ns if mint not in self._wanted]
            if not new and not old:
                continue
            until_ns = now_ns + VALID_NS
            watch = encode(Watch(until_at_ns=until_ns))
            values: list[tuple[str, bytes | None]] = [(f"{self._prefix}.{mint}", watch) for mint in new]
            values += [(f"{self._prefix}.{mint}", None) for mint in old]
            try:
                await buckets.put_many(self._bus, "watch", values)
            except Unavailable:
                continue
            self._until_ns.update(dict.fromkeys(new, until_ns))
            for mint in old:
                del self._until_ns[mint]
