"""`mintline report`: the last 24 hours in figures, or the report of an archived day."""

from __future__ import annotations

import sys
from datetime import date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from observer.asking import day_from, settings
from observer.reports.archive import Archive
from observer.reports.daily import DAY_NS, Daily
from observer.reports.daily_read import read_day
from observer.schedule.jobs import day_of, parts
from observer.times import SECOND_NS
from runtime.asking import ask, common
from runtime.bus import Bus
from runtime.standalone import fail
from runtime.telemetry import now_ns


def cli(*, day: str = "", json: bool = False, html: bool = False, archive: bool = False) -> None:
    """The last 24 hours: opportunities, mean return, the best five, sources, errors, profit by strategy, the feed.

    Parameters
    ----------
    day
        The report that was archived on this day (2026-11-21); where none was, that day as the streams still know it.
    json
        Print one JSON object.
    html
        Print a page.
    archive
        Keep it below the data directory as well, as the scheduled report does.
    """
    if json and html:
        fail("report: either --json or --html", 2)
    suffix = "json" if json else "html" if html else "txt"
    own = settings("report")
    kept = Archive(Path(common("report").data_dir), own.archive_days)
    wanted = day_from("report", "--day", day) if day else None
    text = kept.report(wanted, suffix) if wanted is not None else None
    if text is None:
        from_at_ns, to_at_ns = _period(wanted, own.zone(), now_ns())
        if wanted is not None:
            if from_at_ns > now_ns():
                fail(f"report: --day: {day} has not come yet", 2)
            sys.stderr.write(f"no report was archived on {day}: this is what the streams still know of it\n")
        made = parts(_read(from_at_ns, to_at_ns, own.schedule_zone))
        text = made[suffix]
        if archive:
            kept.keep_report(wanted or day_of(to_at_ns, own.zone()), made)
    sys.stdout.write(text)


def _period(day: date | None, zone: ZoneInfo, now: int) -> tuple[int, int]:
    """The last 24 hours, or a day from midnight to midnight, or to now."""
    if day is None:
        return now - DAY_NS, now
    begin, end = (int(datetime.combine(each, time(), zone).timestamp()) for each in (day, day + timedelta(days=1)))
    return begin * SECOND_NS, min(end * SECOND_NS, now)


def _read(from_at_ns: int, to_at_ns: int, zone: str) -> Daily:
    async def work(bus: Bus) -> Daily:
        with Console(stderr=True).status("reading the streams"):
            return await read_day(bus, from_at_ns, to_at_ns, zone)

    return ask("report", lambda bus, _: work(bus))
