"""kill -9 of the observer at each point between an alert and its end: nothing is lost, nothing known to be sent is sent
again, and what may have been sent says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from observer.notify.testing import BOT, Answer, FakeTelegram
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


async def test_killed_between_telegrams_answer_and_its_record(bus: Bus, broker: Broker, tmp_path: Path) -> None:
    async with Proxy(broker) as proxy, FakeTelegram().listening() as fake:
        line = Line(bus, proxy, fake, fake.url, tmp_path)

        async def answered(request: dict[str, Any]) -> Answer:
            unreachable.__enter__()
            return fake.deliver(request)

        line.observer.start()
        try:
            for severity, outcome in (("warning", Outcome.UNKNOWN), ("critical", Outcome.SENT)):
                unreachable = proxy.unreachable()
                fake.script.append(answered)
                await line.alert(severity, severity)
                await eventually(lambda: '"broker_lost"' in line.observer.text(), "it cannot record the answer")
                line.observer.kill()
                line.observer.out.unlink()
                unreachable.__exit__(None, None, None)
                line.observer.start()
                assert (await line.ends(1 if severity == "warning" else 2))[f"{severity} firing"] is outcome
        finally:
            line.observer.kill()
    told = ["repeat" if "possible repeat" in text else text.split()[1] for text in fake.texts]
    assert told == ["WARNING", "CRITICAL", "repeat"]
