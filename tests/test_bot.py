"""bots/bot.py: one outcome for each signal, exits by the rules, and an account that the ledger alone gives again."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots import bot
from bots.positions import Account, apply, take
from bots.prices import Price, of_market
from bots.risk import cash_lamports
from schemas import amm, curve
from schemas.config import ExitRule, Fixed, Ladder, Level, Progressive, Terms, TimeExit, TrailingStop
from schemas.curve import FRESH, Curve
from schemas.events import (
    Append,
    Entry,
    Fill,
    Intent,
    Market,
    Reason,
    Refusal,
    RiskLevel,
    Side,
    Signal,
    Strategy,
)

SECOND = 1_000_000_000
NOW = 1_750_000_000 * SECOND
SOL = 1_000_000_000

TERMS = Terms(
    strategy=Strategy.SNIPER, threshold=50, take_profit=Fixed(gain_bps=5_000), budget_lamports=SOL,
    buy_lamports=SOL // 20, max_open_positions=5, max_entries_per_hour=10, stop_loss_bps=4_000,
    max_hold_ns=3_600 * SECOND, daily_loss_limit_lamports=SOL // 2, slippage_bps=1_000,
)  # fmt: skip
PROGRESSIVE = Progressive(initial_bps=5_000, step_bps=500, interval_ns=20 * SECOND)


def market(state: Curve, at_ns: int = NOW) -> Market:
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def signal(number: int = 1, state: Curve = FRESH, at_ns: int = NOW, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "id": f"s{number}", "user": "u", "decision_id": "d", "strategy": Strategy.SNIPER, "side": Side.BUY,
        "mint": "M", "score": 90, "risk": RiskLevel.LOW, "reasons": (), "market": market(state, at_ns),
        "config_revision": 1, "decided_at_ns": at_ns, "expires_at_ns": at_ns + 10 * SECOND,
    }  # fmt: skip
    return Signal(**{**fields, **changes})


def grown(lamports: int, at_ns: int = NOW, mint: str = "M") -> Price:
    """The price after others put this much into a fresh curve."""
    return of_market(mint, market(curve.quote_buy_sol(FRESH, lamports).after, at_ns))


def holding(rule: ExitRule = TERMS.take_profit) -> tuple[Account, Terms]:
    terms = msgspec.structs.replace(TERMS, take_profit=rule)
    account = Account()
    take(account, bot.on_signal(account, terms, signal(), None, NOW))
    assert "M" in account.positions
    return account, terms


def outcome(entries: list[Entry]) -> Fill | Refusal:
    last = entries[-1]
    assert isinstance(last, Fill | Refusal)
    return last


def test_a_signal_becomes_an_order_and_its_fill() -> None:
    intent, fill = bot.on_signal(Account(), TERMS, signal(), None, NOW + 5)
    assert isinstance(intent, Intent)
    assert isinstance(fill, Fill)
    assert (intent.id, fill.order_id, fill.signal_id, fill.side) == ("s1:buy", "s1:buy", "s1", Side.BUY)
    assert intent.lamports == TERMS.buy_lamports >= fill.lamports
    # A tenth fewer than the signal's own market gives, rounded up.
    assert intent.tokens == -(-fill.tokens * 9 // 10)
    assert (fill.price_at_ns, fill.at_ns) == (NOW, NOW + 5)


def test_the_same_signal_gives_the_same_bytes() -> None:
    first, second = (bot.on_signal(Account(), TERMS, signal(), grown(SOL), NOW) for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


@pytest.mark.parametrize(
    ("price", "reason", "price_at"),
    [
        (grown(SOL, NOW + 1), Reason.SIGNAL, NOW + 1),  # 6.7 percent dearer: within the limit
        (grown(5 * SOL, NOW + 1), Reason.SLIPPAGE, None),
        (grown(5 * SOL, NOW - 1), Reason.SIGNAL, NOW),  # older than the signal's own market
        (grown(100 * SOL, NOW + 1), Reason.CURVE_COMPLETE, None),
        (Price(mint="M", state=None, seen_at_ns=NOW + 1, pool="pump-amm", migrated_at_ns=NOW), Reason.NO_PRICE, None),
        (Price(mint="M", state=amm.AT_MIGRATION, seen_at_ns=NOW + 1, migrated_at_ns=NOW), Reason.SLIPPAGE, None),
    ],
)
def test_a_buy_meets_the_newest_known_market(price: Price, reason: Reason, price_at: int | None) -> None:
    entries = bot.on_signal(Account(), TERMS, signal(), price, NOW + 2)
    last = outcome(entries)
    assert last.reason is reason
    assert isinstance(entries[0], Intent)
    if isinstance(last, Fill):
        assert last.price_at_ns == price_at
    else:
        assert last.order_id == "s1:buy"


@pytest.mark.parametrize(
    ("terms", "given_signal", "now", "reason"),
    [
        (TERMS, signal(), NOW + 10 * SECOND + 1, Reason.EXPIRED),
        (None, signal(), NOW, Reason.NOT_RUNNING),
        (None, signal(), NOW + 11 * SECOND, Reason.EXPIRED),  # before anything else
        (TERMS, signal(state=curve.COMPLETE), NOW, Reason.CURVE_COMPLETE),
        (TERMS, signal(side=Side.SELL), NOW, Reason.NOT_HELD),
        (msgspec.structs.replace(TERMS, buy_lamports=1), signal(), NOW, Reason.TOO_SMALL),
        (msgspec.structs.replace(TERMS, budget_lamports=1), signal(), NOW, Reason.BUDGET),
    ],
)
def test_a_signal_that_makes_no_order_is_refused_once(
    terms: Terms | None, given_signal: Signal, now: int, reason: Reason
) -> None:
    entries = bot.on_signal(Account(), terms, given_signal, None, now)
    assert len(entries) == 1
    refusal = outcome(entries)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.signal_id, refusal.order_id) == ("s1:refused", "s1", None)
    assert (refusal.reason, refusal.side, refusal.at_ns) == (reason, given_signal.side, now)


def test_a_held_coin_is_not_bought_again() -> None:
    account, terms = holding()
    assert outcome(bot.on_signal(account, terms, signal(2), None, NOW)).reason is Reason.ALREADY_HELD


def test_a_sell_signal_sells_all_and_is_settled_by_its_own_id() -> None:
    account, terms = holding()
    held = account.positions["M"].tokens
    entries = bot.on_signal(account, terms, signal(2, side=Side.SELL), grown(SOL, NOW + 1), NOW + 1)
    fill = outcome(entries)
    assert isinstance(fill, Fill)
    assert (fill.signal_id, fill.order_id, fill.tokens, fill.reason) == ("s2", "s1:buy:exit1", held, Reason.SELL_SIGNAL)
    take(account, entries)
    assert account.positions == {}
    assert account.signals == 2


def test_a_sell_signal_that_meets_no_market_is_refused_and_keeps_the_position() -> None:
    account, terms = holding()
    gone = Price(mint="M", state=None, seen_at_ns=NOW + 1, pool="pump-amm", migrated_at_ns=NOW + 1)
    entries = bot.on_signal(account, terms, signal(2, side=Side.SELL), gone, NOW + 1)
    assert (outcome(entries).reason, len(entries)) == (Reason.NO_PRICE, 2)
    take(account, entries)
    # The refused order's id is spent.
    later = bot.on_signal(account, terms, signal(3, side=Side.SELL), grown(SOL, NOW + 2), NOW + 2)
    assert outcome(later).id == "s1:buy:exit2:fill"


def test_a_gain_is_taken_when_the_price_allows_it() -> None:
    account, terms = holding()
    assert bot.on_price(account, "M", terms, grown(5 * SOL), NOW + SECOND) == []
    entries = bot.on_price(account, "M", terms, grown(10 * SOL), NOW + SECOND)
    fill = outcome(entries)
    assert isinstance(fill, Fill)
    assert (fill.signal_id, fill.order_id, fill.reason) == ("s1", "s1:buy:exit1", Reason.TAKE_PROFIT)
    take(account, entries)
    assert account.positions == {}
    assert account.realised_lamports == account.received_lamports - account.paid_lamports >= SOL // 40


def test_a_coin_that_is_not_held_causes_nothing() -> None:
    assert bot.on_price(Account(), "M", TERMS, grown(SOL), NOW) == []
    assert bot.on_time(Account(), "M", TERMS, grown(SOL), NOW) == []
    assert bot.next_deadline_ns(Account(), "M", TERMS, None) is None


@pytest.mark.parametrize(
    "price",
    [
        None,
        Price(mint="M", state=None, seen_at_ns=NOW, pool="pump-amm", migrated_at_ns=NOW),
        Price(mint="M", state=curve.COMPLETE, seen_at_ns=NOW),
    ],
)
def test_a_due_exit_without_a_price_writes_nothing_and_comes_later(price: Price | None) -> None:
    account, terms = holding(TimeExit(after_ns=60 * SECOND))
    due = bot.next_deadline_ns(account, "M", terms, price)
    assert due == NOW + 60 * SECOND
    assert bot.on_time(account, "M", terms, price, due) == []
    if price is not None:
        assert bot.on_price(account, "M", terms, price, due) == []
    fill = outcome(bot.on_time(account, "M", terms, grown(SOL), due + SECOND))
    assert fill.reason is Reason.TIME_EXIT


def test_an_exit_that_would_return_nothing_is_not_written() -> None:
    account, terms = holding()
    worthless = Price(mint="M", state=amm.Pool(10**18, 1), seen_at_ns=NOW, pool="pump-amm", migrated_at_ns=NOW)
    assert bot.on_price(account, "M", terms, worthless, NOW + SECOND) == []


def test_a_trailing_stop_follows_the_highest_price_also_when_it_was_only_observed() -> None:
    rule = TrailingStop(arm_bps=3_000, trail_bps=2_500)
    prices = [grown(20 * SOL), grown(12 * SOL)]
    account, terms = holding(rule)
    assert bot.on_price(account, "M", terms, prices[0], NOW) == []
    followed = bot.on_price(account, "M", terms, prices[1], NOW)
    again, _ = holding(rule)
    bot.observe(again, "M", prices[0])
    assert bot.on_price(again, "M", terms, prices[1], NOW) == followed
    assert outcome(followed).reason is Reason.TAKE_PROFIT


def test_a_migrated_coin_is_sold_in_steps_until_nothing_is_left() -> None:
    account, terms = holding(PROGRESSIVE)
    original = account.positions["M"].tokens
    assert bot.on_price(account, "M", terms, grown(80 * SOL), NOW) == []  # on the curve it waits, whatever the gain
    at_ns = NOW + 100 * SECOND
    price = Price(mint="M", state=amm.AT_MIGRATION, seen_at_ns=at_ns, pool="pump-amm", migrated_at_ns=at_ns)
    take(account, bot.on_price(account, "M", terms, price, at_ns))
    assert account.positions["M"].tokens == original - original // 2
    times = []
    while (due := bot.next_deadline_ns(account, "M", terms, price)) is not None:
        assert bot.on_time(account, "M", terms, price, due - 1) == []
        entries = bot.on_time(account, "M", terms, price, due)
        assert outcome(entries).reason is Reason.MIGRATED
        take(account, entries)
        times.append((due - at_ns) // SECOND)
    assert times == [20 * n for n in range(1, 11)]
    assert account.realised_lamports == account.received_lamports - account.paid_lamports > 0


RULES = st.sampled_from(
    [
        Fixed(gain_bps=2_000),
        Ladder(levels=(Level(gain_bps=500, sell_bps=4_000), Level(gain_bps=3_000, sell_bps=5_000))),
        TrailingStop(arm_bps=500, trail_bps=1_000),
        Progressive(initial_bps=2_500, step_bps=3_000, interval_ns=7 * SECOND),
        TimeExit(after_ns=30 * SECOND),
    ]
)


class World:
    """Three mints that trade on real curves, migrate, and sometimes are unknown; prices as a bot would hear them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.states: dict[str, Curve | amm.Pool | None] = dict.fromkeys("ABC", FRESH)
        self.migrated: dict[str, int] = {}

    def trade(self, mint: str, now: int) -> Price:
        state = self.states[mint]
        if isinstance(state, Curve) and state.complete:
            self.states[mint] = self.rng.choice([amm.AT_MIGRATION, None])
            self.migrated[mint] = now
        elif isinstance(state, Curve):
            if self.rng.random() < 0.6:
                self.states[mint] = curve.quote_buy_sol(state, self.rng.randrange(30 * SOL)).after
            else:
                others = curve.INITIAL_VIRTUAL_TOKENS - state.virtual_tokens
                self.states[mint] = curve.quote_sell(state, self.rng.randint(0, others)).after
        return self.price(mint, now)

    def price(self, mint: str, now: int) -> Price:
        pool = "pump-amm" if mint in self.migrated else "pump"
        return Price(
            mint=mint, state=self.states[mint], seen_at_ns=now, pool=pool, migrated_at_ns=self.migrated.get(mint)
        )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), RULES)
