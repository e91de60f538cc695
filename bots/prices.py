"""The latest market of each mint, folded from token events; bounded, and held mints are never forgotten.

The order of the stream decides what is latest, not a clock. A coin trades on its curve, then (after `TokenMigrated`,
or a first trade in the pool) in a PumpSwap pool:

    curve       the reserves that its last event gave
    complete    the curve with no tokens left, until the migration is heard: it neither buys nor sells
    pool        reserves as a trade gave them; where a trade names none, those that its amounts imply; at the migration
                itself, those of every canonical pool
    unknown     state None: a venue whose arithmetic is not known, or a pool of which nothing is known yet

A rug alarm is a fact about the coin, too, and is kept beside its price: who holds it, or has ordered it, meets it
whenever the price is looked at.

"Canonical" needs a coin priced in SOL, not mayhem, seen on an ordinary curve, that moved to "pump-amm"; only then is
a pool's state ever derived. Coins whose creation was not heard pass as ordinary when a trade showed their curve.
Without a gap in the feed a curve's last state is exact however old it is: only trades change it.
"""

from __future__ import annotations

from typing import Final, Union

import msgspec

from schemas import amm, curve
from schemas.events import FeedGap, Market, Quote, TokenCreated, TokenEvent, TokenMigrated, TokenTraded

# About half a day of launches; a price weighs a few hundred bytes.
MINTS_MAX: Final = 20_000

# Trades this small say little about a price: one lamport of rounding moves it (practice of public parsers: 0.001 SOL).
DUST_LAMPORTS: Final = 1_000_000

CURVE_POOL: Final = "pump"
AMM_POOL: Final = "pump-amm"

State = Union[curve.Curve, amm.Pool, None]  # noqa: UP007


