"""A replay's report as one page that needs nothing else: its styles, its data and the charting library are in it.

The library brings its own JavaScript. The page's content policy forbids every request, so nothing that a coin's creator
wrote, and no part of the library, can load anything.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from observer.replay.report import Point, Report, Trade
from observer.replay.report_text import duration, percent, sol
from schemas.money import BPS

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HERE: Final = Path(__file__).resolve().parent


def templates(**filters: Callable[..., Any]) -> Environment:
    """Those of `observer/templates`. filters: beside sol, percent and duration."""
    found = Environment(
        loader=FileSystemLoader(_HERE.parent / "templates"),
        autoescape=True,  # symbols of coins are text by strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(sol=sol, percent=percent, duration=duration, **filters)
    return found


_templates = templates()


def render(report: Report, name: str) -> str:
    """The page. name: of the recording."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # here: only who wants a page waits for it

    return _templates.get_template("report.html").render(
        name=name,
        report=report,
        groups=[group for group in report.groups if group.figures.signals],
        began=_time(report.from_at_ns),
        ended=_time(report.to_at_ns),
        lasted=duration(None if report.from_at_ns is None else (report.to_at_ns or 0) - report.from_at_ns),
        trades=[_row(trade) for trade in report.trades],
        data=_script_data(_charts(report)),
        library=Markup(get_plotlyjs()),  # noqa: S704 - the library's own code, which holds no text of ours
    )


def _row(trade: Trade) -> dict[str, Any]:
    return {
        "trade": trade,
        "opened": _time(trade.opened_at_ns),
        "hold_ns": None if trade.closed_at_ns is None else trade.closed_at_ns - trade.opened_at_ns,
        "gain_bps": trade.pnl_lamports * BPS // trade.cost_lamports if trade.cost_lamports else None,
    }


def _charts(report: Report) -> dict[str, Any]:
    groups = [group for group in report.groups if group.figures.entries]
    return {
        "equity": [["all", _curve(report.from_at_ns, report.equity)]]
        + [[f"{g.strategy} {g.risk}", _curve(report.from_at_ns, g.equity)] for g in groups],
        "profit": [[f"{g.strategy} {g.risk}", g.figures.pnl_lamports] for g in groups],
        "exits": sorted(report.total.exits.items(), key=lambda item: item[1]),
    }


def _curve(from_at_ns: int | None, points: list[Point]) -> list[tuple[int, int]]:
    """(milliseconds, lamports), from 0 at the beginning."""
    start = [] if from_at_ns is None else [(from_at_ns // 1_000_000, 0)]
    return [*start, *((point.at_ns // 1_000_000, point.lamports) for point in points)]


def _script_data(value: Any) -> Markup:
    """JSON that cannot end the script that it stands in, whatever text is in it."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing is left that HTML would notice


def _time(at_ns: int | None) -> str:
    """UTC, to the second."""
    return "-" if at_ns is None else f"{_EPOCH + timedelta(microseconds=at_ns // 1000):%Y-%m-%d %H:%M:%S}"
