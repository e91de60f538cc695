"""The table of jobs, and the settings that move or switch off its lines: pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.structs import replace

from observer.health.limits import Thresholds
from observer.schedule.plan import BadCron, Job, check
from runtime.settings import Common, SettingsError

PREFIX = "MINTLINE_OBSERVER_"
MINUTE_S, HOUR_S = 60, 3600

# In the order in which people should read them. What a job does is bound to its name in `observer/schedule/jobs.py`.
JOBS = (
    Job(
        name="health",
        cron="*/5 * * * *",
        limit_s=MINUTE_S,
        late_s_max=4 * MINUTE_S,
        command="doctor",
        sentence="Judge the health of everything; a run fails when something is unhealthy",
    ),
    Job(
        name="stats",
        cron="*/5 * * * *",
        limit_s=MINUTE_S,
        late_s_max=4 * MINUTE_S,
        command="stats snapshot",
        sentence="Archive what the admin interface tells",
    ),
    Job(
        name="report",
        cron="0 9 * * *",
        limit_s=10 * MINUTE_S,
        late_s_max=12 * HOUR_S,
        command="report --archive",
        sentence="The daily report: text, page and JSON into the archive",
    ),
    Job(
        name="backup",
        cron="0 2 * * *",
        limit_s=2 * HOUR_S,
        late_s_max=12 * HOUR_S,
        command="backup create",
        sentence="Copy every stream and bucket",
    ),
    Job(
        name="backup_check",
        cron="0 */6 * * *",
        limit_s=HOUR_S,
        late_s_max=3 * HOUR_S,
        command="backup verify",
        sentence="Restore the newest backup beside the broker and compare",
    ),
)


class ScheduleSettings(Thresholds, frozen=True, kw_only=True, forbid_unknown_fields=True):
    __doc__ = f"""{Thresholds.__doc__}
    schedule_zone: time zone that the schedule's hours and the daily report's days are in, e.g. Europe/Berlin.
    schedule_health, schedule_stats, schedule_report, schedule_backup, schedule_backup_check: cron expression of the
        job, five fields; empty, or "off", leaves it to another scheduler.
    ping_url: address of a dead-man's switch; {{job}} in it stands for the job's name with - for _. Each run asks for
        URL/start, then for URL, or for URL/fail with the reason.
    archive_days: days that reports and archived stats are kept.
    """

    schedule_zone: str = "UTC"
    schedule_health: str = "*/5 * * * *"
    schedule_stats: str = "*/5 * * * *"
    schedule_report: str = "0 9 * * *"
    schedule_backup: str = "0 2 * * *"
    schedule_backup_check: str = "0 */6 * * *"
    ping_url: str = ""
    archive_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 90

    def check(self, common: Common) -> None:
        super().check(common)
        self.zone()
        for job in self.jobs():
            try:
                check(job.cron)
            except BadCron as error:
                raise SettingsError(f"{PREFIX}SCHEDULE_{job.name.upper()}: {error}") from None
        if self.ping_url and not self.ping_url.startswith(("http://", "https://")):
            raise SettingsError(f"{PREFIX}PING_URL: no http:// or https:// address")

    def zone(self) -> ZoneInfo:
        """Raises SettingsError."""
        try:
            return ZoneInfo(self.schedule_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SettingsError(
                f"{PREFIX}SCHEDULE_ZONE: no time zone of this system is called {self.schedule_zone!r}"
            ) from None

    def jobs(self) -> tuple[Job, ...]:
        """Those that are switched on, with their expressions."""
        return tuple(self._on())

    def _on(self) -> Iterator[Job]:
        for job in JOBS:
            cron = getattr(self, f"schedule_{job.name}").strip()
            if cron and cron != "off":
                yield replace(job, cron=cron)