class Price(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of one mint's market. seen_at_ns: when the event that gave the state reached us.

    state: None where nothing is known that could be traded against.
    pool: where it trades, as the venue spells it; "" unknown.
    ordinary: the curve and the pool follow the formulas of `schemas`, priced in SOL.
    migrated_at_ns: when we heard that it had left its curve; None while it has not.
    alarmed_at_ns: the newest rug alarm; None without one.
    """

    mint: str
    state: State
    seen_at_ns: int
    pool: str = CURVE_POOL
    ordinary: bool = True
    migrated_at_ns: int | None = None
    alarmed_at_ns: int | None = None

    @property
    def known_arithmetic(self) -> bool:
        """Whether a state, once given, can be traded against."""
        return self.pool in ("", CURVE_POOL, AMM_POOL) and (self.ordinary or self.migrated_at_ns is not None)


class Feed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was heard of the venue at all, by the events' own times; silence of a coin only means something within it.

    since_at_ns: the end of the last known gap; 0 where none is known. heard_at_ns: the newest event of any coin.
    """

    since_at_ns: int = 0
    heard_at_ns: int = 0


NOTHING_HEARD: Final = Feed()


def of_market(mint: str, market: Market, *, ordinary: bool = True) -> Price:
    """The price that a signal carries with it."""
    return Price(mint=mint, state=curve.from_market(market), seen_at_ns=market.seen_at_ns, ordinary=ordinary)


def learned(price: Price | None, mint: str, market: Market, *, ordinary: bool) -> Price:
    """The newer of a known price and a curve that a signal carries; the same object where the signal's is not newer.

    A coin that has left its curve, or that has no formula, is not priced by a curve.
    """
    if price is None:
        return of_market(mint, market, ordinary=ordinary)
    off_curve = price.migrated_at_ns is not None or (price.state is None and not price.ordinary)
    if off_curve or (price.state is not None and price.seen_at_ns >= market.seen_at_ns):
        return price
    return msgspec.structs.replace(price, state=curve.from_market(market), seen_at_ns=market.seen_at_ns)


def fold(price: Price | None, event: TokenCreated | TokenTraded | TokenMigrated) -> Price | None:
    """The price after an event of the same mint; the same object where it says nothing new."""
    if isinstance(event, TokenCreated):
        return _created(price, event)
    if isinstance(event, TokenTraded):
        return _traded(price, event)
    return _migrated(price, event)


class Prices:
    """Prices by mint: all held ones, and the most recently seen others up to a number."""

    __slots__ = ("_held", "_mints_max", "_recent", "feed")

    def __init__(self, mints_max: int = MINTS_MAX) -> None:
        self.feed = NOTHING_HEARD
        self._mints_max = mints_max
        self._recent: dict[str, Price] = {}  # in order of their last event
        self._held: dict[str, Price | None] = {}

    def __len__(self) -> int:
        """Mints with a known price."""
        return len(self._recent) + sum(price is not None for price in self._held.values())

    def get(self, mint: str) -> Price | None:
        return self._held.get(mint) or self._recent.get(mint)

    def hold(self, mint: str) -> None:
        """Keep a mint's price until `release`; once for a mint, however many hold it."""
        if mint not in self._held:
            self._held[mint] = self._recent.pop(mint, None)

    def release(self, mint: str) -> None:
        """Nobody holds it any more: it may be forgotten in its turn."""
        price = self._held.pop(mint, None)
        if price is not None:
            self._remember(price)

    def apply(self, event: TokenEvent) -> Price | None:
        """The mint's new price; None where the event changed nothing."""
        heard_at_ns = max(self.feed.heard_at_ns, event.seen_at_ns)
        if isinstance(event, FeedGap):
            self.feed = Feed(since_at_ns=max(self.feed.since_at_ns, event.seen_at_ns), heard_at_ns=heard_at_ns)
            return None
        self.feed = Feed(since_at_ns=self.feed.since_at_ns, heard_at_ns=heard_at_ns)
        before = self.get(event.mint)
        price = fold(before, event)
        if price is None or price is before:
            return None
        self._keep(price)
        return price

    def learn(self, mint: str, market: Market, *, ordinary: bool) -> Price:
        """Take in the curve that a signal carries, where it is newer than what is known; the mint's price."""
        before = self.get(mint)
        price = learned(before, mint, market, ordinary=ordinary)
        if price is not before:
            self._keep(price)
        return price

    def alarm(self, mint: str, at_ns: int) -> Price | None:
        """Note a rug alarm; the mint's new price, None where nobody knows or holds it, or a newer one is known."""
        before = self.get(mint)
        if before is None:
            if mint not in self._held:
                return None
            before = Price(mint=mint, state=None, seen_at_ns=0)
        if before.alarmed_at_ns is not None and before.alarmed_at_ns >= at_ns:
            return None
        price = msgspec.structs.replace(before, alarmed_at_ns=at_ns)
        self._keep(price)
        return price

    def _keep(self, price: Price) -> None:
        if price.mint in self._held:
            self._held[price.mint] = price
        else:
            self._remember(price)

    def _remember(self, price: Price) -> None:
        self._recent.pop(price.mint, None)
        self._recent[price.mint] = price
        if len(self._recent) > self._mints_max:
            del self._recent[next(iter(self._recent))]


def _created(price: Price | None, event: TokenCreated) -> Price | None:
    on_curve = event.market is not None and event.pool in ("", CURVE_POOL)
    ordinary = on_curve and event.quote is Quote.SOL and not event.mayhem
    if price is not None and price.migrated_at_ns is not None:
        # Its migration, or a trade in its pool, was heard first: what the creation adds is whether it is ordinary.
        state = amm.AT_MIGRATION if price.state is None and ordinary and price.pool == AMM_POOL else price.state
        return msgspec.structs.replace(price, ordinary=ordinary, state=state)
    if price is not None and price.state is not None:
        # A trade came first (or the creation comes again): its curve is the later one.
        return msgspec.structs.replace(price, ordinary=price.ordinary and ordinary)
    state = curve.from_market(event.market) if event.market is not None and event.quote is not Quote.USDC else None
    return Price(
        mint=event.mint,
        state=state,
        seen_at_ns=event.seen_at_ns,
        pool=event.pool or CURVE_POOL,
        ordinary=ordinary,
        alarmed_at_ns=None if price is None else price.alarmed_at_ns,
    )


def _traded(price: Price | None, event: TokenTraded) -> Price | None:
    migrated = price is not None and price.migrated_at_ns is not None
    if event.market is not None:
        if migrated or (price is not None and price.state is None and not price.ordinary):
            return price  # a straggler from the curve, or a coin known to have another arithmetic
        state = curve.from_market(event.market)
        if price is None:
            return Price(mint=event.mint, state=state, seen_at_ns=event.seen_at_ns, pool=event.pool or CURVE_POOL)
        return msgspec.structs.replace(price, state=state, seen_at_ns=event.seen_at_ns)
    if event.pool != AMM_POOL and not (event.pool == "" and price is not None and price.pool == AMM_POOL):
        return price
    if price is None:
        price = Price(mint=event.mint, state=None, seen_at_ns=event.seen_at_ns, pool=event.pool, ordinary=False)
    pool = _pool_after(price, event)
    if pool is None and migrated:
        return price
    return msgspec.structs.replace(
        price,
        state=pool,
        seen_at_ns=event.seen_at_ns,
        pool=AMM_POOL,
        migrated_at_ns=event.seen_at_ns if price.migrated_at_ns is None else price.migrated_at_ns,
    )


def _pool_after(price: Price, event: TokenTraded) -> amm.Pool | None:
    if event.pool_lamports and event.pool_tokens:
        if price.ordinary:
            return amm.canonical(event.pool_tokens, event.pool_lamports)
        return amm.Pool(event.pool_tokens, event.pool_lamports)
    if price.ordinary and event.tokens > 0 and (event.lamports or 0) > DUST_LAMPORTS:
        return amm.after_trade(event.side, event.tokens, event.lamports or 0)
    return None


def _migrated(price: Price | None, event: TokenMigrated) -> Price:
    if price is None:
        # Never seen, or ahead of its creation: not ordinary until the creation says so.
        return Price(
            mint=event.mint,
            state=None,
            seen_at_ns=event.seen_at_ns,
            pool=event.pool,
            ordinary=False,
            migrated_at_ns=event.seen_at_ns,
        )
    if price.migrated_at_ns is not None:
        return price
    canonical = price.ordinary and event.pool == AMM_POOL and isinstance(price.state, curve.Curve)
    return msgspec.structs.replace(
        price,
        state=amm.AT_MIGRATION if canonical else None,
        seen_at_ns=event.seen_at_ns,
        pool=event.pool,
        migrated_at_ns=event.seen_at_ns,
    )
