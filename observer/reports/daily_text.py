"""A day's report as text for a chat, under the limit of one message: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from observer.replay.report_text import duration, percent, sol
from observer.reports.daily import Daily, Opportunity, StrategyDay

# Telegram's limit is 4,096 UTF-16 units of one message.
UNITS_MAX: Final = 4_096
NAME_CHARS_MAX: Final = 20
LISTED_MAX: Final = 8


def lines(daily: Daily) -> Iterator[str]:
    """The whole report, a few dozen lines whatever the day was like."""
    yield f"mintline, {local(daily.from_at, daily.zone)} to {local(daily.to_at, daily.zone)} ({daily.zone})"
    yield ""
    yield f"Opportunities: {daily.opportunities:,} of {daily.coins:,} coins; {daily.traded:,} sold"
    yield f"Mean ROI: {signed(daily.mean_roi_bps)}; of all money: {signed(daily.trades_roi_bps)}"
    yield f"Profit: {sol(daily.pnl_lamports)} SOL after fees"
    yield f"Active sources: {len(daily.sources)} ({_listed(daily.sources)})"
    yield f"Feed: {feed(daily)}"
    yield f"Errors: {daily.errors_total:,}" + (f" ({_listed(daily.errors)})" if daily.errors else "")
    yield ""
    yield "Top five by ROI" if daily.top else "Nothing was sold"
    for place, one in enumerate(daily.top, 1):
        yield f"{place}. {best(one)}"
    yield ""
    yield "Profit and loss by strategy"
    for day in daily.strategies:
        yield strategy(day)
    yield from notes(daily)


def text(daily: Daily) -> str:
    """Never longer than one message may be: what is too much at the end is cut off, line by line."""
    kept: list[str] = []
    left = UNITS_MAX - 2
    for line in lines(daily):
        left -= units(line) + 1
        if left < 0:
            kept.append("…")
            break
        kept.append(line)
    return "\n".join(kept)


def notes(daily: Daily) -> Iterator[str]:
    """What the reader must know to trust the figures."""
    if daily.known_since or daily.unmatched:
        yield ""
    for stream, since in daily.known_since.items():
        yield f"{stream} reaches back to {local(since, daily.zone)} only"
    if daily.unmatched:
        yield f"{daily.unmatched:,} sales of older purchases are in no sum"


def feed(daily: Daily) -> str:
    found = daily.feed
    if found.uptime_bps is None:
        return "nothing was ever heard"
    gaps = "no gap" if not found.gaps else f"{found.gaps} gaps, {duration(found.unheard_ns)} unheard"
    if found.gaps == 1:
        gaps = f"1 gap, {duration(found.unheard_ns)} unheard"
    return f"up {hundredths(found.uptime_bps)}, {gaps}" + (", silent at the end" if found.down else "")


def best(one: Opportunity) -> str:
    users = "1 user" if one.users == 1 else f"{one.users:,} users"
    who = name(one.symbol) or one.mint[:8]
    return f"{who} {one.strategy} {signed(one.roi_bps)} ({sol(one.pnl_lamports)} SOL, {users})"


def strategy(day: StrategyDay) -> str:
    if not day.opportunities and not day.entries and not day.cost_lamports:
        return f"{day.strategy}: nothing"
    return (
        f"{day.strategy}: {sol(day.pnl_lamports)} SOL, ROI {signed(day.roi_bps)}, {day.opportunities:,} opportunities, "
        f"{day.entries:,} entries, {day.closed:,} closed, {day.won:,} won"
    )


def signed(bps: int | None) -> str:
    shown = percent(bps)
    return f"+{shown}" if bps is not None and bps >= 10 else shown


def hundredths(bps: int) -> str:
    """A percentage with two decimals: an uptime of 99.99 % is not one of 100 %."""
    return f"{bps // 100}.{bps % 100:02d} %"


def name(symbol: str) -> str:
    """Text by strangers, as one short word in a line: nothing that cannot be printed, no line breaks."""
    return "".join(c if c.isprintable() else "?" for c in symbol)[:NAME_CHARS_MAX]


def local(time: str, zone: str) -> str:
    return datetime.fromisoformat(time).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def units(line: str) -> int:
    """Its length as Telegram counts: UTF-16 units."""
    return len(line.encode("utf-16-le", "replace")) // 2


def _listed(counts: Mapping[str, int]) -> str:
    shown = [f"{name(each)} {count:,}" for each, count in list(counts.items())[:LISTED_MAX]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])]) or "none"
