"""A market at PumpPortal's real rate: 22 creations a minute, 35 trades a second of the coins that are listened to.

Exactly those rates on average, from the first second on; the simulated market (`ingest/market.py`) has the lives of
coins instead, and rates that follow from them. A coin is traded for five minutes, by forty traders, the young ones
most, and never completes its curve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from random import Random

from ingest import market_frames as frames
from schemas import curve

CREATIONS_PER_S = 22 / 60
TRADES_PER_S = 35.0
BEFORE = 15  # coins at the start, at once, so that the trades are not all of one
LIFE_S = 300.0
TRADERS = 40
_SPREAD_LAMPORTS = (10_000_000, 2_000_000_000)  # what creators put in
_TRADE_LAMPORTS = (10_000_000, 400_000_000)


class _Coin:
    __slots__ = ("at_s", "bought", "key", "mint", "state")

    def __init__(self, mint: str, key: str, state: curve.Curve, at_s: float) -> None:
        self.mint, self.key, self.state, self.at_s = mint, key, state, at_s
        self.bought = 0


class Rate:
    """`due_s` is when the next frame is to be sent, since the start; `frame` makes it."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._coins: deque[_Coin] = deque()
        self._traders = [frames.pubkey(self._rng) for _ in range(TRADERS)]
        self._creation_s, self._trade_s = 0.0, 1.0
        self._made = 0

    @property
    def due_s(self) -> float:
        return min(self._creation_s, self._trade_s)

    def frame(self, heard: Container[str]) -> tuple[str, str | None] | None:
        """(frame, mint of a trade or None for a creation); None where no coin's trades are listened to.

        heard: the mints whose trades are.
        """
        rng = self._rng
        if self._creation_s <= self._trade_s:
            now_s, self._made = self._creation_s, self._made + 1
            self._creation_s += 0.0 if self._made < BEFORE else rng.expovariate(CREATIONS_PER_S)
            return self._create(now_s), None
        now_s = self._trade_s
        self._trade_s += rng.expovariate(TRADES_PER_S)
        while self._coins and now_s - self._coins[0].at_s > LIFE_S:
            self._coins.popleft()
        open_coins = [coin for coin in self._coins if coin.mint in heard]
        if not open_coins:
            return None
        coin = open_coins[max(rng.randrange(len(open_coins)), rng.randrange(len(open_coins)))]
        return self._trade(coin), coin.mint

    def _create(self, now_s: float) -> str:
        rng = self._rng
        bought = curve.quote_buy_sol(curve.FRESH, rng.randrange(*_SPREAD_LAMPORTS))
        coin = _Coin(frames.pubkey(rng, "pump"), frames.pubkey(rng), bought.after, now_s)
        self._coins.append(coin)
        return frames.create(
            rng, coin.mint, frames.pubkey(rng), coin.key, bought.tokens, bought.curve_lamports, bought.after,
            frames.text(rng), False, frames.signature(rng),
        )  # fmt: skip

    def _trade(self, coin: _Coin) -> str:
        rng = self._rng
        is_buy = coin.bought == 0 or (rng.random() < 0.55 and coin.state.virtual_lamports < 80_000_000_000)
        if is_buy:
            swap = curve.quote_buy_sol(coin.state, rng.randrange(*_TRADE_LAMPORTS))
        else:
            swap = curve.quote_sell(coin.state, max(1, coin.bought // rng.randrange(4, 30)))
        coin.state = swap.after
        coin.bought += swap.tokens if is_buy else -swap.tokens
        return frames.trade(
            rng, coin.mint, rng.choice(self._traders), is_buy, swap.tokens, swap.curve_lamports, 10 * swap.tokens,
            coin.key, swap.after, frames.signature(rng),
        )  # fmt: skip
