"""When each job of the schedule is due, what was missed, and what became of its runs: pure.

A job has one record in the bucket `schedule`, and `judge` alone decides from it and the time what happens next:

    due        The newest due time that was not taken up yet starts a run, also late, up to the job's `late_s_max`.
    missed     A due time that no run took up: the process was down, or the run before took too long. An older one
               that a newer one overtook is missed, too.
    running    Nothing else starts. The record says who runs it, so another process keeps away as well.
    died       A run whose process has ended (the same instance lives another life), or that has been silent for longer
               than it may take. It is started again, `ATTEMPTS_MAX` times in all, while it is not too late.

A job that was never seen, or whose expression or time zone changed, counts from now on.

Days of changing clocks follow Debian's cron, as `cronsim` does: a job at a fixed time that the clocks skip runs right
after the gap, one whose time comes twice runs once; jobs every so many minutes or hours run in real time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError
from msgspec.structs import replace

from observer.times import SECOND_NS

DAY_NS: Final = 86_400 * SECOND_NS
# Down for longer than this, and what was missed before it is not counted.
LOOK_BACK_NS: Final = 35 * DAY_NS
ATTEMPTS_MAX: Final = 3
# A run is stopped at its limit by its own process; another one believes that it is gone only some time later.
STOPPING_NS: Final = 60 * SECOND_NS
SAID_CHARS_MAX: Final = 500

_NAMES: Final = re.compile("JUL|WED")  # the names of months and days that hold one of the letters
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class BadCron(ValueError):
    """An expression that is none; the text says which part is wrong."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the schedule.

    cron: five fields. limit_s: a run takes no longer. late_s_max: how late a run may begin.
    command: what an own scheduler would call instead, after `mintline`.
    """

    name: str
    cron: str
    limit_s: int
    late_s_max: int
    command: str
    sentence: str


class Outcome(StrEnum):
    """How a job's newest run stands. TIMED_OUT: stopped at its limit; DIED: its process ended."""

    NEVER = "never"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DIED = "died"


ENDS: Final = (Outcome.OK, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DIED)


class Why(StrEnum):
    """Why a due time was missed."""

    DOWN = "down"
    OVERRAN = "overran"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A job's memory, one key of the bucket. Times are ns, 0: never.

    due_at_ns: the newest due time that was taken up or given up; at first, when the job was first seen.
    attempt: of the newest run. runner: whose it is, `<instance>/<life>`. said: its result in a sentence.
    ends: runs so far by outcome. missed: due times that no run took up, so far, and the newest of them.
    """

    job: str
    cron: str
    zone: str
    due_at_ns: int
    attempt: int = 0
    outcome: Outcome = Outcome.NEVER
    runner: str = ""
    started_at_ns: int = 0
    ended_at_ns: int = 0
    ok_at_ns: int = 0
    said: str = ""
    ends: dict[str, int] = {}
    missed: int = 0
    missed_at_ns: int = 0


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """Due times that no run took up, the newest of them, and why that one was not."""

    times: int
    newest_at_ns: int
    why: Why


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What `judge` concluded. record: as it should be stored now. start: the due time of the run to begin, or None.
    died: a run was found whose process is gone."""

    record: Record
    start: int | None = None
    missed: Missed | None = None
    died: bool = False


