"""Findings over time -> what is worth telling: opened, still open, resolved; pure.

The register is a fold of the ALERTS stream, so a start is a reading back, and whoever tells the same twice is not
heard twice. Each source speaks for its own alerts:

    observer        its findings come complete each time; one that is missing is over
    alertmanager    repeats what fires and says what is resolved; one that it never mentions again is closed in the end
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from observer.times import SECOND_NS, iso
from schemas.alerts import MUTE_NAME, SUMMARY_CHARS_MAX, TEXT_CHARS_MAX, Alert, Happening, Level, Mute, alert_id

OBSERVER, ALERTMANAGER = "observer", "alertmanager"
FORGET_NS = 26 * 3600 * SECOND_NS  # twice the longest repeat_interval (12 h), and two hours
OPEN_MAX = 10_000
CHANNEL_DISABLED = "ChannelDisabled:"  # how the name of that alert begins; the channel's follows


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now, by whomever found it. since_ns: since when. value, limit: as text, may be empty."""

    fingerprint: str
    name: str
    level: Level
    text: str
    since_ns: int
    value: str = ""
    limit: str = ""
    unit: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else says of one of its alerts."""

    fingerprint: str
    name: str
    level: Level
    firing: bool
    summary: str
    text: str
    url: str
    dashboard: str = ""
    started_at_ns: int


class Register:
    """The alerts that are open."""

    def __init__(self, hold_ns: int, remind_ns: int) -> None:
        self._hold_ns = hold_ns
        self._remind_ns = remind_ns
        self.open: dict[str, Alert] = {}  # by fingerprint: the newest word
        self._sequences: dict[str, int] = {}
        self._closed_since: dict[str, int] = {}  # by fingerprint: when that which was resolved last had begun
        self._heard_at_ns: dict[str, int] = {}

    def fold(self, sequence: int, alert: Alert) -> None:
        """What ALERTS holds, in any order: of a fingerprint the newest word counts."""
        if alert.state not in (Happening.FIRING, Happening.RESOLVED):
            return
        if sequence <= self._sequences.get(alert.fingerprint, 0):
            return
        self._sequences[alert.fingerprint] = sequence
        if alert.state is Happening.FIRING:
            self.open[alert.fingerprint] = alert
            self._heard_at_ns.setdefault(alert.fingerprint, alert.at_ns)
        else:
            self.open.pop(alert.fingerprint, None)
            self._heard_at_ns.pop(alert.fingerprint, None)
            self._closed_since[alert.fingerprint] = alert.started_at_ns
            while len(self._closed_since) > OPEN_MAX:  # the oldest
                gone = next(iter(self._closed_since))
                del self._closed_since[gone]
                if gone not in self.open:
                    self._sequences.pop(gone, None)

    def observe(self, findings: Iterable[Finding], now_ns: int) -> list[Alert]:
        """All that observer finds now -> what is new, what changed its level, what is over."""
        found = {finding.fingerprint: finding for finding in findings}
        told = []
        for fingerprint, finding in found.items():
            known = self.open.get(fingerprint)
            if known is None and now_ns - finding.since_ns < self._hold_ns:
                continue
            if known is None or (known.level is not finding.level and known.source == OBSERVER):
                told.append(_found(finding, known, now_ns))
        for alert in list(self.open.values()):
            if alert.source == OBSERVER and alert.fingerprint not in found:
                told.append(_resolved(alert, "", now_ns))
        return told

    def hear(self, reports: Iterable[Report], now_ns: int) -> list[Alert]:
        """What Alertmanager says -> what we did not know. An alert that it repeats unchanged is none of it."""
        told = []
        for report in reports:
            known = self.open.get(report.fingerprint)
            if report.firing:
                self._heard_at_ns[report.fingerprint] = now_ns
                stale = self._closed_since.get(report.fingerprint, -1) >= report.started_at_ns
                if (known is None and not stale) or (known is not None and known.level is not report.level):
                    told.append(_reported(report, now_ns))
            elif known is not None and known.source == ALERTMANAGER:
                told.append(_resolved(known, report.text, now_ns))
        return told

    def remind(self, now_ns: int) -> Iterator[Alert]:
        """What has been open for long and should be told again, or closed because its source fell silent."""
        for alert in list(self.open.values()):
            heard_ns = self._heard_at_ns.get(alert.fingerprint, now_ns)
            if alert.source == ALERTMANAGER and now_ns - heard_ns > FORGET_NS:
                yield _resolved(alert, "Alertmanager has not mentioned it for 26 hours.", now_ns)
                continue
            urgent = alert.level in (Level.CRITICAL, Level.ERROR)
            if now_ns - alert.at_ns >= self._remind_ns // (4 if urgent else 1):
                reminder = alert.reminder + 1
                yield msgspec.structs.replace(
                    alert,
                    id=alert_id(alert.fingerprint, alert.started_at_ns, Happening.FIRING, alert.level, reminder),
                    reminder=reminder,
                    at_ns=now_ns,
                )


def notice(name: str, level: Level, summary: str, text: str, now_ns: int, *, source: str = OBSERVER) -> Alert:
    """Something to tell once: a report, the end of a silence. Publish it to `alerts.<level>`."""
    return Alert(
        id=alert_id(name, now_ns, Happening.NOTICE, level),
        fingerprint=name,
        name=name,
        level=level,
        state=Happening.NOTICE,
        source=source,
        summary=summary[:SUMMARY_CHARS_MAX],
        text=text[:TEXT_CHARS_MAX],
        started_at_ns=now_ns,
        at_ns=now_ns,
    )


def mute_begun(mute: Mute) -> Alert:
    said = f"{mute.name} is muted until {iso(mute.until_at_ns)}: {mute.reason}"
    return notice(MUTE_NAME, Level.WARNING, said, "", mute.since_at_ns, source="operator")


def mute_ended(mute: Mute) -> Alert:
    """The same however often it is told."""
    return notice(f"MuteEnded:{mute.id}", Level.WARNING, f"{mute.name} is no longer muted.", "", mute.until_at_ns)


def _found(finding: Finding, known: Alert | None, now_ns: int) -> Alert:
    started_ns = finding.since_ns if known is None else known.started_at_ns
    figures = f"{finding.value} {finding.unit}".strip() or "unknown"
    limit = f" (limit {finding.limit} {finding.unit}".rstrip() + ")" if finding.limit else ""
    return Alert(
        # A level that goes up and down again is told each time, so the time of the change is part of the id.
        id=alert_id(finding.fingerprint, started_ns if known is None else now_ns, Happening.FIRING, finding.level),
        fingerprint=finding.fingerprint,
        name=finding.name,
        level=finding.level,
        state=Happening.FIRING,
        source=OBSERVER,
        summary=finding.text[:SUMMARY_CHARS_MAX],
        text=f"It is {figures}{limit}.",
        started_at_ns=started_ns,
        at_ns=now_ns,
    )


def _reported(report: Report, now_ns: int) -> Alert:
    return Alert(
        id=alert_id(report.fingerprint, report.started_at_ns, Happening.FIRING, report.level),
        fingerprint=report.fingerprint,
        name=report.name,
        level=report.level,
        state=Happening.FIRING,
        source=ALERTMANAGER,
        summary=report.summary[:SUMMARY_CHARS_MAX],
        text=report.text[:TEXT_CHARS_MAX],
        url=report.url,
        dashboard=report.dashboard,
        started_at_ns=report.started_at_ns,
        at_ns=now_ns,
    )


def _resolved(alert: Alert, text: str, now_ns: int) -> Alert:
    return msgspec.structs.replace(
        alert,
        id=alert_id(alert.fingerprint, alert.started_at_ns, Happening.RESOLVED, alert.level, alert.reminder),
        state=Happening.RESOLVED,
        text=text[:TEXT_CHARS_MAX],
        at_ns=now_ns,
    )
