"""What the bots' loop tells of a round: figures, and a log line for each fill."""

from __future__ import annotations

from collections import Counter

from bots.book import Book
from bots.group import Group
from runtime.telemetry import Figures, Logger
from schemas.events import Fill, Refusal, Side

LOGGED_FILLS_MAX = 250  # in one round; beyond that one line tells how many

FIGURES = {
    "signals_total": "Signals taken for the first time",
    "signals_repeated_total": "Signals delivered again that the ledger had settled",
    "fills_total": "Orders filled, by side",
    "exits_total": "Positions sold from, by reason",
    "refused_total": "Signals refused, by reason",
    "pending_orders": "Orders decided and not yet landed",
    "late_total": "Events, signals and alarms that came after the settling time of what happened before them",
    "open_positions": "Positions open over all users",
    "mints_followed": "Mints whose trades are followed, once each whoever holds them",
    "accounts": "Users with a ledger in memory",
    "active_bots": "Users whose bot is wanted running",
    "configs_refused_total": "Configurations in the bucket that cannot be used",
    "interruptions_total": "Times that the loop started again, by kind",
    "dead_letters_total": "Messages that could not be processed, by reason's kind",
    "appends_total": "Lines stored in the ledger",
    "consumer_lag_seconds": "Age of the oldest signal that came and has no outcome yet; 0 when there is none",
    "lines_folded_total": "Lines of the ledger read back, at a start or a takeover",
    "snapshots_total": "Accounts and marks written to the bucket `folds`",
}


class Teller:
    def __init__(self, figures: Figures, log: Logger) -> None:
        self._figures = figures
        self._log = log

    def tell(self, group: Group, book: Book) -> None:
        figures = self._figures
        figures.add("signals_total", group.decided)
        figures.add("signals_repeated_total", group.repeated)
        entries = [(user, entry) for user, found in group.entries.items() for entry in found]
        fills = [(user, entry) for user, entry in entries if isinstance(entry, Fill)]
        for side, count in Counter(fill.side for _, fill in fills).items():
            figures.add("fills_total", count, side=side)
        for reason, count in Counter(fill.reason for _, fill in fills if fill.side is Side.SELL).items():
            figures.add("exits_total", count, reason=reason)
        for reason, count in Counter(entry.reason for _, entry in entries if isinstance(entry, Refusal)).items():
            figures.add("refused_total", count, reason=reason)
        figures.put("pending_orders", book.holders.orders)
        figures.put("open_positions", book.holders.positions)
        figures.put("late_total", book.agenda.late)
        figures.put("mints_followed", len(book.holders.held))
        figures.put("accounts", book.users)
        self._log_fills(fills)

    def _log_fills(self, fills: list[tuple[str, Fill]]) -> None:
        for user, fill in fills[:LOGGED_FILLS_MAX]:
            self._log.info(
                "order_filled", user=user, side=fill.side, mint=fill.mint, tokens=fill.tokens,
                lamports=fill.lamports, reason=fill.reason, trace=fill.signal_id[:32],
            )  # fmt: skip
        if len(fills) > LOGGED_FILLS_MAX:
            self._log.info("orders_filled", count=len(fills), not_shown=len(fills) - LOGGED_FILLS_MAX)
