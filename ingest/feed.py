"""The one shared WebSocket: frames to the link and to the sink, the link's actions carried out.

Never more than one connection, from here or from anywhere with the same address: the venue bans for it. The reader
waits for the sink, so a full spool stops the reading of the socket, and nothing is dropped on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ingest.link import SILENCE_NS, Action, Gap, Link, Reconnect, Send, State
from schemas.events import FeedGap, Struct

URL_DEFAULT = "wss://pumpportal.fun/api/data"
TICK_S = 0.25
OPEN_S_MAX = 15.0
# A half-open connection is found after at most 40 s without an answer to a ping.
PING_INTERVAL_S = 20.0
PING_S_MAX = 20.0
CLOSE_S_MAX = 1.0
DRAIN_S_MAX = 1.0
# Beyond this the library closes the connection. Far above what a parser takes: one odd frame must not cost the feed.
SOCKET_FRAME_BYTES_MAX = 1 << 20
# Frames read ahead of the sink: five seconds of the busiest market.
QUEUE_FRAMES_MAX = 1_024
# Refusals of the handshake, and close codes, that mean: you are banned, or connected twice (inference; the venue's own
# are not documented). 1008 is "policy violation", 1013 "try again later".
_BANNED_STATUS = frozenset({401, 403, 429})
_BANNED_CLOSE = frozenset({1008, 1013})

Sink = Callable[[bytes, int], Awaitable[None]]
OnGap = Callable[[FeedGap], Awaitable[None]]
Log = Callable[..., None]


class FeedAddress:
    """A WebSocket address with an API key, which no text made of it shows. Raises ValueError, which doesn't either."""

    __slots__ = ("_api_key", "_url", "is_secure", "shown")

    def __init__(self, url: str, api_key: str = "") -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("the feed's address is no ws:// or wss:// address")
        key = f"api-key={quote(api_key, safe='')}" if api_key else ""
        query = "&".join(part for part in (parts.query, key) if part)
        self._url = parts._replace(query=query, fragment="").geturl()
        self._api_key = api_key
        self.is_secure = parts.scheme == "wss"
        # Without its query and credentials: people put keys there, too.
        self.shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def has_key(self) -> bool:
        return "api-key=" in self._url

    def __repr__(self) -> str:
        return f"FeedAddress({self.shown!r})"

    __str__ = __repr__

    def reveal(self) -> str:
        """The whole address, for connecting only."""
        return self._url

    def hide(self, text: str) -> str:
        """A text by others, fit to be shown."""
        for secret in (self._url, urlsplit(self._url).query, self._api_key):
            text = text.replace(secret, "(hidden)") if secret else text
        return text


class FeedOptions(Struct, frozen=True, kw_only=True):
    """name: the feed's in subjects. heard_at_ns: the last frame of an earlier life, None if nobody knows."""

    address: FeedAddress
    name: str = "pumpportal"
    heard_at_ns: int | None = None
    silence_ns: int = SILENCE_NS
    open_s_max: float = OPEN_S_MAX
    ping_interval_s: float = PING_INTERVAL_S
    ping_s_max: float = PING_S_MAX
    frame_bytes_max: int = SOCKET_FRAME_BYTES_MAX
    jitter_seed: int | None = None


class FeedState(Struct, frozen=True, kw_only=True):
    """For health and screens. since_at_ns: of the present state. reconnects: attempts after the first.

    trades_refused: why the venue streams us no trades ("UNFUNDED", "BAD_KEY"), None if it has not refused.
    """

    state: State
    is_running: bool
    since_at_ns: int
    last_frame_at_ns: int | None
    reconnects: int
    subscriptions: int
    trades_refused: str | None


