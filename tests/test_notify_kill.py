"""kill -9 of the observer at each point between an alert and its end: nothing is lost, nothing known to be sent is sent
again, and what may have been sent says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from observer.notify.testing import BOT, BROKEN, SLOW, Answer, FakeTelegram
from runtime import buckets, web
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.readers import read
from runtime.testing import Broker, Proxy, Service, eventually
from schemas.alerts import FINAL, Delivery, Outcome
from schemas.codec import Decoder

_delivery: Decoder[Delivery] = Decoder(Delivery)


class Line:
    """An observer, Telegram, and what Alertmanager would send."""

    def __init__(self, bus: Bus, broker: Broker | Proxy, fake: FakeTelegram, url: str, tmp_path: Path) -> None:
        self.bus, self.fake = bus, fake
        self.port = free_port()
        self.observer = Service(
            "observer",
            tmp_path / "observer.log",
            MINTLINE_NATS_URL=broker.url,
            MINTLINE_PARTITIONS="4",
            MINTLINE_DATA_DIR=str(tmp_path / "data"),
            MINTLINE_HTTP_PORT=str(self.port),
            MINTLINE_OBSERVER_ALERT_HOLD_S="3600",  # its own findings are not what is tested here
            MINTLINE_OBSERVER_TELEGRAM_BOT_TOKEN=BOT,
            MINTLINE_OBSERVER_TELEGRAM_CHATS="5",
            MINTLINE_OBSERVER_TELEGRAM_URL=url,
            MINTLINE_OBSERVER_TELEGRAM_TIMEOUT_S="60",
        )

    async def alert(self, severity: str, name: str = "Alert", status: str = "firing") -> None:
        """As Alertmanager does: again until it is taken."""
        one = {
            "status": status, "fingerprint": name, "startsAt": "2026-11-21T15:00:00Z",
            "labels": {"alertname": name, "severity": severity}, "annotations": {"summary": f"{name} {severity}"},
        }  # fmt: skip
        body = json.dumps({"version": "4", "alerts": [one]}).encode()

        async def taken() -> bool:
            try:
                return (await web.send(f"http://127.0.0.1:{self.port}/alerts", body, {}, 5.0))[0] == 200
            except OSError:
                return False

        await eventually(taken, "the webhook is taken", 60)

    async def records(self) -> dict[str, Delivery]:
        changes = [buckets.change(m) for m in await read(self.bus, "KV_deliveries", last_per_subject=True)]
        found = [_delivery(change.data) for change in changes if change.data is not None]
        return {f"{record.name} {record.state}": record for record in found}

    async def ends(self, count: int) -> dict[str, Outcome]:
        async def there() -> bool:
            return sum(record.outcome in FINAL for record in (await self.records()).values()) == count

        await eventually(there, f"{count} deliveries end", 60)
        return {name: record.outcome for name, record in (await self.records()).items()}


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().listening() as listening:
        yield listening


@pytest.fixture
async def line(bus: Bus, broker: Broker, fake: FakeTelegram, tmp_path: Path) -> AsyncIterator[Line]:
    made = Line(bus, broker, fake, fake.url, tmp_path)
    made.observer.start()
    yield made
    if made.observer.running:
        made.observer.kill()
    assert BOT not in made.observer.text(), "the bot's token is in the log"


def killed(line: Line, *, delivered: bool) -> Callable[[dict[str, Any]], Any]:
    async def step(request: dict[str, Any]) -> Answer | None:
        if delivered:
            line.fake.deliver(request)
        line.observer.kill()
        return None

    return step


@pytest.mark.parametrize("delivered", [False, True], ids=["before-delivery", "after-delivery"])
async def test_killed_while_sending_what_is_urgent_comes_marked_as_a_possible_repeat(
    line: Line, delivered: bool
) -> None:
    line.fake.script.append(killed(line, delivered=delivered))
    await line.alert("critical")
    await eventually(lambda: not line.observer.running, "it is killed while sending")
    line.observer.start()
    assert await line.ends(1) == {"Alert firing": Outcome.SENT}
    assert [text.startswith("possible repeat\n") for text in line.fake.texts] == [False] * delivered + [True]


async def test_killed_while_sending_what_is_not_urgent_is_not_sent_again(line: Line) -> None:
    line.fake.script.append(killed(line, delivered=True))
    await line.alert("warning")
    await eventually(lambda: not line.observer.running, "it is killed while sending")
    line.observer.start()
    assert await line.ends(1) == {"Alert firing": Outcome.UNKNOWN}
    assert len(line.fake.requests) == 1


async def test_killed_after_it_was_sent_nothing_is_sent_again_and_its_end_is_told(line: Line) -> None:
    await line.alert("critical")
    await line.ends(1)
    line.observer.kill()
    line.observer.start()
    await line.alert("critical")  # Alertmanager repeats itself
    await line.alert("critical", status="resolved")
    assert await line.ends(2) == {"Alert firing": Outcome.SENT, "Alert resolved": Outcome.SENT}
    assert [text.split()[1] for text in line.fake.texts] == ["CRITICAL", "RESOLVED"]
    assert line.fake.delivered[1]["reply_parameters"]["message_id"] == 1


async def test_killed_while_the_channel_is_away_nothing_is_lost(bus: Bus, broker: Broker, tmp_path: Path) -> None:
    fake, port = FakeTelegram(), free_port()
    line = Line(bus, broker, fake, f"http://127.0.0.1:{port}", tmp_path)
    line.observer.start()
    try:
        for number in range(3):
            await line.alert("critical", f"Alert-{number}")
            line.observer.kill()
            line.observer.start()
        async with fake.listening(port):
            assert set((await line.ends(3)).values()) == {Outcome.SENT}
    finally:
        line.observer.kill()
    assert len(fake.requests) == 3  # some perhaps marked: a try that was cut short may have been a delivery


# What the observer writes to the broker on the way of one alert, and how often it has done so before.
ALERTS, DELIVERIES = b"PUB alerts.", b"PUB $KV.deliveries."
POINTS = {
    "heard, and not stored": (ALERTS, 0, False),
    "stored, and Alertmanager not answered": (ALERTS, 0, True),
    "before the try is recorded": (DELIVERIES, 0, False),
    "the try recorded, and nothing sent": (DELIVERIES, 0, True),
    "Telegram's answer not recorded": (DELIVERIES, 1, False),
    "Telegram's answer recorded": (DELIVERIES, 1, True),
}
ONCE = ("sent", ["as it is"])
ENDS = {  # of a critical alert and of a warning: the outcome, and what people see
    "heard, and not stored": (ONCE, ONCE),
    "stored, and Alertmanager not answered": (ONCE, ONCE),
    "before the try is recorded": (ONCE, ONCE),
    "the try recorded, and nothing sent": (("sent", ["repeat"]), ("unknown", [])),
    "Telegram's answer not recorded": (("sent", ["as it is", "repeat"]), ("unknown", ["as it is"])),
    "Telegram's answer recorded": (ONCE, ONCE),
}


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_each_point_it_is_told_once_or_says_that_it_may_be_a_repetition(
    bus: Bus, broker: Broker, fake: FakeTelegram, tmp_path: Path, point: str
) -> None:
    async with Proxy(broker) as proxy:
        line = Line(bus, proxy, fake, fake.url, tmp_path)
        line.observer.start()
        try:
            await line.alert("info", "Before")  # it works
            await line.ends(1)
            pattern, times_before, forwarded = POINTS[point]
            wanted = zip(("critical", "warning"), ENDS[point], strict=True)
            for ended, (severity, (outcome, seen)) in enumerate(wanted, 2):
                fake.delivered.clear()
                proxy.cut_at(pattern, forwarded=forwarded, times_before=times_before, then=line.observer.kill)
                alerting = asyncio.create_task(line.alert(severity, severity))
                await eventually(lambda: not line.observer.running, f"it is killed: {point}", 60)
                line.observer.start()
                await alerting  # Alertmanager repeats itself until it is answered
                assert (await line.ends(ended))[f"{severity} firing"] == outcome
                assert ["repeat" if "possible repeat" in text else "as it is" for text in fake.texts] == seen
        finally:
            line.observer.kill()


async def test_killed_at_each_of_telegrams_stumbles_it_is_told_in_the_end(
    bus: Bus, broker: Broker, fake: FakeTelegram, tmp_path: Path
) -> None:
    """429, 500 and silence, and each time the observer dies before it can record what it was answered."""
    async with Proxy(broker) as proxy:
        line = Line(bus, proxy, fake, fake.url, tmp_path)

        async def dies(request: dict[str, Any]) -> Answer | None:
            line.observer.kill()
            return None

        line.observer.start()
        fake.script.extend([SLOW, BROKEN, dies])
        try:
            proxy.cut_at(DELIVERIES, forwarded=False, times_before=1, then=line.observer.kill)
            await line.alert("critical")
            for life in range(1, 6):  # 429, 500, silence; then twice delivered, and the second time recorded
                await eventually(lambda: not line.observer.running, f"life {life} ends", 60)
                assert len(fake.requests) == life
                if life in (1, 3, 4):  # what was begun, is recorded as uncertain; then the next try, and its end
                    proxy.cut_at(DELIVERIES, forwarded=life == 4, times_before=2, then=line.observer.kill)
                line.observer.start()
            assert await line.ends(1) == {"Alert firing": Outcome.SENT}
            await line.alert("critical", status="resolved")
            await line.ends(2)
        finally:
            line.observer.kill()
    told = [text.split("\n")[0].split()[0] for text in fake.texts]
    assert told == ["possible", "possible", "✅"]
    assert not fake.script
