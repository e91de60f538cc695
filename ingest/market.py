"""A simulated market: a seed and a time -> the frames that PumpPortal would have sent until then.

Coins are launched, attract buyers or do not, are dumped by their creators, die, or complete their curve and migrate;
prices move along the real curve to the lamport. How often and how much is `market_rates`, the spelling
`market_frames`; here is only what follows what. Everything happens through one queue of what is due, in order of its
time, so the frames depend on the seed alone, not on how often or how fast somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from ingest import market_frames as frames
from ingest import market_rates as rates
from ingest.market_rates import SECOND_NS, Course, Fate, between, chance
from ingest.venues.pumpportal import USDC_MINT
from schemas import amm, curve

# What goes on before the first frame: coins "created before you connected", some about to migrate.
WARM_UP_NS = 120 * SECOND_NS
COINS_ALIVE_MAX = 2_000
HOLDERS_MAX = 400
WALLETS_MAX = 4_000
CREATORS_MAX = 2_000
# A coin whose next trade would be later than this is dead.
DEAD_AFTER_NS = 60 * SECOND_NS


class Frame(NamedTuple):
    """at_ns: since the market's start. is_trade: sent only to those subscribed to the mint."""

    at_ns: int
    mint: str
    is_trade: bool
    text: str
    is_migration: bool = False


class _Coin:
    """One coin alive. holders: everybody's balance, the creator's apart. gap_ns: mean time between trades."""

    __slots__ = (
        "balance", "course", "creator", "creator_balance", "curve", "curve_key", "dumped", "ends_at_ns", "gap_ns",
        "holders", "mint", "peak_at_ns", "pool", "pool_is_shown", "traded_at_ns",
    )  # fmt: skip

    def __init__(self, mint: str, creator: str, curve_key: str, state: curve.Curve, course: Course) -> None:
        self.mint = mint
        self.creator = creator
        self.creator_balance = 0
        self.curve_key = curve_key
        self.curve = state
        self.course = course
        self.pool: amm.Pool | None = None
        self.pool_is_shown = False
        self.holders: list[str] = []
        self.balance: dict[str, int] = {}
        self.peak_at_ns = 0
        self.ends_at_ns = 0  # 0 while on the curve
        self.traded_at_ns = 0
        self.gap_ns = 0
        self.dumped = False


