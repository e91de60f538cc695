"""ingest: the venue's one WebSocket -> frames -> events -> `tokens.>`; what no parser takes -> DEAD, whole."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import msgspec

from ingest import canary
from ingest.cost import DailyCost
from ingest.feed import URL_DEFAULT, Feed, FeedAddress, FeedOptions
from ingest.intake import FEED, Intake
from ingest.intake import FIGURES as INTAKE_FIGURES
from ingest.outbox import FIGURES as OUTBOX_FIGURES
from ingest.outbox import WAITING_MAX, Outbox
from ingest.recorder import Recorder
from ingest.recording import MalformedLine
from ingest.spool import Spool, SpoolFull, SpoolLocked
from ingest.watched import follow_watched
from runtime.bus import BusError, Unavailable
from runtime.process import Process, run
from runtime.readers import last_message
from runtime.settings import Common, Seconds, Settings, SettingsError
from runtime.telemetry import now_ns
from schemas.codec import Decoder, MalformedEvent
from schemas.events import TokenEvent
from schemas.subjects import OF_THE_FEED

FIGURES = {**INTAKE_FIGURES, **OUTBOX_FIGURES}

FLUSH_S_MAX = 1.0
REPORT_S = 0.5
# What the venue said, or did not say: all of TOKENS but the canaries, which come without it.
HEARD = (*OF_THE_FEED, f"tokens.gap.{FEED}")
BROKER_WAIT_S_MAX = 2.0  # at the start; without the broker the feed is read all the same, into the spool

_event: Decoder[TokenEvent] = Decoder(TokenEvent)


class IngestSettings(Settings, frozen=True, kw_only=True):
    """What only ingest needs.

    feed_url: the venue's WebSocket.
    api_key: opens subscriptions to trades, which the venue charges for; never shown.
    silence_s: no frame for this many seconds means that the feed is not heard.
    waiting_max: messages held in memory while the broker is away; beyond it they go to disk.
    spool_bytes_max: room on disk while the broker is away; beyond it the feed is not read.
    record: a file to which each frame is appended as it came, for `mintline replay`; empty for none.
    """

    feed_url: str = URL_DEFAULT
    api_key: str = ""
    silence_s: Seconds = 60.0
    waiting_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = WAITING_MAX
    spool_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 20)] = 2 << 30
    record: str = ""

    def check(self, common: Common) -> None:
        self.address()

    def address(self) -> FeedAddress:
        try:
            return FeedAddress(self.feed_url, self.api_key)
        except ValueError as error:
            raise SettingsError(f"MINTLINE_INGEST_FEED_URL: {error}") from None


async def main(process: Process, settings: IngestSettings) -> None:
    spool = _spool(Path(process.common.data_dir) / "spool", settings.spool_bytes_max)
    outbox = Outbox(process.bus, spool, process.figures, process.log.warning, waiting_max=settings.waiting_max,
                    tracer=process.tracer)  # fmt: skip
    sending = process.spawn(outbox.run(), "outbox")
    recorder = _recorder(settings.record)
    intake = Intake(outbox.put, process.figures, process.log, recorder)
    options = FeedOptions(
        address=settings.address(), heard_at_ns=await _heard_at_ns(process), silence_ns=int(settings.silence_s * 1e9)
    )
    feed = Feed(options, intake.frame, intake.gap, process.log.info)
    process.spawn(follow_watched(process.bus, feed.want, process.log.warning, now_ns), "watched")
    process.spawn(_report(process, feed, outbox, intake), "report-feed")
    if process.common.canary_interval_s:
        process.spawn(canary.send(process.bus, outbox.put, process.common.canary_interval_s), "canary")
    process.ready(True)
    await feed.run(process.stop)
    intake.close()
    if not await outbox.flushed(FLUSH_S_MAX):
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
    try:
        await outbox.close()
    except SpoolFull as error:
        process.log.error("messages_lost_at_exit", reason=str(error))


def _spool(directory: Path, bytes_max: int) -> Spool:
    try:
        return Spool(directory, bytes_max=bytes_max)
    except (SpoolLocked, OSError) as error:
        raise SettingsError(f"MINTLINE_DATA_DIR: the spool cannot be used: {error}") from error


def _recorder(path: str) -> Recorder | None:
    try:
        return Recorder(Path(path)) if path else None
    except (MalformedLine, OSError) as error:
        raise SettingsError(f"MINTLINE_INGEST_RECORD: no recording can be appended to: {error}") from error


async def _heard_at_ns(process: Process) -> int | None:
    """When an earlier life last heard the feed: what came between then and now is a gap. None if nobody knows."""
    try:
        await asyncio.wait_for(process.bus.wait_connected(), BROKER_WAIT_S_MAX)
        asked = (last_message(process.bus, "TOKENS", subject) for subject in HEARD)
        found = [message for message in await asyncio.gather(*asked) if message is not None]
        newest = max(found, key=lambda message: message.sequence, default=None)
        return None if newest is None else _event(newest.data).seen_at_ns
    except (TimeoutError, Unavailable, BusError, MalformedEvent):
        return None


async def _report(process: Process, feed: Feed, outbox: Outbox, intake: Intake) -> None:
    figures, was_running, cost = process.figures, None, DailyCost()
    while True:
        intake.flush()
        state = feed.state
        figures.put("feed_running", int(state.is_running))
        figures.put("feed_since_at_ns", state.since_at_ns)
        figures.put("feed_last_frame_at_ns", state.last_frame_at_ns or 0)
        figures.put("feed_reconnects_total", state.reconnects)
        figures.put("feed_subscriptions", state.subscriptions)
        figures.put("spooling", int(outbox.spooling))
        figures.put("feed_cost_per_day_lamports", cost.lamports(now_ns(), figures["trades_received_total"]))
        process.details.update(
            feed=str(state.state), waiting=figures["buffered_messages"], spooling=outbox.spooling,
            spooled=figures["spooled_messages"], spool_full=bool(figures["spool_full"]),
        )  # fmt: skip
        if state.is_running is not was_running:
            process.log.info("feed_state", state=str(state.state), trades_refused=state.trades_refused)
            was_running = state.is_running
        await asyncio.sleep(REPORT_S)


def cli() -> None:
    """Run the ingest process. Settings come from MINTLINE_… and MINTLINE_INGEST_… variables."""
    run("ingest", main, IngestSettings, FIGURES, needs_broker=False)


if __name__ == "__main__":
    cli()
