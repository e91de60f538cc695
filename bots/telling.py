"""What the bots' loop tells of a round: figures, and a log line for each fill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from bots.book import Book
from bots.group import Arrived, Group
from runtime.telemetry import Figures, Logger
from runtime.vocabulary import LATENCY_BUCKETS_S, OTHER, Figure, Vocabulary, stage_duration
from runtime.worker import OLDEST_UNSETTLED, TROUBLES
from schemas.events import Fill, Reason, Refusal, Side

LOGGED_FILLS_MAX = 250  # in one round; beyond that one line tells how many
DECISIONS_MAX = 10_000  # whose purchases are on their way; of those beyond it no latency is told

_EXITS_FROM: Final = list(Reason).index(Reason.TAKE_PROFIT)
REFUSALS: Final = (*list(Reason)[1:_EXITS_FROM], OTHER)
EXITS: Final = (*list(Reason)[_EXITS_FROM:], OTHER)

FIGURES: Vocabulary = {
    "signals_total": "Signals taken for the first time",
    "signals_repeated_total": "Signals delivered again that the ledger had settled",
    "fills_total": Figure("Orders filled, by side", {"side": tuple(Side)}),
    "exits_total": Figure("Positions sold from, by reason", {"reason": EXITS}),
    "refused_total": Figure("Signals and orders refused, by reason", {"reason": REFUSALS}),
    "pending_orders": "Orders decided and not yet landed",
    "late_total": "Events, signals and alarms that came after the settling time of what happened before them",
    "open_positions": "Positions open over all users",
    "mints_followed": "Mints whose trades are followed, once each whoever holds them",
    "accounts": "Users with a ledger in memory",
    "active_bots": "Users whose bot is wanted running",
    "configs_refused_total": "Configurations in the bucket that cannot be used",
    "appends_total": "Lines stored in the ledger",
    "lines_folded_total": "Lines of the ledger read back, at a start or a takeover",
    "snapshots_total": "Accounts and marks written to the bucket `folds`",
    "stage_last_processed_at_ns": "When a round was last stored and acknowledged",
    "frame_to_fill_seconds": Figure(
        "From the time that a frame was seen to the stored and acknowledged fill of a purchase decided because of it",
        buckets=LATENCY_BUCKETS_S,
    ),
    **stage_duration("bots"),
    **TROUBLES,
    **OLDEST_UNSETTLED,
}


class Teller:
    def __init__(self, figures: Figures, log: Logger) -> None:
        self._figures = figures
        self._log = log
        self._seen_at_ns: dict[str, int] = {}  # by decision: when the frame was seen that it came from

    def hear(self, signals: Sequence[Arrived]) -> None:
        """Signals on their way to become fills."""
        seen_at_ns = self._seen_at_ns
        for signal, _ in signals:
            seen_at_ns[signal.decision_id] = signal.decided_at_ns
        while len(seen_at_ns) > DECISIONS_MAX:
            del seen_at_ns[next(iter(seen_at_ns))]

    def tell(self, group: Group, book: Book, now_ns: int, took_s: float) -> None:
        """now_ns: when the group was acknowledged. took_s: for deciding and storing it."""
        figures = self._figures
        trace = group.drafts[0].append.entries[0].signal_id[:32] if group.drafts else ""
        figures.observe("stage_duration_seconds", took_s, trace=trace, stage="bots")
        figures.put("stage_last_processed_at_ns", now_ns)
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
        self._measure(fills, now_ns)
        self._log_fills(fills)

    def _measure(self, fills: list[tuple[str, Fill]], now_ns: int) -> None:
        """Purchases of one decision in one round took equally long: one look into the histogram for all of them."""
        bought = Counter(fill.signal_id.rpartition(":")[0] for _, fill in fills if fill.side is Side.BUY)
        for decision, count in bought.items():
            seen_at_ns = self._seen_at_ns.get(decision)
            if seen_at_ns is not None:  # else it was signalled to an earlier life of ours
                took_s = max(0, now_ns - seen_at_ns) / 1e9
                self._figures.observe("frame_to_fill_seconds", took_s, count, trace=decision[:32])

    def _log_fills(self, fills: list[tuple[str, Fill]]) -> None:
        for user, fill in fills[:LOGGED_FILLS_MAX]:
            self._log.info(
                "order_filled", user=user, side=fill.side, mint=fill.mint, tokens=fill.tokens,
                lamports=fill.lamports, reason=fill.reason, trace=fill.signal_id[:32],
            )  # fmt: skip
        if len(fills) > LOGGED_FILLS_MAX:
            self._log.info("orders_filled", count=len(fills), not_shown=len(fills) - LOGGED_FILLS_MAX)
