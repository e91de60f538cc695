"""A replay's report as lines of text: one table by strategy and risk level, then why trades ended and why others never
were. SOL with six decimals in tables (rounded towards zero), with nine where a sum is the point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from observer.replay.report import Figures, Group, Report
from schemas.money import format_sol

_HEADS = (
    "strategy", "risk", "users", "entries", "won", "PnL SOL", "return", "fees SOL", "worst fall", "mean hold", "open",
)  # fmt: skip


def lines(report: Report) -> Iterator[str]:
    """The whole report. Groups without any signal are left out of the tables."""
    total = report.total
    yield f"frames     {_listed(report.frames)}; repeated {report.repeated}; {_span(report)}"
    yield f"decisions  {_listed(report.decisions)}"
    yield f"signals    {total.signals:,} for {total.users:,} users: {total.entries:,} entries, {_open_text(total)}"
    yield ""
    active = [group for group in report.groups if group.figures.signals]
    rows = [_row(group.strategy, group.risk, group.figures) for group in active]
    yield from table(_HEADS, [*rows, _row("all", "", total)], left=2)
    yield ""
    yield from _reasons("exits", [(group, group.figures.exits) for group in active], total.exits)
    yield from _reasons("refused", [(group, group.figures.refused) for group in active], total.refused)
    if total.sales_refused:
        yield f"sales refused and tried again: {_listed(total.sales_refused)}"
        yield ""
    yield (
        f"profit {format_sol(total.pnl_lamports)} SOL after fees: realised {format_sol(total.realised_lamports)}, "
        f"unrealised {format_sol(total.unrealised_lamports)}"
    )
    yield (
        f"fees   {format_sol(total.fees_lamports)} SOL: protocol {format_sol(total.protocol_fees_lamports)}, "
        f"creator {format_sol(total.creator_fees_lamports)}, network {format_sol(total.network_fees_lamports)}"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> Iterator[str]:
    """Columns as wide as their widest cell; the first `left` are aligned to the left."""
    cells = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        aligned = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(aligned).rstrip()


def sol(lamports: int) -> str:
    """Six decimals, cut, signed: for a table."""
    text = format_sol(abs(lamports))[:-3]
    return f"-{text}" if lamports < 0 else text


def percent(bps: int | None) -> str:
    """Hundredths of a percent -> a percentage with one decimal, cut; "-" for None."""
    if bps is None:
        return "-"
    whole, tenths = divmod(abs(bps) // 10, 10)
    return f"{'-' if bps <= -10 else ''}{whole}.{tenths} %"


def duration(ns: int | None) -> str:
    """Whole seconds as people say them: 35 s, 4 min 05 s, 2 h 03 min; "-" for None."""
    if ns is None:
        return "-"
    seconds = ns // 1_000_000_000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds // 60 % 60:02d} min"


def _row(strategy: str, risk: str, figures: Figures) -> tuple[str, ...]:
    return (
        strategy,
        risk,
        f"{figures.users:,}",
        f"{figures.entries:,}",
        percent(figures.win_rate_bps),
        sol(figures.pnl_lamports),
        percent(figures.return_bps),
        sol(figures.fees_lamports),
        sol(figures.worst_drawdown_lamports),
        duration(figures.mean_hold_ns),
        f"{figures.open_positions:,}",
    )


def _reasons(name: str, groups: Sequence[tuple[Group, Mapping[str, int]]], total: Mapping[str, int]) -> Iterator[str]:
    if not total:
        yield f"{name}: none"
        yield ""
        return
    reasons = sorted(total, key=lambda reason: -total[reason])
    heads = (name, "", *reasons)
    rows = [
        (group.strategy, group.risk, *(f"{counts[r]:,}" if r in counts else "." for r in reasons))
        for group, counts in groups
        if counts
    ]
    yield from table(heads, [*rows, ("all", "", *(f"{total[reason]:,}" for reason in reasons))], left=2)
    yield ""


def _open_text(figures: Figures) -> str:
    text = f"{figures.closed:,} sold to the end, {figures.open_positions:,} still held"
    if figures.open_unpriced:
        text += f" ({figures.open_unpriced:,} without a price count as worth nothing)"
    if figures.pending_entries:
        text += f", {figures.pending_entries:,} orders under way"
    return text


def _span(report: Report) -> str:
    if report.from_at_ns is None or report.to_at_ns is None:
        return "no time"
    return f"over {duration(report.to_at_ns - report.from_at_ns)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
