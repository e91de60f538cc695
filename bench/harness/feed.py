"""The feed's process: a WebSocket server in PumpPortal's protocol that sends creations when told to, and says when.

It says {"url": …}; is told {"count": 60, "per_s": 2, "clients": 1}; sends when so many clients have subscribed; and
says {"sent": {mint: nanoseconds since the epoch}}. per_s 0: as fast as the connections take them.

A frame's time is taken right before it is handed to the socket. Several clients get each frame in one broadcast.
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, broadcast, serve

from harness.lines import lines, tell
from ingest import market_frames as frames
from ingest.protocol import Conversation
from schemas import curve

SPREAD_LAMPORTS = (200_000_000, 2_000_000_000)  # what creators put in


def creation(rng: Random) -> tuple[str, str]:
    """A coin that everybody may buy: (mint, frame)."""
    mint = frames.pubkey(rng, "pump")
    bought = curve.quote_buy_sol(curve.FRESH, rng.randrange(*SPREAD_LAMPORTS))
    name = frames.pubkey(rng)
    text = frames.create(
        rng, mint, frames.pubkey(rng), frames.pubkey(rng), bought.tokens, bought.curve_lamports, bought.after,
        frames.Text(name[:12], name[:5].upper()), False, frames.signature(rng),
    )  # fmt: skip
    return mint, text


class Feed:
    def __init__(self) -> None:
        self._rng = Random(time.time_ns())  # no mint twice, whatever ran before on the same streams
        self._subscribed: list[ServerConnection] = []
        self._changed = asyncio.Event()

    async def client(self, socket: ServerConnection) -> None:
        """Talk to one client until it goes."""
        assert socket.request is not None
        talk = Conversation(parse_qs(urlsplit(socket.request.path).query).get("api-key", [""])[0])
        try:
            async for request in socket:
                await socket.send(talk.asked(request))
                if talk.creations and socket not in self._subscribed:
                    self._subscribed.append(socket)
                    self._changed.set()
        finally:
            if socket in self._subscribed:
                self._subscribed.remove(socket)

    async def send(self, count: int, per_s: float, clients: int) -> dict[str, int]:
        while len(self._subscribed) < clients:
            self._changed.clear()
            await self._changed.wait()
        made = [creation(self._rng) for _ in range(count)]
        sent: dict[str, int] = {}
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for number, (mint, text) in enumerate(made):
            if per_s:
                await asyncio.sleep(max(0.0, start_s + number / per_s - loop.time()))
            sent[mint] = time.time_ns()
            if len(self._subscribed) == 1:
                await self._subscribed[0].send(text)
            else:
                broadcast(self._subscribed, text)
        return sent


async def main() -> None:
    feed = Feed()
    quiet = logging.Logger("websockets.feed", logging.CRITICAL + 1)
    async with serve(
        feed.client, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=1 << 20, logger=quiet
    ) as server:
        tell(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/data")
        async for request in lines():
            tell(sent=await feed.send(request["count"], request["per_s"], request["clients"]))
