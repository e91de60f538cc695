"""What became of each delivery: the bucket `deliveries`, the newest ends in memory, and their figures."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from observer.notify.figures import KINDS
from observer.times import SECOND_NS
from runtime import buckets
from runtime.bus import Unavailable, WrongSequence
from runtime.process import Process
from runtime.wire import In
from schemas.alerts import FINAL, Delivery, Outcome
from schemas.codec import Decoder, MalformedEvent, encode

RETRY_S = 0.25
HISTORY_MAX = 1000

_delivery: Decoder[Delivery] = Decoder(Delivery)

T = TypeVar("T")


async def again(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(RETRY_S)


class Records:
    """kinds: of each channel. of_no_interest: is told each that ended, and says whether people need not hear of it.

    history: those that ended, the oldest first.
    """

    def __init__(self, process: Process, kinds: Mapping[str, str], of_no_interest: Callable[[Delivery], bool]) -> None:
        self._bus, self._figures, self._log = process.bus, process.figures, process.log
        self._kinds = kinds
        self._of_no_interest = of_no_interest
        self._life = secrets.token_hex(8)
        self._revisions: dict[str, int] = {}  # of those that go on
        self.history: deque[Delivery] = deque(maxlen=HISTORY_MAX)
        for kind in KINDS:
            for outcome in FINAL:
                self._figures.add("notifications_total", 0, channel=kind, state=outcome)

    def restore(self, message: In) -> Delivery | None:
        """What the bucket holds; None for what is no delivery."""
        change = buckets.change(message)
        if change.data is None:
            return None
        try:
            record = _delivery(change.data)
        except MalformedEvent:
            self._log.warning("delivery_malformed", delivery=change.key)
            return None
        if record.outcome in FINAL:
            if not self._of_no_interest(record):
                self.history.append(record)
        else:
            self._revisions[record.id] = change.revision
        return record

    async def store(self, record: Delivery) -> bool:
        """Whether it is stored; not if somebody else has written of the same delivery since."""
        data = encode(replace(record, by=self._life))
        while True:
            try:
                revision = await buckets.put(
                    self._bus, "deliveries", record.id, data, self._revisions.get(record.id, 0)
                )
            except Unavailable:  # perhaps it is stored all the same: then the next try is refused
                await asyncio.sleep(RETRY_S)
                continue
            except WrongSequence:
                entry = await again(lambda: buckets.get(self._bus, "deliveries", record.id))
                if entry is None or entry.data != data:
                    self._log.warning("delivery_taken", delivery=record.id)
                    return False
                revision = entry.revision
            if record.outcome in FINAL:
                self._revisions.pop(record.id, None)
                self._count(record)
            else:
                self._revisions[record.id] = revision
            return True

    async def keep(self, records: Sequence[Delivery]) -> None:
        """Store ends that nothing was recorded of before."""
        if records:
            values = [(record.id, encode(record)) for record in records]
            await again(lambda: buckets.put_many(self._bus, "deliveries", values))
            for record in records:
                self._count(record)

    def _count(self, record: Delivery) -> None:
        kind = self._kinds.get(record.channel, "nobody")
        self._figures.add("notifications_total", channel=kind, state=record.outcome)
        if self._of_no_interest(record):
            return
        self.history.append(record)
        log = self._log.info if record.outcome in (Outcome.SENT, Outcome.SUPPRESSED) else self._log.warning
        log("notified", alert=record.name, state=record.outcome, channel=record.channel, reason=record.reason or None)

    def delivered(self, record: Delivery, found_at_ns: int) -> None:
        """It was sent: note how long that took since it was found."""
        if record.outcome is Outcome.SENT:
            took_s = max(0, record.settled_at_ns - found_at_ns) / SECOND_NS
            kind = self._kinds.get(record.channel, "nobody")
            self._figures.observe("notification_delivery_seconds", took_s, channel=kind)
