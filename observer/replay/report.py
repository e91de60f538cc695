"""What a replay's ledgers come to: by strategy and risk level, over time, and trade by trade.

    tracker = Tracker({user: Place(...)})
    tracker.take(user, entry)          each entry of each ledger, in the order of time
    report = tracker.report(...)       once, at the end

**Equity** is what was gained or lost so far, all fees included, starting at 0: it moves with each sale by the gain over
the sold part's cost, and at the end once more by what selling the rest would gain. So the *worst drawdown*, its
largest fall from a highest point before, does not see how deep a position was under water before it was sold.

**Profit** is realised + unrealised. Unrealised: selling what is still held at the last prices, the venue's fees taken
off, less its cost; a position without a price counts as worth nothing (`open_unpriced`).

An *entry* is a purchase that was filled, a *trade* an entry with all its sales. A trade is *won* when its sales
returned more than it cost.

Everything is bounded by the number of users and of open positions: curves are thinned, and of the trades the largest
gains and losses are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from schemas.events import Entry, Fill, Intent, Refusal, Side, Strategy
from schemas.money import BPS

POINTS_MAX: Final = 2_000  # of one equity curve
TRADES_MAX: Final = 2_000  # kept of all

# The last sale's reason of a trade that is still open.
OPEN: Final = "OPEN"


class Place(NamedTuple):
    """Where a user's results count. risk: the level, or for a threshold of the user's own `score 55`.

    budget_lamports: the user's.
    """

    strategy: Strategy
    risk: str
    budget_lamports: int


class Point(NamedTuple):
    """Equity right after something changed it."""

    at_ns: int
    lamports: int


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One entry and its sales. closed_at_ns: None while some of it is held.

    received_lamports: of its sales, and of a last one at the last known price for what is still held. fees_lamports:
    charged so far, of all three kinds. reason: of the last sale, OPEN while some of it is held. symbol: as its creator
    spelt it; "" where unknown.
    """

    user: str
    strategy: Strategy
    risk: str
    mint: str
    symbol: str
    opened_at_ns: int
    closed_at_ns: int | None
    cost_lamports: int
    received_lamports: int
    fees_lamports: int
    pnl_lamports: int
    sales: int
    reason: str


class Figures(msgspec.Struct, kw_only=True):
    """What some users did. Lamports and nanoseconds; *_bps are 1/10,000.

    signals: taken by their bots; each ends as an entry, in `refused`, or is in `pending_entries` (ordered, not landed).
    refused: signals and purchases, by reason. sales_refused: orders to sell that the market refused, each of which is
        tried again.
    closed: trades sold to the end; won: those that gained; win_rate_bps: of closed; None where none is closed.
    return_bps: profit by the sum of the users' budgets, rounded down.
    mean_hold_ns: of closed trades; None where none is closed.
    """

    users: int = 0
    budget_lamports: int = 0
    signals: int = 0
    entries: int = 0
    pending_entries: int = 0
    closed: int = 0
    won: int = 0
    win_rate_bps: int | None = None
    pnl_lamports: int = 0
    return_bps: int = 0
    realised_lamports: int = 0
    unrealised_lamports: int = 0
    paid_lamports: int = 0
    received_lamports: int = 0
    protocol_fees_lamports: int = 0
    creator_fees_lamports: int = 0
    network_fees_lamports: int = 0
    worst_drawdown_lamports: int = 0
    mean_hold_ns: int | None = None
    open_positions: int = 0
    open_unpriced: int = 0
    open_cost_lamports: int = 0
    exits: dict[str, int] = {}
    refused: dict[str, int] = {}
    sales_refused: dict[str, int] = {}

    @property
    def fees_lamports(self) -> int:
        return self.protocol_fees_lamports + self.creator_fees_lamports + self.network_fees_lamports


class Group(msgspec.Struct, kw_only=True):
    """The users of one strategy and risk level."""

    strategy: Strategy
    risk: str
    figures: Figures
    equity: list[Point]


class Report(msgspec.Struct, kw_only=True, tag_field="type", tag="report"):
    """frames: by what they were. repeated: events that the TOKENS stream would have dropped by their id.

    from_at_ns, to_at_ns: the first and the last frame's time; None without frames.
    decisions: by strategy or alarm. outcomes: how often each strategy was asked, by what came of it.
    trades: the largest gains and losses, ascending by their entry; trades_total: how many there were.
    """

    frames: dict[str, int]
    repeated: int
    from_at_ns: int | None
    to_at_ns: int | None
    decisions: dict[str, int]
    outcomes: dict[str, dict[str, int]]
    total: Figures
    equity: list[Point]
    groups: list[Group]
    trades: list[Trade]
    trades_total: int


