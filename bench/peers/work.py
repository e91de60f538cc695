"""What every peer does with a frame, an event, a decision and a signal; and how its last stage tells what it did."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from websockets.asyncio.client import connect

from harness.lines import lines, tell
from ingest.venues.pumpportal import Notice, VenueError, parse
from schemas.events import TokenCreated, TokenEvent


def users(count: int) -> list[str]:
    return [f"user{number}" for number in range(count)]


async def events(feed_url: str, *, trades: bool = False) -> AsyncIterator[TokenEvent]:
    """What happens, from a socket of our own; trades: also those of every coin launched since."""
    async with connect(f"{feed_url}?api-key=bench", compression=None, max_queue=1024) as socket:
        await socket.send('{"method":"subscribeNewToken"}')
        async for frame in socket:
            event = parse(frame, time.time_ns())
            if isinstance(event, Notice | VenueError):
                continue
            if trades and isinstance(event, TokenCreated):
                await socket.send(f'{{"method":"subscribeTokenTrade","keys":["{event.mint}"]}}')
            yield event


async def creations(feed_url: str) -> AsyncIterator[TokenCreated]:
    async for event in events(feed_url):
        if isinstance(event, TokenCreated):
            yield event


class Acts:
    """What users did: (coin, user, when). A purchase twice is one: a peer's redelivery is no second act."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str], int] = {}
        self._wanted = 0
        self._reached = asyncio.Event()

    def act(self, mint: str, user: str) -> None:
        self._done.setdefault((mint, user), time.time_ns())
        if len(self._done) == self._wanted:
            self._reached.set()

    async def serve(self) -> None:
        """Say that we are ready; told {"count": 400, "within_s": 60}, wait for so many; told {}, say what was done."""
        tell(ready=True)
        async for request in lines():
            if "count" in request:
                self._wanted = request["count"]
                if len(self._done) < self._wanted:
                    self._reached.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._reached.wait(), request["within_s"])
                tell(count=len(self._done))
            else:
                tell(acts=[(mint, user, at_ns) for (mint, user), at_ns in self._done.items()])
