"""One open coin: its events folded into what the features are made of, in bounded memory.

What is heard of a coin's trades is incomplete: they reach us only once somebody watches the mint, and not across a gap
in the feed. So what the reserves tell is taken from the reserves, which each trade states exactly; what only counting
tells speaks of the trades that were heard.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from analyze.holders import Holders
from analyze.patterns import Patterns
from analyze.windows import Windows
from schemas import curve
from schemas.events import Market, Quote, Side, TokenCreated, TokenTraded
from schemas.money import BPS

# About 20 kB for a token that reaches it; the score tables tell buyers apart up to 50.
BUYERS_MAX: Final = 100

# Venues whose coins begin on pump.fun's curve; "" is the 2024 schema, which named no pool.
CURVE_POOLS: Final = frozenset({"pump", ""})

# Of a token without trades; never added to.
_NO_TRADES: Final = Windows()


class Launches(NamedTuple):
    """How often the name, the symbol and the creator of a coin were launched lately, this launch included."""

    name: int
    symbol: int
    creator: int


def has_curve(event: TokenCreated) -> bool:
    """Whether a coin can be scored: its frames show a curve in SOL. Bonk and USDC-quoted coins do not."""
    return event.market is not None and event.quote is Quote.SOL and event.pool in CURVE_POOLS


class Token:
    """One open coin on a curve.

    arithmetic_known: False for mayhem coins. migrated: it left its curve. complete: nothing is left to buy there.
    dev_buy_…: the creator's first buy; dev_bought_tokens: all that it is known to have bought.
    first_lamports: the curve's virtual reserve after the creator's first buy. peak_at_ns: of the highest market cap.
    bought_by_others, largest_buyer_lamports: what others than the creator paid into the curve, all and the largest one.
    """

    __slots__ = (
        "_buyers", "_dev_sold", "_peak_lamports", "_windows", "arithmetic_known", "bought_by_others", "buy_lamports",
        "buys", "created_at_ns", "creator", "dev_bought_tokens", "dev_buy_lamports", "dev_buy_tokens",
        "first_lamports", "holders", "largest_buyer_lamports", "launches", "market", "market_cap_lamports",
        "migrated", "mint", "missing_metadata", "name_chars", "patterns", "peak_at_ns", "progress_bps",
        "sell_lamports", "sells", "symbol_chars",
    )  # fmt: skip

    def __init__(self, event: TokenCreated, launches: Launches) -> None:
        """Raises ValueError for a coin without a curve."""
        market = event.market
        if market is None or not has_curve(event):
            raise ValueError(f"no curve for {event.mint} in pool {event.pool!r}")
        self.mint = event.mint
        self.creator = event.creator
        self.arithmetic_known = not event.mayhem
        self.created_at_ns = event.seen_at_ns
        self.launches = launches
        self.missing_metadata = (not event.name) + (not event.symbol) + (not event.uri)
        self.name_chars, self.symbol_chars = len(event.name or ""), len(event.symbol or "")
        # The 2024 schema states no SOL: the reserves do.
        paid, tokens = event.dev_buy_lamports, event.dev_buy_tokens
        self.dev_buy_lamports = market.virtual_lamports - curve.INITIAL_VIRTUAL_LAMPORTS if paid is None else paid
        self.dev_buy_tokens = curve.INITIAL_VIRTUAL_TOKENS - market.virtual_tokens if tokens is None else tokens
        self.dev_bought_tokens = self.dev_buy_tokens
        self._dev_sold = 0
        self.first_lamports = market.virtual_lamports
        self._peak_lamports = self.peak_at_ns = 0
        self._observe(market, event.seen_at_ns)
        self.migrated = False
        self.buys = self.sells = self.buy_lamports = self.sell_lamports = 0
        self.largest_buyer_lamports = self.bought_by_others = 0
        self._buyers: dict[str, int] = {}
        # Most coins never have a trade that we hear.
        self._windows: Windows | None = None
        self.holders = Holders()
        self.patterns = Patterns(event.seen_at_ns)
        self.holders.put(event.creator, self.dev_buy_tokens)

    @property
    def complete(self) -> bool:
        return self.progress_bps >= BPS

    @property
    def unique_buyers(self) -> int:
        return len(self._buyers)

    def trade(self, event: TokenTraded) -> None:
        """Fold one trade in. Without reserves (after the migration) it only counts."""
        before, at_ns, is_buy = self.market.virtual_lamports, event.seen_at_ns, event.side is Side.BUY
        if event.market is not None:
            self._observe(event.market, at_ns)
        # All that came in since the last state that was seen, trades that were not heard included.
        net = self.market.virtual_lamports - before
        lamports = abs(net) if event.lamports is None else event.lamports
        by_creator = event.trader == self.creator
        if self._windows is None:
            self._windows = Windows()
        self._windows.add(at_ns, net, lamports, is_buy, event.trader if is_buy and not by_creator else "")
        if is_buy:
            self.buys += 1
            self.buy_lamports += lamports
        else:
            self.sells += 1
            self.sell_lamports += lamports
        self._hold(event, is_buy)
        if by_creator:
            self._dev_traded(event, is_buy)
        elif is_buy:
            self._bought(event.trader, lamports)
            self.patterns.bought(at_ns, event.tokens, lamports)

    @property
    def dev_sold_bps(self) -> int:
        """Share of what the creator is known to have bought; all of it where it sold and no buy of it is known."""
        if self._dev_sold == 0:
            return 0
        return max(1, min(BPS, self._dev_sold * BPS // self.dev_bought_tokens)) if self.dev_bought_tokens > 0 else BPS

    @property
    def drawdown_bps(self) -> int:
        peak = self._peak_lamports
        return (peak - self.market_cap_lamports) * BPS // peak if peak else 0

    def windows(self, now_ns: int) -> Windows:
        """The trades of the newest seconds, as of now; times asked for must not fall."""
        windows = self._windows
        if windows is None:
            return _NO_TRADES
        windows.advance(now_ns)
        return windows

    def _observe(self, market: Market, at_ns: int) -> None:
        self.market = market
        state = curve.from_market(market)
        self.progress_bps = curve.progress_bps(state)
        self.market_cap_lamports = curve.market_cap_lamports(state)
        if self.market_cap_lamports >= self._peak_lamports:
            self._peak_lamports = self.market_cap_lamports
            self.peak_at_ns = at_ns

    def _hold(self, event: TokenTraded, is_buy: bool) -> None:
        after = event.trader_tokens_after
        if after is None:
            after = self.holders.balance(event.trader) + (event.tokens if is_buy else -event.tokens)
        self.holders.put(event.trader, after)

    def _dev_traded(self, event: TokenTraded, is_buy: bool) -> None:
        if is_buy:
            self.dev_bought_tokens += event.tokens
        else:
            self._dev_sold += event.tokens
            if event.trader_tokens_after == 0:
                # Sold out, whatever was missed: buys before we listened, or sales of another wallet's tokens.
                self._dev_sold = max(self._dev_sold, self.dev_bought_tokens)

    def _bought(self, trader: str, lamports: int) -> None:
        """One that is not among the first BUYERS_MAX still counts in the total that shares refer to."""
        self.bought_by_others += lamports
        before = self._buyers.get(trader)
        if before is None and len(self._buyers) >= BUYERS_MAX:
            return
        total = (before or 0) + lamports
        self._buyers[trader] = total
        if total > self.largest_buyer_lamports:
            self.largest_buyer_lamports = total
