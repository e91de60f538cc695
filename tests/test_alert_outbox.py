"""The outbox's decisions: whatever a channel answers and wherever the process is killed, each delivery ends once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observer.notify.line import Plan, Try
from observer.notify.outbox import DEADLINE_NS
from observer.notify.outcomes import (
    BadToken,
    Failed,
    Gone,
    Moved,
    Refused,
    Result,
    Sent,
    Slow,
    TooLong,
    Unknown,
    Unparsable,
)
from observer.notify.pacing import CHAT, GROUP, Pace
from observer.notify.testing_world import ALL, START_NS, THROTTLE_NS, URGENT_ONLY, World, sent
from observer.times import SECOND_NS
from schemas.alerts import FINAL, MUTE_NAME, RANK, Happening, Level, Mute, Outcome

MINUTE_NS = 60 * SECOND_NS


RESULTS: dict[str, Callable[[Try], Result]] = {
    "sent": sent,
    "part": lambda todo: Sent(7, todo.delivery.parts_sent >= 2),
    "slow": lambda _: Slow(3.0, "429"),
    "plain": lambda _: Unparsable("400"),
    "long": lambda _: TooLong("400"),
    "moved": lambda _: Moved("-100", "400"),
    "gone": lambda _: Gone("403"),
    "token": lambda _: BadToken("401"),
    "refused": lambda _: Refused("400"),
    "failed": lambda _: Failed("502"),
    "unknown": lambda _: Unknown("time-out"),
}
ALERT = st.tuples(
    st.just("tell"),
    st.sampled_from("abc"),
    st.sampled_from(Level),
    st.sampled_from([Happening.FIRING, Happening.RESOLVED, Happening.NOTICE]),
)
FLAPS = st.tuples(
    st.just("flaps"),
    st.sampled_from("abc"),
    st.sampled_from(Level),
    st.sampled_from([Happening.FLAPPING, Happening.FLAPPING, Happening.FIRING, Happening.RESOLVED]),
)
STEP = st.tuples(
    st.just("step"),
    st.sampled_from(["all", "urgent"]),
    st.sampled_from(sorted(RESULTS)),
    st.sampled_from(["", "", "sending", "answered"]),
)
WAIT = st.tuples(st.just("wait"), st.sampled_from([0, 1, 61, 301, 7200]))
KILL = st.tuples(st.just("kill"))


@settings(max_examples=400)
@given(st.lists(st.one_of(ALERT, FLAPS, STEP, STEP, WAIT, KILL), max_size=60))
def test_each_delivery_ends_once_whatever_happens(course: list[tuple[str, ...]]) -> None:
    world = World()
    for kind, *rest in course:
        if kind in ("tell", "flaps"):
            name, level, state = rest
            world.tell(name, Level(level), Happening(state), f"{name}-{level}", flaps=int(kind == "flaps"))
        elif kind == "step":
            world.step(rest[0], RESULTS[rest[1]], rest[2])
        elif kind == "wait":
            world.now_ns += int(rest[0]) * SECOND_NS
        else:
            world.start()
    for name, level in itertools.product("abc", Level):  # everything is calm in the end
        world.tell(name, level, Happening.RESOLVED, f"{name}-{level}", flaps=1)
    world.drain()
    for sequence, (alert, _) in enumerate(world.stream, 1):
        for plan in world.plans:
            meant = alert.channel in ("", plan.channel)
            takes = meant and (alert.state is Happening.DIGEST or RANK[alert.level] <= RANK[plan.level_min])
            record = world.bucket.get(f"{sequence}.{plan.channel}")
            assert (record is not None) is takes
            if record is None:
                continue
            assert record.outcome in FINAL
            assert record.settled_at_ns > 0
            if record.outcome is Outcome.SUPPRESSED:
                assert alert.level not in (Level.CRITICAL, Level.ERROR), "an urgent alert was held back"
                in_digest = any(record.id in digest.covers for digest, _ in world.stream)
                later = (word for word, _ in world.stream[sequence:] if word.flaps)
                assert in_digest or any(word.fingerprint == alert.fingerprint for word in later)
    for todo in world.tries:
        if todo.delivery.repeat:
            assert todo.delivery.level in (Level.CRITICAL, Level.ERROR)
    repeated = {todo.delivery.id for todo in world.tries if todo.delivery.repeat}
    assert {key for (key, _), times in world.taken.items() if times > 1} <= repeated, "sent twice, and not marked"


def test_the_first_of_a_name_is_sent_and_the_rest_comes_in_one_digest() -> None:
    world = World(ALL)
    for number in range(5):
        world.tell("Lag", fingerprint=f"lag-{number}")
    world.step("all", sent)
    assert world.step("all", sent) is None
    world.now_ns += THROTTLE_NS
    world.drain()
    assert world.sent("all") == ["Lag firing", "digest digest"]
    digest = world.tries[-1].alert
    assert digest.summary == "4 more messages of 1 alert"
    assert digest.text == "Lag: 4x firing; the newest: Lag (firing)"
    reasons = [world.bucket[f"{number}.all"].reason for number in range(2, 6)]
    assert reasons == ["told in digest 6"] * 4


def test_critical_and_error_are_never_held_back() -> None:
    world = World(ALL)
    for number in range(30):
        world.tell("Down", Level.CRITICAL if number % 2 else Level.ERROR, fingerprint=f"{number}")
    world.drain()
    assert len(world.sent("all")) == 30


def test_an_end_is_told_at_once_if_its_beginning_was() -> None:
    world = World(ALL)
    world.tell("Lag", fingerprint="told")
    world.tell("Lag", fingerprint="held")
    world.tell("Lag", state=Happening.RESOLVED, fingerprint="told")
    world.tell("Lag", state=Happening.RESOLVED, fingerprint="held")
    world.step("all", sent)
    world.now_ns += SECOND_NS
    world.step("all", sent)
    assert world.sent("all") == ["Lag firing", "Lag resolved"]
    assert world.tries[-1].reply_to == 7
    world.drain()
    assert world.tries[-1].alert.text == "Lag: 1x firing, 1x resolved; the newest: Lag (resolved)"


def test_nothing_is_resolved_before_it_fired_and_the_most_urgent_goes_first() -> None:
    world = World(ALL)
    world.tell("Disk", Level.WARNING)
    world.tell("Feed", Level.CRITICAL)
    world.tell("Disk", Level.WARNING, Happening.RESOLVED)
    world.drain(lambda todo: Failed("502") if todo.delivery.attempts < 3 else Sent(7, True))
    told = [f"{t.alert.name} {t.alert.state}" for t in world.tries if t.delivery.attempts == 3]
    assert told[0] == "Feed firing"
    assert told.index("Disk firing") < told.index("Disk resolved")


def test_being_asked_to_wait_is_no_failed_try() -> None:
    world = World(ALL)
    world.tell("Feed", Level.CRITICAL)
    world.step("all", lambda _: Slow(30.0, "429"))
    assert world.bucket["1.all"].attempts == 0
    world.tell("Disk", Level.CRITICAL)
    world.now_ns += 29 * SECOND_NS
    assert world.step("all", sent) is None
    world.now_ns += SECOND_NS
    assert world.step("all", sent) is not None
    assert world.outbox.when_ns("all") == world.now_ns + SECOND_NS


def test_two_chats_asked_to_wait_pause_the_bot() -> None:
    third = Plan("third", "telegram", Level.INFO, CHAT, "bot")
    world = World(ALL, URGENT_ONLY, third)
    world.tell("Feed", Level.CRITICAL)
    world.step("all", lambda _: Slow(30.0, "429"))
    assert world.outbox.when_ns("third") == START_NS - START_NS  # not paused by one chat
    world.step("urgent", lambda _: Slow(40.0, "429"))
    assert world.outbox.when_ns("third") == world.now_ns + 40 * SECOND_NS


def test_an_hour_without_the_channel_loses_nothing() -> None:
    world = World(ALL)
    for minute in range(60):
        world.tell("Feed", Level.CRITICAL, fingerprint=f"{minute}")
        world.step("all", lambda _: Failed("no connection"))
        world.now_ns += MINUTE_NS
    world.drain()
    outcomes = Counter(record.outcome for record in world.bucket.values())
    assert outcomes == {Outcome.SENT: 60}


def test_what_nobody_takes_until_its_deadline_has_failed_with_the_last_reason() -> None:
    world = World(ALL)
    world.tell("Feed", Level.CRITICAL)
    world.step("all", lambda _: Failed("502"))
    world.now_ns += DEADLINE_NS[Level.CRITICAL]
    world.step("all", sent)
    record = world.bucket["1.all"]
    assert (record.outcome, record.reason) == (Outcome.FAILED, "deadline; 502")


@pytest.mark.parametrize(("level", "again"), [(Level.CRITICAL, True), (Level.ERROR, True), (Level.WARNING, False)])
def test_after_a_time_out_only_what_is_urgent_is_sent_again_and_says_so(level: Level, again: bool) -> None:
    world = World(ALL)
    world.tell("Feed", level)
    world.step("all", lambda _: Unknown("time-out"))
    assert (world.bucket["1.all"].outcome is Outcome.UNKNOWN) is not again
    world.drain()
    assert [todo.delivery.repeat for todo in world.tries] == [False, True][: 1 + again]


def test_a_channel_that_is_gone_fails_what_waits_and_what_comes() -> None:
    world = World(ALL)
    world.tell("Feed", Level.CRITICAL)
    world.tell("Disk", Level.CRITICAL)
    world.step("all", lambda _: Gone("403 blocked"))
    world.step("all", sent)
    world.tell("Late", Level.CRITICAL)
    assert [record.outcome for record in world.bucket.values()] == [Outcome.FAILED] * 3
    assert world.bucket["3.all"].reason == "channel disabled: 403 blocked"


def test_refused_markup_is_sent_once_more_as_plain_text() -> None:
    world = World(ALL)
    world.tell("Feed")
    world.step("all", lambda _: Unparsable("400"))
    todo = world.step("all", lambda _: Unparsable("400"))
    assert todo is not None
    assert todo.delivery.plain
    assert world.bucket["1.all"].outcome is Outcome.FAILED


def test_the_parts_of_a_message_stay_together_and_are_not_sent_again_after_a_kill() -> None:
    world = World(ALL)
    world.tell("Report", Level.INFO, Happening.NOTICE)
    world.tell("Feed", Level.CRITICAL)
    world.step("all", lambda _: Refused("400"))  # the critical one goes first
    world.step("all", lambda _: Sent(1, False))
    world.now_ns += SECOND_NS
    world.tell("Disk", Level.CRITICAL)
    world.start()
    todo = world.step("all", lambda _: Sent(2, True))
    assert todo is not None
    assert (todo.alert.name, todo.delivery.parts_sent) == ("Report", 1)
    assert world.bucket["1.all"].message_ids == (1, 2)


def test_what_is_muted_is_suppressed_with_its_reason_and_comes_back_afterwards() -> None:
    world = World(ALL)
    world.mutes = [Mute(id="m", name="Disk", reason="new disk", since_at_ns=START_NS, until_at_ns=START_NS + MINUTE_NS)]
    world.start()
    world.tell("Disk", Level.CRITICAL)
    world.tell("Feed", Level.CRITICAL)
    world.tell(MUTE_NAME, Level.INFO)
    world.now_ns += MINUTE_NS
    world.tell("Disk", Level.CRITICAL, fingerprint="other")
    world.drain()
    assert world.sent("all") == ["Feed firing", "Disk firing", "Mute firing"]
    assert world.bucket["1.all"].reason == "muted: new disk"


def test_what_was_muted_is_not_told_after_a_restart_that_knows_the_mute_no_more() -> None:
    world = World(ALL)
    world.tell("Disk")
    world.step("all", sent)
    world.now_ns += SECOND_NS
    world.mutes = [Mute(id="m", name="Disk", reason="disk", since_at_ns=world.now_ns, until_at_ns=START_NS + MINUTE_NS)]
    world.start()
    world.tell("Disk", fingerprint="muted")
    world.now_ns += MINUTE_NS
    world.mutes = []
    world.start()
    world.now_ns += THROTTLE_NS
    world.drain()
    assert world.sent("all") == ["Disk firing"]


def test_what_no_channel_takes_is_recorded_too() -> None:
    world = World(URGENT_ONLY)
    world.tell("Disk", Level.INFO)
    record = world.bucket["1.nobody"]
    assert (record.outcome, record.reason) == (Outcome.SUPPRESSED, "no channel takes this level")


def test_what_waits_for_a_channel_that_is_no_more_ends_at_the_next_start() -> None:
    world = World(ALL)
    world.tell("Feed", Level.CRITICAL)
    world.step("all", lambda _: Failed("502"))
    world.plans = (URGENT_ONLY,)
    world.start()
    assert world.bucket["1.all"].outcome is Outcome.FAILED


def test_a_group_takes_twenty_a_minute_and_one_a_second() -> None:
    pace, at_ns, times = Pace(GROUP), START_NS, []
    for _ in range(21):
        at_ns = max(at_ns, pace.free_at_ns())
        pace.sent(at_ns)
        times.append((at_ns - START_NS) // SECOND_NS)
    assert times == [*range(20), 60]
