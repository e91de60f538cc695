"""Alerts that last, and that nobody acknowledged -> a word to a channel that is kept for them; pure.

A fold of ALERTS, as the register is. A channel with `after_ns` hears nothing of an alert until it has been open for so
long, at a level that the channel takes, and not acknowledged. Then ESCALATED is told, to this channel alone and once;
from then on the channel hears what all hear of the alert, until it is over (`outbox.py`).

An acknowledgement counts until the alert is over, or more urgent than it was then. An alert that flaps is not over
while it is merely between two of its beginnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from observer.notify.flapping import Flaps
from observer.notify.line import Plan
from observer.times import SECOND_NS
from schemas.alerts import RANK, TEXT_CHARS_MAX, Alert, Happening, alert_id


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What people may want to know of an open alert besides its newest word.

    acknowledged: what was said with it, "" while nobody did. escalates_at_ns: by channel, for those still to come.
    """

    flapping: bool
    acknowledged: str
    escalated: list[str]
    escalates_at_ns: dict[str, int]


class _Course:
    """One alert's way. since_ns: by channel, from when on it has been as urgent as that channel wants it."""

    def __init__(self) -> None:
        self.sequence = 0
        self.since_ns: dict[str, int] = {}
        self.escalated: set[str] = set()
        self.acknowledged: Alert | None = None


class Escalations:
    """Which open alerts wait for somebody."""

    def __init__(self, plans: Iterable[Plan]) -> None:
        self._plans = [plan for plan in plans if plan.after_ns]
        self._courses: dict[str, _Course] = {}

    def fold(self, sequence: int, alert: Alert, flapping: Flaps) -> None:
        """What ALERTS holds; a word that was heard before changes nothing."""
        course = self._courses.get(alert.fingerprint)
        if course is None and alert.state is Happening.FIRING:
            course = self._courses[alert.fingerprint] = _Course()
        if course is None or sequence <= course.sequence:
            return
        course.sequence = sequence
        if alert.state is Happening.ACKNOWLEDGED:
            course.acknowledged = alert
        elif alert.state is Happening.ESCALATED:
            course.escalated.add(alert.channel)
        elif alert.state is Happening.FIRING:
            self._fires(course, alert)
        elif alert.state is Happening.RESOLVED and alert.fingerprint not in flapping:
            del self._courses[alert.fingerprint]

    def _fires(self, course: _Course, alert: Alert) -> None:
        acknowledged = course.acknowledged
        if acknowledged is not None and RANK[alert.level] < RANK[acknowledged.level]:
            course.acknowledged = None
        for one in self._plans:
            if RANK[alert.level] <= RANK[one.level_min]:
                course.since_ns.setdefault(one.channel, alert.at_ns)
            else:
                course.since_ns.pop(one.channel, None)

    def due(self, alerts: Mapping[str, Alert], flapping: Flaps, now_ns: int) -> Iterator[Alert]:
        """What is to be told now. alerts: the open ones, by fingerprint."""
        for fingerprint, alert in alerts.items():
            for one, at_ns in self._coming(fingerprint):
                if now_ns >= at_ns:
                    yield _escalated(alert, one, fingerprint in flapping, at_ns, now_ns)

    def _coming(self, fingerprint: str) -> Iterator[tuple[Plan, int]]:
        course = self._courses.get(fingerprint)
        if course is None or course.acknowledged is not None:
            return
        for one in self._plans:
            since_ns = course.since_ns.get(one.channel)
            if since_ns is not None and one.channel not in course.escalated:
                yield one, since_ns + one.after_ns

    def standing(self, fingerprint: str, flapping: Flaps) -> Standing:
        course = self._courses.get(fingerprint, _Course())
        said = course.acknowledged
        return Standing(
            flapping=fingerprint in flapping,
            acknowledged="" if said is None else said.text or "yes",
            escalated=sorted(course.escalated),
            escalates_at_ns={one.channel: at_ns for one, at_ns in self._coming(fingerprint)},
        )


def _escalated(alert: Alert, to: Plan, flapping: bool, at_ns: int, now_ns: int) -> Alert:
    minutes = to.after_ns // SECOND_NS / 60
    said = f"Nobody has acknowledged it for {minutes:g} min (mintline alerts ack {alert.name})."
    said = f"{said} It begins and ends again and again." if flapping else said
    return replace(
        alert,
        id=f"{alert_id(alert.fingerprint, at_ns, Happening.ESCALATED, alert.level)}:{to.channel}",
        state=Happening.ESCALATED,
        text=f"{said}\n{alert.text}"[:TEXT_CHARS_MAX],
        channel=to.channel,
        flaps=int(flapping),
        at_ns=now_ns,
    )


def acknowledged(alert: Alert, note: str, now_ns: int) -> Alert:
    """The operator's word: somebody works on it."""
    return replace(
        alert,
        id=alert_id(alert.fingerprint, now_ns, Happening.ACKNOWLEDGED, alert.level),
        state=Happening.ACKNOWLEDGED,
        source="operator",
        text=note[:TEXT_CHARS_MAX],
        url="",
        flaps=0,
        at_ns=now_ns,
    )
