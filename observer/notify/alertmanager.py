"""Alertmanager's webhook (version 4 of its JSON) -> reports; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from observer.notify.alerts import Report
from schemas.alerts import Level
from schemas.codec import MalformedEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEVELS = {level.value: level for level in Level}
CANARY = "MintlineCanary"
_FINGERPRINT_CHARS_MAX = 64


class _Alert(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    fingerprint: str
    starts_at: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Webhook(msgspec.Struct, frozen=True, rename="camel"):
    alerts: list[_Alert]
    version: str = ""
    truncated_alerts: int = 0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook's alerts. ignored: those of severity none, as the watchdog's. truncated: that it left out.

    canary: whether the one that always fires is among them, firing, which shows that the way here is open.
    """

    reports: list[Report]
    ignored: int
    truncated: int
    canary: bool


_webhook = msgspec.json.Decoder(_Webhook)


def parse(body: bytes) -> Heard:
    """Raises MalformedEvent: a repetition does not help."""
    try:
        webhook = _webhook.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(str(error)) from error
    if webhook.version != "4":
        raise MalformedEvent(f"version {webhook.version!r}, not 4")
    reports = [_report(alert) for alert in webhook.alerts]
    known = [report for report in reports if report is not None]
    canary = any(alert.labels.get("alertname") == CANARY and alert.status == "firing" for alert in webhook.alerts)
    return Heard(reports=known, ignored=len(reports) - len(known), truncated=webhook.truncated_alerts, canary=canary)


def level_of(labels: dict[str, str]) -> Level | None:
    """The label `level`, or what follows from `severity`; None for severity none; what nobody knows is a warning."""
    named = labels.get("level") or labels.get("severity") or ""
    return None if named == "none" else _LEVELS.get(named, Level.WARNING)


def _report(alert: _Alert) -> Report | None:
    level = level_of(alert.labels)
    if level is None or alert.labels.get("alertname") == CANARY:
        return None
    if not alert.fingerprint or len(alert.fingerprint) > _FINGERPRINT_CHARS_MAX:
        raise MalformedEvent("an alert without a fingerprint")
    name = alert.labels.get("alertname", "alert")
    notes = alert.annotations
    told = [notes.get("description", "")]
    told += [f"{label}: {value}" for label, value in sorted(alert.labels.items()) if label not in _SHOWN_ELSEWHERE]
    return Report(
        fingerprint=alert.fingerprint,
        name=name,
        level=level,
        firing=alert.status == "firing",
        summary=notes.get("summary", name),
        text="\n".join(line for line in told if line),
        url=notes.get("runbook_url", ""),
        dashboard=notes.get("dashboard_url", ""),
        started_at_ns=_time_ns(alert.starts_at),
    )


_SHOWN_ELSEWHERE = frozenset({"alertname", "severity", "level"})


def _time_ns(text: str) -> int:
    """RFC 3339 with any offset, to the microsecond."""
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError("no offset")
    except ValueError as error:
        raise MalformedEvent(f"startsAt {text[:40]!r} is no time") from error
    return max(0, (at - _EPOCH) // timedelta(microseconds=1)) * 1000
