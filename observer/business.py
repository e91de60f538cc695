"""What the last 24 hours were worth: opportunities, and the return on what was sold; a fold, pure.

The terms are those of the daily report. An **opportunity** is a coin that a strategy announced to buy, once however
often its score rose. Its **return** is what its sales gained, over what the sold part had cost, all users and all fees
in it; the **mean return** is the plain mean of the opportunities' returns. A **source** is where coins trade; it is
active when it launched one. The window moves on in steps of SLOT_NS.
"""

from __future__ import annotations

from collections import deque
from heapq import nlargest
from typing import Final

from observer.times import SECOND_NS
from runtime.vocabulary import Figure, Vocabulary
from schemas.events import Decision, Fill, Side, origin_of

SLOT_NS: Final = 300 * SECOND_NS
DAY_NS: Final = 86_400 * SECOND_NS
TOP: Final = 5
SOURCES_MAX: Final = 50
# Beyond so many in a slot, sales of further coins are left out.
SLOT_COINS_MAX: Final = 20_000

FIGURES: Final[Vocabulary] = {
    "opportunities_last_day": "Coins that a strategy announced to buy in the last 24 hours, once for each strategy",
    "active_sources": "Places where coins trade that launched one in the last 24 hours",
    "roi_mean_bps": Figure("The plain mean of the opportunities' returns in the last 24 hours", later=True),
    "roi_top_bps": Figure(
        "The highest returns of an opportunity in the last 24 hours, by rank",
        {"rank": tuple(str(rank) for rank in range(1, TOP + 1))},
        later=True,
    ),
}

Opportunity = tuple[str, str]  # a coin and a strategy


class Business:
    """Feed creations, decisions and sales in the order of their streams, ask at any time."""

    def __init__(self) -> None:
        self._announced: dict[Opportunity, int] = {}  # when it was last, in that order
        self._sources: dict[str, int] = {}
        self._slots: deque[tuple[int, dict[Opportunity, list[int]]]] = deque()  # cost of what was sold, and the gain
        self._sums: dict[Opportunity, list[int]] = {}  # over the slots

    def created(self, pool: str, at_ns: int) -> None:
        if pool in self._sources or len(self._sources) < SOURCES_MAX:
            self._sources[pool] = at_ns

    def decided(self, decision: Decision) -> None:
        if decision.side is Side.BUY:
            self._announced.pop((decision.mint, decision.strategy), None)
            self._announced[decision.mint, decision.strategy] = decision.decided_at_ns

    def sold(self, fill: Fill, cost_lamports: int) -> None:
        """cost_lamports: of what it sold."""
        slot = fill.at_ns // SLOT_NS
        if not self._slots or self._slots[-1][0] < slot:
            self._slots.append((slot, {}))
        coins = self._slots[-1][1]
        one = fill.mint, origin_of(fill.signal_id) or ""
        if one not in coins and len(coins) >= SLOT_COINS_MAX:
            return
        for sums in (coins.setdefault(one, [0, 0]), self._sums.setdefault(one, [0, 0])):
            sums[0] += cost_lamports
            sums[1] += fill.lamports - cost_lamports

    def figures(self, now_ns: int) -> tuple[int, int, list[int]]:
        """Opportunities, active sources, and the returns of what was sold, in 1/10,000, in no order."""
        self._forget(now_ns)
        returns = [gain * 10_000 // cost for cost, gain in self._sums.values() if cost > 0]
        return len(self._announced), len(self._sources), returns

    def _forget(self, now_ns: int) -> None:
        since_ns = now_ns - DAY_NS
        while self._announced:
            oldest = next(iter(self._announced))
            if self._announced[oldest] >= since_ns:
                break
            del self._announced[oldest]
        self._sources = {pool: at_ns for pool, at_ns in self._sources.items() if at_ns >= since_ns}
        while self._slots and self._slots[0][0] < since_ns // SLOT_NS:
            for one, (cost, gain) in self._slots.popleft()[1].items():
                sums = self._sums[one]
                sums[0] -= cost
                sums[1] -= gain
                if not sums[0]:
                    del self._sums[one]


def mean_bps(returns: list[int]) -> int | None:
    return sum(returns) // len(returns) if returns else None


def top_bps(returns: list[int]) -> dict[str, int]:
    """By rank, the best first."""
    return {str(rank): value for rank, value in enumerate(nlargest(TOP, returns), 1)}
