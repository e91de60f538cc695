"""What tests of the analysis share: a world that makes events by real curve arithmetic, and a model that remembers when
it was asked."""

import random
from typing import Any

import msgspec

from analyze.analysis import (
    DUPLICATE_NS,
    MINUTE_NS,
    Analysis,
)
from analyze.features import Look
from analyze.score import Row, Scored
from analyze.windows import SECOND_NS
from schemas import curve
from schemas.events import (
    Decision,
    FeedGap,
    Market,
    Quote,
    Side,
    TokenCreated,
    TokenEvent,
    TokenMigrated,
    TokenTraded,
)

START = 1_790_000_000 * SECOND_NS
SOL = 1_000_000_000


class World:
    """Makes events with real curve arithmetic, each with its own id."""

    def __init__(self) -> None:
        self.number = 0
        self.curves: dict[str, curve.Curve] = {}
        self.bought: dict[str, int] = {}

    def create(self, mint: str, at_ns: int = START, paid: int = SOL, **changes: Any) -> TokenCreated:
        first = curve.quote_buy_sol(curve.FRESH, paid)
        self.curves[mint] = first.after
        self.bought[mint] = first.tokens
        fields: dict[str, Any] = {
            "id": self._id(), "mint": mint, "signature": "s", "creator": f"dev-{mint}", "pool": "pump",
            "name": f"Coin {mint}", "symbol": mint, "uri": "ipfs://x", "dev_buy_tokens": first.tokens,
            "dev_buy_lamports": first.curve_lamports, "market": self._market(mint, at_ns), "quote": Quote.SOL,
            "mayhem": False, "seen_at_ns": at_ns,
        }  # fmt: skip
        return TokenCreated(**{**fields, **changes})

    def trade(
        self, mint: str, trader: str, amount: int, at_ns: int, side: Side = Side.BUY, **changes: Any
    ) -> TokenTraded:
        """amount: lamports to spend, or bps of all sold tokens to sell."""
        state = self.curves[mint]
        if side is Side.BUY:
            swap = curve.quote_buy_sol(state, amount)
        else:
            swap = curve.quote_sell(state, (curve.INITIAL_VIRTUAL_TOKENS - state.virtual_tokens) * amount // 10_000)
        self.curves[mint] = swap.after
        fields: dict[str, Any] = {
            "id": self._id(), "mint": mint, "signature": "s", "side": side, "trader": trader, "pool": "pump",
            "lamports": swap.curve_lamports, "tokens": swap.tokens, "trader_tokens_after": None,
            "market": self._market(mint, at_ns), "pool_lamports": None, "pool_tokens": None, "seen_at_ns": at_ns,
        }  # fmt: skip
        return TokenTraded(**{**fields, **changes})

    def created_tokens(self, mint: str) -> int:
        return self.bought[mint]

    def migrate(self, mint: str, at_ns: int) -> TokenMigrated:
        return TokenMigrated(id=self._id(), mint=mint, signature="s", pool="pump-amm", seen_at_ns=at_ns)

    def gap(self, from_ns: int, until_ns: int) -> FeedGap:
        return FeedGap(id=self._id(), feed="f", reason="SILENT", from_at_ns=from_ns, seen_at_ns=until_ns)

    def _id(self) -> str:
        self.number += 1
        return f"{self.number:032x}"

    def _market(self, mint: str, at_ns: int) -> Market:
        state = self.curves[mint]
        return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def fed(analysis: Analysis, *events: TokenEvent) -> list[Decision]:
    return [decision for event in events for decision in analysis.feed(event)]


def rush(world: World, mint: str, buyers: int = 12, from_s: float = 1, each: int = SOL) -> list[TokenTraded]:
    """So many buyers within 10 s."""
    step = 10 * SECOND_NS // buyers
    return [world.trade(mint, f"t{n}", each, START + int(from_s * SECOND_NS) + n * step) for n in range(buyers)]


def dump(world: World, mint: str, bps: int, at_s: float, seller: str = "t0", **changes: Any) -> TokenTraded:
    """So much of all that the curve has sold is sold back at once."""
    return world.trade(mint, seller, bps, START + int(at_s * SECOND_NS), Side.SELL, **changes)


class Doubling:
    """A model whose answer depends on several features, and that remembers when it was asked."""

    def __init__(self) -> None:
        self.asked_ms: list[int] = []

    def predict(self, look: Look) -> Scored:
        features = look.features
        self.asked_ms.append(features["age_ms"])
        score = (features["buys_60s"] * 7 + features["top_10_bps"] // 50 + features["creator_launches"]) % 101
        return Scored(score, (Row(0, "buys_60s", 21),), features, ("buys_60s",))


def history(seed: int, count: int) -> list[TokenEvent]:
    """Some hours of a market in a few hundred events: bursts of trades, calm, gaps, migrations before and after their
    creations, coins of every kind, events a little out of order, sent again, and heard again."""
    rng, world, now_ns = random.Random(seed), World(), START
    events: list[TokenEvent] = []
    mints: list[str] = []
    while len(events) < count:
        now_ns += rng.choice((0, 1, 300_000_000, SECOND_NS, 5 * SECOND_NS, 4 * MINUTE_NS, 20 * MINUTE_NS))
        at_ns = now_ns - rng.choice((0, 0, 0, rng.randrange(2 * SECOND_NS)))
        roll = rng.randrange(100)
        if roll < 25 or not mints:
            mint = f"M{len(mints)}"
            kind = {"mayhem": True} if rng.random() < 0.15 else {}
            name, creator = f"N{rng.randrange(6)}", f"c{rng.randrange(6)}"
            created = world.create(mint, at_ns, rng.randrange(4 * SOL), name=name, creator=creator, **kind)
            if rng.random() < 0.1:
                events.append(world.migrate(mint, at_ns))
            mints.append(mint)
            events.append(created)
        elif roll < 60:
            mint = rng.choice(mints[-4:])
            selling = rng.choice((0.25, 0.25, 0.25, 0.95))
            for n in range(rng.randrange(1, 12)):
                side = Side.SELL if rng.random() < selling else Side.BUY
                amount = rng.randrange(500, 4_000) if side is Side.SELL else rng.randrange(SOL // 10, 2 * SOL)
                if rng.random() < 0.04:  # a whale comes, or all leave
                    amount = 9_000 if side is Side.SELL else 25 * SOL
                trader = rng.choice((f"t{n}", f"c{n % 6}"))
                events.append(world.trade(mint, trader, amount, at_ns + n * rng.choice((1, SECOND_NS)), side))
        elif roll < 64:
            events.append(world.migrate(rng.choice(mints), at_ns))
        elif roll < 68:
            events.append(world.gap(at_ns - MINUTE_NS, at_ns))
        elif roll < 84 and events:
            events.append(rng.choice(events))  # the same bytes, however old
        elif events:
            again = rng.choice(events[-20:])
            if at_ns - again.seen_at_ns <= DUPLICATE_NS and not isinstance(again, FeedGap):
                event = msgspec.structs.replace(again, seen_at_ns=max(at_ns, again.seen_at_ns))
                events.append(event)
    return events
