"""Facts and thresholds -> named checks with a value, a limit and the time of their last change; pure.

A check is ok, or it is not; unknown is not ok. Checks that say "the line does not work" make the verdict unhealthy,
those that say "not for long" make it degraded. A finer scale (good, warning, critical, unknown) only needs a second
limit per row of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from observer import figures
from observer.facts import ALIVE_S_MAX, Facts, figure, newest
from observer.times import SECOND_NS, iso
from runtime.settings import Settings

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Value = bool | int | float | None


class Status(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Thresholds(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The largest values that are still ok.

    cpu_percent_max: of all cores.
    memory_percent_max: of the machine, or of the control group where that is less.
    disk_percent_max: of the volume that holds the data.
    feed_silence_s_max: seconds without a frame.
    lag_analyze_max, lag_dispatch_max, lag_bots_max: messages that the stage has not acknowledged.
    """

    cpu_percent_max: Percent = 95.0
    memory_percent_max: Percent = 90.0
    disk_percent_max: Percent = 90.0
    feed_silence_s_max: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    lag_analyze_max: Count = 5_000
    lag_dispatch_max: Count = 1_000
    lag_bots_max: Count = 20_000


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `/api/admin/health`.

    value: None is unknown. limit: the largest value that is ok; for true and false, what it should be.
    since: when `ok` last changed, or when it was first judged; ISO 8601 UTC.
    """

    ok: bool
    value: Value
    limit: Value
    unit: str
    since: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    status: Status
    checks: dict[str, Check]


class _Row(msgspec.Struct, frozen=True):
    value: Value
    limit: Value
    unit: str
    vital: bool


def judge(facts: Facts, limits: Thresholds, previous: Verdict | None = None) -> Verdict:
    """previous: the verdict before this one, from which each check's `since` is carried on."""
    rows = _rows(facts, limits)
    before: Mapping[str, Check] = previous.checks if previous is not None else {}
    checks = {name: _check(row, before.get(name), facts.at_ns) for name, row in rows.items()}
    failing = [name for name, check in checks.items() if not check.ok]
    if not failing:
        status = Status.HEALTHY
    else:
        status = Status.UNHEALTHY if any(rows[name].vital for name in failing) else Status.DEGRADED
    return Verdict(status=status, checks=checks)


def _check(row: _Row, before: Check | None, now_ns: int) -> Check:
    ok = _is_ok(row)
    since = before.since if before is not None and before.ok == ok else iso(now_ns)
    return Check(ok=ok, value=row.value, limit=row.limit, unit=row.unit, since=since)


def _is_ok(row: _Row) -> bool:
    if row.value is None or row.limit is None:
        return False
    return row.value == row.limit if isinstance(row.limit, bool) else row.value <= row.limit


def _rows(facts: Facts, limits: Thresholds) -> dict[str, _Row]:
    """The table of checks, in the order in which people should read them."""
    rows = {
        "broker": _Row(facts.broker_up, True, "up", True),
        "feed_running": _Row(feed_running(facts), True, "running", True),
        "feed_silence": _Row(_feed_silence_s(facts), limits.feed_silence_s_max, "s", True),
        "cpu": _Row(facts.host.cpu_percent, limits.cpu_percent_max, "%", False),
        "memory": _Row(facts.host.memory_percent, limits.memory_percent_max, "%", False),
        "disk": _Row(facts.host.disk_percent, limits.disk_percent_max, "%", True),
    }
    for service in figures.SERVICES:
        rows[f"process_{service}"] = _Row(_silence_s(facts, service), ALIVE_S_MAX, "s", True)
    for service, limit in (
        (figures.ANALYZE, limits.lag_analyze_max),
        (figures.DISPATCH, limits.lag_dispatch_max),
        (figures.BOTS, limits.lag_bots_max),
    ):
        stage = facts.stages.get(service)
        rows[f"lag_{service}"] = _Row(None if stage is None else stage.lag, limit, "messages", False)
    return rows


def feed_running(facts: Facts) -> bool | None:
    value = figure(facts, figures.INGEST, figures.FEED_RUNNING)
    return None if value is None else value == 1


def _feed_silence_s(facts: Facts) -> float | None:
    """Seconds since TOKENS stored anything; None where it holds nothing or is not known."""
    tokens = facts.streams.get("TOKENS")
    if tokens is None or tokens.last_at_ns is None:
        return None
    return _seconds(facts.at_ns - tokens.last_at_ns)


def _silence_s(facts: Facts, service: str) -> float | None:
    seen = newest(facts, service)
    return None if seen is None else _seconds(facts.at_ns - seen.seen_at_ns)


def _seconds(ns: int) -> float:
    return round(max(0, ns) / SECOND_NS, 1)
