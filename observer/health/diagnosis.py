"""What `mintline doctor` learned -> one list of checks, a status, and what to do; pure.

Observer's own checks come first-hand, by way of the broker or over HTTP. Beside them stands what can be seen from here:
whether broker, observer, portal and processes answer at all, and if observer does not, this machine's memory and disk.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from observer.admin import HealthAnswer
from observer.facts import HostFacts
from observer.health.checks import Row
from observer.health.levels import Level
from observer.health.limits import Thresholds
from observer.health.remedies import remedy
from observer.health.verdict import Check, Status, checked, overall

VITAL = {"broker_reachable", "observer_reachable", "disk"}
_WORST = (Status.UNHEALTHY, Status.DEGRADED, Status.HEALTHY)


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one attempt. answer: None where there was none, and why says why not."""

    answer: bytes | None
    why: str
    health: HealthAnswer | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """success: whether every check is good. source: who told observer's checks: broker, http, or none. remedies: for
    the checks that are not good; without a broker for those alone that are known, as the others follow from it."""

    success: bool
    status: Status
    active_bots: int | None
    source: str
    checks: dict[str, Check]
    remedies: dict[str, str]


def conclude(
    now_ns: int,
    limits: Thresholds,
    *,
    broker: Reached,
    by_broker: Reached,
    by_http: Reached,
    portal: Reached | None,
    processes: Mapping[str, Reached],
    host: HostFacts,
) -> Diagnosis:
    """broker: whether its port answers; by_broker, by_http: observer's health, asked both ways; portal: None where its
    address is not known; processes: the HTTP address of each that is known; host: of this machine."""
    health = by_broker.health or by_http.health
    rows = _reached(broker, by_broker, by_http, portal, processes)
    if health is None:
        rows |= _host(host, limits)
    here = {name: checked(row, None, now_ns) for name, row in rows.items()}
    checks = {**here, **(health.checks if health is not None else {})}
    up = checks.get("broker", checks["broker_reachable"]).ok and checks["broker_reachable"].ok
    statuses = {overall(here, VITAL)} | ({health.status} if health is not None else set())
    return Diagnosis(
        success=all(check.ok for check in checks.values()),
        status=next(status for status in _WORST if status in statuses),
        active_bots=None if health is None else health.active_bots,
        source="broker" if by_broker.health is not None else "http" if health is not None else "none",
        checks=checks,
        remedies={name: remedy(name) for name, check in checks.items() if _needs(check, up)},
    )


def _needs(check: Check, broker_up: bool) -> bool:
    """A remedy of its own."""
    return not check.ok and (broker_up or check.level is not Level.UNKNOWN)


def _reached(
    broker: Reached, by_broker: Reached, by_http: Reached, portal: Reached | None, processes: Mapping[str, Reached]
) -> dict[str, Row]:
    """A broker that lets us in answers, even where its port greets in TLS alone."""
    up = by_broker.health is not None or broker.answer is not None
    heard = by_broker.health is not None or by_http.health is not None
    whys = "; ".join(f"{way}: {each.why}" for way, each in (("broker", by_broker), ("HTTP", by_http)))
    rows = {
        "broker_reachable": Row(value=up, limit=True, unit="reachable", reason="" if up else broker.why),
        "observer_reachable": Row(value=heard, limit=True, unit="reachable", reason="" if heard else whys),
    }
    if portal is not None:
        rows["portal_reachable"] = Row(value=portal.answer is not None, limit=True, unit="reachable", reason=portal.why)
    if processes:
        silent = {service: each.why for service, each in processes.items() if each.answer is None}
        rows["processes_reachable"] = Row(
            value=len(silent),
            limit=0,
            critical=0,
            unit="silent",
            reason="; ".join(f"{service}: {why}" for service, why in silent.items()),
        )
    return rows


def _host(host: HostFacts, limits: Thresholds) -> dict[str, Row]:
    return {
        "memory": Row(
            value=host.memory_percent,
            limit=limits.memory_percent_max,
            critical=limits.memory_percent_critical,
            unit="%",
            reason="of this machine",
        ),
        "disk": Row(
            value=host.disk_percent,
            limit=limits.disk_percent_max,
            critical=limits.disk_percent_critical,
            unit="%",
            reason="the volume of the data directory, seen from here",
        ),
    }
