"""Notifications from the finding to the chat: a real broker, a Bot API on a real socket, faults on both sides."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from observer.notify import testing
from observer.notify.alerts import Finding
from observer.notify.channels import NotifySettings, channels
from observer.notify.figures import FIGURES
from observer.notify.notifier import Notifier
from observer.notify.testing import FakeTelegram, Running, running, settings
from runtime import buckets, web
from runtime.bus import Bus
from runtime.embedded import free_port
from runtime.process import Process
from runtime.readers import read
from runtime.settings import Common, SettingsError
from runtime.telemetry import Logger, Metrics, now_ns
from runtime.testing import Broker, eventually
from schemas.alerts import Alert, Delivery, Happening, Level, Outcome, alert_subject
from schemas.codec import Decoder, encode

_delivery: Decoder[Delivery] = Decoder(Delivery)


@pytest.fixture
async def fake() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram().listening() as listening:
        yield listening


def finding(name: str = "disk", level: Level = Level.CRITICAL) -> Finding:
    return Finding(
        fingerprint=f"check:{name}", name=name, level=level, text=f"{name} is bad.", since_ns=now_ns(), value="97",
        limit="90", unit="%",
    )  # fmt: skip


def fired(name: str = "MintlineFeedStale", status: str = "firing", **labels: str) -> dict[str, Any]:
    labels = {"alertname": name, "severity": "critical", **labels}
    notes = {"summary": "The feed is silent.", "description": "<b>Silent</b> for 70 s."}
    return {
        "status": status, "fingerprint": f"f-{name}", "startsAt": "2026-11-21T15:00:00Z", "labels": labels,
        "annotations": notes,
    }  # fmt: skip


async def tell(bus: Bus, name: str, level: Level, text: str = "") -> None:
    now = now_ns()
    alert = Alert(
        id=f"{name}:{now}", fingerprint=name, name=name, level=level, state=Happening.NOTICE, source="test",
        summary=name, text=text, started_at_ns=now, at_ns=now,
    )  # fmt: skip
    await bus.publish(alert_subject(level), encode(alert), message_id=alert.id)


async def records(bus: Bus) -> list[Delivery]:
    stored = [buckets.change(message) for message in await read(bus, "KV_deliveries", after_sequence=0)]
    return [_delivery(change.data) for change in stored if change.data is not None]


async def ends(bus: Bus, *outcomes: Outcome) -> None:
    async def there() -> bool:
        return sorted(record.outcome for record in await records(bus)) == sorted(outcomes)

    try:
        await eventually(there, f"deliveries end as {outcomes}")
    except AssertionError as error:
        raise AssertionError(f"{outcomes} wanted, found {await records(bus)}") from error


async def test_a_finding_and_its_end_are_told_once_each_and_the_end_replies(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url)) as run:
        for _ in range(3):
            run.notifier.found([finding()])
            await eventually(lambda: len(fake.delivered) == 1, "it is told")
        run.notifier.found([])
        await ends(bus, Outcome.SENT, Outcome.SENT)
        assert run.figure("notifications_total{channel=telegram,state=sent}") == 2
        await eventually(lambda: run.figure("notification_oldest_queued_at_ns") == 0, "nothing waits")
        page = Metrics(run.process.figures).text()[0]
        assert b'mintline_notification_delivery_seconds_count{channel="telegram"} 2.0' in page
    assert fake.texts[0].startswith(
        "🔴 CRITICAL <b>disk is bad.</b>\nIt is 97 % (limit 90 %).\n<code>disk</code> since "
    )
    assert fake.texts[1].startswith("✅ RESOLVED <b>disk is bad.</b>")
    assert fake.delivered[1]["reply_parameters"]["message_id"] == 1
    assert len(fake.requests) == 2


async def test_what_alertmanager_says_twice_is_told_once_also_across_a_restart(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url)) as run:
        assert (await run.webhook(fired()))[0] == 200
        assert (await run.webhook(fired(), fired("MintlineBrokerDown")))[0] == 200
        await ends(bus, Outcome.SENT, Outcome.SENT)
    async with running(bus, settings(fake.url)) as run:
        assert (await run.webhook(fired(), fired("MintlineBrokerDown")))[0] == 200
        assert (await run.webhook(fired(status="resolved")))[0] == 200
        await ends(bus, *[Outcome.SENT] * 3)
    assert len(fake.requests) == 3
    assert "&lt;b&gt;Silent&lt;/b&gt; for 70 s." in fake.texts[0]


async def test_the_webhook_is_refused_until_it_is_stored(bus: Bus, fake: FakeTelegram, broker: Broker) -> None:
    async with running(bus, settings(fake.url, alert_webhook_token="t0ken")) as run:
        assert (await run.webhook(fired()))[0] == 401
        assert (await run.webhook({"status": "firing"}, token="t0ken"))[0] == 400
        with broker.stopped():
            await eventually(lambda: not bus.connected, "the connection is lost")
            assert (await run.webhook(fired(), token="t0ken"))[0] == 503
        await eventually(lambda: bus.connected, "the connection is back")
        assert (await run.webhook(fired(), token="t0ken"))[0] == 200
        await ends(bus, Outcome.SENT)
        outcomes = [run.figure(f"alert_webhooks_total{{outcome={o}}}") for o in ("refused", "malformed", "unavailable")]
        assert outcomes == [1, 1, 1]


async def test_before_all_is_read_back_alertmanager_is_asked_to_try_again(bus: Bus, fake: FakeTelegram) -> None:
    process = Process("observer", Common(), Logger("observer", "json", "error"), FIGURES)
    process.bus = bus
    run = Running(Notifier(process, settings(fake.url)), process, io.StringIO())
    assert (await run.webhook(fired()))[0] == 503


@pytest.mark.parametrize("times", [1, 3])
async def test_telegrams_429_delays_and_is_no_failed_try(bus: Bus, fake: FakeTelegram, times: int) -> None:
    fake.script.extend([testing.SLOW] * times)
    async with running(bus, settings(fake.url)):
        await tell(bus, "feed", Level.CRITICAL)
        await ends(bus, Outcome.SENT)
        assert [record.attempts for record in await records(bus)] == [0]
    assert len(fake.requests) == times + 1


async def test_refused_markup_comes_as_plain_text(bus: Bus, fake: FakeTelegram) -> None:
    fake.script.append(testing.UNPARSABLE)
    async with running(bus, settings(fake.url)) as run:
        await tell(bus, "a<b", Level.WARNING)
        await ends(bus, Outcome.SENT)
        assert run.figure("notification_tries_total{channel=telegram,result=unparsable}") == 1
    assert "parse_mode" not in fake.delivered[0]
    assert "a<b" in fake.texts[0]


async def test_a_long_text_comes_whole_in_parts_and_smaller_ones_where_those_are_too_long(
    bus: Bus, fake: FakeTelegram
) -> None:
    fake.script.append(testing.TOO_LONG)
    lines = "".join(f"line {number} 🐸\n" for number in range(300))
    async with running(bus, settings(fake.url)):
        await tell(bus, "report", Level.INFO, lines)
        await ends(bus, Outcome.SENT)
        assert (await records(bus))[0].message_ids == (1, 2)
    seen = "".join(text.split("\n", 1)[1] for text in fake.texts)
    assert lines in seen
    assert [text[:3] for text in fake.texts] == ["1/2", "2/2"]


async def test_a_chat_that_moved_is_followed_for_good(bus: Bus, fake: FakeTelegram) -> None:
    fake.script.append(testing.moved(-100777))
    async with running(bus, settings(fake.url)):
        await tell(bus, "feed", Level.CRITICAL)
        await ends(bus, Outcome.SENT)
    async with running(bus, settings(fake.url)):
        await tell(bus, "disk", Level.CRITICAL)
        await ends(bus, Outcome.SENT, Outcome.SENT)
    assert [request["chat_id"] for request in fake.requests] == [5, -100777, -100777]


async def test_a_chat_that_blocks_us_is_disabled_for_good_and_the_others_are_told(bus: Bus, fake: FakeTelegram) -> None:
    async def blocked(request: dict[str, Any]) -> testing.Answer:
        return testing.BLOCKED if request["chat_id"] == 5 else fake.deliver(request)

    fake.script.extend([blocked] * 10)
    asked = settings(fake.url, telegram_chats="5, 6=error")
    async with running(bus, asked) as run:
        await tell(bus, "disk", Level.WARNING)
        await ends(bus, Outcome.FAILED, Outcome.FAILED, Outcome.SENT)  # the warning; its word to both
        assert run.figure("notifications_total{channel=telegram,state=failed}") == 2
    assert "Notifications to telegram_5 end: 403 Forbidden" in fake.texts[0]
    async with running(bus, asked) as run:
        await tell(bus, "feed", Level.CRITICAL)
        await eventually(lambda: len(fake.delivered) == 2, "the other chat is told")
    assert [request["chat_id"] for request in fake.requests] == [5, 6, 6]


async def test_errors_and_silence_of_the_api_are_survived(bus: Bus, fake: FakeTelegram) -> None:
    fake.script.extend([testing.BROKEN, testing.SLOW, fake.hang])
    async with running(bus, settings(fake.url)):
        await tell(bus, "feed", Level.CRITICAL)
        await ends(bus, Outcome.SENT)
        record = (await records(bus))[0]
    assert (record.attempts, record.reason) == (2, "possible repeat")
    assert len(fake.delivered) == 1
    assert fake.texts[0].startswith("possible repeat\n")


async def test_a_time_out_after_delivery_repeats_what_is_urgent_and_nothing_else(bus: Bus, fake: FakeTelegram) -> None:
    fake.script.extend([fake.late, fake.late])
    async with running(bus, settings(fake.url)):
        await tell(bus, "disk", Level.WARNING)
        await eventually(lambda: len(fake.delivered) == 1, "the first is delivered")
        await tell(bus, "feed", Level.ERROR)
        await ends(bus, Outcome.SENT, Outcome.UNKNOWN)
    assert [("disk" in text, "possible repeat" in text) for text in fake.texts] == [
        (True, False),
        (False, False),
        (False, True),
    ]


async def test_while_the_api_is_away_everything_waits_and_then_comes(bus: Bus) -> None:
    fake, port = FakeTelegram(), free_port()
    async with running(bus, settings(f"http://127.0.0.1:{port}")) as run:
        for number in range(3):
            await tell(bus, f"alert-{number}", Level.CRITICAL)
        await eventually(lambda: run.figure("notification_tries_total{channel=telegram,result=failed}") > 0, "it tries")
        await eventually(lambda: run.figure("notifications_queued") == 3, "three wait")
        async with fake.listening(port):
            await ends(bus, *[Outcome.SENT] * 3)
    assert len(fake.requests) == 3


async def test_a_wrong_bot_token_keeps_everything_waiting(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url, telegram_bot_token="1:wrong")) as run:
        await tell(bus, "feed", Level.CRITICAL)
        await ends(bus, Outcome.QUEUED)
        tried = "notification_tries_total{channel=telegram,result=badtoken}"
        await eventually(lambda: run.figure(tried) == 1, "it was tried")
        assert "1:wrong" not in run.log.getvalue()


async def test_what_is_held_back_comes_in_a_digest_also_across_a_restart(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url)):
        for _ in range(4):
            await tell(bus, "lag", Level.WARNING)
        await ends(bus, Outcome.SENT)
    async with running(bus, settings(fake.url, alert_throttle_s=0.5)):
        await ends(bus, *[Outcome.SUPPRESSED] * 3, Outcome.SENT, Outcome.SENT)
    assert "<b>3 more messages of 1 alert</b>\nlag: 3x notice" in fake.texts[1]


async def test_a_new_channel_is_not_told_of_the_past(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, NotifySettings()):
        await tell(bus, "old", Level.CRITICAL)
        await ends(bus, Outcome.SUPPRESSED)
    async with running(bus, settings(fake.url)):
        await tell(bus, "new", Level.CRITICAL)
        await ends(bus, Outcome.SENT, Outcome.SUPPRESSED)
    assert len(fake.requests) == 1


async def test_two_observers_do_not_send_the_same_twice(bus: Bus, broker: Broker, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url)), running(bus, settings(fake.url)):
        for number in range(5):
            await tell(bus, f"alert-{number}", Level.CRITICAL)
        await ends(bus, *[Outcome.SENT] * 5)
    assert len(fake.requests) == 5


async def test_open_alerts_are_repeated(bus: Bus, fake: FakeTelegram) -> None:
    async with running(bus, settings(fake.url, alert_remind_s=4.0)) as run:
        run.notifier.found([finding()])
        await eventually(lambda: len(fake.delivered) >= 2, "a reminder")
    assert "reminder 1" in fake.texts[1]


# apprise loads all its plug-ins, old ones among them
IGNORED = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")


@IGNORED
async def test_other_channels_go_through_apprise(bus: Bus) -> None:
    pytest.importorskip("apprise")
    heard: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.Response:
        heard.append(json.loads(await request.body()))
        return web.Response(500 if len(heard) == 1 else 200)

    server = await web.serve([web.Route("POST", "/{rest:.*}", hook)], "127.0.0.1", 0)
    url = f"json://127.0.0.1:{server.port}/secret-path#level=error"
    try:
        async with running(bus, NotifySettings(notify_urls=url)) as run:
            await tell(bus, "disk", Level.WARNING)
            await tell(bus, "feed", Level.CRITICAL)
            await ends(bus, Outcome.SENT, Outcome.SUPPRESSED)
            assert "secret-path" not in run.log.getvalue()
    finally:
        await server.close()
    assert [hook["message"].splitlines()[0] for hook in heard] == ["🔴 CRITICAL feed"] * 2


@IGNORED
async def test_a_text_that_such_a_channel_does_not_take_whole_comes_in_parts(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    apprise = pytest.importorskip("apprise")
    heard: list[str] = []

    async def hook(request: web.Request) -> web.Response:
        heard.append(json.loads(await request.body())["message"])
        return web.Response(200)

    server = await web.serve([web.Route("POST", "/{rest:.*}", hook)], "127.0.0.1", 0)
    url = f"json://127.0.0.1:{server.port}/"
    monkeypatch.setattr(type(apprise.Apprise.instantiate(url)), "body_maxlen", 2000)  # as Discord
    try:
        async with running(bus, NotifySettings(notify_urls=url)):
            await tell(bus, "report", Level.CRITICAL, "\n".join(f"line {number}" for number in range(500)))
            await ends(bus, Outcome.SENT)
    finally:
        await server.close()
    assert len(heard) > 2
    assert all(f"line {number}" in "\n".join(heard) for number in (0, 250, 499))


@IGNORED
@pytest.mark.parametrize(
    ("asked", "variable"),
    [
        ({"telegram_bot_token": "1:secret"}, "TELEGRAM_CHATS"),
        ({"telegram_chats": "5"}, "TELEGRAM_BOT_TOKEN"),
        ({"telegram_bot_token": "1:secret", "telegram_chats": "5=loud"}, "TELEGRAM_CHATS"),
        ({"telegram_bot_token": "1:secret", "telegram_chats": "5,5"}, "TELEGRAM_CHATS"),
        ({"notify_urls": "nonsense://user:secret@host"}, "NOTIFY_URLS"),
        ({"notify_urls": "json://user:secret@host#level=loud"}, "NOTIFY_URLS"),
    ],
)
def test_a_wrong_channel_is_refused_by_its_variable_without_its_secret(asked: dict[str, str], variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        NotifySettings(**asked).check(Common())  # type: ignore[arg-type]
    assert f"MINTLINE_OBSERVER_{variable}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_chats_take_their_own_level_and_groups_their_own_pace() -> None:
    found = channels(settings("http://x", telegram_chats="5=error, -100123, @ops"))
    assert [(one.plan.channel, one.plan.level_min, len(one.plan.rates)) for one in found] == [
        ("telegram_5", Level.ERROR, 1),
        ("telegram_-100123", Level.INFO, 2),
        ("telegram__ops", Level.INFO, 2),
    ]
