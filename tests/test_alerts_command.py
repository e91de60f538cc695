"""`mintline alerts` against a running notifier."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from observer.notify.channels import NotifySettings
from observer.notify.figures import FIGURES
from observer.notify.notifier import Notifier
from observer.notify.testing import BLOCKED, BOT, FakeTelegram
from runtime.bus import Bus
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import Logger, now_ns
from runtime.testing import Broker, eventually
from schemas.alerts import Alert, Happening, Level, alert_subject
from schemas.codec import encode


@pytest.fixture
async def fake(bus: Bus) -> AsyncIterator[FakeTelegram]:
    """Telegram, and a notifier that sends to it."""
    async with FakeTelegram().listening() as listening:
        process = Process("observer", Common(), Logger("observer", "json", "error", io.StringIO()), FIGURES)
        process.bus = bus
        asked = NotifySettings(telegram_bot_token=BOT, telegram_chats="5, 6=critical+15m", telegram_url=listening.url)
        notifier = Notifier(process, asked)
        task = asyncio.create_task(notifier.run())
        await eventually(notifier.following.is_set, "it follows the outbox")
        yield listening
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def mintline(url: str, *arguments: str) -> tuple[int, str, str]:
    environ = {**os.environ, "MINTLINE_NATS_URL": url, "COLUMNS": "200"}
    command = [sys.executable, "-m", "runtime.commands", "alerts", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


async def test_what_is_sent_muted_and_disabled_is_listed(broker: Broker, fake: FakeTelegram) -> None:
    assert (await mintline(broker.url, "send", "a [word] to all", "--level", "error"))[0] == 0
    await eventually(lambda: len(fake.delivered) == 1, "it is told")
    status, said, _ = await mintline(broker.url, "mute", "Operator", "--for", "30m", "--reason", "new disk")
    assert status == 0
    mute = said.partition(":")[0]
    await mintline(broker.url, "send", "this one stays away", "--level", "critical")
    listed = json.loads((await mintline(broker.url, "list", "--json"))[1])
    assert [(one["outcome"], one["reason"]) for one in listed["history"]] == [
        ("suppressed", "muted: new disk"),
        ("sent", ""),
        ("sent", ""),
    ]
    assert [one["name"] for one in listed["mutes"]] == ["Operator"]
    assert "Operator is muted until" in fake.texts[1]
    assert (await mintline(broker.url, "unmute", mute))[0] == 0
    await eventually(lambda: len(fake.delivered) == 3, "the end of the mute is told")
    assert "Operator is no longer muted." in fake.texts[2]
    fake.script.append(BLOCKED)
    await mintline(broker.url, "send", "nobody hears it", "--level", "critical")
    await eventually(lambda: len(fake.requests) >= 4, "it is refused")
    status, said, _ = await mintline(broker.url, "list")
    assert status == 0
    assert "muted: none" in said
    assert "403 Forbidden" in said
    assert "a [word] to all" not in said  # the ended ones are listed by name
    assert (await mintline(broker.url, "enable", "telegram_5"))[0] == 0
    await mintline(broker.url, "send", "back again", "--level", "critical")
    await eventually(lambda: any("back again" in text for text in fake.texts), "the channel is used again")


async def test_an_open_alert_is_acknowledged_and_listed_so(broker: Broker, bus: Bus, fake: FakeTelegram) -> None:
    now = now_ns()
    alert = Alert(
        id="a", fingerprint="check:feed", name="feed", level=Level.CRITICAL, state=Happening.FIRING,
        source="alertmanager", summary="Silent.", started_at_ns=now, at_ns=now,
    )  # fmt: skip
    await bus.publish(alert_subject(alert.level), encode(alert), message_id=alert.id)
    await eventually(lambda: len(fake.delivered) == 1, "it is told")
    status, _, said = await mintline(broker.url, "ack", "disk")
    assert (status, "no alert 'disk' is open" in said) == (1, True)
    listed = (await mintline(broker.url, "list"))[1]
    assert "telegram_6 at 20" in listed
    assert (await mintline(broker.url, "ack", "feed", "--note", "Ann is on it"))[0] == 0
    await eventually(lambda: len(fake.delivered) == 2, "everybody is told")
    assert fake.texts[1].startswith("🔴 ACKNOWLEDGED <b>Silent.</b>\nAnn is on it\n<code>feed</code> since ")
    listed = (await mintline(broker.url, "list"))[1]
    assert "acknowledged: Ann is on it" in listed
    assert "telegram_6 at" not in listed


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (("mute", "x", "--for", "31d", "--reason", "r"), 2, "--for"),
        (("mute", "x", "--for", "soon", "--reason", "r"), 2, "--for"),
        (("list", "--limit", "101"), 2, "--limit"),
        (("unmute", "nothing"), 1, "nothing"),
        (("enable", "nothing"), 1, "nothing"),
        (("ack", "nothing"), 1, "observer.alerts"),
        (("list",), 1, "observer.alerts"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_sentence(
    bus: Bus, broker: Broker, arguments: tuple[str, ...], status: int, word: str
) -> None:
    ended, _, said = await mintline(broker.url, *arguments)
    assert ended == status
    assert word in said
    assert len(said.strip().splitlines()) == 1