class Market:
    """One market. `until` gives its frames up to a time; `alive` is how many coins trade."""

    def __init__(self, seed: int, *, warm_up_ns: int = WARM_UP_NS) -> None:
        self._rng = Random(seed)
        self._now_ns = -warm_up_ns
        self._due: list[tuple[int, int, Callable[[_Coin], None], _Coin | None]] = []
        self._number = 0
        self._out: list[Frame] = []
        self._wallets: list[str] = []
        self._creators: deque[str] = deque(maxlen=CREATORS_MAX)
        self._names: deque[frames.Text] = deque(maxlen=50)
        self._trend = frames.text(self._rng)
        self._mayhem_key = frames.pubkey(self._rng)
        self.alive = 0
        self._at(0, self._arrival)
        self.until(0)

    def until(self, now_ns: int) -> list[Frame]:
        """What happened since the last call, up to `now_ns` since the start, in order."""
        while self._due and self._due[0][0] <= now_ns:
            self._now_ns, _, happen, coin = heappop(self._due)
            happen(coin)  # type: ignore[arg-type] # only what concerns no coin is queued without one
        out, self._out = self._out, []
        return out

    @property
    def next_at_ns(self) -> int:
        """When the next thing happens; it need not make a frame."""
        return self._due[0][0]

    def _at(self, after_ns: int, happen: Callable[..., None], coin: _Coin | None = None) -> None:
        self._number += 1
        heappush(self._due, (self._now_ns + after_ns, self._number, happen, coin))

    def _emit(self, mint: str, text: str, *, is_trade: bool = False, is_migration: bool = False) -> None:
        frame = Frame(self._now_ns, mint, is_trade, text, is_migration)
        self._out.append(frame)
        if chance(rates.REPEATED_FRAME_PER_MILLE, self._rng):
            self._out.append(frame)

    # Launching

    def _arrival(self, _: None) -> None:
        self._at(rates.wait_ns(rates.ARRIVAL_MEAN_NS, self._rng), self._arrival)
        self._launch(None)
        if chance(rates.BURST_PER_MILLE, self._rng):
            for _n in range(between((1, rates.BURST_EXTRA_MAX), self._rng)):
                self._at(self._rng.randrange(rates.BURST_GAP_NS), self._launch)

    def _launch(self, _: None) -> None:
        rng = self._rng
        creator, called = self._creator(), self._text()
        if chance(rates.USDC_PER_MILLE, rng):
            key = frames.pubkey(rng)
            text = frames.create(
                rng, USDC_MINT, creator, key, 0, 0, curve.FRESH, None, mayhem=False, signed=frames.signature(rng)
            )
            self._emit(USDC_MINT, text)
            return
        insta = chance(rates.INSTA_BOND_PER_MILLE, rng)
        paid = rates.INSTA_BOND_PAID if insta else rates.quantile(rates.CREATOR_PAYS, rng)
        first = curve.quote_buy_sol(curve.FRESH, paid)
        if chance(rates.BONK_PER_MILLE, rng):
            self._emit("", frames.create_bonk(rng, creator, first.tokens, first.curve_lamports, called))
            return
        mayhem = chance(rates.MAYHEM_PER_MILLE, rng)
        mint = frames.pubkey(rng, "" if chance(rates.OTHER_SUFFIX_PER_MILLE, rng) else "pump")
        key = self._mayhem_key if mayhem else frames.pubkey(rng)
        text = frames.create(
            rng, mint, creator, key, first.tokens, first.curve_lamports, first.after, called, mayhem,
            frames.signature(rng),
        )  # fmt: skip
        self._emit(mint, text)
        course = rates.COURSES[Fate.RISE if insta else rates.draw_fate(rng)]
        coin = _Coin(mint, creator, key, first.after, course)
        coin.creator_balance = first.tokens
        self._start(coin, insta=insta)

    def _start(self, coin: _Coin, *, insta: bool) -> None:
        if self.alive >= COINS_ALIVE_MAX:
            return
        self.alive += 1
        rng, course = self._rng, coin.course
        peak_ns = between(course.peak_s, rng) * SECOND_NS
        coin.peak_at_ns = self._now_ns + peak_ns
        coin.gap_ns = 60 * SECOND_NS // between(course.trades_per_minute, rng)
        coin.traded_at_ns = self._now_ns
        if insta:
            self._at(0, self._buy_the_rest, coin)
            return
        if coin.creator_balance and chance(course.creator_sells_per_mille, rng):
            self._at(rng.randrange(peak_ns // 2, peak_ns), self._creator_sells, coin)
        self._at(rates.wait_ns(coin.gap_ns, rng), self._trade, coin)

    def _creator(self) -> str:
        if self._creators and not chance(rates.NEW_CREATOR_PER_MILLE, self._rng):
            return self._rng.choice(self._creators)
        self._creators.append(frames.pubkey(self._rng))
        return self._creators[-1]

    def _text(self) -> frames.Text:
        rng = self._rng
        if chance(rates.TREND_PER_MILLE, rng):
            return self._trend
        if self._names and chance(rates.NAMES_REPEATED_PER_MILLE, rng):
            return rng.choice(self._names)
        self._names.append(frames.text(rng))
        if chance(4, rng):  # a trend lasts some ten minutes
            self._trend = self._names[-1]
        return self._names[-1]

    # Trading

    def _trade(self, coin: _Coin) -> None:
        """One trade, or two in one transaction, and the time of the next."""
        rng = self._rng
        signed = frames.signature(rng)
        after_peak = coin.dumped or self._now_ns >= coin.peak_at_ns
        buys_per_mille = coin.course.buys_after_per_mille if after_peak else coin.course.buys_per_mille
        if coin.pool is not None:
            buys_per_mille = 490
        if not coin.holders or chance(buys_per_mille, rng):
            self._buy(coin, signed)
            if chance(rates.SHARED_SIGNATURE_PER_MILLE, rng) and not coin.curve.complete:
                self._buy(coin, signed)
        else:
            self._sell(coin, signed)
        if coin.curve.complete and coin.pool is None:
            self._at(between(rates.MIGRATE_NS, rng), self._migrate, coin)
            return
        if after_peak:
            # Halving every half_life_s: to first order, the gap grows by its share of ln 2 * elapsed / half_life.
            elapsed_ns = self._now_ns - coin.traded_at_ns
            coin.gap_ns += coin.gap_ns * elapsed_ns * 693 // (coin.course.half_life_s * SECOND_NS * 1000)
        coin.traded_at_ns = self._now_ns
        if coin.gap_ns > DEAD_AFTER_NS or 0 < coin.ends_at_ns < self._now_ns:
            self.alive -= 1
            return
        self._at(rates.wait_ns(coin.gap_ns, rng), self._trade, coin)

    def _buy(self, coin: _Coin, signed: str) -> None:
        rng = self._rng
        trader = self._trader(coin)
        spend = rates.quantile(rates.BUYER_PAYS, rng)
        if coin.pool is not None:
            swap = amm.quote_buy_sol(coin.pool, spend)
            if swap.tokens:
                coin.pool = swap.after
                self._record(coin, trader, True, swap.tokens, swap.curve_lamports, signed)
            return
        bought = curve.quote_buy_sol(coin.curve, spend)
        if bought.tokens:
            coin.curve = bought.after
            self._record(coin, trader, True, bought.tokens, bought.curve_lamports, signed)

    def _buy_the_rest(self, coin: _Coin) -> None:
        """The creator bought almost all of the curve; an accomplice completes it, and it migrates at once."""
        bought = curve.quote_buy_tokens(coin.curve, coin.curve.real_tokens)
        coin.curve = bought.after
        signed = frames.signature(self._rng)
        self._record(coin, self._trader(coin), True, bought.tokens, bought.curve_lamports, signed)
        self._at(between(rates.INSTA_MIGRATE_NS, self._rng), self._migrate, coin)

    def _sell(self, coin: _Coin, signed: str) -> None:
        rng = self._rng
        trader = coin.holders[rng.randrange(len(coin.holders))]
        balance = coin.balance[trader]
        self._sell_tokens(coin, trader, balance if chance(650, rng) else -(-balance // 2), signed)

    def _creator_sells(self, coin: _Coin) -> None:
        """All of it, while the coin is still on its curve; from then on others leave, too."""
        if coin.pool is None and not coin.curve.complete and coin.creator_balance:
            self._sell_tokens(coin, coin.creator, coin.creator_balance, frames.signature(self._rng))
            coin.dumped = True

    def _sell_tokens(self, coin: _Coin, trader: str, tokens: int, signed: str) -> None:
        if coin.pool is not None:
            swap = amm.quote_sell(coin.pool, tokens)
            if swap is not None:
                coin.pool = swap.after
                self._record(coin, trader, False, tokens, swap.curve_lamports, signed)
            return
        sold = curve.quote_sell(coin.curve, tokens)
        coin.curve = sold.after
        self._record(coin, trader, False, tokens, sold.curve_lamports, signed)

    def _record(self, coin: _Coin, trader: str, is_buy: bool, tokens: int, lamports: int, signed: str) -> None:
        """Keep the trader's balance, and say it."""
        balance = self._settle(coin, trader, tokens if is_buy else -tokens)
        if coin.pool is None:
            text = frames.trade(
                self._rng, coin.mint, trader, is_buy, tokens, lamports, balance, coin.curve_key, coin.curve, signed
            )
        else:
            shown = coin.pool if coin.pool_is_shown else None
            text = frames.trade_migrated(coin.mint, trader, is_buy, tokens, lamports, balance, shown, signed)
        self._emit(coin.mint, text, is_trade=True)

    def _settle(self, coin: _Coin, trader: str, change: int) -> int:
        if trader == coin.creator:
            coin.creator_balance += change
            return coin.creator_balance
        balance = coin.balance.get(trader, 0) + change
        if trader not in coin.balance:
            coin.holders.append(trader)
        if balance:
            coin.balance[trader] = balance
        else:
            del coin.balance[trader]
            coin.holders.remove(trader)
        return balance

    def _trader(self, coin: _Coin) -> str:
        """Somebody: again who holds already, one of those about, or a new wallet."""
        rng = self._rng
        if len(coin.holders) >= HOLDERS_MAX or (coin.holders and chance(150, rng)):
            return coin.holders[rng.randrange(len(coin.holders))]
        if len(self._wallets) < WALLETS_MAX or chance(50, rng):
            new = frames.pubkey(rng)
            if len(self._wallets) < WALLETS_MAX:
                self._wallets.append(new)
            return new
        return self._wallets[rng.randrange(len(self._wallets))]

    def _migrate(self, coin: _Coin) -> None:
        rng = self._rng
        self._emit(coin.mint, frames.migrate(rng, coin.mint), is_migration=True)
        coin.pool = amm.AT_MIGRATION
        coin.pool_is_shown = chance(500, rng)
        coin.ends_at_ns = self._now_ns + between(rates.MIGRATED_DEATH_NS, rng)
        self._at(rates.wait_ns(coin.gap_ns, rng), self._trade, coin)
