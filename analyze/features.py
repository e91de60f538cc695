"""A token's events -> features: integers with the unit in the name, kept incrementally, bounded for each token.

What is heard of a coin's trades is incomplete: they reach us only once somebody watches the mint, and not across a gap
in the feed. So what the reserves tell (progress, market cap, net flow, velocity) is computed from the reserves, which
each trade states exactly; what only counting tells (buyers, buys, sells, shares) speaks of the trades that were heard.

    age_ms                     since the creation was seen
    dev_buy_lamports, _bps     the creator's first buy: into the curve, without fees; its share of the supply
    dev_sold, dev_sold_bps     whether the creator sold; the share of what it is known to have bought
    progress_bps               of the curve: share of the real tokens sold
    market_cap_lamports        supply times price
    drawdown_bps               of the market cap below its highest
    net_lamports               into the curve since the creator's first buy (may be negative)
    velocity_lamports_s        that, per second of age
    net_10s_lamports, …        into the curve within the newest 10 and 30 s
    velocity_10s_lamports_s, … that, per second of the window, also where the coin is younger
    buys_10s, sells_10s, …     trades within the window
    buys, sells                trades since the creation, without the creator's first buy
    buy_lamports, sell_lamports    their amounts in the curve, without fees
    unique_buyers              others than the creator that bought; stops counting at BUYERS_MAX
    largest_buyer_bps          the largest one's share of what others than the creator paid into the curve
    name_launches, symbol_launches, creator_launches   within the last hour as seen, this one included; 0: it has none
    missing_metadata           how many of name, symbol, uri are missing
    name_chars, symbol_chars   their lengths
    gap_seen                   1 if the feed was not heard for a while since the creation: counts are incomplete
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from schemas import curve
from schemas.events import Market, Quote, Side, TokenCreated, TokenTraded
from schemas.money import BPS

SECOND_NS: Final = 1_000_000_000
MS_NS: Final = 1_000_000

# About 20 kB for a token that reaches it; the score tables tell buyers apart up to 40.
BUYERS_MAX: Final = 100

# The feature names below spell the windows; a longer one (60, 300 s) is one more entry here and its names.
FLOW_WINDOWS_S: Final = (10, 30)
FLOW_SECONDS_MAX: Final = max(FLOW_WINDOWS_S)

# Venues whose coins begin on pump.fun's curve; "" is the 2024 schema, which named no pool.
CURVE_POOLS: Final = frozenset({"pump", ""})

_WINDOW_NAMES: Final = tuple(
    (seconds, f"net_{seconds}s_lamports", f"velocity_{seconds}s_lamports_s", f"buys_{seconds}s", f"sells_{seconds}s")
    for seconds in FLOW_WINDOWS_S
)


class Launches(NamedTuple):
    """How often the name, the symbol and the creator of a coin were launched lately, this launch included."""

    name: int
    symbol: int
    creator: int


def known_arithmetic(event: TokenCreated) -> bool:
    """Whether a coin follows the curve's formulas: mayhem, USDC-quoted and bonk coins do not, as far as is known."""
    return event.market is not None and event.quote is Quote.SOL and not event.mayhem and event.pool in CURVE_POOLS


class Flow:
    """Trades within the newest FLOW_SECONDS_MAX, one bucket for each second that had any."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: deque[list[int]] = deque()  # [second, net lamports, buys, sells], ascending

    def __len__(self) -> int:
        return len(self._buckets)

    def add(self, at_ns: int, net_lamports: int, side: Side) -> None:
        """A trade dated before the newest one counts as of the newest one's second."""
        buckets, second = self._buckets, at_ns // SECOND_NS
        if not buckets or buckets[-1][0] < second:
            buckets.append([second, 0, 0, 0])
            while buckets[0][0] <= second - FLOW_SECONDS_MAX:
                buckets.popleft()
        bucket = buckets[-1]
        bucket[1] += net_lamports
        bucket[2 if side is Side.BUY else 3] += 1

    def within(self, seconds: int, now_ns: int) -> tuple[int, int, int]:
        """Net lamports, buys and sells of the newest `seconds`, the present one included."""
        oldest = now_ns // SECOND_NS - seconds
        net = buys = sells = 0
        for bucket in reversed(self._buckets):
            if bucket[0] <= oldest:
                break
            net += bucket[1]
            buys += bucket[2]
            sells += bucket[3]
        return net, buys, sells


