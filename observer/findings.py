"""A verdict's checks that are not good -> findings; pure."""

from __future__ import annotations

from observer import levels
from observer.alerts import Finding
from observer.times import parse_iso
from observer.verdict import Verdict
from schemas.alerts import Level

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
