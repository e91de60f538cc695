"""Alerts that begin and end again and again -> a word that says so, and one that says how they stand afterwards; pure.

A fold of ALERTS, as the register is. A change is a beginning, another level or an end; a reminder is none.

    steady     changes_min changes within window_ns: FLAPPING is told, with their number
    flapping   FLAPPING again every remind_ns; after calm_ns without a change it is told how it stands, and it is steady

What the changes in between become is decided where they are sent (`outbox.py`): critical and error are told each time,
warnings and infos are held back, and the next word about the flapping names them and stands for them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from observer.notify.outcomes import URGENT
from observer.times import SECOND_NS, iso
from schemas.alerts import RANK, TEXT_CHARS_MAX, Alert, Happening, Level, alert_id

CHANGES_KEPT_MAX = 1000


class Rule(NamedTuple):
    """When an alert flaps, and for how long it must be calm before it does so no more."""

    changes_min: int
    window_ns: int
    calm_ns: int
    remind_ns: int


class _Change(NamedTuple):
    at_ns: int
    state: Happening
    level: Level


class _Course:
    """One alert's way. changes: the newest within the window."""

    def __init__(self) -> None:
        self.sequence = 0
        self.changes: deque[_Change] = deque(maxlen=CHANGES_KEPT_MAX)
        self.kinds: Counter[Happening] = Counter()  # while it flaps, with those that made it so
        self.held: Counter[Happening] = Counter()  # since the last word about the flapping
        self.newest: Alert | None = None
        self.told: Alert | None = None  # the newest word that it flaps; None while it does not

    @property
    def changed_at_ns(self) -> int:
        return self.newest.at_ns if self.newest is not None else 0


class Flaps:
    """Which alerts flap."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._courses: dict[str, _Course] = {}

    def __contains__(self, fingerprint: str) -> bool:
        course = self._courses.get(fingerprint)
        return course is not None and course.told is not None

    def fold(self, sequence: int, alert: Alert) -> None:
        """What ALERTS holds; a word that was heard before changes nothing."""
        reminder = alert.state is Happening.FIRING and alert.reminder > 0 and not alert.flaps
        if alert.state not in (Happening.FIRING, Happening.RESOLVED, Happening.FLAPPING) or reminder:
            return
        course = self._courses.setdefault(alert.fingerprint, _Course())
        if sequence <= course.sequence:
            return
        course.sequence = sequence
        if alert.state is Happening.FLAPPING:
            if course.told is None:
                course.kinds = Counter(change.state for change in course.changes)
            course.told, course.newest = alert, course.newest or alert
            course.held.clear()
        elif alert.flaps:
            course.told = None
            course.changes.clear()
        else:
            self._change(course, alert)

    def _change(self, course: _Course, alert: Alert) -> None:
        course.newest = alert
        course.changes.append(_Change(alert.at_ns, alert.state, alert.level))
        while course.changes[0].at_ns <= alert.at_ns - self._rule.window_ns:
            course.changes.popleft()
        if course.told is None:
            return
        course.kinds[alert.state] += 1
        if alert.level not in URGENT:
            course.held[alert.state] += 1

    def due(self, alerts: Mapping[str, Alert], now_ns: int) -> Iterator[Alert]:
        """What is to be told now. alerts: the open ones, by fingerprint."""
        rule = self._rule
        for fingerprint, course in list(self._courses.items()):
            calm = now_ns - course.changed_at_ns >= rule.calm_ns
            if course.told is not None:
                if calm:
                    yield _calm(course, alerts.get(fingerprint), rule, now_ns)
                elif now_ns - course.told.at_ns >= rule.remind_ns:
                    yield _flapping(course, course.told.reminder + 1, rule, now_ns)
            elif len(course.changes) >= rule.changes_min and not calm:
                yield _flapping(course, 0, rule, now_ns)
            elif calm and now_ns - course.changed_at_ns >= rule.window_ns:
                del self._courses[fingerprint]


def _flapping(course: _Course, reminder: int, rule: Rule, now_ns: int) -> Alert:
    newest = course.newest
    assert newest is not None
    level: Level = min((change.level for change in course.changes), key=lambda one: RANK[one], default=newest.level)
    kinds = course.kinds if reminder else Counter(change.state for change in course.changes)
    if reminder:
        said = f"It has changed {_changes(kinds)} by now; {_held(course)}."
    else:
        said = (
            f"It has changed {_changes(kinds)} within {_minutes(now_ns - course.changes[0].at_ns)}. "
            f"Warnings and infos of it are held back until it has been calm for {_minutes(rule.calm_ns)}; "
            "critical and error are told each time."
        )
    return replace(
        newest,
        id=alert_id(newest.fingerprint, newest.at_ns, Happening.FLAPPING, level, reminder),
        level=level,
        state=Happening.FLAPPING,
        text=said,
        reminder=reminder,
        flaps=max(1, kinds.total()),
        at_ns=now_ns,
    )


def _calm(course: _Course, lasting: Alert | None, rule: Rule, now_ns: int) -> Alert:
    newest = course.newest
    assert newest is not None
    stands = newest if lasting is None else lasting
    said = f"Calm for {_minutes(rule.calm_ns)}, after it had changed {_changes(course.kinds)}; {_held(course)}."
    told = f"Over since {iso(newest.at_ns)}." if lasting is None else lasting.text
    return replace(
        stands,
        id=f"{alert_id(newest.fingerprint, newest.at_ns, Happening.FLAPPING, newest.level)}:calm",
        state=Happening.RESOLVED if lasting is None else Happening.FIRING,
        text=f"{said}\n{told}"[:TEXT_CHARS_MAX],
        flaps=max(1, course.kinds.total()),
        at_ns=now_ns,
    )


def _changes(kinds: Counter[Happening]) -> str:
    return f"{kinds.total()} times ({_named(kinds)})" if kinds else "often"


def _held(course: _Course) -> str:
    return f"held back since the last word: {_named(course.held)}" if course.held else "nothing was held back"


def _named(kinds: Counter[Happening]) -> str:
    return ", ".join(f"{kinds[state]}x {state}" for state in Happening if kinds[state])


def _minutes(ns: int) -> str:
    seconds = ns // SECOND_NS
    return f"{seconds // 60} min" if seconds >= 120 else f"{seconds} s"
