"""A canary on an interval (`schemas/canary.py`), into the same outbox as the feed's events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ingest.spool import Record
from runtime.bus import Bus, BusError, Unavailable
from runtime.readers import last_message
from runtime.telemetry import now_ns
from schemas.canary import Canary, first
from schemas.codec import Decoder, MalformedEvent, encode
from schemas.subjects import CANARY_TOKENS

_canary: Decoder[Canary] = Decoder(Canary)


async def send(bus: Bus, put: Callable[[Record], Awaitable[None]], interval_s: float) -> None:
    """For as long as the process lives. The numbers go on where an earlier life stopped."""
    number: int | None = None
    while True:
        await asyncio.sleep(interval_s)
        if not bus.connected:
            continue  # one that waits for the broker would say, late, what everybody knew
        try:
            number = await _last_number(bus) if number is None else number
        except (Unavailable, BusError):
            continue
        number += 1
        canary = first(number, now_ns())
        await put(Record(CANARY_TOKENS, canary.id, encode(canary)))


async def _last_number(bus: Bus) -> int:
    last = await last_message(bus, "TOKENS", CANARY_TOKENS)
    try:
        return 0 if last is None else _canary(last.data).number
    except MalformedEvent:
        return 0
