"""The newest verdict, kept in the bucket `checks`: a restart of observer must not make an old trouble look new."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from observer.health.levels import Level
from observer.health.verdict import Check, Verdict
from runtime import buckets
from runtime.bus import Bus, BusError, Unavailable
from schemas.codec import Decoder, MalformedEvent, encode

BUCKET, KEY = "checks", "verdict"
WAIT_S_MAX: Final = 2.0
YOUNG_S: Final = 15  # after a start, what is not known yet changes nothing

_verdict: Decoder[Verdict] = Decoder(Verdict)


class Recall:
    """`recall` once, `note` each verdict, `keep` after each poll.

    before: the verdict to judge against.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._kept: dict[str, tuple[Level, str]] = {}
        self.before: Verdict | None = None

    async def recall(self) -> None:
        with contextlib.suppress(Unavailable, BusError, TimeoutError, MalformedEvent):
            async with asyncio.timeout(WAIT_S_MAX):
                entry = await buckets.get(self._bus, BUCKET, KEY)
            if entry is not None:
                self.before = _verdict(entry.data)
                self._kept = _brief(self.before)

    def note(self, verdict: Verdict, listening_s: int) -> dict[str, Check]:
        """Take a verdict in; the checks whose level changed."""
        old = self.before.checks if self.before is not None else {}
        young = listening_s < YOUNG_S
        settled = {n: c for n, c in verdict.checks.items() if not (young and c.level is Level.UNKNOWN)}
        self.before = msgspec.structs.replace(verdict, checks={**old, **settled})
        return {name: check for name, check in settled.items() if name in old and old[name].level is not check.level}

    async def keep(self) -> None:
        """Store what changed since it was last stored; where that fails, the next poll tries again."""
        if self.before is None or (brief := _brief(self.before)) == self._kept:
            return
        with contextlib.suppress(Unavailable, BusError, TimeoutError):
            async with asyncio.timeout(WAIT_S_MAX):
                await buckets.put(self._bus, BUCKET, KEY, encode(self.before))
                self._kept = brief


def _brief(verdict: Verdict) -> dict[str, tuple[Level, str]]:
    return {name: (check.level, check.since) for name, check in verdict.checks.items()}
