"""Who holds how much of a token, as far as trades tell: the newest known balance of each trader, the largest kept.

A balance changes without a trade when tokens are sent from wallet to wallet, which the venue does not report; a trade's
own statement of the balance afterwards sets it right again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

# The tenth largest is asked for; ten times that, so that sales rarely reach below what was kept. 18 kB.
HOLDERS_MAX: Final = 100


class Holders:
    """Balances in base units. Beyond HOLDERS_MAX the smallest is forgotten."""

    __slots__ = ("_ascending", "_balances")

    def __init__(self) -> None:
        self._balances: dict[str, int] = {}
        self._ascending: list[int] = []

    def __len__(self) -> int:
        return len(self._balances)

    def balance(self, trader: str) -> int:
        """0 where none is known."""
        return self._balances.get(trader, 0)

    def put(self, trader: str, tokens: int) -> None:
        """The trader's balance is this now."""
        before, ascending = self._balances.pop(trader, 0), self._ascending
        if before:
            del ascending[bisect_left(ascending, before)]
        if tokens <= 0:
            return
        if len(ascending) >= HOLDERS_MAX:
            smallest = ascending[0]
            if tokens <= smallest:
                return
            del ascending[0], self._balances[next(one for one, held in self._balances.items() if held == smallest)]
        self._balances[trader] = tokens
        insort(ascending, tokens)

    def largest(self, number: int) -> int:
        """What the largest so many hold together."""
        return sum(self._ascending[-number:])

    def largest_but(self, trader: str) -> int:
        """The largest balance of anybody else."""
        ascending = self._ascending
        if not ascending or ascending[-1] != self._balances.get(trader):
            return ascending[-1] if ascending else 0
        return ascending[-2] if len(ascending) > 1 else 0
