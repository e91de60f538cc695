"""Trades of the newest 10, 30, 60 and 300 s of a token, kept incrementally.

Each window holds its own trades, so a trade costs one insertion and one removal in each, whatever its length. All is
exact for the newest TRADES_MAX trades: the hottest coin on record had 3.5 trades a second, 1,050 in 300 s.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final, NamedTuple

SECOND_NS: Final = 1_000_000_000

WINDOWS_S: Final = (10, 30, 60, 300)

# Measured: 370 kB in all windows together for a coin that reaches it.
TRADES_MAX: Final = 1_000


class WindowTrade(NamedTuple):
    """net_lamports: what the reserves gained since the state before, missed trades included.
    size_lamports: of this trade, positive. buyer: "" for a sale, and for what the creator buys.
    """

    at_ns: int
    net_lamports: int
    size_lamports: int
    is_buy: bool
    buyer: str


class Window:
    """The newest trades of a length of time. repeat_buyers: those among the buyers that bought more than once."""

    __slots__ = ("_buyers", "_ns", "_sizes", "_trades", "buys", "net_lamports", "repeat_buyers", "sells")

    def __init__(self, seconds: int) -> None:
        self._ns = seconds * SECOND_NS
        self._trades: deque[WindowTrade] = deque()
        self._sizes: list[int] = []  # ascending
        self._buyers: dict[str, int] = {}
        self.net_lamports = self.buys = self.sells = self.repeat_buyers = 0

    def __len__(self) -> int:
        return len(self._trades)

    @property
    def unique_buyers(self) -> int:
        return len(self._buyers)

    @property
    def median_lamports(self) -> int:
        """The middle size, the lower one of two; 0 without trades."""
        sizes = self._sizes
        return sizes[(len(sizes) - 1) // 2] if sizes else 0

    def add(self, trade: WindowTrade) -> None:
        if len(self._trades) >= TRADES_MAX:
            self._drop()
        self._trades.append(trade)
        _, net, size, is_buy, buyer = trade
        self.net_lamports += net
        insort(self._sizes, size)
        if not is_buy:
            self.sells += 1
            return
        self.buys += 1
        if buyer:
            times = self._buyers[buyer] = self._buyers.get(buyer, 0) + 1
            if times == 2:
                self.repeat_buyers += 1

    def expire(self, now_ns: int) -> None:
        """A trade is inside for exactly the window's length, its own instant included."""
        oldest_ns, trades = now_ns - self._ns, self._trades
        while trades and trades[0].at_ns <= oldest_ns:
            self._drop()

    def _drop(self) -> None:
        _, net, size, is_buy, buyer = self._trades.popleft()
        self.net_lamports -= net
        del self._sizes[bisect_left(self._sizes, size)]
        if not is_buy:
            self.sells -= 1
            return
        self.buys -= 1
        if buyer:
            times = self._buyers[buyer] - 1
            if times == 1:
                self.repeat_buyers -= 1
            if times:
                self._buyers[buyer] = times
            else:
                del self._buyers[buyer]


class Windows:
    """One Window for each of WINDOWS_S. Time only goes on: what is dated before the newest counts as of the newest."""

    __slots__ = ("_newest_ns", "all", "w10", "w30", "w60", "w300")

    def __init__(self) -> None:
        self._newest_ns = 0
        self.all = self.w10, self.w30, self.w60, self.w300 = (
            Window(WINDOWS_S[0]),
            Window(WINDOWS_S[1]),
            Window(WINDOWS_S[2]),
            Window(WINDOWS_S[3]),
        )

    def add(self, at_ns: int, net_lamports: int, size_lamports: int, is_buy: bool, buyer: str) -> None:
        self.advance(at_ns)
        trade = WindowTrade(self._newest_ns, net_lamports, size_lamports, is_buy, buyer)
        for window in self.all:
            window.add(trade)

    def advance(self, now_ns: int) -> None:
        """Let go of what is too old by now."""
        if now_ns <= self._newest_ns:
            return
        self._newest_ns = now_ns
        for window in self.all:
            window.expire(now_ns)