class Tracker:
    """See the module. points_max, trades_max: 0 keeps none."""

    def __init__(
        self, places: Mapping[str, Place], *, points_max: int = POINTS_MAX, trades_max: int = TRADES_MAX
    ) -> None:
        self._places = places
        self._points_max = points_max
        self._trades_max = trades_max
        self._total = _Tally(points_max)
        self._tallies: dict[tuple[Strategy, str], _Tally] = {}
        self._by_user: dict[str, _Tally] = {}
        self._held: dict[tuple[str, str], Holding] = {}
        self._kept: list[tuple[int, int, Trade]] = []  # a heap, the smallest result first
        self.trades_total = 0
        for user, place in places.items():
            tally = self._tallies.get((place.strategy, place.risk))
            if tally is None:
                tally = self._tallies[place.strategy, place.risk] = _Tally(points_max)
            self._by_user[user] = tally
            for each in (tally, self._total):
                each.figures.users += 1
                each.figures.budget_lamports += place.budget_lamports

    def take(self, user: str, entry: Entry, symbol: str = "") -> None:
        """One entry of a user's ledger. symbol: of the coin."""
        figures = self._by_user[user].figures
        if isinstance(entry, Fill):
            if entry.side is Side.BUY:
                self._bought(user, entry, symbol)
            else:
                self._sold(user, entry)
        elif isinstance(entry, Intent):
            if entry.side is Side.BUY:
                figures.signals += 1
                figures.pending_entries += 1
        else:
            _note_refusal(figures, entry)

    def finish(self, at_ns: int, value_of: Callable[[str, int], int | None]) -> tuple[Figures, list[Group]]:
        """The figures, called once. value_of: (mint, tokens) -> what selling them would return now; None: no price."""
        for (user, _), held in self._held.items():
            self._count_open(user, held, value_of(held.mint, held.tokens))
        groups = []
        total = self._total.figures
        for (strategy, risk), tally in self._tallies.items():
            tally.conclude(at_ns)
            _add(total, tally.figures)
            groups.append(Group(strategy=strategy, risk=risk, figures=tally.figures, equity=tally.points))
        self._total.conclude(at_ns)
        return total, groups

    @property
    def equity(self) -> list[Point]:
        return self._total.points

    @property
    def trades(self) -> list[Trade]:
        return [trade for *_, trade in sorted(self._kept, key=lambda kept: (kept[2].opened_at_ns, kept[1]))]

    def _bought(self, user: str, fill: Fill, symbol: str) -> None:
        figures = self._by_user[user].figures
        figures.entries += 1
        figures.pending_entries -= 1
        figures.paid_lamports += fill.lamports
        _note_fees(figures, fill)
        self._held[user, fill.mint] = Holding(fill, symbol)

    def _sold(self, user: str, fill: Fill) -> None:
        tally = self._by_user[user]
        figures, held = tally.figures, self._held[user, fill.mint]
        reason = str(fill.reason)
        figures.exits[reason] = figures.exits.get(reason, 0) + 1
        figures.received_lamports += fill.lamports
        _note_fees(figures, fill)
        gain = held.sell(fill)
        tally.gain(fill.at_ns, gain)
        self._total.gain(fill.at_ns, gain)
        if held.tokens:
            return
        del self._held[user, fill.mint]
        figures.closed += 1
        figures.won += held.received_lamports > held.cost_lamports
        tally.held_ns += fill.at_ns - held.opened_at_ns
        self._total.held_ns += fill.at_ns - held.opened_at_ns
        self._keep(user, held, fill.at_ns, held.received_lamports, reason)

    def _count_open(self, user: str, held: Holding, value: int | None) -> None:
        figures = self._by_user[user].figures
        figures.open_positions += 1
        figures.open_unpriced += value is None
        figures.open_cost_lamports += held.open_cost_lamports
        figures.unrealised_lamports += (value or 0) - held.open_cost_lamports
        self._keep(user, held, None, held.received_lamports + (value or 0), OPEN)

    def _keep(self, user: str, held: Holding, closed_at_ns: int | None, received_lamports: int, reason: str) -> None:
        self.trades_total += 1
        result = received_lamports - held.cost_lamports
        size = abs(result)
        if len(self._kept) >= self._trades_max and (not self._kept or size <= self._kept[0][0]):
            return
        place = self._places[user]
        trade = Trade(
            user=user,
            strategy=place.strategy,
            risk=place.risk,
            mint=held.mint,
            symbol=held.symbol,
            opened_at_ns=held.opened_at_ns,
            closed_at_ns=closed_at_ns,
            cost_lamports=held.cost_lamports,
            received_lamports=received_lamports,
            fees_lamports=held.fees_lamports,
            pnl_lamports=result,
            sales=held.sales,
            reason=reason,
        )
        heapq.heappush(self._kept, (size, -self.trades_total, trade))
        if len(self._kept) > self._trades_max:
            heapq.heappop(self._kept)


