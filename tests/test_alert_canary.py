"""The alert path's canary (`observer/notify/canary.py`): webhook, outbox, a chat of its own; with a real broker, and a
Bot API on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from observer.notify.alertmanager import parse
from observer.notify.channels import CANARY, NotifySettings, channels
from observer.notify.figures import FIGURES
from observer.notify.notifier import Notifier
from observer.notify.testing import BLOCKED, BOT, BROKEN, FakeTelegram
from runtime import buckets, web
from runtime.bus import Bus
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common, SettingsError
from runtime.telemetry import Logger, now_ns
from runtime.testing import eventually
from schemas.alerts import Alert, Happening, Mute
from schemas.codec import Decoder, encode

CHAT = "77"
ROUND_TRIP, ARRIVAL = "alert_path_last_round_trip_at_ns", "alert_path_last_arrival_at_ns"

_alert: Decoder[Alert] = Decoder(Alert)


def of_alertmanager(name: str = "MintlineCanary", severity: str = "none", status: str = "firing") -> dict[str, Any]:
    return {
        "status": status, "fingerprint": f"f-{name}", "startsAt": "2026-11-21T16:00:00Z",
        "labels": {"alertname": name, "severity": severity}, "annotations": {"summary": "S.", "description": "D."},
    }  # fmt: skip


def body(*alerts: dict[str, Any]) -> bytes:
    return json.dumps({"version": "4", "truncatedAlerts": 0, "alerts": alerts}).encode()


class Running:
    def __init__(self, notifier: Notifier, process: Process, port: int) -> None:
        self.notifier, self._process, self._port = notifier, process, port

    def figure(self, name: str) -> int:
        return self._process.figures.get(name, 0)

    async def webhook(self, *alerts: dict[str, Any]) -> int:
        """As Alertmanager posts it."""
        return (await web.send(f"http://127.0.0.1:{self._port}/alerts", body(*alerts), {}, 10.0))[0]

    async def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.notifier.answer(b"{}") or b"")
        return found

    async def round(self, *others: dict[str, Any]) -> int:
        """Send a canary and wait until it has ended its round; when that was."""
        before = self.figure(ROUND_TRIP)
        assert await self.webhook(*others, of_alertmanager()) == 200
        return await self.returns(before)

    async def returns(self, before: int = 0) -> int:
        await eventually(lambda: self.figure(ROUND_TRIP) > before, "the canary to end its round")
        return self.figure(ROUND_TRIP)


@contextlib.asynccontextmanager
async def running(bus: Bus, telegram: FakeTelegram, **changes: Any) -> AsyncIterator[Running]:
    given = {"telegram_bot_token": BOT, "telegram_chats": "5", "telegram_canary_chat": CHAT, "alert_hold_s": 3600.0}
    asked = NotifySettings(telegram_url=telegram.url, telegram_timeout_s=5.0, **{**given, **changes})
    process = Process("observer", Common(), Logger("observer", "json", "error", io.StringIO()), FIGURES)
    process.bus = bus
    notifier = Notifier(process, asked)
    process.routes["POST", "/alerts"] = notifier.webhook
    server = await web.serve(process.health_routes(), "127.0.0.1", 0)
    task = asyncio.create_task(notifier.run())
    try:
        await eventually(lambda: notifier.following.is_set() or task.done(), "it follows the outbox")
        yield Running(notifier, process, server.port)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().listening() as listening:
        yield listening


async def test_a_canary_goes_to_its_chat_alone_silently_and_keeps_one_message_there(
    bus: Bus, telegram: FakeTelegram
) -> None:
    async with running(bus, telegram) as one:
        first_ns = await one.round()
        assert one.figure(ARRIVAL) <= first_ns
        for _ in range(2):  # neither held back nor told in a digest, however soon the next one comes
            await one.round()
        assert [message["chat_id"] for message in telegram.delivered] == [77, 77, 77]
        assert all(message["disable_notification"] for message in telegram.delivered)
        assert telegram.deleted == [(77, 1), (77, 2)]
        listed = await one.listed()
        assert (listed["history"], listed["waiting"], listed["held"], listed["open"]) == ([], [], 0, [])
        assert one.figure("notifications_total{channel=canary,state=sent}") == 3
        assert one.figure("notifications_total{channel=telegram,state=sent}") == 0
    async with running(bus, telegram, alert_throttle_s=3600.0) as later:
        assert later.figure(ROUND_TRIP) > first_ns  # a start forgets nothing
        assert (await later.listed())["history"] == []
        await later.round()
        assert telegram.deleted[-1] == (77, 3)


async def test_other_alerts_do_not_go_to_the_canarys_chat_nor_is_the_canary_muted_with_them(
    bus: Bus, telegram: FakeTelegram
) -> None:
    async with running(bus, telegram) as one:
        await one.round(of_alertmanager("MintlineFeedStale", "critical"))
        await eventually(lambda: len(telegram.delivered) == 2, "both to be told")
        assert {message["chat_id"]: "FeedStale" in message["text"] for message in telegram.delivered} == {
            5: True,
            77: False,
        }
        everything = Mute(id="m1", name="*", reason="works", since_at_ns=1, until_at_ns=now_ns() + 10**12)
        await buckets.put(bus, "channels", "mute.m1", encode(everything))

        async def muted() -> bool:
            return bool((await one.listed())["mutes"])

        await eventually(muted, "the mute to be known")
        await one.round()


async def test_while_its_chat_does_not_answer_one_canary_waits_and_no_more_are_stored(
    bus: Bus, telegram: FakeTelegram
) -> None:
    async with running(bus, telegram) as one:
        telegram.script.append(BROKEN)
        await one.webhook(of_alertmanager())
        await eventually(lambda: bool(telegram.requests), "the first try")
        for _ in range(3):
            assert await one.webhook(of_alertmanager()) == 200
        assert one.figure(ROUND_TRIP) == 0  # it came as far as here, which is not the whole way
        assert one.figure(ARRIVAL) > 0
        stored = [_alert(message.data) for message in await read(bus, "ALERTS", after_sequence=0)]
        assert [alert.state for alert in stored] == [Happening.CANARY]
        await one.returns()
        assert len(telegram.delivered) == 1


async def test_a_chat_that_is_gone_is_told_to_the_others_and_no_canary_returns(
    bus: Bus, telegram: FakeTelegram
) -> None:
    async with running(bus, telegram) as one:
        telegram.script.append(BLOCKED)
        await one.webhook(of_alertmanager())
        await eventually(lambda: any("canary" in text for text in telegram.texts), "the other chat to be told")
        assert [message["chat_id"] for message in telegram.delivered] == [5]
        listed = await one.listed()
        assert listed["channels"][CANARY]
        assert any(one["channel"] == CANARY and one["outcome"] == "failed" for one in listed["history"])
        await one.webhook(of_alertmanager())
        assert one.figure(ROUND_TRIP) == 0


async def test_without_a_chat_the_way_ends_in_the_outbox_and_a_start_knows_when(
    bus: Bus, telegram: FakeTelegram
) -> None:
    async with running(bus, telegram, telegram_canary_chat="") as one:
        at_ns = await one.round()
        (stored,) = await read(bus, "ALERTS", after_sequence=0)
        assert stored.at_ns == at_ns
        assert (await one.listed())["history"] == []
        assert telegram.requests == []
    async with running(bus, telegram, telegram_canary_chat="") as later:
        assert later.figure(ROUND_TRIP) == at_ns


def test_a_canary_that_is_resolved_shows_nothing() -> None:
    assert parse(body(of_alertmanager())).canary
    resolved = parse(body(of_alertmanager(status="resolved")))
    assert (resolved.canary, resolved.reports) == (False, [])


@pytest.mark.parametrize("given", [{"telegram_canary_chat": "here"}, {"telegram_canary_chat": "5=error"}])
def test_a_wrong_canary_chat_is_refused_by_its_variable(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="MINTLINE_OBSERVER_TELEGRAM_CANARY_CHAT"):
        channels(NotifySettings(telegram_bot_token=BOT, **given))


def test_a_canary_chat_alone_is_enough_for_a_bot_and_needs_one() -> None:
    (channel,) = channels(NotifySettings(telegram_bot_token=BOT, telegram_canary_chat="@canary_chat"))
    assert (channel.plan.channel, channel.plan.canaries, channel.chat) == (CANARY, True, "@canary_chat")
    with pytest.raises(SettingsError, match="TELEGRAM_BOT_TOKEN"):
        channels(NotifySettings(telegram_canary_chat="5"))
