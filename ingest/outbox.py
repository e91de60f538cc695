"""Publishing in order, many in flight, never dropping.

    put -> waiting (memory) -> in flight -> acknowledged

Everything that is in flight when the connection goes, or when an answer is late, is sent again from the oldest on, so
the order holds; the broker drops by id what it had stored. While the broker is away records wait in memory; when that
is full, all of them move to the spool on disk, and from then on the spool is the queue (`spooling`) until it is empty.
When the spool is full, too, `put` waits: nothing is dropped, and the caller stops reading its socket.

What waits at the end is written to the spool, and sent first at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ingest.spool import Read, Record, Spool, SpoolFull
from runtime import telemetry, wire
from runtime.bus import Bus, BusError, Unavailable, WrongSequence, judge
from runtime.letters import dead_letter
from runtime.telemetry import Figures
from runtime.tracer import Tracer
from runtime.vocabulary import Vocabulary
from schemas import canary
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.subjects import CANARY_TOKENS, dead_subject

IN_FLIGHT_MAX = 1000
WAITING_MAX = 20_000
ACK_WAIT_S = 5.0
RETRY_S = 0.25
FULL_RETRY_S = 1.0

FIGURES: Vocabulary = {
    "published_total": "Messages that the broker acknowledged as stored",
    "duplicates_total": "Messages that the broker had already",
    "buffered_messages": "Messages in memory that the broker has not acknowledged",
    "spooled_messages": "Messages on disk that the broker has not taken yet",
    "spooled_bytes": "Bytes on disk that the broker has not taken yet",
    "spool_full": "Whether the spool takes no more and the feed is not being read",
    "republished_total": "Messages sent again after a lost connection or a late answer",
    "publish_refused_total": "Messages that the broker refused for good",
}

Log = Callable[..., None]


class _Seen(msgspec.Struct):
    seen_at_ns: int


_seen: Decoder[_Seen] = Decoder(_Seen)


class Outbox:
    """One publisher for a process. `run` it beside the rest; `close` it last."""

    def __init__(
        self,
        bus: Bus,
        spool: Spool,
        figures: Figures,
        log: Log,
        *,
        waiting_max: int = WAITING_MAX,
        ack_wait_s: float = ACK_WAIT_S,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._bus = bus
        self._spool = spool
        self._figures = figures
        self._log = log
        self._waiting_max = waiting_max
        self._ack_wait_s = ack_wait_s
        self._waiting: deque[Record] = deque()
        self._in_flight: dict[int, Record] = {}  # by number, oldest first
        self._number = 0
        self._sent_s = 0.0  # when the last answer came, or the first of those in flight was sent
        self._interrupted = False
        self._not_before_s = 0.0  # a broker that just refused is left alone until then
        self._resent: set[str] = set()  # ids whose repetition is ours, not the venue's
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._inherited = spool.records > 0  # what an earlier life left: its first records may have been sent
        self._read: Read | None = None  # the chunk of the spool under way, and how many of it are unanswered
        self._read_left = 0
        self._spooling = spool.records > 0
        self._disk = asyncio.Lock()
        bus.on_disconnect.append(self._interrupt)

    @property
    def spooling(self) -> bool:
        """Whether messages lie on disk, i.e. the broker has been away for longer than memory lasts."""
        return self._spooling

    async def put(self, record: Record) -> None:
        """Take a record over; returns when it is in memory, or on disk while the broker is away."""
        while True:
            if self._spooling:
                if await self._spool_more(record):
                    return
                continue
            if len(self._waiting) < self._waiting_max:
                self._waiting.append(record)
                self._wake.set()
                return
            if self._bus.connected:  # behind, not away: let the broker catch up
                self._space.clear()
                await self._space.wait()
            else:
                await self._begin_spooling()
                if not self._spooling:
                    await asyncio.sleep(FULL_RETRY_S)

    async def run(self) -> None:
        """Send, resend and read the spool back, for as long as the process lives."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if self._interrupted or (self._in_flight and loop.time() - self._sent_s > self._ack_wait_s):
                self._take_back()
            if self._bus.connected and loop.time() >= self._not_before_s:
                self._send()
                if self._spooling and self._read_left == 0:
                    await self._refill()
            self._report()
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def flushed(self, within_s: float) -> bool:
        """Wait until everything is acknowledged; False when the time was too short."""
        try:
            async with asyncio.timeout(within_s):
                while self._waiting or self._in_flight or self._spooling:  # noqa: ASYNC110 - three conditions, once
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Put what the broker has not acknowledged on disk. Raises SpoolFull when that has no room."""
        async with self._disk:
            if not self._spooling:
                left = [*self._in_flight.values(), *self._waiting]
                if left:
                    self._log("spooled_at_exit", messages=len(left))
                    await asyncio.to_thread(self._spool.append, left)
            await asyncio.to_thread(self._spool.close)

    # Sending

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            record = self._waiting[0]
            self._number += 1
            number = self._number
            try:
                self._bus.post(_frames(record, self._tracer), lambda message, n=number: self._answered(n, message))  # type: ignore[misc]
            except Unavailable:
                self._interrupted = True
                return
            if not self._in_flight:
                self._sent_s = loop.time()
            self._in_flight[number] = self._waiting.popleft()
        if len(self._waiting) <= self._waiting_max // 2:
            self._space.set()

    def _answered(self, number: int, message: Any) -> None:
        record = self._in_flight.get(number)
        if record is None:
            return  # sent again since; the broker drops the repetition
        if message is None:
            self._interrupt()
            return
        try:
            answer = judge(message)
        except Unavailable as error:
            if not self._interrupted:  # once for all that is in flight
                self._log("publish_retry", reason=str(error))
            self._not_before_s = asyncio.get_running_loop().time() + RETRY_S
            self._interrupt()
            return
        except (BusError, WrongSequence) as error:
            # No retry helps and none may block the rest: it is told, and kept in DEAD; of a letter nothing more is.
            self._figures.add("publish_refused_total")
            self._log("publish_refused", subject=record.subject, id=record.id, reason=str(error))
            if self._tracer is not None:
                self._trace(record, type(error).__name__)
            if not record.subject.startswith("dead."):
                self._waiting.append(_letter_about(record, str(error)))
                self._read_left += 1 if self._read_left else 0
        else:
            venues_own = answer.duplicate and record.id not in self._resent
            self._figures.add("duplicates_total" if venues_own else "published_total")
            if self._tracer is not None and not venues_own:
                self._trace(record)
        self._resent.discard(record.id)
        del self._in_flight[number]
        self._sent_s = asyncio.get_running_loop().time()
        if self._read_left:
            self._read_left -= 1
        if self._waiting or (self._spooling and self._read_left == 0):
            self._wake.set()

    def _trace(self, record: Record, error: str = "") -> None:
        if self._tracer is not None and record.subject.startswith("tokens."):
            with contextlib.suppress(MalformedEvent):
                self._tracer.published(record.id, record.subject, _seen(record.payload).seen_at_ns, error)

    def _interrupt(self) -> None:
        self._interrupted = True
        self._wake.set()
        self._space.set()  # whoever waits for the broker to catch up had better look again

    def _take_back(self) -> None:
        """Everything in flight waits again, oldest first."""
        self._interrupted = False
        if self._in_flight:
            self._figures.add("republished_total", len(self._in_flight))
            self._resent.update(record.id for record in self._in_flight.values())
            self._waiting.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()

    # Disk

    async def _begin_spooling(self) -> None:
        """Move all that waits to disk; from now on the spool is the queue."""
        async with self._disk:
            if self._spooling:
                return
            self._take_back()
            moved, self._waiting = self._waiting, deque()
            self._spooling = True  # from here on, whoever puts something waits for its turn behind these
            kept = False
            try:
                kept = await self._append([*moved])
            finally:
                if not kept:
                    self._waiting, self._spooling = moved, False
            if kept:
                self._log("spooling", messages=len(moved))

    async def _spool_more(self, record: Record) -> bool:
        """Add to the spool; False when it is no longer the queue, or was full a while ago."""
        async with self._disk:
            if not self._spooling:
                return False
            if await self._append([record]):
                return True
        await asyncio.sleep(FULL_RETRY_S)
        return False

    async def _append(self, records: list[Record]) -> bool:
        try:
            await asyncio.to_thread(self._spool.append, records)
        except SpoolFull as error:
            if not self._figures["spool_full"]:
                self._log("spool_full", reason=str(error))
            self._figures.put("spool_full", 1)
            return False
        self._figures.put("spool_full", 0)
        return True

    async def _refill(self) -> None:
        """Forget the chunk of the spool that is acknowledged whole, and read the next into memory."""
        async with self._disk:
            if self._read is not None:
                await asyncio.to_thread(self._spool.commit, self._read)
                self._read = None
            read = await asyncio.to_thread(self._spool.read)
            if not read.records:
                self._spooling = False
                self._log("spool_empty")
                return
            if self._inherited:
                self._resent.update(record.id for record in read.records)
                self._inherited = False
            self._read, self._read_left = read, len(read.records)
            self._waiting.extend(read.records)
        self._wake.set()

    def _report(self) -> None:
        if not self._spooling and len(self._waiting) < self._waiting_max:
            self._figures.put("spool_full", 0)
        self._figures.put("buffered_messages", len(self._waiting) + len(self._in_flight))
        self._figures.put("spooled_messages", self._spool.records)
        self._figures.put("spooled_bytes", self._spool.bytes)


def _letter_about(record: Record, reason: str) -> Record:
    letter_id = f"refused:{record.id}"
    headers = wire.parse_headers(b"NATS/1.0\r\n" + wire.trace_headers(record.id))
    letter = dead_letter(
        letter_id, "TOKENS", record.subject, 0, record.payload, reason, telemetry.now_ns(), headers=headers
    )
    return Record(dead_subject("TOKENS", "ingest"), letter_id, encode(letter))


def _frames(record: Record, tracer: Tracer | None) -> Callable[[str], bytes]:
    headers = b"Nats-Msg-Id: %s\r\n" % record.id.encode()
    if record.subject == CANARY_TOKENS:
        headers += canary.HEADERS
    elif record.subject.startswith("tokens."):
        sampled = tracer is not None and tracer.samples(record.id[:32], None)
        headers += wire.trace_headers(record.id, sampled=sampled)
    elif record.subject.startswith("dead."):
        headers += wire.trace_headers(record.id.rpartition(":")[2])  # a frame's digest
    return lambda reply: wire.message_frame(record.subject, reply, headers, record.payload)
