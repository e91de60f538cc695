"""Alerts that begin and end again and again: told as flapping, held back, counted, and told how they stand."""

from __future__ import annotations

from collections import Counter

import pytest

from observer.notify.alerts import Finding
from observer.notify.flapping import Rule
from observer.notify.testing_world import ALL, URGENT_ONLY, Watched
from observer.times import SECOND_NS
from schemas.alerts import Happening, Level, Outcome

CALM_S, HOUR_S = 600, 3600
RULE = Rule(changes_min=6, window_ns=1800 * SECOND_NS, calm_ns=CALM_S * SECOND_NS, remind_ns=4 * HOUR_S * SECOND_NS)


def finding(world: Watched, level: Level = Level.WARNING, name: str = "disk") -> Finding:
    return Finding(fingerprint=f"check:{name}", name=name, level=level, text=f"{name} is bad.", since_ns=world.now_ns)


def toggles(world: Watched, changes: int, level: Level = Level.WARNING, every_s: int = 30) -> None:
    """It begins, ends, begins, …, and time passes after each."""
    for _ in range(changes):
        before = bool(world.register.open)
        world.found(*([] if before else [finding(world, level)]))
        world.passes(every_s)
        assert bool(world.register.open) is not before


def told(world: Watched, channel: str = "all") -> list[str]:
    return [str(todo.alert.state) for todo in world.tries if todo.delivery.channel == channel]


def test_the_sixth_change_makes_it_flap_and_what_follows_is_held_back_until_it_is_calm() -> None:
    world = Watched(RULE, ALL)
    toggles(world, 6)
    assert told(world) == ["firing", "resolved", "flapping"]  # the others were throttled: the word stands for them
    notice = world.tries[-1].alert
    assert notice.flaps == 6
    assert notice.text.startswith(
        "It has changed 6 times (3x firing, 3x resolved) within 150 s.".replace("150 s", "2 min")
    )
    toggles(world, 14)
    assert told(world)[3:] == []
    assert len(world.outbox.held()) == 14
    world.passes(CALM_S)
    assert told(world)[3:] == ["resolved"]
    calm = world.tries[-1].alert
    assert (calm.flaps, calm.summary) == (20, "disk is bad.")
    assert (
        "changed 20 times (10x firing, 10x resolved); held back since the last word: 7x firing, 7x resolved."
        in calm.text
    )
    assert world.outbox.held() == []


def test_every_change_comes_to_an_end_that_can_be_read() -> None:
    world = Watched(RULE, ALL)
    toggles(world, 21)
    world.passes(CALM_S)
    assert len(world.bucket) == len(world.stream)
    ends = Counter((record.outcome, record.reason) for record in world.bucket.values())
    notice, calm = (number for number, (alert, _) in enumerate(world.stream, 1) if alert.flaps)
    assert ends == {
        (Outcome.SENT, ""): 4,
        (Outcome.SUPPRESSED, f"flapping: told in {notice}"): 4,
        (Outcome.SUPPRESSED, f"flapping: told in {calm}"): 15,
    }


def test_it_is_told_how_it_stands_when_it_is_calm_and_its_end_is_told_then() -> None:
    world = Watched(RULE, ALL)
    toggles(world, 9)
    world.passes(CALM_S)
    assert told(world)[-1] == "firing"
    assert "It is unknown." in world.tries[-1].alert.text  # what the alert itself says
    world.found()
    world.passes(1)
    assert told(world)[-1] == "resolved"
    assert world.tries[-1].reply_to


@pytest.mark.parametrize("level", [Level.CRITICAL, Level.ERROR])
def test_what_is_urgent_is_told_each_time_and_as_flapping_too(level: Level) -> None:
    world = Watched(RULE, ALL, URGENT_ONLY)
    toggles(world, 10, level)
    world.passes(CALM_S)
    for channel in ("all", "urgent"):
        assert Counter(told(world, channel)) == {"firing": 5, "resolved": 6, "flapping": 1}
    assert "nothing was held back" in world.tries[-1].alert.text


def test_a_level_that_goes_up_and_down_flaps_and_only_what_is_urgent_is_told() -> None:
    world = Watched(RULE, ALL, URGENT_ONLY)
    for number in range(10):
        world.found(finding(world, Level.CRITICAL if number % 2 else Level.WARNING))
        world.passes(30)
    world.passes(CALM_S)
    assert told(world, "urgent") == ["firing"] * 3 + ["flapping"] + ["firing"] * 2 + ["firing"]
    words = [f"{one.alert.state} {one.alert.level}" for one in world.tries if one.delivery.channel == "all"]
    assert words[words.index("flapping critical") + 1 :] == ["firing critical"] * 3
    assert "2x firing" in world.tries[-1].alert.text  # the two warnings


def test_what_changes_now_and_then_does_not_flap() -> None:
    world = Watched(RULE, ALL)
    toggles(world, 12, every_s=400)
    assert Happening.FLAPPING not in {alert.state for alert, _ in world.stream}


def test_while_it_flaps_for_long_it_is_told_now_and_then_with_what_was_held_back() -> None:
    world = Watched(RULE._replace(remind_ns=HOUR_S * SECOND_NS), ALL)
    toggles(world, 300)
    notices = [alert for alert, _ in world.stream if alert.state is Happening.FLAPPING]
    assert [alert.reminder for alert in notices] == [0, 1, 2]
    for notice in notices[1:]:
        assert "held back since the last word: 60x firing, 60x resolved." in notice.text
    assert len(world.outbox.held()) < 120


def test_a_restart_at_any_moment_changes_nothing() -> None:
    undisturbed, killed = Watched(RULE, ALL), Watched(RULE, ALL)
    for world in (undisturbed, killed):
        for _ in range(30):
            toggles(world, 1)
            if world is killed:
                world.start()
        world.passes(CALM_S)
    assert told(killed) == told(undisturbed)
    assert [alert.text for alert, _ in killed.stream] == [alert.text for alert, _ in undisturbed.stream]
    assert len({alert.id for alert, _ in killed.stream}) == len(killed.stream), "the broker would leave one out"


def test_after_a_long_stop_an_old_commotion_is_not_told_as_new() -> None:
    world = Watched(RULE, ALL)
    for _ in range(6):  # all within a second: nothing was due in between
        world.found(*([] if world.register.open else [finding(world)]))
        world.now_ns += SECOND_NS
    world.now_ns += CALM_S * SECOND_NS
    world.start()
    world.passes(5)
    assert Happening.FLAPPING not in {alert.state for alert, _ in world.stream}


def test_whoever_heard_that_it_flaps_hears_how_it_stands_though_it_has_become_less_urgent() -> None:
    world = Watched(RULE, ALL._replace(level_min=Level.WARNING))
    toggles(world, 8)
    world.found(finding(world, Level.INFO))
    world.passes(CALM_S)
    assert told(world)[-1] == "firing"
    assert world.tries[-1].alert.level is Level.INFO
    assert world.outbox.held() == []


def test_one_alert_that_flaps_does_not_hold_back_another_of_its_name() -> None:
    world = Watched(RULE, ALL)
    toggles(world, 8)
    world.passes(400)  # the throttle of the name is over
    other = finding(world, name="other")
    world.found(Finding(**{**{name: getattr(other, name) for name in other.__struct_fields__}, "name": "disk"}))
    world.passes(1)
    assert world.tries[-1].alert.fingerprint == "check:other"
