"""From where on a panel is yellow or red: what the health checks take, or what an alert waits for; pure.

Nothing is typed twice: a check's limits come from its settings' defaults, an alert's from the rule itself.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from observer.health.limits import Thresholds

GOOD, FAIR, BAD, PLAIN = "green", "yellow", "red", "blue"


class Step(NamedTuple):
    """The colour of a value, and of all above it up to the next step. at: None for the lowest."""

    at: float | None
    colour: str


Steps = tuple[Step, ...]

NONE: Final[Steps] = (Step(None, PLAIN),)  # no value is better than another
ANY_IS_BAD: Final[Steps] = (Step(None, GOOD), Step(1, BAD))
ANY_IS_FAIR: Final[Steps] = (Step(None, GOOD), Step(1, FAIR))
LEFT_IS_GOOD: Final[Steps] = (Step(None, BAD), Step(0, GOOD))  # of a budget that may be overdrawn

PERCENT, HOUR_S, DAY_S = 0.01, 3600, 86_400

_RULE = re.compile(r"- alert: (\w+)\n(.*?)(?=\n\s+- (?:alert|record): |\Z)", re.DOTALL)
_SEVERITY = re.compile(r"severity: (\w+)")
_COMPARED = re.compile(r"([<>])=? ([\d.]+)(?: \* ([\d.]+))?(?=$| \*)", re.MULTILINE)


class Compared(NamedTuple):
    """What an alert's expression compares with first: times so many seconds, or of a budget."""

    falling: bool
    value: float
    times: float


class Limits:
    """rules: the text of all rule files."""

    def __init__(self, checks: Thresholds, rules: str) -> None:
        self._checks = checks
        self._alerts: dict[str, dict[str, Compared]] = {}
        for name, body in _RULE.findall(rules):
            severity, found = _SEVERITY.search(body), _COMPARED.search(body.split("\n        for:")[0])
            if severity and found:
                compared = Compared(found[1] == "<", float(found[2]), float(found[3] or 1))
                self._alerts.setdefault(name, {})[severity[1]] = compared

    def check(self, stem: str, unit: float = 1) -> Steps:
        """Of a pair of settings, `<stem>_max` or `<stem>_min` and `<stem>_critical`, whose unit is so many of ours."""
        falling = hasattr(self._checks, f"{stem}_min")
        fair, bad = (
            getattr(self._checks, f"{stem}_{'min' if falling else 'max'}"),
            getattr(self._checks, f"{stem}_critical"),
        )
        return (_falling if falling else _rising)(round(fair * unit, 6), round(bad * unit, 6))

    def alert(self, name: str) -> Steps:
        """Yellow from where it is a warning, or for information only; red from where it is critical."""
        return self._steps(name, {severity: one.value * one.times for severity, one in self._alerts[name].items()})

    def burn(self, name: str) -> Steps:
        """Of an alert on how fast an objective's budget is used up: how many times the even pace."""
        return self._steps(name, {severity: one.value for severity, one in self._alerts[name].items()})

    def budget(self, name: str) -> float:
        """The share of failures that an objective allows, by the alert on how fast it is used up."""
        return self._alerts[name]["critical"].times

    def _steps(self, name: str, at: dict[str, float]) -> Steps:
        falling = next(iter(self._alerts[name].values())).falling
        return (_falling if falling else _rising)(at.get("warning", at.get("info")), at.get("critical"))


def _rising(fair: float | None, bad: float | None) -> Steps:
    steps = (Step(None, GOOD), Step(fair, FAIR), Step(bad, BAD))
    return tuple(step for step in steps if step.colour == GOOD or step.at is not None)


def _falling(fair: float | None, bad: float | None) -> Steps:
    if fair is None or bad is None:
        return Step(None, FAIR if bad is None else BAD), Step(fair if bad is None else bad, GOOD)
    return Step(None, BAD), Step(bad, FAIR), Step(fair, GOOD)
