"""What flaps and what lasts, through the notifier itself: a real broker, and a Bot API on a real socket."""

from __future__ import annotations

from observer.notify.alerts import Finding
from observer.notify.testing import FakeTelegram, Running, running, settings
from runtime import buckets
from runtime.bus import Bus
from runtime.readers import read
from runtime.telemetry import now_ns
from runtime.testing import eventually
from schemas.alerts import FINAL, Delivery, Level, Outcome
from schemas.codec import Decoder

_delivery: Decoder[Delivery] = Decoder(Delivery)


def finding(level: Level) -> Finding:
    return Finding(fingerprint="check:feed", name="feed", level=level, text="Silent.", since_ns=now_ns())


async def records(bus: Bus) -> list[Delivery]:
    changes = [buckets.change(m) for m in await read(bus, "KV_deliveries", last_per_subject=True)]
    return [_delivery(change.data) for change in changes if change.data is not None]


async def toggles(run: Running, bus: Bus, changes: int) -> None:
    """It begins, ends, begins, …; each is in the outbox before the next one comes."""
    for number in range(changes):
        before = (await bus.stream_info("ALERTS"))["state"]["last_seq"]
        run.notifier.found([] if number % 2 else [finding(Level.WARNING)])

        async def stored(before: int = before) -> bool:
            return bool((await bus.stream_info("ALERTS"))["state"]["last_seq"] > before)

        await eventually(stored, "the change is in the outbox")


async def test_what_flaps_is_told_so_and_then_how_it_stands_also_across_a_restart(bus: Bus) -> None:
    async with FakeTelegram().listening() as fake:
        asked = settings(fake.url, alert_flap_changes=6, alert_calm_s=600.0)
        async with running(bus, asked) as run:
            await toggles(run, bus, 6)
            await eventually(lambda: any("FLAPPING" in text for text in fake.texts), "it is told that it flaps")
            told = len(fake.delivered)
            await toggles(run, bus, 4)
            await eventually(lambda: run.figure("notifications_held") == 4, "the others are held back")
        assert len(fake.delivered) == told
        async with running(bus, settings(fake.url, alert_calm_s=1.0)):
            await eventually(lambda: len(fake.delivered) > told, "it is told how it stands")

            async def ended() -> bool:
                return {one.outcome for one in await records(bus)} <= FINAL

            await eventually(ended, "every change came to an end")
    assert fake.texts[told].startswith("✅ RESOLVED <b>Silent.</b>\nCalm for 1 s, after it had changed 10 times")
    assert "held back since the last word: 2x firing, 2x resolved." in fake.texts[told]
    held = [one.reason for one in await records(bus) if one.outcome is Outcome.SUPPRESSED]
    assert held.count("flapping: told in 12") == 4


async def test_what_nobody_acknowledges_goes_to_one_more_chat_once_also_across_a_restart(bus: Bus) -> None:
    async with FakeTelegram().listening() as fake:
        async with running(bus, settings(fake.url, telegram_chats="5, 6=critical+1h")) as run:
            run.notifier.found([finding(Level.CRITICAL)])
            await eventually(lambda: len(fake.delivered) == 1, "it is told")
        for _ in range(2):
            async with running(bus, settings(fake.url, telegram_chats="5, 6=critical+1s")):
                await eventually(lambda: len(fake.delivered) == 2, "it goes on to the other chat")
        async with running(bus, settings(fake.url, telegram_chats="5, 6=critical+1s")) as run:
            run.notifier.found([])
            await eventually(lambda: len(fake.delivered) == 4, "both are told that it is over")
    assert [request["chat_id"] for request in fake.requests[:2]] == [5, 6]
    assert sorted(request["chat_id"] for request in fake.requests[2:]) == [5, 6]
    assert "Nobody has acknowledged it" in fake.texts[1]
    assert all("RESOLVED" in text for text in fake.texts[2:])
