"""A user's bot over time, as its caller drives it, for tests of whole courses.

`Course` is that caller in small. It settles what is due before each event, in this order: orders land, each at the
newest price of all events up to its landing; the position is looked at again; deadlines are asked.
"""

from typing import Any

import msgspec

from bots import bot
from bots.mandate import Mandate
from bots.paper import LANDING_NS_DEFAULT
from bots.positions import Account, apply
from bots.prices import Prices
from schemas import amm, curve
from schemas.config import BotConfig, ExitRule, Fixed, Ladder, Level, Progressive, terms
from schemas.curve import FRESH, Curve
from schemas.events import (
    Append,
    Entry,
    FeedGap,
    Fill,
    Intent,
    Market,
    Origin,
    Quote,
    RiskLevel,
    Side,
    Signal,
    Strategy,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
)

SECOND = 1_000_000_000
NOW = 1_750_000_000 * SECOND
SOL = 1_000_000_000
MS = 1_000_000


TERMS = terms(BotConfig(strategy=Strategy.SNIPER))
PROGRESSIVE = Progressive(initial_bps=5_000, step_bps=500, interval_ns=20 * SECOND)


class Alarm(msgspec.Struct, frozen=True):
    mint: str
    at_ns: int


class Course:
    """One user's bot, its ledger, and all that was heard."""

    def __init__(self, mandate: Mandate) -> None:
        self.mandate = mandate
        self.account = Account()
        self.prices = Prices()
        self.ledger: list[Append] = []
        self.heard: list[TokenEvent | Alarm] = []
        self.looked: dict[str, int] = {}
        self.now = 0

    def event(self, event: TokenEvent) -> None:
        self.until(event.seen_at_ns)
        self.heard.append(event)
        price = self.prices.apply(event)
        if price is not None and not isinstance(event, FeedGap):
            self._write(
                bot.on_price(self.account, event.mint, self.mandate, price, self.now, self.prices.feed), event.mint
            )

    def alarm(self, alarm: Alarm) -> None:
        self.until(alarm.at_ns)
        self.heard.append(alarm)
        price = self.prices.alarm(alarm.mint, alarm.at_ns)
        if price is not None:
            self._write(
                bot.on_alarm(self.account, alarm.mint, self.mandate, price, self.now, self.prices.feed), alarm.mint
            )

    def signal(self, signal: Signal, at_ns: int) -> None:
        self.until(at_ns)
        if signal.market is not None:
            self.prices.learn(signal.mint, signal.market, ordinary=signal.arithmetic_known)
        price = self.prices.get(signal.mint)
        self._write(bot.on_signal(self.account, self.mandate, signal, price, self.now), signal.mint)

    def configure(self, mandate: Mandate, at_ns: int) -> None:
        self.until(at_ns)
        self.mandate = mandate
        for mint in list(self.account.positions):
            self._look(mint)

    def until(self, at_ns: int) -> None:
        """Everything that is due before a time."""
        while (due := self._next()) is not None and due[0] < at_ns:
            self.now, intent, mint = due
            if intent is not None:
                price = self.prices.get(mint)
                self._write([bot.land(self.account, self.mandate, intent, price, self.now)], mint)
            self._look(mint)
        self.now = at_ns

    def restart(self) -> None:
        """Only the ledger and what was heard are left."""
        self.account, self.prices = Account(), Prices()
        for sequence, line in enumerate(self.ledger, start=1):
            apply(self.account, line, sequence)
        for mint in [*self.account.positions, *(intent.mint for intent in self.account.pending.values())]:
            self.prices.hold(mint)
        for heard in self.heard:
            if isinstance(heard, Alarm):
                self.prices.alarm(heard.mint, heard.at_ns)
                continue
            price = self.prices.apply(heard)
            if price is not None and not isinstance(heard, FeedGap):
                bot.observe(self.account, heard.mint, price)
        self.looked = dict.fromkeys(self.account.positions, self.now - 1)

    def fills(self) -> list[Fill]:
        return [entry for line in self.ledger for entry in line.entries if isinstance(entry, Fill)]

    def _next(self) -> tuple[int, Intent | None, str] | None:
        dues: list[tuple[int, int, str, Intent | None, str]] = [
            (intent.at_ns + LANDING_NS_DEFAULT, 0, intent.id, intent, intent.mint)
            for intent in self.account.pending.values()
        ]
        for mint in self.account.positions:
            price, after = self.prices.get(mint), self.looked[mint]
            due_ns = bot.next_deadline_ns(self.account, mint, self.mandate, price, after, self.prices.feed)
            if due_ns is not None:
                dues.append((due_ns, 1, mint, None, mint))
        if not dues:
            return None
        at_ns, _, _, intent, mint = min(dues, key=lambda due: due[:3])
        return at_ns, intent, mint

    def _look(self, mint: str) -> None:
        price, feed = self.prices.get(mint), self.prices.feed
        self._write(bot.on_time(self.account, mint, self.mandate, price, self.now, feed), mint)

    def _write(self, entries: list[Entry], mint: str) -> None:
        self.looked[mint] = self.now
        if not entries:
            return
        line = Append(id=f"u:{len(self.ledger)}", user="u", signal_sequence=0, entries=tuple(entries), at_ns=self.now)
        self.ledger.append(line)
        apply(self.account, line, len(self.ledger))
        for mint in (intent.mint for intent in self.account.pending.values()):
            self.prices.hold(mint)