def check(cron: str) -> None:
    """Raises BadCron for what is no expression of five fields, or for one that never comes true."""
    if len(cron.split()) != 5:
        raise BadCron(f"{cron!r} has {len(cron.split())} fields, and a cron expression has five")
    if set("LW#?") & set(_NAMES.sub("", cron.upper())):
        raise BadCron(f"{cron!r}: L, W, # and ? are not understood by every scheduler that this could be exported to")
    try:
        next(CronSim(cron, _EPOCH))
    except (CronSimError, StopIteration) as error:
        raise BadCron(f"{cron!r}: {str(error) or 'no day is ever like this'}") from error


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """An expression spelt out. weekdays: 0 is Sunday. either_day: whether a day needs to be in `days` or in `weekdays`
    only, as cron has it when both are given."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either_day: bool


def fields(cron: str) -> Fields:
    """Raises BadCron."""
    check(cron)
    sim = CronSim(cron, _EPOCH)
    return Fields(
        minutes=tuple(sorted(sim.minutes)),
        hours=tuple(sorted(sim.hours)),
        days=tuple(sorted(sim.days)),
        months=tuple(sorted(sim.months)),
        weekdays=tuple(sorted({int(day) % 7 for day in sim.weekdays if isinstance(day, int)})),
        either_day=not sim.day_and,
    )


def due_times(cron: str, zone: ZoneInfo, after_ns: int) -> Iterator[int]:
    """Every due time after a moment, ascending, without end."""
    newest = after_ns
    begin = _EPOCH + timedelta(microseconds=after_ns // 1000)
    for at in CronSim(cron, begin.astimezone(zone)):
        at_ns = round((at - _EPOCH).total_seconds()) * SECOND_NS
        # Two times of day that a clock change skips come out as one; and in the second of two equal hours those of the
        # first one come out.
        if at_ns > newest:
            newest = at_ns
            yield at_ns


def next_due(cron: str, zone: ZoneInfo, after_ns: int) -> int:
    return next(due_times(cron, zone, after_ns))


def judge(job: Job, zone: ZoneInfo, record: Record | None, now_ns: int, *, runner: str) -> Step:
    """What to do about a job now. runner: who asks, `<instance>/<life>`; it does not run the job itself."""
    if record is None:
        return Step(record=Record(job=job.name, cron=job.cron, zone=zone.key, due_at_ns=now_ns))
    died = False
    if record.outcome is Outcome.RUNNING:
        if not _is_gone(job, record, now_ns, runner):
            return Step(record=record)
        died = True
        record = ended(record, Outcome.DIED, "the process that ran it ended", now_ns)
    if (record.cron, record.zone) != (job.cron, zone.key):
        return Step(record=replace(record, cron=job.cron, zone=zone.key, due_at_ns=now_ns), died=died)
    return _begin(job, zone, record, now_ns, runner, died)


def _begin(job: Job, zone: ZoneInfo, record: Record, now_ns: int, runner: str, died: bool) -> Step:
    due = _due(job.cron, zone, max(record.due_at_ns, now_ns - LOOK_BACK_NS), now_ns)
    again = died and record.attempt < ATTEMPTS_MAX
    start = due[-1] if due else record.due_at_ns if again else None
    if start is not None and now_ns - start > job.late_s_max * SECOND_NS:
        start = None
    given_up = [at_ns for at_ns in due if at_ns != start]
    missed = None
    if given_up:
        missed = Missed(times=len(given_up), newest_at_ns=given_up[-1], why=_why(record, given_up[-1]))
        record = replace(
            record, due_at_ns=due[-1], missed=record.missed + missed.times, missed_at_ns=missed.newest_at_ns
        )
    if start is not None:
        record = replace(
            record,
            due_at_ns=start,
            attempt=1 if due else record.attempt + 1,
            outcome=Outcome.RUNNING,
            runner=runner,
            started_at_ns=now_ns,
            ended_at_ns=0,
            said="",
        )
    return Step(record=record, start=start, missed=missed, died=died)


def ended(record: Record, outcome: Outcome, said: str, now_ns: int) -> Record:
    """The record of a run that is over."""
    ok_at_ns = now_ns if outcome is Outcome.OK else record.ok_at_ns
    ends = {**record.ends, outcome: record.ends.get(outcome, 0) + 1}
    return replace(
        record, outcome=outcome, ended_at_ns=now_ns, ok_at_ns=ok_at_ns, said=said[:SAID_CHARS_MAX], ends=ends
    )


def _due(cron: str, zone: ZoneInfo, after_ns: int, until_ns: int) -> list[int]:
    found = []
    for at_ns in due_times(cron, zone, after_ns):
        if at_ns > until_ns:
            break
        found.append(at_ns)
    return found


def _is_gone(job: Job, record: Record, now_ns: int, runner: str) -> bool:
    """Whether a run that was begun has no process any more."""
    if record.runner.partition("/")[0] == runner.partition("/")[0]:
        return True
    return now_ns - record.started_at_ns > job.limit_s * SECOND_NS + STOPPING_NS


def _why(record: Record, due_at_ns: int) -> Why:
    busy = record.outcome is not Outcome.DIED and record.started_at_ns < due_at_ns <= record.ended_at_ns
    return Why.OVERRAN if busy else Why.DOWN


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something about a job that people should hear. kind: "missed", or how the run ended."""

    job: str
    kind: str
    sentence: str
    at_ns: int


def notices(job: Job, step: Step, zone: ZoneInfo, now_ns: int) -> list[Notice]:
    """What a step has to tell."""
    found = []
    if step.died:
        again = "it begins again" if step.start is not None else "it is not begun again"
        found.append(_notice(job, Outcome.DIED, f"The process that ran {job.name} ended; {again}.", now_ns))
    missed = step.missed
    if missed is not None:
        at = datetime.fromtimestamp(missed.newest_at_ns // SECOND_NS, zone).strftime("%Y-%m-%d %H:%M %Z")
        why = "no observer was running" if missed.why is Why.DOWN else "the run before took too long"
        times = "its run" if missed.times == 1 else f"{missed.times} runs, the newest"
        found.append(_notice(job, "missed", f"{job.name} missed {times} of {at}: {why}.", now_ns))
    return found


def end_notice(record: Record, now_ns: int) -> Notice | None:
    """What is told of a run that ended: nothing, if it went well."""
    if record.outcome is Outcome.OK:
        return None
    verb = "took too long and was stopped" if record.outcome is Outcome.TIMED_OUT else "failed"
    sentence = f"{record.job} {verb}: {record.said}"
    return Notice(job=record.job, kind=record.outcome, sentence=sentence, at_ns=now_ns)


def _notice(job: Job, kind: str, sentence: str, at_ns: int) -> Notice:
    return Notice(job=job.name, kind=kind, sentence=sentence, at_ns=at_ns)