class Feed:
    """One feed. `run` it once; `want` and `state` at any time.

    sink: takes each frame as it came, control frames included, with the time of receipt; awaited before the next one.
    on_gap: takes each gap, ahead of the frame that ended it.
    """

    def __init__(self, settings: FeedOptions, sink: Sink, on_gap: OnGap, log: Log) -> None:
        self._options = settings
        self._sink = sink
        self._on_gap = on_gap
        self._log = log
        self._wanted = asyncio.Event()
        self._sinking = False
        self._link = Link(
            settings.name,
            Random(settings.jitter_seed),
            has_key=settings.address.has_key,
            heard_at_ns=settings.heard_at_ns,
            silence_ns=settings.silence_ns,
        )
        # The library logs requests, with the key in them, at level debug.
        self._library_log = logging.Logger("websockets.hidden", logging.CRITICAL + 1)

    @property
    def state(self) -> FeedState:
        link = self._link
        return FeedState(
            state=link.state,
            is_running=link.state is State.SUBSCRIBED,
            since_at_ns=link.since_ns,
            last_frame_at_ns=link.heard_at_ns,
            reconnects=link.reconnects,
            subscriptions=link.subscriptions,
            trades_refused=link.trades_refused,
        )

    def want(self, mints: Mapping[str, int]) -> None:
        """Replace the set of mints whose trades are needed: mint -> until_at_ns."""
        self._link.want(mints)
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until asked to stop; then close, hand over what was received, and return.

        Raises only what the sink or on_gap raise.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                action = await self._one_connection(stopping)
                if action is None:
                    return
                self._log("feed_down", reason=action.reason, retry_ms=action.delay_ns // 1_000_000)
                await asyncio.wait({stopping}, timeout=action.delay_ns / 1e9)
        finally:
            stopping.cancel()

    async def _one_connection(self, stopping: asyncio.Task[Any]) -> Reconnect | None:
        """From connecting to the end of it. None when asked to stop."""
        self._link.connecting(time.time_ns())
        opening = asyncio.create_task(self._open())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            return None
        opened = opening.result()
        if isinstance(opened, Reconnect):
            return opened
        self._log("feed_open", address=self._options.address.shown)
        return await self._serve(opened, stopping)

    async def _open(self) -> ClientConnection | Reconnect:
        options = self._options
        try:
            return await connect(
                options.address.reveal(),
                compression="deflate",
                proxy=True if options.address.is_secure else None,  # a plain address is one of our own simulators
                open_timeout=options.open_s_max,
                ping_interval=options.ping_interval_s,
                ping_timeout=options.ping_s_max,
                close_timeout=CLOSE_S_MAX,
                max_size=options.frame_bytes_max,
                max_queue=QUEUE_FRAMES_MAX,
                logger=self._library_log,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            return self._refused(f"http_{status}", looks_banned=status in _BANNED_STATUS)
        except (InvalidHandshake, OSError, EOFError) as error:  # a TimeoutError is an OSError
            # The library's text may hold the address: it is hidden, and the exception goes no further.
            self._log("feed_refused", reason=options.address.hide(f"{type(error).__name__}: {error}"))
            return self._refused("timeout" if isinstance(error, TimeoutError) else "unreachable")

    def _refused(self, reason: str, *, looks_banned: bool = False) -> Reconnect:
        return self._link.refused(reason, time.time_ns(), looks_banned=looks_banned)

    async def _serve(self, socket: ClientConnection, stopping: asyncio.Task[Any]) -> Reconnect | None:
        """Read and tend until either ends, or until asked to stop."""
        reader = asyncio.create_task(self._read(socket))
        tender = asyncio.create_task(self._tend(socket))
        try:
            await asyncio.wait({reader, tender, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # Closing ends the reader, once it has handed over what had arrived.
            await socket.close()
            await asyncio.wait({reader, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                given_up = tender.result() if tender.done() else None
                return given_up or self._lost(reader.result())
            await asyncio.wait({reader}, timeout=DRAIN_S_MAX)
            self._link.lost("stopped", time.time_ns())
            if reader.done():
                reader.result()  # what the sink raised is still an error
            return None
        finally:
            for task in (reader, tender):
                task.cancel()
            await asyncio.gather(reader, tender, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> ConnectionClosed:
        """Frames to the link and the sink, until the connection is closed and all of them are handed over."""
        await self._do(socket, self._link.opened(time.time_ns()))
        while True:
            try:
                frame = await socket.recv(decode=False)
            except ConnectionClosed as closed:
                return closed
            seen_at_ns = time.time_ns()
            gap = self._link.frame(frame, seen_at_ns)
            self._sinking = True
            if gap is not None:
                await self._do(socket, gap)
            await self._sink(frame, seen_at_ns)
            self._sinking = False

    async def _tend(self, socket: ClientConnection) -> Reconnect | None:
        """Subscriptions and silence, several times a second. Returns what the link gave up for."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wanted.wait()
            self._wanted.clear()
            now_ns = time.time_ns()
            if self._sinking:
                self._link.resumed(now_ns)  # the silence is ours, not the venue's
            action = self._link.tick(now_ns)
            if isinstance(action, Reconnect):
                return action
            if action is not None and not await self._do(socket, action):
                return None

    async def _do(self, socket: ClientConnection, action: Action) -> bool:
        """Carry out an action; False if the connection is closed, which the reader notices by itself."""
        if isinstance(action, Gap):
            self._log("feed_gap", reason=action.event.reason, gap_ms=_gap_ms(action.event))
            await self._on_gap(action.event)
        elif isinstance(action, Send):
            try:
                for frame in action.frames:
                    await socket.send(frame)
            except ConnectionClosed:
                return False
        return True

    def _lost(self, closed: ConnectionClosed) -> Reconnect:
        code = closed.rcvd.code if closed.rcvd else None
        if closed.sent and not closed.rcvd and "ping" in closed.sent.reason:
            reason = "ping_timeout"
        else:
            reason = "connection_lost" if code is None else f"closed_{code}"
        self._log("feed_lost", reason=self._options.address.hide(str(closed)))
        return self._link.lost(reason, time.time_ns(), looks_banned=code in _BANNED_CLOSE)


def _gap_ms(gap: FeedGap) -> int:
    return (gap.seen_at_ns - gap.from_at_ns) // 1_000_000
