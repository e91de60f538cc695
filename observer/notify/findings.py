"""A verdict's checks that are not good -> findings; what the schedule has to tell -> an alert; pure."""

from __future__ import annotations

from observer.health import levels
from observer.health.verdict import Verdict
from observer.notify.alerts import Finding, notice
from observer.schedule.plan import Notice
from observer.times import parse_iso
from schemas.alerts import Alert, Level

# What is not known is told as a warning: nobody can say that it is well.
_LEVELS = {
    levels.Level.WARNING: Level.WARNING,
    levels.Level.CRITICAL: Level.CRITICAL,
    levels.Level.UNKNOWN: Level.WARNING,
}


def findings(verdict: Verdict) -> list[Finding]:
    return [
        Finding(
            fingerprint=f"check:{name}",
            name=name,
            level=_LEVELS[check.level],
            text=f"{name}: {check.reason or check.level}",
            since_ns=parse_iso(check.since) or 0,
            value="" if check.value is None else str(check.value),
            limit="" if check.limit is None else str(check.limit),
            unit=check.unit,
        )
        for name, check in verdict.checks.items()
        if check.level in _LEVELS
    ]


def job_alert(told: Notice) -> Alert:
    """A report is for information; a job that failed or was missed breaks one thing and not the feed."""
    if told.kind == "report":
        first, _, rest = told.sentence.partition("\n")
        return notice("DailyReport", Level.INFO, first, rest, told.at_ns)
    level = Level.ERROR if told.job in ("report", "backup", "backup_check") else Level.WARNING
    return notice(f"Job:{told.job}", level, told.sentence, "", told.at_ns)
