"""A WebSocket server in place of PumpPortal: its subscriptions, its answers word for word, its moods.

What it serves is a source: a market, or a recording. Time multiplies by the speed. As at the venue: no history, trades
only of subscribed mints and only with an API key in the address, one connection at a time. A second one is refused with
HTTP 429 before its handshake (how PumpPortal refuses is not documented; it threatens bans that expire hourly).

One difference: a client that reads slowly is waited for, not cut off, so that nothing is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import cyclopts
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from ingest.market import Frame, Market
from ingest.playback import Recording
from ingest.protocol import Conversation
from ingest.recording import MalformedLine
from runtime.standalone import fail, run_until_stopped

HOST_DEFAULT = "127.0.0.1"
PATH = "/api/data"
TICK_S_MAX = 0.25
TICK_S_MIN = 0.002
STEP_NS_MAX = 2_000_000_000
# A subscription of 5,000 mints is 235 KB.
REQUEST_BYTES_MAX = 1 << 20


class Source(Protocol):
    """What is served. next_at_ns: when it goes on, None at its end; times are nanoseconds since its start."""

    @property
    def next_at_ns(self) -> int | None: ...

    def until(self, now_ns: int) -> list[Frame]: ...


class Simulator:
    """A running server, and the faults it can be told to have. Made by `serve`."""

    def __init__(self, source: Source, *, speed: float, is_recording: bool) -> None:
        self._source = source
        self._speed = speed
        self._is_recording = is_recording
        self._socket: ServerConnection | None = None
        self._talk = Conversation("")
        self._frozen: set[ServerConnection] = set()
        self._asked = asyncio.Event()
        self._is_silent = False
        self._copies = 1
        self._refusal: int | None = None
        self.host, self.port = HOST_DEFAULT, 0
        self.sent = 0
        self.connections = 0
        self.refused = 0
        self.finished = asyncio.Event()
        """Set once a recording has been served whole."""
        self.pumping: asyncio.Task[None]

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}{PATH}"

    @property
    def subscribed(self) -> frozenset[str]:
        """Mints whose trades the present client gets."""
        return frozenset(self._talk.mints) if self._socket else frozenset()

    # Faults

    def drop(self) -> None:
        """The connection is gone, without a close frame."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def close_client(self, code: int, reason: str = "") -> None:
        if self._socket is not None:
            await self._socket.close(code, reason)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The connection is up and says nothing; what happens in the market meanwhile is lost."""
        self._is_silent = True
        try:
            yield
        finally:
            self._is_silent = False

    @contextlib.contextmanager
    def duplicating(self) -> Iterator[None]:
        """Each frame comes twice."""
        self._copies = 2
        try:
            yield
        finally:
            self._copies = 1

    @contextlib.contextmanager
    def refusing(self, status: int) -> Iterator[None]:
        """Handshakes are answered with an HTTP status, as to the banned."""
        self._refusal = status
        try:
            yield
        finally:
            self._refusal = None

    def half_open(self) -> None:
        """The present connection is dead at this end without a word: nothing is read, no ping answered."""
        if self._socket is not None:
            self._frozen.add(self._socket)
            self._socket.transport.pause_reading()
            self._socket = None

    def abandon(self) -> None:
        """Let go of half-open connections, which would not answer a close."""
        for socket in self._frozen:
            socket.transport.abort()

    async def send(self, data: str | bytes) -> None:
        """Any frame, such as garbage."""
        if self._socket is not None:
            await self._socket.send(data, text=True)

    # Serving

    def _admit(self, socket: ServerConnection, _: Request) -> Response | None:
        if self._refusal is not None:
            self.refused += 1
            return socket.respond(self._refusal, "Refused.\n")
        # A client is taken for gone as soon as its closing begins.
        if self._socket is not None and self._socket.state is State.OPEN:
            self.refused += 1
            return socket.respond(429, "PLEASE ONLY USE ONE WEBSOCKET CONNECTION AT A TIME\n")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        key = parse_qs(urlsplit(socket.request.path).query).get("api-key", [""])[0]
        self._socket, self._talk = socket, Conversation(key)
        talk = self._talk
        self.connections += 1
        try:
            greeting = talk.greeting()
            if greeting is not None:
                await socket.send(greeting)
            async for data in socket:
                answer = talk.asked(data)
                # A recording holds the answers of its time.
                if not self._is_recording:
                    await socket.send(answer)
                self._asked.set()
        except ConnectionClosed:
            pass
        finally:
            if self._socket is socket:
                self._socket = None
            self._frozen.discard(socket)

    async def pump(self) -> None:
        """Send what happens, when it happens, until the source ends."""
        if self._is_recording:
            await self._asked.wait()
        loop = asyncio.get_running_loop()
        start = loop.time()
        served_ns = 0
        while (next_at_ns := self._source.next_at_ns) is not None:
            due = start + next_at_ns / 1e9 / self._speed
            await asyncio.sleep(min(max(due - loop.time(), TICK_S_MIN), TICK_S_MAX))
            now_ns = int((loop.time() - start) * self._speed * 1e9)
            while served_ns < now_ns:
                # Step by step: at a speed beyond this machine the market falls behind, and the server still answers.
                served_ns = min(now_ns, served_ns + STEP_NS_MAX)
                for frame in self._source.until(served_ns):
                    await self._deliver(frame)
                await asyncio.sleep(0)
        self.finished.set()

    async def _deliver(self, frame: Frame) -> None:
        socket = self._socket
        if socket is None or self._is_silent or not (self._is_recording or self._talk.wants(frame)):
            return
        try:
            for _ in range(self._copies):
                await socket.send(frame.text)
                self.sent += 1
        except ConnectionClosed:
            return  # the venue keeps nothing for those who are away


@contextlib.asynccontextmanager
async def serve(
    source: Source, host: str = HOST_DEFAULT, port: int = 0, *, speed: float = 1.0
) -> AsyncIterator[Simulator]:
    """A simulator at work while inside the block. port 0 takes a free one. Raises OSError where it cannot listen."""
    simulator = Simulator(source, speed=speed, is_recording=isinstance(source, Recording))
    quiet = logging.Logger("websockets.simulator", logging.CRITICAL + 1)
    async with serve_websocket(
        simulator._serve, host, port, process_request=simulator._admit, compression=None, open_timeout=10,
        ping_interval=None, ping_timeout=None, close_timeout=1, max_size=REQUEST_BYTES_MAX, max_queue=16, logger=quiet,
    ) as server:  # fmt: skip
        simulator.host, simulator.port = host, server.sockets[0].getsockname()[1]
        simulator.pumping = asyncio.create_task(simulator.pump())
        try:
            yield simulator
        finally:
            simulator.pumping.cancel()
            await asyncio.gather(simulator.pumping, return_exceptions=True)
            simulator.abandon()
            if isinstance(source, Recording):
                source.close()


def cli(
    *, port: int = 0, speed: float = 1.0, seed: int = 1, recording: Path | None = None, host: str = HOST_DEFAULT
) -> None:
    """Serve a simulated market, or a recording, in PumpPortal's protocol; prints the address.

    Parameters
    ----------
    port
        Where to listen; 0 takes a free port.
    speed
        How many seconds of the market pass in one.
    seed
        Which market.
    recording
        Serve the frames of this file instead, from the first subscription on.
    host
        The address to listen on.
    """
    if not 0 < speed <= 10_000:
        fail(f"simulate: --speed: {speed} is not above 0 and at most 10000", 2)
    if not 0 <= port <= 65_535:
        fail(f"simulate: --port: {port} is not from 0 to 65535", 2)
    try:
        source: Source = Market(seed) if recording is None else Recording(recording)
    except (OSError, MalformedLine) as error:
        fail(f"simulate: --recording: {error}", 2)

    async def work(stop: asyncio.Event) -> None:
        async with serve(source, host, port, speed=speed) as simulator:
            print(simulator.url, flush=True)  # noqa: T201 - what the command is asked for
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({stopping, simulator.pumping}, return_when=asyncio.FIRST_COMPLETED)
            if simulator.pumping.done():
                simulator.pumping.result()  # the end of a recording, unless it failed
                await stopping

    try:
        run_until_stopped(work)
    except MalformedLine as error:
        fail(f"simulate: --recording: {error}", 1)
    except OSError as error:
        fail(f"simulate: cannot listen on {host}:{port}: {error.strerror}", 1)


if __name__ == "__main__":
    cyclopts.run(cli)
