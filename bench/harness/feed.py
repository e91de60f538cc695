"""The feed's process: a WebSocket server in PumpPortal's protocol that sends what it is told to, and says when.

It says {"url": …} and is then told one thing after another; clients: how many must have subscribed to creations.

    {"count": 60, "per_s": 2, "clients": 1}  creations, per_s 0: as fast as the connections take them
                                             -> {"sent": {mint: nanoseconds since the epoch}}
    {"market_s": 600, "clients": 1}          the market's real rate (rate.py) -> {"creations": …, "trades": …}

A frame's time is taken right before it is handed to the socket. Several clients get each frame in one broadcast. The
trades that the first client listens to are the market's; another one gets those of them that it listens to as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, broadcast, serve

from harness.lines import lines, tell
from harness.rate import Rate
from ingest import market_frames as frames
from ingest.protocol import Conversation
from schemas import curve

SPREAD_LAMPORTS = (200_000_000, 2_000_000_000)  # what creators put in
REQUEST_BYTES_MAX = 1 << 20


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
        self._subscribed: dict[ServerConnection, Conversation] = {}
        self._changed = asyncio.Event()

    async def client(self, socket: ServerConnection) -> None:
        """Talk to one client until it goes."""
        assert socket.request is not None
        talk = Conversation(parse_qs(urlsplit(socket.request.path).query).get("api-key", [""])[0])
        try:
            async for request in socket:
                await socket.send(talk.asked(request))
                if talk.creations:
                    self._subscribed[socket] = talk
                    self._changed.set()
        finally:
            self._subscribed.pop(socket, None)

    async def have(self, clients: int) -> None:
        while len(self._subscribed) < clients:
            self._changed.clear()
            await self._changed.wait()

    async def creations(self, count: int, per_s: float) -> dict[str, int]:
        rng = Random(time.time_ns())  # no mint twice, whatever ran before on the same streams
        made = [creation(rng) for _ in range(count)]
        sent: dict[str, int] = {}
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for number, (mint, text) in enumerate(made):
            if per_s:
                await asyncio.sleep(max(0.0, start_s + number / per_s - loop.time()))
            sent[mint] = time.time_ns()
            if len(self._subscribed) == 1:
                await next(iter(self._subscribed)).send(text)
            else:
                broadcast(self._subscribed, text)
        return sent

    async def market(self, seconds: float) -> dict[str, int]:
        rate, count = Rate(1), {"creations": 0, "trades": 0}
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while rate.due_s < seconds and self._subscribed:
            await asyncio.sleep(max(0.0, start_s + rate.due_s - loop.time()))
            made = rate.frame(next(iter(self._subscribed.values()), Conversation("")).mints)
            if made is None:
                continue
            text, mint = made
            count["creations" if mint is None else "trades"] += 1
            hearing = [one for one, talk in self._subscribed.items() if mint is None or mint in talk.mints]
            broadcast(hearing, text)
        return count


async def main() -> None:
    feed = Feed()
    quiet = logging.Logger("websockets.feed", logging.CRITICAL + 1)
    async with serve(
        feed.client, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=REQUEST_BYTES_MAX, logger=quiet
    ) as server:
        tell(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/data")
        async for request in lines():
            await feed.have(request["clients"])
            if "market_s" in request:
                tell(**await feed.market(request["market_s"]))
            else:
                tell(sent=await feed.creations(request["count"], request["per_s"]))
