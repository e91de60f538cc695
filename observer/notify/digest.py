"""What was held back -> one alert that stands for it; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas.alerts import COVERED_MAX, RANK, Alert, Delivery, Happening, Level

LINES_MAX = 50


class Held(NamedTuple):
    """until_ns: when its window ends. recorded: whether its end is stored already (after a start)."""

    delivery: Delivery
    alert: Alert
    until_ns: int
    recorded: bool


def compose_digest(channel: str, held: Sequence[Held], now_ns: int) -> Alert:
    """held: at least one, the oldest first. What is too much for one digest stays held."""
    covered = held[:COVERED_MAX]
    names: dict[str, list[Alert]] = {}
    for one in covered:
        names.setdefault(one.alert.name, []).append(one.alert)
    lines = [_line(name, alerts) for name, alerts in list(names.items())[:LINES_MAX]]
    if len(names) > LINES_MAX:
        lines.append(f"and {len(names) - LINES_MAX} more names")
    level: Level = min((one.alert.level for one in covered), key=lambda one: RANK[one])
    first, last = covered[0].delivery, covered[-1].delivery
    count = len(covered)
    return Alert(
        id=f"digest:{channel}:{first.sequence}:{last.sequence}",
        fingerprint=f"digest:{channel}",
        name="digest",
        level=level,
        state=Happening.DIGEST,
        source="observer",
        summary=f"{count} more message{'s' if count > 1 else ''} of {len(names)} alert{'s' if len(names) > 1 else ''}",
        text="\n".join(lines),
        channel=channel,
        covers=tuple(one.delivery.id for one in covered),
        started_at_ns=now_ns,
        at_ns=now_ns,
    )


def _line(name: str, alerts: Sequence[Alert]) -> str:
    counts = {state: sum(alert.state is state for alert in alerts) for state in Happening}
    told = ", ".join(f"{count}x {state}" for state, count in counts.items() if count)
    return f"{name}: {told}; the newest: {alerts[-1].summary[:120]} ({alerts[-1].state})"