def market(state: Curve, at_ns: int) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def created(at_ns: int, mint: str = "M") -> TokenCreated:
    return TokenCreated(
        id=f"c{mint}", mint=mint, signature="s", creator="w", pool="pump", name=None, symbol=None, uri=None,
        dev_buy_tokens=0, dev_buy_lamports=0, market=market(FRESH, at_ns), quote=Quote.SOL, mayhem=False,
        seen_at_ns=at_ns,
    )  # fmt: skip


def traded(state: Curve | amm.Pool, at_ns: int, mint: str = "M") -> TokenTraded:
    on_curve = isinstance(state, Curve)
    return TokenTraded(
        id=f"t{mint}{at_ns}", mint=mint, signature="s", side=Side.BUY, trader="w",
        pool="pump" if on_curve else "pump-amm", lamports=None, tokens=1, trader_tokens_after=None,
        market=market(state, at_ns) if isinstance(state, Curve) else None,
        pool_lamports=None if isinstance(state, Curve) else state.quote_lamports,
        pool_tokens=None if isinstance(state, Curve) else state.base_tokens, seen_at_ns=at_ns,
    )  # fmt: skip


def migrated(at_ns: int, mint: str = "M") -> TokenMigrated:
    return TokenMigrated(id=f"m{mint}", mint=mint, signature="s", pool="pump-amm", seen_at_ns=at_ns)


def grown(lamports: int) -> Curve:
    """A fresh curve after others put this much into it."""
    return curve.quote_buy_sol(FRESH, lamports).after


def signal(number: int, state: Curve | None, at_ns: int, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "id": f"s{number}", "user": "u", "decision_id": "d", "strategy": Origin.SNIPER, "side": Side.BUY,
        "mint": "M", "creator": "w", "score": 90, "risk": RiskLevel.LOW, "reasons": (), "arithmetic_known": True,
        "market": None if state is None else market(state, at_ns), "config_revision": 1, "decided_at_ns": at_ns,
        "expires_at_ns": at_ns + 30 * SECOND,
    }  # fmt: skip
    return Signal(**{**fields, **changes})


def mandate(rule: ExitRule, **changes: Any) -> Mandate:
    return Mandate(terms=msgspec.structs.replace(TERMS, take_profit=rule, **changes), running=True)


OPENED = NOW + LANDING_NS_DEFAULT


def holding(orders: Mandate) -> Course:
    """A coin created at NOW, bought at once, landed at OPENED."""
    course = Course(orders)
    course.event(created(NOW))
    course.signal(signal(1, FRESH, NOW), NOW)
    course.until(OPENED + 1)
    assert list(course.account.positions) == ["M"]
    return course


def others(course: Course, from_ns: int, to_ns: int) -> None:
    """The feed goes on without our coin: another one is launched every second."""
    for second, at_ns in enumerate(range(from_ns, to_ns, SECOND)):
        course.event(created(at_ns, f"X{second}"))


FIXED, STEPS = Fixed(gain_bps=5_000), Ladder(levels=(Level(gain_bps=5_000, sell_bps=4_000),))
T = OPENED + 10 * SECOND
CLOSING = Mandate(terms=TERMS, running=False, closing_at_ns=T)
