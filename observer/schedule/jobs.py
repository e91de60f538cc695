"""What the schedule's jobs do, bound to their names; and the schedule of one observer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from observer.backup import backups
from observer.backup.backups import BackupSettings
from observer.backup.store import BackupError
from observer.reports import daily_page, daily_text
from observer.reports.archive import Archive
from observer.reports.daily import DAY_NS, Daily
from observer.reports.daily_read import as_json, read_day
from observer.reports.stats_rows import BadSnapshot, snapshot
from observer.schedule.plan import Notice
from observer.schedule.scheduler import JobFailed, Scheduler, Tell
from observer.times import SECOND_NS
from runtime.bus import Bus
from runtime.process import Process
from runtime.settings import Common
from runtime.telemetry import now_ns
from schemas.codec import Decoder

ANSWER_WAIT_S = 10.0


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs work with. tell: for what people should read, None where nobody passes it on."""

    bus: Bus
    common: Common
    settings: BackupSettings
    archive: Archive
    zone: ZoneInfo
    tell: Tell | None = None


class _Check(msgspec.Struct, frozen=True):
    ok: bool = True


class _Health(msgspec.Struct, frozen=True):
    success: bool
    status: str
    checks: dict[str, _Check]


_health: Decoder[_Health] = Decoder(_Health)


async def health(bench: Bench, _: int) -> str:
    """Fails when the line does not work: that is what a dead-man's switch should hear."""
    answer = _health(await bench.bus.request("observer.health", b"", ANSWER_WAIT_S))
    failing = [name for name, check in answer.checks.items() if not check.ok]
    said = f"{answer.status}: {', '.join(failing) or 'every check is ok'}"
    if not answer.success:
        raise JobFailed(said)
    return said


async def stats(bench: Bench, _: int) -> str:
    try:
        line = snapshot(await bench.bus.request("observer.stats", b'{"per_page": 1}', ANSWER_WAIT_S))
    except BadSnapshot as error:
        raise JobFailed(str(error)) from error
    bench.archive.keep_stats(now_ns(), line)
    return f"{len(line):,} bytes archived"


async def report(bench: Bench, due_at_ns: int) -> str:
    """The day before the time it was due, also where it runs late."""
    daily = await read_day(bench.bus, due_at_ns - DAY_NS, due_at_ns, bench.zone.key)
    day = day_of(due_at_ns, bench.zone)
    await asyncio.to_thread(bench.archive.keep_report, day, parts(daily))
    if bench.tell is not None:
        await bench.tell(Notice(job="report", kind="report", sentence=daily_text.text(daily), at_ns=now_ns()))
    return f"{day}: {daily.opportunities:,} opportunities, {daily.errors_total:,} errors"


async def backup(bench: Bench, _: int) -> str:
    """With its drill: a backup that fails it is a failure of the run."""
    try:
        made = await backups.backup(bench.common, bench.settings)
    except BackupError as error:
        raise JobFailed(str(error)) from error
    return f"{made.name}: {len(made.streams)} streams, {made.messages:,} messages, {made.size_bytes:,} bytes, verified"


async def backup_check(bench: Bench, _: int) -> str:
    try:
        found = await backups.verify(bench.common, bench.settings)
    except BackupError as error:
        raise JobFailed(str(error)) from error
    if not found.ok:
        raise JobFailed(f"{found.name} is damaged: {'; '.join(found.problems)}")
    return f"{found.name}: {found.streams} streams, {found.messages:,} messages equal"


# A job is one line here and one in `schedule_settings.JOBS`.
WORKS: Mapping[str, Callable[[Bench, int], Awaitable[str]]] = {
    "health": health,
    "stats": stats,
    "report": report,
    "backup": backup,
    "backup_check": backup_check,
}


def parts(daily: Daily) -> dict[str, str]:
    """A report as the archive keeps it, by suffix."""
    return {"json": as_json(daily), "html": daily_page.render(daily), "txt": daily_text.text(daily) + "\n"}


def day_of(at_ns: int, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(at_ns // SECOND_NS, zone).date()


def schedule(process: Process, settings: BackupSettings, tell: Tell | None = None) -> Scheduler:
    """The schedule of an observer. tell: passes on reports, and what was missed or went wrong."""
    bench = Bench(
        bus=process.bus,
        common=process.common,
        settings=settings,
        archive=Archive(Path(process.common.data_dir), settings.archive_days),
        zone=settings.zone(),
        tell=tell,
    )

    def bound(work: Callable[[Bench, int], Awaitable[str]]) -> Callable[[int], Awaitable[str]]:
        return lambda due_at_ns: work(bench, due_at_ns)

    return Scheduler(
        process.bus,
        process.figures,
        process.log,
        settings.jobs(),
        {name: bound(work) for name, work in WORKS.items()},
        bench.zone,
        instance=process.instance,
        ping_url=settings.ping_url,
        tell=tell,
    )
