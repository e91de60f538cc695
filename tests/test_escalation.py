"""What lasts and is not acknowledged goes to one more channel: once, also across a restart, and so does its end."""

from __future__ import annotations

import pytest

from observer.notify.alerts import CHANNEL_DISABLED, Finding
from observer.notify.channels import NotifySettings, channels
from observer.notify.escalation import acknowledged
from observer.notify.flapping import Rule
from observer.notify.line import Plan
from observer.notify.pacing import CHAT
from observer.notify.testing import BOT
from observer.notify.testing_world import ALL, Watched
from observer.times import SECOND_NS
from runtime.settings import Common, SettingsError
from schemas.alerts import Happening, Level, Mute

AFTER_S, HOUR_S = 900, 3600
LATER = Plan("later", "telegram", Level.CRITICAL, CHAT, "bot", AFTER_S * SECOND_NS)
RULE = Rule(changes_min=6, window_ns=1800 * SECOND_NS, calm_ns=600 * SECOND_NS, remind_ns=4 * HOUR_S * SECOND_NS)


@pytest.fixture
def world() -> Watched:
    return Watched(RULE, ALL, LATER)


def finding(world: Watched, level: Level = Level.CRITICAL) -> Finding:
    return Finding(fingerprint="check:feed", name="feed", level=level, text="Silent.", since_ns=world.now_ns)


def heard(world: Watched, channel: str = "later") -> list[str]:
    return [f"{t.alert.level} {t.alert.state}" for t in world.tries if t.delivery.channel == channel]


def ack(world: Watched) -> None:
    world.put(acknowledged(world.register.open["check:feed"], "on it", world.now_ns))


def test_what_lasts_is_escalated_once_and_so_is_its_end(world: Watched) -> None:
    world.found(finding(world))
    world.passes(AFTER_S - 1)
    assert heard(world) == []
    world.passes(1)
    assert heard(world) == ["critical escalated"]
    assert "Nobody has acknowledged it for 15 min (mintline alerts ack feed)." in world.tries[-1].alert.text
    world.passes(HOUR_S)
    world.found()
    world.passes(5)
    assert heard(world) == ["critical escalated", "critical firing", "critical resolved"]  # with the hour's reminder
    assert heard(world, "all") == ["critical firing", "critical firing", "critical resolved"]


def test_what_ends_in_time_or_is_less_urgent_is_not_escalated(world: Watched) -> None:
    world.found(finding(world))
    world.passes(AFTER_S - 1)
    world.found()
    world.found(finding(world, Level.ERROR))
    world.passes(2 * AFTER_S)
    assert heard(world) == []


def test_the_time_begins_when_the_alert_is_as_urgent_as_the_channel_wants_it(world: Watched) -> None:
    world.found(finding(world, Level.WARNING))
    world.passes(HOUR_S)
    world.found(finding(world))
    world.passes(AFTER_S - 1)
    assert heard(world) == []
    world.passes(1)
    world.found(finding(world, Level.WARNING))
    world.passes(1)
    assert heard(world) == ["critical escalated", "warning firing"]  # whoever was called hears how it goes on


def test_the_time_begins_anew_when_it_was_less_urgent_or_over_in_between(world: Watched) -> None:
    for level in (Level.CRITICAL, Level.WARNING, Level.CRITICAL):
        world.found(finding(world, level))
        world.passes(AFTER_S - 1)
    assert heard(world) == []
    world.passes(1)
    world.found()
    world.found(finding(world))
    world.passes(AFTER_S - 1)
    assert heard(world) == ["critical escalated", "critical resolved"]


def test_an_acknowledgement_stops_it_and_is_told(world: Watched) -> None:
    world.found(finding(world))
    world.passes(10)
    ack(world)
    world.passes(2 * AFTER_S)
    assert heard(world) == []
    assert heard(world, "all") == ["critical firing", "critical acknowledged"]
    assert world.escalations.standing("check:feed", world.flaps).acknowledged == "on it"


def test_an_acknowledgement_ends_with_the_alert(world: Watched) -> None:
    world.found(finding(world))
    ack(world)
    world.found()
    world.found(finding(world))
    world.passes(AFTER_S)
    assert heard(world) == ["critical escalated"]


def test_what_becomes_more_urgent_than_it_was_is_acknowledged_no_more(world: Watched) -> None:
    world.found(finding(world, Level.WARNING))
    ack(world)
    world.found(finding(world))
    world.passes(AFTER_S)
    assert heard(world) == ["critical escalated"]


@pytest.mark.parametrize("restart_s", [1, AFTER_S - 1, AFTER_S, AFTER_S + 1])
def test_a_restart_neither_forgets_nor_repeats_it(world: Watched, restart_s: int) -> None:
    world.found(finding(world))
    world.passes(restart_s)
    world.start()
    world.passes(2 * AFTER_S - restart_s)
    assert heard(world) == ["critical escalated"]
    escalated = [at_ns for alert, at_ns in world.stream if alert.state is Happening.ESCALATED]
    assert len(escalated) == 1


def test_what_flaps_lasts_all_the_while(world: Watched) -> None:
    for number in range(60):
        world.found(*([] if number % 2 else [finding(world)]))
        world.passes(30)
    assert heard(world)[0] == "critical escalated"
    word = next(alert for alert, _ in world.stream if alert.state is Happening.ESCALATED)
    assert "It begins and ends again and again." in word.text
    assert heard(world).count("critical firing") > 3
    world.passes(600)
    assert heard(world)[-1] == "critical resolved"
    assert heard(world).count("critical escalated") == 1


def test_while_it_is_muted_the_word_waits(world: Watched) -> None:
    mute = Mute(id="m", name="feed", reason="known", since_at_ns=0, until_at_ns=world.now_ns + HOUR_S * SECOND_NS)
    world.found(finding(world))
    world.passes(1)
    world.outbox.mutes = {"m": mute}
    world.passes(HOUR_S - 2)
    assert heard(world) == []
    world.passes(2)
    assert heard(world)[0] == "critical escalated"


def test_a_channel_that_is_kept_for_what_lasts_hears_that_another_one_is_no_more(world: Watched) -> None:
    world.tell("Report", Level.CRITICAL, Happening.NOTICE)
    world.tell(f"{CHANNEL_DISABLED}all", Level.ERROR, Happening.NOTICE)
    world.passes(5)
    assert [todo.alert.name for todo in world.tries if todo.delivery.channel == "later"] == [f"{CHANNEL_DISABLED}all"]


def test_a_chat_may_be_given_a_time() -> None:
    asked = NotifySettings(telegram_bot_token=BOT, telegram_chats="5, 42=critical+15m, 43+90s")
    plans = [channel.plan for channel in channels(asked)]
    assert [(plan.level_min, plan.after_ns // SECOND_NS) for plan in plans] == [
        (Level.INFO, 0),
        (Level.CRITICAL, 900),
        (Level.INFO, 90),
    ]


@pytest.mark.parametrize("chats", ["5, 42=critical+soon", "5, 42=critical+25h", "5, 42+0m", "42=critical+15m"])
def test_a_wrong_time_or_no_channel_that_hears_at_once_is_refused(chats: str) -> None:
    with pytest.raises(SettingsError, match="TELEGRAM_CHATS"):
        NotifySettings(telegram_bot_token=BOT, telegram_chats=chats).check(Common())