class Token:
    """One open coin on an ordinary curve.

    migrated: it left its curve. complete: nothing is left to buy there.
    """

    __slots__ = (
        "_bought_by_others", "_buyers", "_dev_bought", "_dev_sold", "_first_lamports", "_flow", "_largest",
        "_peak_lamports", "buy_lamports", "buys", "created_at_ns", "creator", "dev_buy_lamports", "dev_buy_tokens",
        "launches", "market", "market_cap_lamports", "migrated", "mint", "missing_metadata", "name_chars",
        "progress_bps", "sell_lamports", "sells", "symbol_chars",
    )  # fmt: skip

    def __init__(self, event: TokenCreated, launches: Launches) -> None:
        """Raises ValueError for a coin whose arithmetic is not known."""
        market = event.market
        if market is None or not known_arithmetic(event):
            raise ValueError(f"no arithmetic for {event.mint} in pool {event.pool!r}")
        self.mint = event.mint
        self.creator = event.creator
        self.created_at_ns = event.seen_at_ns
        self.launches = launches
        self.missing_metadata = (not event.name) + (not event.symbol) + (not event.uri)
        self.name_chars, self.symbol_chars = len(event.name or ""), len(event.symbol or "")
        # The 2024 schema states no SOL: the reserves do.
        paid, tokens = event.dev_buy_lamports, event.dev_buy_tokens
        self.dev_buy_lamports = market.virtual_lamports - curve.INITIAL_VIRTUAL_LAMPORTS if paid is None else paid
        self.dev_buy_tokens = curve.INITIAL_VIRTUAL_TOKENS - market.virtual_tokens if tokens is None else tokens
        self._dev_bought = self.dev_buy_tokens
        self._dev_sold = 0
        self._first_lamports = market.virtual_lamports
        self._peak_lamports = 0
        self._observe(market)
        self.migrated = False
        self.buys = self.sells = self.buy_lamports = self.sell_lamports = 0
        # Most coins never have a trade that we hear.
        self._buyers: dict[str, int] = {}
        self._flow: Flow | None = None
        self._largest = self._bought_by_others = 0

    @property
    def complete(self) -> bool:
        return self.progress_bps >= BPS

    @property
    def unique_buyers(self) -> int:
        return len(self._buyers)

    def trade(self, event: TokenTraded) -> None:
        """Fold one trade in. Without reserves (after the migration) it only counts."""
        before = self.market.virtual_lamports
        if event.market is not None:
            self._observe(event.market)
        net = self.market.virtual_lamports - before
        # All that came in since the last state that was seen, trades that were not heard included.
        if self._flow is None:
            self._flow = Flow()
        self._flow.add(event.seen_at_ns, net, event.side)
        lamports = abs(net) if event.lamports is None else event.lamports
        if event.side is Side.BUY:
            self.buys += 1
            self.buy_lamports += lamports
        else:
            self.sells += 1
            self.sell_lamports += lamports
        if event.trader == self.creator:
            self._dev_traded(event)
        elif event.side is Side.BUY:
            self._bought(event.trader, lamports)

    def features(self, now_ns: int, gap_seen: bool) -> dict[str, int]:
        """As in the module's table."""
        age_ms = max(0, now_ns - self.created_at_ns) // MS_NS
        net = self.market.virtual_lamports - self._first_lamports
        others = self._bought_by_others
        dev_sold_bps = self.dev_sold_bps
        features = {
            "age_ms": age_ms,
            "dev_buy_lamports": self.dev_buy_lamports,
            "dev_buy_bps": self.dev_buy_tokens * BPS // curve.SUPPLY_TOKENS,
            "dev_sold": int(dev_sold_bps > 0),
            "dev_sold_bps": dev_sold_bps,
            "progress_bps": self.progress_bps,
            "market_cap_lamports": self.market_cap_lamports,
            "drawdown_bps": (self._peak_lamports - self.market_cap_lamports) * BPS // self._peak_lamports,
            "net_lamports": net,
            "velocity_lamports_s": net * 1000 // max(1000, age_ms),
            "buys": self.buys,
            "sells": self.sells,
            "buy_lamports": self.buy_lamports,
            "sell_lamports": self.sell_lamports,
            "unique_buyers": len(self._buyers),
            "largest_buyer_bps": self._largest * BPS // others if others else 0,
            "name_launches": self.launches.name,
            "symbol_launches": self.launches.symbol,
            "creator_launches": self.launches.creator,
            "missing_metadata": self.missing_metadata,
            "name_chars": self.name_chars,
            "symbol_chars": self.symbol_chars,
            "gap_seen": int(gap_seen),
        }
        for seconds, net_name, velocity_name, buys_name, sells_name in _WINDOW_NAMES:
            flowed, buys, sells = (0, 0, 0) if self._flow is None else self._flow.within(seconds, now_ns)
            features[net_name] = flowed
            features[velocity_name] = flowed // seconds
            features[buys_name] = buys
            features[sells_name] = sells
        return features

    @property
    def dev_sold_bps(self) -> int:
        """Share of what the creator is known to have bought; all of it where it sold and no buy of it is known."""
        if self._dev_sold == 0:
            return 0
        return max(1, min(BPS, self._dev_sold * BPS // self._dev_bought)) if self._dev_bought > 0 else BPS

    def _observe(self, market: Market) -> None:
        self.market = market
        state = curve.from_market(market)
        self.progress_bps = curve.progress_bps(state)
        self.market_cap_lamports = curve.market_cap_lamports(state)
        if self.market_cap_lamports > self._peak_lamports:
            self._peak_lamports = self.market_cap_lamports

    def _dev_traded(self, event: TokenTraded) -> None:
        if event.side is Side.BUY:
            self._dev_bought += event.tokens
        else:
            self._dev_sold += event.tokens
            if event.trader_tokens_after == 0:
                # Sold out, whatever was missed: buys before we listened, or sales of another wallet's tokens.
                self._dev_sold = max(self._dev_sold, self._dev_bought)

    def _bought(self, trader: str, lamports: int) -> None:
        """One that is not among the first BUYERS_MAX still counts in the total that shares refer to."""
        self._bought_by_others += lamports
        before = self._buyers.get(trader)
        if before is None and len(self._buyers) >= BUYERS_MAX:
            return
        total = (before or 0) + lamports
        self._buyers[trader] = total
        if total > self._largest:
            self._largest = total
