"""The fold of FILLS and of the `bots` bucket: what became of each user's signals, who runs a bot, and totals.

A signal is settled by exactly one entry: an intent that acts on it, or a refusal without an order. Counting those
needs no memory of ids, so the tally stays small however long the ledger is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from runtime.vocabulary import OTHER
from schemas.config import BotWanted, Wanted
from schemas.events import Append, Fill, Intent, Reason, Refusal, Side, Strategy, origin_of

# Per user: a bot's own limit is 100 open positions. Beyond it the oldest is forgotten, its sale counts as pure gain.
HELD_MAX = 200
USERS_MAX = 200_000

# OTHER: a sale whose signal's id is none of ours.
STRATEGIES: Final = (*map(str, Strategy), OTHER)

_ACTS_ON_SIGNAL = frozenset({Reason.SIGNAL, Reason.SELL_SIGNAL})


class Held(msgspec.Struct):
    """What a user holds of a coin. cost_lamports: paid for what is still held, fees included."""

    tokens: int
    cost_lamports: int


class UserTally(msgspec.Struct):
    """One user's history in numbers."""

    signals_settled: int = 0
    fills: int = 0
    refused: int = 0
    realised_lamports: int = 0
    refusals: dict[Reason, int] = {}
    held: dict[str, Held] = {}


class Totals(msgspec.Struct):
    """Sums over all users. realised_lamports: received by sales less what the sold part had cost; realised_by: the same
    by the strategy whose signal opened the position."""

    signals_settled: int = 0
    intents: int = 0
    fills: int = 0
    refused: int = 0
    realised_lamports: int = 0
    realised_by: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(STRATEGIES, 0))
    refusals: dict[Reason, int] = {}


class Tally:
    """Fold messages in the order of their streams; one met twice counts once.

    users: those who have a history. running: since when (ns) a user's bot is wanted running.
    """

    def __init__(self, on_sale: Callable[[Fill, int], None] = lambda fill, cost_lamports: None) -> None:
        """on_sale: hears each sale and what the sold part had cost."""
        self._on_sale = on_sale
        self.users: dict[str, UserTally] = {}
        self.totals = Totals()
        self.running: dict[str, int] = {}
        self._ledger_to = 0
        self._bots_to = 0

    def append(self, line: Append, sequence: int) -> None:
        """sequence: of the line in FILLS."""
        if sequence <= self._ledger_to:
            return
        self._ledger_to = sequence
        user = self._user(line.user)
        for entry in line.entries:
            if isinstance(entry, Fill):
                self._fill(user, entry)
            elif isinstance(entry, Refusal):
                self._refusal(user, entry)
            else:
                self._intent(user, entry)

    def wanted(self, user: str, bot: BotWanted | None, revision: int) -> None:
        """bot: None where the key was deleted. A new configuration of a running bot does not restart its clock."""
        if revision <= self._bots_to:
            return
        self._bots_to = revision
        if bot is None or bot.wanted is not Wanted.RUNNING:
            self.running.pop(user, None)
        else:
            self.running.setdefault(user, bot.changed_at_ns)

    def _user(self, name: str) -> UserTally:
        found = self.users.get(name)
        if found is None:
            found = UserTally()
            if len(self.users) < USERS_MAX:
                self.users[name] = found
        return found

    def _intent(self, user: UserTally, intent: Intent) -> None:
        self.totals.intents += 1
        if intent.reason in _ACTS_ON_SIGNAL:
            user.signals_settled += 1
            self.totals.signals_settled += 1

    def _refusal(self, user: UserTally, refusal: Refusal) -> None:
        for counts in (user, self.totals):
            counts.refused += 1
            counts.refusals[refusal.reason] = counts.refusals.get(refusal.reason, 0) + 1
            if refusal.order_id is None:
                counts.signals_settled += 1

    def _fill(self, user: UserTally, fill: Fill) -> None:
        user.fills += 1
        self.totals.fills += 1
        if fill.side is Side.BUY:
            _buy(user.held, fill)
            return
        cost = _cost_of_sold(user.held, fill)
        self._on_sale(fill, cost)
        gain = fill.lamports - cost
        user.realised_lamports += gain
        self.totals.realised_lamports += gain
        self.totals.realised_by[_strategy(fill)] += gain


def _strategy(fill: Fill) -> str:
    """A position's sales carry the signal that opened it."""
    strategy = origin_of(fill.signal_id)
    return strategy if strategy in STRATEGIES else OTHER


def _buy(held: dict[str, Held], fill: Fill) -> None:
    position = held.get(fill.mint)
    if position is None:
        if len(held) >= HELD_MAX:
            del held[next(iter(held))]
        position = held[fill.mint] = Held(tokens=0, cost_lamports=0)
    position.tokens += fill.tokens
    position.cost_lamports += fill.lamports


def _cost_of_sold(held: dict[str, Held], fill: Fill) -> int:
    """Average cost, rounded down; the last sale takes what is left, so a closed position's sum is exact."""
    position = held.get(fill.mint)
    if position is None:
        return 0
    if fill.tokens >= position.tokens:
        del held[fill.mint]
        return position.cost_lamports
    cost = position.cost_lamports * fill.tokens // position.tokens
    position.tokens -= fill.tokens
    position.cost_lamports -= cost
    return cost
