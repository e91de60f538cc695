"""A frame's way into the line: parsed, counted, and handed on as an event, or kept whole in DEAD."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import blake2b

from ingest.recorder import Recorder
from ingest.spool import Record
from ingest.venues.pumpportal import MalformedFrame, Notice, VenueError, parse
from runtime import wire
from runtime.letters import dead_letter
from runtime.telemetry import Figures, Logger
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
    """Every frame ends as exactly one of: event, notice, error, dead (`frames_total` by outcome).

    recorder: keeps each frame as it came, ahead of anything else; None for none. Where it fails, the line goes on
    without it.
    """

    def __init__(
        self,
        put: Callable[[Record], Awaitable[None]],
        figures: Figures,
        log: Logger,
        recorder: Recorder | None = None,
    ) -> None:
        self._put = put
        self._figures = figures
        self._log = log
        self._recorder = recorder
        for outcome in ("event", "notice", "error", "dead"):
            figures.add("frames_total", 0, outcome=outcome)

    async def frame(self, data: bytes, seen_at_ns: int) -> None:
        if self._recorder is not None:
            self._guarded(partial(self._recorder.keep, data, seen_at_ns))
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

    def flush(self) -> None:
        """What was recorded so far is in the file."""
        if self._recorder is not None:
            self._guarded(self._recorder.flush)

    def close(self) -> None:
        """What was recorded is on disk."""
        if self._recorder is not None:
            self._guarded(self._recorder.close)
            self._recorder = None

    async def gap(self, event: FeedGap) -> None:
        self._figures.add("feed_gaps_total")
        await self._put(Record(token_subject(event), event.id, encode(event)))

    async def _bury(self, data: bytes, reason: str, seen_at_ns: int) -> None:
        self._count("dead")
        self._log.error("frame_malformed", reason=reason)
        digest = blake2b(data, digest_size=16).hexdigest()
        letter_id = f"frame:{seen_at_ns}:{digest}"
        headers = wire.parse_headers(b"NATS/1.0\r\n" + wire.trace_headers(digest))
        letter = dead_letter(letter_id, FEED, "", 0, data, reason, seen_at_ns, headers=headers)
        await self._put(Record(dead_subject("FEED", "ingest"), letter_id, encode(letter)))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do something with the recording, which ends where that fails."""
        try:
            act()
        except OSError as error:
            self._log.error("recording_ended", reason=str(error))
            recorder, self._recorder = self._recorder, None
            if recorder is not None:
                with contextlib.suppress(OSError):
                    recorder.close()

    def _count(self, outcome: str) -> None:
        self._figures.add("frames_total", outcome=outcome)
