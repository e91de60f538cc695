"""Training rows from a stream of events: what was known at each coin's decision point, and what became of the coin.

The features come from the very analysis that runs live, asked at the same moment; whatever is heard later cannot reach
them. A row's outcome is what the stream tells within OUTCOME_NS of its decision point:

    doubled    the market cap reached twice that of the decision point, on the curve or in the pool
    migrated   the coin left its curve for a pool

A row counts only if the stream goes on for OUTCOME_NS behind its point: what had no time to happen is unknown, not a
failure. A recording that lacks trades (nobody watched the coin any more) makes failures of what nobody saw.

**The split** is by time and by creator. Training rows are the earliest; those whose outcome was still open at the cut
are left out, as are later rows of any creator that launched before the cut. So a held-out creator never appears in
training, and no training outcome lies behind the cut.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from analyze.analysis import MINUTE_NS, Analysis
from analyze.features import FEATURE_NAMES, Look
from analyze.score import Silence
from schemas import curve
from schemas.events import FeedGap, TokenCreated, TokenEvent, TokenMigrated, TokenTraded

OUTCOME_NS: Final = 30 * MINUTE_NS
GAIN_TIMES: Final = 2

LABELS: Final = ("doubled", "migrated")

# Two weeks of launches at the mean rate; 600 bytes each.
ROWS_MAX: Final = 500_000

# Training takes this share of the rows, by time.
TRAINING_PERCENT: Final = 70

_COMPLETE_LAMPORTS: Final = curve.market_cap_lamports(curve.COMPLETE)


class TooManyRows(ValueError):
    """More than ROWS_MAX."""


class Row:
    """One coin at its decision point. values: its features in the order of FEATURE_NAMES."""

    __slots__ = ("at_ns", "creator", "doubled", "market_cap_lamports", "migrated", "mint", "values")

    def __init__(self, look: Look) -> None:
        token, features = look.token, look.features
        self.mint = token.mint
        self.creator = token.creator
        self.at_ns = look.now_ns
        self.market_cap_lamports = token.market_cap_lamports
        self.values = array("d", [features[name] for name in FEATURE_NAMES])
        self.doubled = self.migrated = False


class Collecting:
    """Feed it a stream's events in order; `rows` are those whose outcome is known by now, oldest first."""

    def __init__(self) -> None:
        self._analysis = Analysis()
        self._analysis.predictor = self
        self._open: dict[str, Row] = {}
        self._order: deque[Row] = deque()
        self.rows: list[Row] = []

    def predict(self, look: Look) -> Silence:
        """Called by the analysis at a coin's decision point. Raises TooManyRows."""
        if len(self.rows) + len(self._order) >= ROWS_MAX:
            raise TooManyRows(f"more than {ROWS_MAX:,} rows: train on fewer recordings")
        row = Row(look)
        self._open[row.mint] = row
        self._order.append(row)
        return Silence.NO_MODEL

    def feed(self, event: TokenEvent) -> None:
        self._close(event.seen_at_ns)
        # The outcome first: the trade at the decision point itself is no outcome of it.
        if not isinstance(event, TokenCreated | FeedGap) and (row := self._open.get(event.mint)) is not None:
            _observe(row, event)
        self._analysis.feed(event)

    def _close(self, now_ns: int) -> None:
        order = self._order
        while order and order[0].at_ns + OUTCOME_NS < now_ns:
            row = order.popleft()
            self.rows.append(row)
            if self._open.get(row.mint) is row:
                del self._open[row.mint]


def _observe(row: Row, event: TokenTraded | TokenMigrated) -> None:
    if isinstance(event, TokenMigrated):
        row.migrated = True
        reached = _COMPLETE_LAMPORTS
    elif event.market is not None:
        reached = curve.market_cap_lamports(curve.from_market(event.market))
    elif event.lamports is not None and event.tokens > 0:
        reached = event.lamports * curve.SUPPLY_TOKENS // event.tokens  # a pool's trade: its average price
    else:
        return
    if reached >= GAIN_TIMES * row.market_cap_lamports:
        row.doubled = True


def outcome(row: Row, label: str) -> bool:
    """Raises KeyError for what is no label."""
    return {"doubled": row.doubled, "migrated": row.migrated}[label]


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows of rows in order of their time, as the module says."""
    if not rows:
        return [], []
    cut_ns = rows[len(rows) * TRAINING_PERCENT // 100].at_ns
    before = [row for row in rows if row.at_ns < cut_ns]
    seen = {row.creator for row in before}
    training = [row for row in before if row.at_ns + OUTCOME_NS <= cut_ns]
    return training, [row for row in rows if row.at_ns >= cut_ns and row.creator not in seen]


def positives(rows: Iterable[Row], label: str) -> int:
    return sum(outcome(row, label) for row in rows)