class Holding:
    """One open trade, made of its purchase. open_cost_lamports: of what is still held."""

    __slots__ = (
        "cost_lamports", "fees_lamports", "mint", "open_cost_lamports", "opened_at_ns", "received_lamports", "sales",
        "symbol", "tokens",
    )  # fmt: skip

    def __init__(self, fill: Fill, symbol: str) -> None:
        self.mint = fill.mint
        self.symbol = symbol
        self.tokens = fill.tokens
        self.cost_lamports = self.open_cost_lamports = fill.lamports
        self.opened_at_ns = fill.at_ns
        self.received_lamports = self.sales = 0
        self.fees_lamports = _fees(fill)

    def sell(self, fill: Fill) -> int:
        """What the sale gained over its share of the cost, rounded as in the ledger: down, the last takes the rest."""
        cost = self.open_cost_lamports * fill.tokens // self.tokens
        self.tokens -= fill.tokens
        self.open_cost_lamports -= cost
        self.received_lamports += fill.lamports
        self.fees_lamports += _fees(fill)
        self.sales += 1
        return fill.lamports - cost


class _Tally:
    """Figures while they grow, and the equity curve of them."""

    __slots__ = (
        "_points_max", "figures", "held_ns", "highest_lamports", "points", "realised_lamports", "worst_lamports",
    )  # fmt: skip

    def __init__(self, points_max: int) -> None:
        self.figures = Figures()
        self.points: list[Point] = []
        self.held_ns = 0
        self.realised_lamports = self.highest_lamports = self.worst_lamports = 0
        self._points_max = points_max

    def gain(self, at_ns: int, lamports: int) -> None:
        self.realised_lamports += lamports
        self._mark(at_ns, self.realised_lamports)

    def conclude(self, at_ns: int) -> None:
        """The last point, and the figures that follow from others."""
        figures = self.figures
        pnl = self.realised_lamports + figures.unrealised_lamports
        self._mark(at_ns, pnl)
        figures.realised_lamports = self.realised_lamports
        figures.pnl_lamports = pnl
        figures.worst_drawdown_lamports = self.worst_lamports
        if figures.budget_lamports:
            figures.return_bps = pnl * BPS // figures.budget_lamports
        if figures.closed:
            figures.win_rate_bps = figures.won * BPS // figures.closed
            figures.mean_hold_ns = self.held_ns // figures.closed

    def _mark(self, at_ns: int, equity_lamports: int) -> None:
        self.highest_lamports = max(self.highest_lamports, equity_lamports)
        self.worst_lamports = max(self.worst_lamports, self.highest_lamports - equity_lamports)
        if not self._points_max:
            return
        points = self.points
        if points and points[-1].at_ns == at_ns:
            points[-1] = Point(at_ns, equity_lamports)
            return
        points.append(Point(at_ns, equity_lamports))
        if len(points) > self._points_max:
            del points[-2::-2]  # every second one, from the end: a curve keeps its end


_ADDED: Final = (
    "signals", "entries", "pending_entries", "closed", "won", "paid_lamports", "received_lamports",
    "protocol_fees_lamports", "creator_fees_lamports", "network_fees_lamports", "open_positions", "open_unpriced",
    "open_cost_lamports", "unrealised_lamports",
)  # fmt: skip
_COUNTED: Final = ("exits", "refused", "sales_refused")


def _add(total: Figures, part: Figures) -> None:
    for name in _ADDED:
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name in _COUNTED:
        counts = getattr(total, name)
        for reason, times in getattr(part, name).items():
            counts[reason] = counts.get(reason, 0) + times


def _note_refusal(figures: Figures, refusal: Refusal) -> None:
    counts = figures.refused if refusal.side is Side.BUY else figures.sales_refused
    reason = str(refusal.reason)
    counts[reason] = counts.get(reason, 0) + 1
    if refusal.side is Side.BUY:
        if refusal.order_id is None:
            figures.signals += 1
        else:
            figures.pending_entries -= 1


def _note_fees(figures: Figures, fill: Fill) -> None:
    figures.protocol_fees_lamports += fill.protocol_fee_lamports
    figures.creator_fees_lamports += fill.creator_fee_lamports
    figures.network_fees_lamports += fill.network_fee_lamports


def _fees(fill: Fill) -> int:
    return fill.protocol_fee_lamports + fill.creator_fee_lamports + fill.network_fee_lamports
