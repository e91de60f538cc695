"""What is due, what was missed, what died: tables and properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from observer.schedule.plan import (
    ATTEMPTS_MAX,
    BadCron,
    Job,
    Outcome,
    Record,
    Why,
    check,
    due_times,
    ended,
    judge,
    next_due,
    notices,
)
from observer.schedule.settings import JOBS, ScheduleSettings
from observer.times import SECOND_NS
from runtime.settings import Common, SettingsError

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")]
YEAR_S = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
HOUR_NS = 3600 * SECOND_NS


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    local = datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)
    return int(local.timestamp()) * SECOND_NS


def said(at_ns: int, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(at_ns // SECOND_NS, zone).strftime("%m-%d %H:%M")


def job(cron: str = "0 9 * * *", *, limit_s: int = 600, late_s_max: int = 6 * 3600) -> Job:
    return Job(name="report", cron=cron, limit_s=limit_s, late_s_max=late_s_max, command="report", sentence="")


def seen(since: str, **fields: object) -> Record:
    return Record(job="report", cron="0 9 * * *", zone=BERLIN.key, due_at_ns=at(since), **fields)  # type: ignore[arg-type]


def look(record: Record | None, now: str, *, runner: str = "0/b", of: Job | None = None):  # type: ignore[no-untyped-def]
    return judge(of or job(), BERLIN, record, at(now), runner=runner)


# Clock changes


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # spring: 2026-03-29 has no 02:00 to 03:00
        ("0 9 * * *", "2026-03-28T10:00", ["03-29 09:00", "03-30 09:00"]),
        ("30 2 * * *", "2026-03-28T03:00", ["03-29 03:00", "03-30 02:30"]),  # what the gap swallows runs after it
        ("15,45 2 * * *", "2026-03-29T00:00", ["03-29 03:00", "03-30 02:15"]),  # both in one run
        # autumn: 2026-10-25 has 02:00 to 03:00 twice
        ("30 2 * * *", "2026-10-24T03:00", ["10-25 02:30", "10-26 02:30"]),  # once
        ("0 */6 * * *", "2026-10-24T23:00", ["10-25 00:00", "10-25 06:00"]),
    ],
)
def test_a_clock_change_neither_swallows_nor_doubles_a_fixed_time(cron: str, after: str, expected: list[str]) -> None:
    assert [said(due) for due in islice(due_times(cron, BERLIN, at(after)), 2)] == expected


def test_every_few_minutes_goes_on_in_real_time_through_a_clock_change() -> None:
    for day in ("2026-03-29T01:30", "2026-10-25T01:30"):
        due = list(islice(due_times("*/5 * * * *", BERLIN, at(day)), 36))
        assert [later - sooner for sooner, later in pairwise(due)] == [300 * SECOND_NS] * 35


def test_within_the_hour_that_comes_twice_a_run_is_not_due_again() -> None:
    second = at("2026-10-25T02:10", fold=1)  # 02:30 summer time is over, and 02:30 winter time is no second one
    assert said(next_due("30 2 * * *", BERLIN, second)) == "10-26 02:30"


@given(
    zone=st.sampled_from(ZONES),
    cron=st.sampled_from(["0 9 * * *", "30 2 * * *", "*/5 * * * *", "0 */6 * * *", "15,45 1-3 * * *", "0 0 * * 0"]),
    start_s=st.integers(YEAR_S, YEAR_S + 365 * 86_400),
    hours=st.integers(0, 80),
)
def test_due_times_do_not_depend_on_where_one_begins_to_look(
    zone: ZoneInfo, cron: str, start_s: int, hours: int
) -> None:
    begin = start_s * SECOND_NS
    later = begin + hours * HOUR_NS
    through = [due for due in _until(cron, zone, begin, later + 50 * HOUR_NS) if due > later]
    assert through == _until(cron, zone, later, later + 50 * HOUR_NS)
    assert through == sorted(set(through))


def _until(cron: str, zone: ZoneInfo, after_ns: int, until_ns: int) -> list[int]:
    found = []
    for due in due_times(cron, zone, after_ns):
        if due > until_ns:
            return found
        found.append(due)
    return found


# What a look concludes


def test_a_job_never_seen_before_counts_from_now() -> None:
    step = look(None, "2026-11-20T12:00")
    assert step.start is None
    assert step.missed is None
    assert step.record.due_at_ns == at("2026-11-20T12:00")


@pytest.mark.parametrize(
    ("now", "start", "missed"),
    [
        ("2026-11-21T08:59", None, 0),
        ("2026-11-21T09:00", "11-21 09:00", 0),
        ("2026-11-21T14:00", "11-21 09:00", 0),  # late, and better than never
        ("2026-11-21T15:01", None, 1),  # too late
        ("2026-11-23T10:00", "11-23 09:00", 2),  # down for days: the newest runs, the others are missed
        ("2026-11-23T20:00", None, 3),
        ("2027-11-20T10:00", "11-20 09:00", 34),  # a year: 35 days are looked back at
    ],
)
def test_the_newest_due_time_runs_and_the_others_are_missed(now: str, start: str | None, missed: int) -> None:
    step = look(seen("2026-11-20T12:00"), now)
    assert (None if step.start is None else said(step.start)) == start
    assert (0 if step.missed is None else step.missed.times) == missed
    assert step.record.missed == missed
    assert (step.record.outcome is Outcome.RUNNING) == (start is not None)
    if step.missed is not None:
        assert step.missed.why is Why.DOWN
        assert look(replace(step.record, outcome=Outcome.OK), now).missed is None, "told once"


def test_what_is_due_while_a_run_takes_too_long_is_missed_for_that_reason() -> None:
    every_hour = job("0 * * * *", late_s_max=600)
    begun = judge(
        every_hour, BERLIN, replace(seen("2026-11-21T08:30"), cron="0 * * * *"), at("2026-11-21T09:00"), runner="0/a"
    )
    over = ended(begun.record, Outcome.TIMED_OUT, "", at("2026-11-21T10:30"))
    step = judge(every_hour, BERLIN, over, at("2026-11-21T10:30"), runner="0/a")
    assert step.missed is not None
    assert (step.missed.times, step.missed.why) == (1, Why.OVERRAN)
    assert "took too long" in notices(every_hour, step, BERLIN, 0)[0].sentence


def test_a_run_of_another_instance_is_left_alone_until_it_must_be_gone() -> None:
    running = look(seen("2026-11-20T12:00"), "2026-11-21T09:00", runner="1/x").record
    assert look(running, "2026-11-21T09:10", runner="0/b").record == running
    assert look(running, "2026-11-21T09:10", runner="0/b").start is None
    assert look(running, "2026-11-21T09:12", runner="0/b").died


def test_a_run_that_died_with_its_process_begins_again_but_not_for_ever() -> None:
    record = look(seen("2026-11-20T12:00"), "2026-11-21T09:00", runner="0/a").record
    for attempt in range(2, ATTEMPTS_MAX + 1):
        step = look(record, "2026-11-21T09:05", runner=f"0/life{attempt}")
        assert step.died
        assert step.start == at("2026-11-21T09:00")
        assert step.record.attempt == attempt
        record = step.record
    step = look(record, "2026-11-21T09:05", runner="0/last")
    assert step.died
    assert step.start is None
    assert step.record.outcome is Outcome.DIED
    assert step.record.ends == {"died": ATTEMPTS_MAX}
    assert not look(step.record, "2026-11-21T09:06", runner="0/last").died, "told once"


def test_a_run_that_died_long_ago_does_not_begin_again() -> None:
    record = look(seen("2026-11-20T12:00"), "2026-11-21T09:00", runner="0/a").record
    assert look(record, "2026-11-21T16:00").start is None


def test_a_new_expression_or_zone_counts_from_now() -> None:
    before = replace(seen("2026-11-20T12:00"), missed=2)
    step = look(before, "2026-11-21T12:00", of=job("0 11 * * *"))
    assert (step.start, step.missed, step.record.missed) == (None, None, 2)
    assert step.record.due_at_ns == at("2026-11-21T12:00")
    moved = judge(job(), ZoneInfo("UTC"), before, at("2026-11-21T12:00"), runner="0/b")
    assert (moved.start, moved.record.zone) == (None, "UTC")


@given(
    gaps=st.lists(st.tuples(st.integers(1, 90 * 60), st.booleans(), st.integers(0, 40 * 60)), min_size=1, max_size=30),
    cron=st.sampled_from(["*/5 * * * *", "0 * * * *", "30 2 * * *", "0 */6 * * *"]),
    start_s=st.integers(YEAR_S + 80 * 86_400, YEAR_S + 305 * 86_400),
)
def test_every_due_time_is_run_or_missed_exactly_once(
    gaps: list[tuple[int, bool, int]], cron: str, start_s: int
) -> None:
    """However irregularly somebody looks, whatever runs take, and however often the process dies in them."""
    of = job(cron, limit_s=3600, late_s_max=1800)
    begin = now = start_s * SECOND_NS
    record, life, started = judge(of, BERLIN, None, now, runner="0/0").record, 0, set()
    missed = 0
    for pause_s, dies, takes_s in gaps:
        now += pause_s * SECOND_NS
        step = judge(of, BERLIN, record, now, runner=f"0/{life}")
        record = step.record
        missed += step.missed.times if step.missed else 0
        if step.start is not None:
            assert now - of.late_s_max * SECOND_NS <= step.start <= now
            started.add(step.start)
            now += takes_s * SECOND_NS
            if dies:
                life += 1
            else:
                record = ended(record, Outcome.OK, "", now)
    handled = _until(cron, BERLIN, begin, record.due_at_ns)
    assert len(started) + missed == len(handled)
    assert started <= set(handled)
    assert record.missed == missed


# Settings


def test_the_table_holds_what_was_asked_for() -> None:
    expected = {"health": "*/5 * * * *", "report": "0 9 * * *", "backup": "0 2 * * *", "backup_check": "0 */6 * * *"}
    found = {each.name: each.cron for each in ScheduleSettings().jobs()}
    assert {name: found[name] for name in expected} == expected
    assert [each.name for each in JOBS] == list(found)
    for each in JOBS:
        check(each.cron)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schedule_zone": "Mars/Olympus"}, "SCHEDULE_ZONE"),
        ({"schedule_zone": "../etc/passwd"}, "SCHEDULE_ZONE"),
        ({"schedule_report": "9 o'clock"}, "SCHEDULE_REPORT"),
        ({"schedule_report": "0 0 9 * * *"}, "five"),
        ({"schedule_report": "0 9 30 2 *"}, "day-of-month"),
        ({"schedule_backup": "0 2 L * *"}, "SCHEDULE_BACKUP"),
        ({"ping_url": "ftp://x"}, "PING_URL"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ScheduleSettings(**fields).check(Common())  # type: ignore[arg-type]


def test_names_of_days_and_months_are_good_and_a_job_can_be_switched_off() -> None:
    settings = ScheduleSettings(schedule_backup="0 2 * JUL WED", schedule_report="off", schedule_stats="")
    settings.check(Common())
    assert [each.name for each in settings.jobs()] == ["health", "backup", "backup_check"]
    with pytest.raises(BadCron):
        check("0 0 * * MON#2")


def test_a_missed_run_is_told_with_its_time() -> None:
    step = look(seen("2026-11-20T12:00"), "2026-11-23T20:00")
    (notice,) = notices(job(), step, BERLIN, 7)
    assert notice.sentence == "report missed 3 runs, the newest of 2026-11-23 09:00 CET: no observer was running."
    assert (notice.kind, notice.at_ns) == ("missed", 7)


def test_a_day_of_23_hours_is_one_day() -> None:
    first, second = islice(due_times("0 9 * * *", BERLIN, at("2026-03-28T08:00")), 2)
    assert timedelta(seconds=(second - first) // SECOND_NS) == timedelta(hours=23)
