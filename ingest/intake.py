"""A frame's way into the line: parsed, counted, and handed on as an event, or kept whole in DEAD."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b

from ingest.spool import Record
from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from runtime.telemetry import Figures, Logger
from runtime.worker import dead_letter
from schemas.codec import encode
from schemas.events import FeedGap, TokenCreated, TokenTraded
from schemas.subjects import dead_subject, token_subject

FIGURES = {
    "frames_total": "Frames heard, by what they were",
    "tokens_received_total": "Creations heard",
    "trades_received_total": "Trades heard",
    "feed_running": "Whether the feed is connected and subscribed",
    "feed_since_at_ns": "Since when the feed is in its present state",
    "feed_last_frame_at_ns": "When the last frame was heard",
    "feed_reconnects_total": "Attempts to connect after the first",
    "feed_subscriptions": "Mints whose trades are subscribed",
    "feed_gaps_total": "Times that the feed was not heard, each recorded as an event",
    "spooling": "Whether messages go to disk because the broker is away",
}

FEED = "pumpportal"


class Intake:
    """Every frame ends as exactly one of: event, notice, error, dead (`frames_total` by outcome)."""

    def __init__(self, put: Callable[[Record], Awaitable[None]], figures: Figures, log: Logger) -> None:
        self._put = put
        self._figures = figures
        self._log = log
        for outcome in ("event", "notice", "error", "dead"):
            figures.add("frames_total", 0, outcome=outcome)

    async def frame(self, data: bytes, seen_at_ns: int) -> None:
        try:
            parsed = parse(data, seen_at_ns)
        except MalformedFrame as error:
            await self._bury(data, str(error), seen_at_ns)
            return
        if isinstance(parsed, Notice):
            self._count("notice")
            self._log.info("venue_notice", kind=str(parsed.kind), text=parsed.text)
            return
        if isinstance(parsed, VenueError):
            self._count("error")
            self._log.warning("venue_error", kind=str(parsed.kind), text=parsed.text)
            return
        self._count("event")
        if isinstance(parsed, TokenCreated):
            self._figures.add("tokens_received_total")
            self._log.debug("token_created", mint=parsed.mint, symbol=parsed.symbol, trace=parsed.id)
        elif isinstance(parsed, TokenTraded):
            self._figures.add("trades_received_total")
        await self._put(Record(token_subject(parsed), parsed.id, encode(parsed)))

    async def gap(self, event: FeedGap) -> None:
        self._figures.add("feed_gaps_total")
        await self._put(Record(token_subject(event), event.id, encode(event)))

    async def _bury(self, data: bytes, reason: str, seen_at_ns: int) -> None:
        self._count("dead")
        self._log.error("frame_malformed", reason=reason)
        digest = blake2b(data, digest_size=16).hexdigest()
        letter_id = f"frame:{seen_at_ns}:{digest}"
        letter = dead_letter(letter_id, FEED, "", 0, data, reason, seen_at_ns)
        await self._put(Record(dead_subject("FEED", "ingest"), letter_id, encode(letter)))

    def _count(self, outcome: str) -> None:
        self._figures.add("frames_total", outcome=outcome)
