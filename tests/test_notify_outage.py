"""An hour without the channel, on a real socket and in the notifier's own loop: only its clock is the test's."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from observer.notify import testing
from observer.notify.clock import Clock
from observer.notify.testing import FakeTelegram, running, settings
from observer.times import SECOND_NS
from runtime import buckets
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.readers import read
from runtime.telemetry import now_ns
from runtime.testing import eventually
from schemas.alerts import RANK, Alert, Delivery, Happening, Level, Outcome, alert_subject
from schemas.codec import Decoder, encode

MINUTE_S, HOUR_S = 60, 3600
WAITING = "notifications_queued"
_delivery: Decoder[Delivery] = Decoder(Delivery)


class Leaping(Clock):
    """Whoever waits is there at once, up to a time that the test sets; there the clock stands still."""

    def __init__(self) -> None:
        self._at_ns = self._until_ns = now_ns()

    def now_ns(self) -> int:
        return self._at_ns

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        left_ns = self._until_ns - self._at_ns
        if left_ns > 0 and not event.is_set():
            self._at_ns += min(int(seconds * SECOND_NS), left_ns)
        await super().wait(event, 0.01)

    async def passes(self, seconds: float) -> None:
        self._until_ns = self._at_ns + int(seconds * SECOND_NS)
        await eventually(lambda: self._at_ns == self._until_ns, "the time has passed", 120)


async def tell(bus: Bus, name: str, level: Level) -> None:
    now = now_ns()
    alert = Alert(
        id=name, fingerprint=name, name=name, level=level, state=Happening.NOTICE, source="test", summary=name,
        started_at_ns=now, at_ns=now,
    )  # fmt: skip
    await bus.publish(alert_subject(level), encode(alert), message_id=alert.id)


async def outcomes(bus: Bus) -> Counter[Outcome]:
    changes = [buckets.change(m) for m in await read(bus, "KV_deliveries", last_per_subject=True)]
    return Counter(_delivery(change.data).outcome for change in changes if change.data is not None)


def told(fake: FakeTelegram) -> list[str]:
    """The names, in the order in which people would see them."""
    return [text.removeprefix("possible repeat\n").split("<b>")[1].split("</b>")[0] for text in fake.texts]


@pytest.mark.parametrize(("away", "result"), [("refused", "failed"), ("broken", "failed"), ("slow", "slow")])
async def test_after_an_hour_without_the_channel_everything_comes_once_and_the_most_urgent_first(
    bus: Bus, away: str, result: str
) -> None:
    fake, port, clock = FakeTelegram(), free_port(), Leaping()
    steps = {"broken": testing.BROKEN, "slow": testing.refusal(429, "Too Many Requests", retry_after=30)}
    fake.away = steps.get(away)
    levels = {f"{level}-{number}": level for number in range(4) for level in reversed(Level)}

    async def an_hour_passes() -> None:
        for minutes in (5, 25, 30):
            await clock.passes(minutes * MINUTE_S)
            assert run.figure(WAITING) == len(levels)
            assert run.figure("notification_oldest_queued_at_ns") > 0
        assert run.figure(tries) >= 100

    tries = f"notification_tries_total{{channel=telegram,result={result}}}"
    async with running(bus, settings(f"http://127.0.0.1:{port}", telegram_timeout_s=20.0), clock) as run:
        for name, level in levels.items():
            await tell(bus, name, level)
        await eventually(lambda: run.figure(WAITING) == len(levels), "everything waits")
        if away == "refused":
            await an_hour_passes()
        async with fake.listening(port):
            if away != "refused":
                await an_hour_passes()
            assert fake.delivered == []
            fake.away = None
            await clock.passes(10 * MINUTE_S)
            await eventually(lambda: run.figure(WAITING) == 0, "nothing waits")
            await eventually(lambda: run.figure("notification_oldest_queued_at_ns") == 0, "nothing is old")
    assert await outcomes(bus) == {Outcome.SENT: len(levels)}
    first, *others = told(fake)  # the first one found the way open, whatever it was
    in_order = sorted(levels, key=lambda name: RANK[levels[name]])
    assert others == [name for name in in_order if name != first]


async def test_a_channel_that_does_not_answer_costs_one_uncertain_try_and_not_one_of_each_message(bus: Bus) -> None:
    async with FakeTelegram().listening() as fake:
        fake.away, clock = fake.hang, Leaping()
        async with running(bus, settings(fake.url, telegram_timeout_s=1.5), clock) as run:
            for level in Level:
                await tell(bus, f"{level}-0", level)
            await eventually(lambda: run.figure(WAITING) == len(Level), "everything waits")
            await clock.passes(MINUTE_S)  # each question takes its real time
            assert run.figure(WAITING) == len(Level)
            fake.away = None
            await clock.passes(5 * MINUTE_S)
            await eventually(lambda: run.figure(WAITING) == 0, "nothing waits")
            assert run.figure("notification_tries_total{channel=telegram,result=unknown}") == 1
    assert await outcomes(bus) == {Outcome.SENT: len(Level)}
    assert told(fake) == [f"{level}-0" for level in Level]
    assert ["possible repeat" in text for text in fake.texts] == [True, False, False, False]
