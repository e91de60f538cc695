"""Follows the canaries of the three streams, and knows when the whole line was last seen to be open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from observer.canaries import STORED_BY, Canaries, Counted
from observer.facts import Beside, CanaryFacts, Info, Stage
from observer.times import SECOND_NS, parse_iso
from runtime import buckets, telemetry
from runtime.bus import BusError, Unavailable
from runtime.process import Process
from runtime.readers import Follower, message_after
from schemas.canary import Canary
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.events import Struct
from schemas.subjects import CANARY_DECISIONS, CANARY_TOKENS, stored_canary_subjects

BUCKET, KEY = "counts", "canaries"
KEEP_INTERVAL_S: Final = 30.0
IDLE_S: Final = 5.0
RETRY_S: Final = 0.25
ANSWER_S_MAX: Final = 1.5


class Kept(Struct, frozen=True, kw_only=True):
    """What outlives the streams' own memory, under KEY in BUCKET."""

    received_at_ns: int = 0
    streams: dict[str, Counted] = {}


_canary: Decoder[Canary] = Decoder(Canary)
_kept: Decoder[Kept] = Decoder(Kept)


class CanaryReader:
    """Start `run` beside the polls; tell it of each with `polled`."""

    def __init__(self, process: Process) -> None:
        common = process.common
        self._process = process
        self._bus = process.bus
        self._interval_s = common.canary_interval_s
        self._canaries = Canaries(common.partitions, common.mint_partitions)
        self._subjects: dict[str, str | Sequence[str]] = {
            "TOKENS": CANARY_TOKENS,
            "DECISIONS": CANARY_DECISIONS,
            "SIGNALS": stored_canary_subjects(common.partitions),
        }
        self._begun_ns = telemetry.now_ns()
        self._others: dict[str, tuple[int, int | None]] = {}  # by stream: the newest message that is none, and when
        self._was_kept = Kept()
        self._kept_s = 0.0
        self.caught_up = False
        process.figures.put("canary_interval_ns", int(self._interval_s * 1e9))

    @property
    def facts(self) -> CanaryFacts | None:
        if not self._interval_s:
            return None
        return CanaryFacts(interval_s=self._interval_s, received_at_ns=self._canaries.received_at_ns or None)

    async def run(self) -> None:
        """For as long as the process lives."""
        await self._recall()
        ready = asyncio.Event()
        followers = {
            stream: Follower(self._bus, stream, subject, after_sequence=0, ready=ready)
            for stream, subject in self._subjects.items()
        }
        try:
            while True:
                ready.clear()
                for stream, follower in followers.items():
                    for message in follower.take():
                        self._hear(stream, message.subject, message.sequence, message.at_ns, message.data)
                self.caught_up = self.caught_up or all(follower.caught_up for follower in followers.values())
                await self._keep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S if self.caught_up else RETRY_S):
                        await ready.wait()
        finally:
            for follower in followers.values():
                await follower.close()

    def _hear(self, stream: str, subject: str, sequence: int, at_ns: int, data: bytes) -> None:
        try:
            canary = _canary(data)
        except MalformedEvent:
            self._process.figures.add("events_malformed_total", source=stream)
            return
        self._canaries.hear(stream, subject, sequence, canary)
        if at_ns >= self._begun_ns:
            delay_s = max(0, at_ns - canary.sent_at_ns) / SECOND_NS
            self._process.figures.observe("canary_delay_seconds", delay_s, stage=STORED_BY[stream])

    async def polled(
        self, streams: Mapping[str, Info | None], behind: Sequence[tuple[Stage, Sequence[Info | None]]]
    ) -> Mapping[str, Beside]:
        """What canaries there are in each stream that answered. behind: CONSUMER.INFO answers of each stage."""
        for partition, info in enumerate(behind[-1][1]):
            if info is not None:
                self._canaries.acknowledged(partition, int(info["ack_floor"]["stream_seq"]))
        figures, done = self._process.figures, self._canaries.stages()
        received_ns = self._canaries.received_at_ns
        sent = bool(self._interval_s)
        figures.replace("canary_last_received_at_ns", [({}, received_ns)] if sent and received_ns else [])
        known = [({"stage": stage}, at_ns) for stage, at_ns in done.items() if at_ns]
        figures.replace("canary_stage_last_at_ns", known if sent else [])
        told = {stream: info for stream in self._subjects if (info := streams.get(stream))}
        found = await asyncio.gather(*(self._beside(stream, info) for stream, info in told.items()))
        return dict(zip(told, found, strict=True))

    async def _beside(self, stream: str, info: Info) -> Beside:
        state = info["state"]
        other = self._canaries.trails[stream].newest_other(int(state["last_seq"]))
        if other == int(state["last_seq"]):
            self._others[stream] = other, parse_iso(state.get("last_ts"))
        elif other < int(state["first_seq"]):
            self._others[stream] = other, None
        elif self._others.get(stream, (0, None))[0] != other:
            with contextlib.suppress(Unavailable, BusError, TimeoutError):
                async with asyncio.timeout(ANSWER_S_MAX):
                    message = await message_after(self._bus, stream, other - 1)
                self._others[stream] = (
                    other,
                    message.at_ns if message is not None and message.sequence == other else None,
                )
        at_ns = self._others.get(stream, (0, None))[1]
        return self._canaries.beside(stream, int(state["first_seq"]), at_ns)

    async def _recall(self) -> None:
        """What an earlier life had kept."""
        while True:
            try:
                entry = await buckets.get(self._bus, BUCKET, KEY)
                states = {stream: await self._bus.stream_info(stream) for stream in self._subjects}
                break
            except (Unavailable, BusError):
                await asyncio.sleep(RETRY_S)
        with contextlib.suppress(MalformedEvent):  # begin anew rather than never
            self._was_kept = Kept() if entry is None else _kept(entry.data)
        self._canaries.received_at_ns = max(self._canaries.received_at_ns, self._was_kept.received_at_ns)
        for stream, info in states.items():
            before = self._was_kept.streams.get(stream, Counted())
            self._canaries.trails[stream].resume(before, str(info["created"]), int(info["state"]["last_seq"]))

    async def _keep(self) -> None:
        now_s = asyncio.get_running_loop().time()
        counts = {stream: trail.counted for stream, trail in self._canaries.trails.items()}
        kept = Kept(received_at_ns=self._canaries.received_at_ns, streams=counts)
        if not self.caught_up or kept == self._was_kept or now_s - self._kept_s < KEEP_INTERVAL_S:
            return
        with contextlib.suppress(Unavailable, BusError, TimeoutError):  # the next round tries again
            async with asyncio.timeout(ANSWER_S_MAX):
                await buckets.put(self._bus, BUCKET, KEY, encode(kept))
            self._was_kept, self._kept_s = kept, now_s
