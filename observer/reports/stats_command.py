"""`mintline stats`: what the admin interface tells, now or from the archive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cyclopts
import msgspec

from observer.asking import settings
from observer.reports import stats_rows
from observer.reports.archive import Archive
from observer.times import SECOND_NS, iso
from runtime.asking import Failed, ask, common
from runtime.bus import Bus
from runtime.standalone import SINCE_SAYS, fail, since_ns
from runtime.telemetry import now_ns

ANSWER_WAIT_S = 10.0

app = cyclopts.App(name="stats", help="What the admin interface tells, now or from the archive.")


@app.default
def now(*, json: bool = False) -> None:
    """The figures as they are now.

    Parameters
    ----------
    json
        One JSON object, as the archive keeps it.
    """
    line = _ask("stats")
    if json:
        sys.stdout.write(line.decode() + "\n")
        return
    for name, value in stats_rows.row(msgspec.json.decode(line)).items():
        sys.stdout.write(f"{name:>28}  {'-' if value is None else value}\n")


@app.command
def snapshot() -> None:
    """Archive the figures as they are now, as the schedule's job `stats` does."""
    line = _ask("stats snapshot")
    own = settings("stats snapshot")
    Archive(Path(common("stats snapshot").data_dir), own.archive_days).keep_stats(now_ns(), line)
    sys.stdout.write(f"{len(line):,} bytes archived\n")


@app.command
def export(*, format: str = "json", since: str = "24h") -> None:
    """Archived figures, a snapshot a line.

    Parameters
    ----------
    format
        json (a JSON object a line) or csv.
    since
        From when on: an age (90m, 24h, 7d) or a time in UTC (2026-11-21, 2026-11-21T09:00:00Z).
    """
    if format not in ("json", "csv"):
        fail(f"stats export: --format: {format[:40]!r}; allowed: json, csv", 2)
    from_at_ns = since_ns(since, now_ns())
    if from_at_ns is None:
        fail(f"stats export: --since: {since[:40]!r} is {SINCE_SAYS}", 2)
    kept = Archive(Path(common("stats export").data_dir))
    day = datetime.fromtimestamp(from_at_ns // SECOND_NS, UTC).date()

    def found() -> Iterator[dict[str, Any]]:
        return stats_rows.chosen(kept.stats(day), iso(from_at_ns))

    if format == "json":
        for each in found():
            sys.stdout.write(msgspec.json.encode(each).decode() + "\n")
        return
    names = stats_rows.columns(map(stats_rows.row, found()))
    for line in stats_rows.as_csv(map(stats_rows.row, found()), names) if names else ():
        sys.stdout.write(line)


def _ask(command: str) -> bytes:
    async def work(bus: Bus) -> bytes:
        try:
            return stats_rows.snapshot(await bus.request("observer.stats", b'{"per_page": 1}', ANSWER_WAIT_S))
        except stats_rows.BadSnapshot as error:
            raise Failed(str(error)) from error

    return ask(command, lambda bus, _: work(bus))
