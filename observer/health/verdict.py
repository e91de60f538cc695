"""Rows of `checks.py` -> named checks, each graded and with the time of its last change, and one word for all; pure.

A vital check that is critical or unknown says "the line does not work" and makes the verdict unhealthy; any other check
that is not good says "not for long" and makes it degraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from observer.facts import Facts
from observer.health.checks import Row, Value, grade, rows
from observer.health.levels import Level
from observer.health.limits import Thresholds
from observer.health.watch import Watched
from observer.times import iso


class Status(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `/api/admin/health`.

    ok: whether its level is good. value: None is unknown. limit: the last value that is good, critical: the last one
    that is not critical; where critical lies below limit, small values are the bad ones. For true and false, limit is
    what it should be. since: when `level` last changed, or when it was first judged; ISO 8601 UTC. reason: in words,
    "" where there is nothing to say. names: users by kind of difference, the first ones.
    """

    ok: bool
    value: Value
    limit: Value
    unit: str
    since: str
    level: Level
    critical: Value = None
    reason: str = ""
    names: Mapping[str, tuple[str, ...]] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    status: Status
    checks: dict[str, Check]


def judge(facts: Facts, limits: Thresholds, previous: Verdict | None = None, watched: Watched | None = None) -> Verdict:
    """previous: the verdict before this one, from which each check's `since` is carried on. watched: None where nothing
    was."""
    table = rows(facts, watched or Watched(), limits)
    before: Mapping[str, Check] = previous.checks if previous is not None else {}
    checks = {name: checked(row, before.get(name), facts.at_ns) for name, row in table.items()}
    return Verdict(status=overall(checks, {name for name, row in table.items() if row.vital}), checks=checks)


def checked(row: Row, before: Check | None, now_ns: int) -> Check:
    level = grade(row)
    return Check(
        ok=level is Level.GOOD,
        value=row.value,
        limit=row.limit,
        unit=row.unit,
        since=before.since if before is not None and before.level == level else iso(now_ns),
        level=level,
        critical=row.critical,
        reason=row.reason,
        names=row.names,
    )


def overall(checks: Mapping[str, Check], vital: set[str]) -> Status:
    if any(name in vital and check.level in (Level.CRITICAL, Level.UNKNOWN) for name, check in checks.items()):
        return Status.UNHEALTHY
    return Status.HEALTHY if all(check.ok for check in checks.values()) else Status.DEGRADED