def test_whatever_happens_each_signal_has_one_outcome_and_the_money_adds_up(seed: int, rule: ExitRule) -> None:
    rng = random.Random(seed)
    terms = msgspec.structs.replace(
        TERMS, take_profit=rule, max_open_positions=2, max_entries_per_hour=6, slippage_bps=5_000
    )
    account, ledger, signals, now, world = Account(), list[Append](), list[str](), NOW, World(rng)
    for step in range(80):
        now += rng.randrange(20 * SECOND)
        mint = rng.choice("ABC")
        price = world.trade(mint, now)
        if rng.random() < 0.4:
            state = price.state if isinstance(price.state, Curve) else curve.COMPLETE
            side = Side.SELL if rng.random() < 0.2 else Side.BUY
            asked = signal(step, state, now - rng.randrange(12 * SECOND), mint=mint, side=side)
            signals.append(asked.id)
            entries = bot.on_signal(account, terms if rng.random() < 0.9 else None, asked, price, now)
            assert entries
        elif rng.random() < 0.5:
            entries = bot.on_price(account, mint, terms, price, now)
        else:
            entries = bot.on_time(account, mint, terms, price, now)
        take(account, entries)
        if entries:
            ledger.append(Append(id=f"u:{step}", user="u", signal_sequence=0, entries=tuple(entries), at_ns=now))
        assert len(account.positions) <= 2
        assert cash_lamports(account, terms) >= 0

    written = [entry for line in ledger for entry in line.entries]
    assert sorted(outcomes_of(written)) == sorted(signals)
    ids = [entry.id for entry in written]
    assert len(ids) == len(set(ids))
    open_cost = sum(position.open_cost_lamports for position in account.positions.values())
    assert account.realised_lamports == account.received_lamports - account.paid_lamports + open_cost
    assert account.signals == len(signals)

    folded = Account()
    for sequence, line in enumerate(ledger, start=1):
        apply(folded, line, sequence)
    assert facts(folded) == facts(account)


def outcomes_of(entries: list[Entry]) -> list[str]:
    """The signals that the entries settle: by the purchase, by the sale that they asked for, or by a refusal."""
    settling = (Reason.SIGNAL, Reason.SELL_SIGNAL)
    return [e.signal_id for e in entries if isinstance(e, Refusal) or (isinstance(e, Fill) and e.reason in settling)]


def facts(account: Account) -> dict[str, Any]:
    """What the ledger determines: all but the highest values observed, and where the ledger stands."""
    plain: dict[str, Any] = msgspec.to_builtins(account)
    del plain["last_sequence"]
    for position in plain["positions"].values():
        del position["peak_lamports"]
    return plain
