"""`mintline schedule`: the observer's jobs, their last runs, and the same for another scheduler."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import cyclopts
import msgspec
from rich.console import Console
from rich.table import Table

from observer.asking import settings
from observer.schedule import export as schedule_export
from observer.schedule.plan import Job, Record, next_due
from observer.schedule.scheduler import BUCKET
from observer.schedule.settings import JOBS
from observer.times import SECOND_NS, iso
from runtime import buckets
from runtime.asking import ask
from runtime.bus import Bus
from runtime.standalone import fail
from runtime.telemetry import now_ns
from schemas.codec import Decoder

app = cyclopts.App(name="schedule", help="The observer's jobs, and the same for another scheduler.")

_record: Decoder[Record] = Decoder(Record)
_NAMES = tuple(job.name for job in JOBS)


@app.command(name="list")
def list_(*, json: bool = False) -> None:
    """The jobs that an observer with these settings runs, when they are due next, and how their last runs went.

    Parameters
    ----------
    json
        One JSON document.
    """
    own = settings("schedule list")
    records = ask("schedule list", lambda bus, _: _read(bus))
    zone, now = own.zone(), now_ns()
    if json:
        rows = [_row(job, zone, now, records.get(job.name)) for job in own.jobs()]
        sys.stdout.write(msgspec.json.encode({"zone": zone.key, "jobs": rows}).decode() + "\n")
        return
    table = Table(
        "job", "cron", "due next", "last run", "result", "last success", "missed", title=f"times in {zone.key}"
    )
    for job in own.jobs():
        record = records.get(job.name)
        cells = ("-", "never", "-", "0") if record is None else (
            _shown(record.started_at_ns, zone), f"{record.outcome} {record.said}".strip(),
            _shown(record.ok_at_ns, zone), str(record.missed),
        )  # fmt: skip
        table.add_row(job.name, job.cron, _shown(next_due(job.cron, zone, now), zone), *cells)
    if sys.stdout.isatty():
        Console().print(table)
        return
    for job in own.jobs():
        row = _row(job, zone, now, records.get(job.name))
        sys.stdout.write("\t".join("-" if row[name] in (None, "") else str(row[name]) for name in _PLAIN) + "\n")


_PLAIN = ("job", "cron", "due_at", "outcome", "started_at", "ok_at", "missed", "said")


@app.command
def export(*, format: str, out: Path | None = None, image: str = schedule_export.IMAGE) -> None:
    """The same schedule for cron, systemd, the Windows Task Scheduler or Kubernetes.

    Switch the observer's own off then (MINTLINE_OBSERVER_SCHEDULE_…=off), or jobs run twice.

    Parameters
    ----------
    format
        cron, systemd, windows or k8s.
    out
        A folder to write the files into; without it they are printed.
    image
        Of the containers, for k8s.
    """
    if format not in schedule_export.FORMATS:
        fail(f"schedule export: --format: {format[:40]!r}; allowed: {', '.join(schedule_export.FORMATS)}", 2)
    own = settings("schedule export")
    try:
        files = schedule_export.export(format, own.jobs(), own.schedule_zone, image)
    except schedule_export.CannotSay as error:
        fail(f"schedule export: {error}", 1)
    if out is None:
        _print(files)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text)
            sys.stdout.write(f"{out / name}\n")
    except OSError as error:
        fail(f"schedule export: --out: {error}", 1)


def _print(files: Mapping[str, str]) -> None:
    """One file as it is; of several, each under its name."""
    for name, text in files.items():
        sys.stdout.write(text if len(files) == 1 else f"===== {name}\n{text}\n")


async def _read(bus: Bus) -> dict[str, Record]:
    found = {}
    for name in _NAMES:
        entry = await buckets.get(bus, BUCKET, name)
        if entry is not None:
            found[name] = _record(entry.data)
    return found


def _row(job: Job, zone: ZoneInfo, now: int, record: Record | None) -> dict[str, str | int | None]:
    def time(name: str) -> str | None:
        at_ns = getattr(record, name, 0)
        return iso(at_ns) if at_ns else None

    return {
        "job": job.name,
        "sentence": job.sentence,
        "cron": job.cron,
        "limit_s": job.limit_s,
        "late_s_max": job.late_s_max,
        "due_at": iso(next_due(job.cron, zone, now)),
        "outcome": record.outcome if record else "never",
        "said": record.said if record else "",
        "started_at": time("started_at_ns"),
        "ended_at": time("ended_at_ns"),
        "ok_at": time("ok_at_ns"),
        "missed": record.missed if record else 0,
        "missed_at": time("missed_at_ns"),
    }


def _shown(at_ns: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at_ns // SECOND_NS, zone).strftime("%m-%d %H:%M:%S") if at_ns else "-"
