"""What keeps a process that was overtaken, and does not know it yet, from writing: each batch expects something that
whoever overtook it has changed. A fence is claimed at each start, before what is stored is read back: then a batch of
the past, our own included whose answer was lost, either stands and is read, or is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from runtime import telemetry, wire
from runtime.bus import Bus
from runtime.readers import last_message
from runtime.wire import Out
from schemas.codec import encode
from schemas.ownership import Member, Owner


class Fence(Protocol):
    async def claim(self) -> None:
        """Be the writer from here on. Raises Unavailable, WrongSequence where another one claimed at the same time."""

    async def append(self, messages: Sequence[Out]) -> None:
        """Store a batch. Raises WrongSequence when somebody else is the writer now, else as `Bus.append`."""


class StreamEnd:
    """For a stream with one writer at a time: each batch expects the stream's last sequence. One who was overtaken may
    get one batch in, if his successor has not written yet; then that one is refused instead, and starts again."""

    def __init__(self, bus: Bus, stream: str) -> None:
        self._bus = bus
        self._stream = stream
        self._last = 0

    async def claim(self) -> None:
        self._last = int((await self._bus.stream_info(self._stream))["state"]["last_seq"])

    async def append(self, messages: Sequence[Out]) -> None:
        first = await self._bus.append(messages, expect_last=self._last)
        self._last = first + len(messages) - 1


class Part(NamedTuple):
    """What somebody may own: where its ownership records are published, and under which subject they are stored."""

    number: int
    subject: str
    stored_subject: str


async def claim_parts(bus: Bus, stream: str, parts: Sequence[Part], me: Member) -> dict[int, int]:
    """Be the owner of these parts from here on, all or none: an ownership record is appended to each. Returns the
    records' sequences by the parts' numbers. Raises Unavailable, WrongSequence where another one claimed at the same
    time."""
    if not parts:
        return {}
    last = await asyncio.gather(*(last_message(bus, stream, part.stored_subject) for part in parts))
    now_ns = telemetry.now_ns()
    records = [
        Out(
            part.subject,
            encode(Owner(partition=part.number, instance=me.instance, life=me.life, at_ns=now_ns)),
            expect=0 if found is None else found.sequence,
        )
        for part, found in zip(parts, last, strict=True)
    ]
    first = await bus.append(records)
    return {part.number: sequence for sequence, part in enumerate(parts, first)}


class OwnerRecord:
    """For a stream with several writers, each with a part of its own: each batch expects the part's newest ownership
    record to be ours."""

    def __init__(self, bus: Bus, stream: str, subject: str, part: int, me: Member) -> None:
        """subject: of this part's records, as published and as stored."""
        self._bus = bus
        self._stream = stream
        self._part = Part(part, subject, subject)
        self._me = me
        self._record = 0

    async def claim(self) -> None:
        records = await claim_parts(self._bus, self._stream, [self._part], self._me)
        self._record = records[self._part.number]

    async def append(self, messages: Sequence[Out]) -> None:
        first, *others = messages
        headers = first.headers + wire.expecting(self._record, self._part.stored_subject)
        await self._bus.append([first._replace(headers=headers), *others])
