"""Who holds which coin, and which coins have orders under way: so that a trade reaches the users it concerns, and a
coin's price is kept for as long as anybody needs it, once however many hold it."""

from __future__ import annotations

from collections.abc import Set

from bots.prices import Prices


class Holders:
    """positions: how many are open, over all users. orders: how many have not landed."""

    def __init__(self, prices: Prices) -> None:
        """prices: told to keep a mint's price, and to let it go."""
        self._prices = prices
        self._users: dict[str, dict[str, None]] = {}  # by mint; as keys, so that their order is the same every time
        self._orders: dict[str, int] = {}  # that have not landed, by mint
        self.positions = 0
        self.orders = 0

    @property
    def held(self) -> Set[str]:
        """Mints that some user holds."""
        return self._users.keys()

    @property
    def followed(self) -> Set[str]:
        """Mints whose trades are needed: the held ones, and those of orders that have not landed. A set of its own."""
        return self._users.keys() | self._orders.keys()

    def of(self, mint: str) -> tuple[str, ...]:
        """The users who hold it."""
        return tuple(self._users.get(mint, ()))

    def holds(self, user: str, mint: str) -> bool:
        return user in self._users.get(mint, ())

    def hold(self, user: str, mint: str) -> None:
        users = self._users.setdefault(mint, {})
        self.positions += user not in users
        users[user] = None
        self._prices.hold(mint)

    def let_go(self, user: str, mint: str) -> None:
        users = self._users[mint]
        del users[user]
        self.positions -= 1
        if not users:
            del self._users[mint]
            self._release(mint)

    def order(self, mint: str) -> None:
        self._orders[mint] = self._orders.get(mint, 0) + 1
        self.orders += 1
        self._prices.hold(mint)

    def landed(self, mint: str) -> None:
        self._orders[mint] -= 1
        self.orders -= 1
        if not self._orders[mint]:
            del self._orders[mint]
            self._release(mint)

    def _release(self, mint: str) -> None:
        if mint not in self._users and mint not in self._orders:
            self._prices.release(mint)
