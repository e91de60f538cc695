"""A verdict's failing checks -> findings; pure."""

from __future__ import annotations

from observer.alerts import Finding
from observer.times import parse_iso
from observer.verdict import Verdict
from schemas.alerts import Level

# Checks that say "not for long"; the others say "it does not work".
_WARNINGS = ("cpu", "memory", "lag_")


def findings(verdict: Verdict) -> list[Finding]:
    return [
        Finding(
            fingerprint=f"check:{name}",
            name=name,
            level=Level.WARNING if name.startswith(_WARNINGS) else Level.CRITICAL,
            text=f"The check {name} fails.",
            since_ns=parse_iso(check.since) or 0,
            value="" if check.value is None else str(check.value),
            limit="" if check.limit is None else str(check.limit),
            unit=check.unit,
        )
        for name, check in verdict.checks.items()
        if not check.ok
    ]
