"""A user's bot over time, as its caller drives it: every exit from entry to landing, and restarts anywhere.

`Course` is that caller in small. It settles what is due before each event, in this order: orders land, each at the
newest price of all events up to its landing; the position is looked at again; deadlines are asked.
"""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots import bot
from bots.mandate import Mandate
from bots.paper import LANDING_NS_DEFAULT, network_fee_lamports
from bots.positions import Account, apply, pending_buys, settles_signal, take
from bots.prices import Prices
from bots.risk import cash_lamports
from schemas import amm, curve
from schemas.config import BotConfig, ExitRule, Fixed, Ladder, Level, Progressive, TimeExit, TrailingStop, terms
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
    Reason,
    Refusal,
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
EXAMPLES = 200

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


@pytest.mark.parametrize(
    ("rule", "happens", "reason", "decided_at"),
    [
        (FIXED, [traded(grown(10 * SOL), T)], Reason.TAKE_PROFIT, T),
        (STEPS, [traded(grown(10 * SOL), T)], Reason.TAKE_PROFIT, T),
        (
            TrailingStop(arm_bps=3_000, trail_bps=2_500),
            [traded(grown(20 * SOL), T - 1), traded(grown(12 * SOL), T)],
            Reason.TAKE_PROFIT,
            T,
        ),
        (TimeExit(after_ns=60 * SECOND), [], Reason.TIME_EXIT, OPENED + 60 * SECOND),
        (PROGRESSIVE, [traded(grown(80 * SOL), T - 1), migrated(T)], Reason.MIGRATED, T),
        # the others' sales leave the curve emptier than our purchase found it
        (FIXED, [traded(Curve(23_000_000_000, 1_399_565_217_391_304, 10**15), T)], Reason.STOP_LOSS, T),
        (Fixed(gain_bps=10**7), ["others"], Reason.SILENT_PRICE, OPENED + 300 * SECOND),
        (Fixed(gain_bps=10**7), [traded(grown(SOL), T), "others"], Reason.SILENT_PRICE, T + 300 * SECOND),
        (FIXED, [Alarm("M", T)], Reason.RUG_ALARM, T),
        (FIXED, [CLOSING], Reason.BOT_STOPPED, T),
    ],
)
def test_every_exit_from_its_cause_to_its_landing(
    rule: ExitRule, happens: list[Any], reason: Reason, decided_at: int
) -> None:
    course = holding(mandate(rule))
    for one in happens:
        if one == "others":
            others(course, course.now + SECOND, OPENED + 320 * SECOND)
        elif isinstance(one, Alarm):
            course.alarm(one)
        elif isinstance(one, Mandate):
            course.configure(one, T)
        else:
            course.event(one)
    course.until(OPENED + 330 * SECOND)
    intent = next(e for line in course.ledger for e in line.entries if isinstance(e, Intent) and e.side is Side.SELL)
    sale = course.fills()[1]
    # Of silence the feed itself must have been heard that long: it is asked again a second later.
    assert 0 <= intent.at_ns - decided_at <= (SECOND if reason is Reason.SILENT_PRICE else 0)
    assert (sale.order_id, sale.reason, sale.at_ns) == (intent.id, reason, intent.at_ns + LANDING_NS_DEFAULT)
    assert intent.reason is reason


def test_a_position_is_held_no_longer_than_its_longest_time() -> None:
    course = holding(mandate(Fixed(gain_bps=10**7), silent_exit_ns=0, max_hold_ns=90 * SECOND))
    course.until(OPENED + 90 * SECOND)
    assert len(course.fills()) == 1
    course.until(OPENED + 91 * SECOND)
    assert course.fills()[1].reason is Reason.MAX_HOLD
    assert course.fills()[1].at_ns == OPENED + 90 * SECOND + LANDING_NS_DEFAULT


def test_a_silent_feed_is_no_silent_coin() -> None:
    course = holding(mandate(FIXED))
    course.until(OPENED + 2_000 * SECOND)
    assert len(course.fills()) == 1
    back = course.now
    course.event(FeedGap(id="g", feed="f", reason="r", from_at_ns=OPENED, seen_at_ns=back))
    others(course, back + SECOND, back + 299 * SECOND)
    assert len(course.fills()) == 1
    others(course, back + 300 * SECOND, back + 303 * SECOND)
    course.until(back + 304 * SECOND)
    assert [fill.reason for fill in course.fills()] == [Reason.SIGNAL, Reason.SILENT_PRICE]


@pytest.mark.parametrize(
    ("minute", "second", "left_percent"),
    # 50 percent at once, then 5 of the original every 20 s: three steps a minute, nothing left after 200 s
    [
        (0, 0, 100), (0, 1, 50), (0, 20, 50), (0, 21, 45), (0, 41, 40), (1, 0, 40), (1, 1, 35), (1, 21, 30),
        (1, 41, 25), (2, 0, 25), (2, 1, 20), (2, 21, 15), (2, 41, 10), (3, 0, 10), (3, 1, 5), (3, 20, 5), (3, 21, 0),
        (10, 0, 0),
    ],
)  # fmt: skip
def test_after_migration_half_goes_at_once_and_the_rest_in_steps_of_five_percent(
    minute: int, second: int, left_percent: int
) -> None:
    course = holding(mandate(PROGRESSIVE))
    original = course.account.positions["M"].original_tokens
    course.event(traded(grown(80 * SOL), T))
    course.until(T + 20 * SECOND)
    assert len(course.fills()) == 1  # on the curve it waits, whatever the gain
    moved = T + 30 * SECOND
    course.event(migrated(moved))
    course.until(moved + (60 * minute + second) * SECOND)
    position = course.account.positions.get("M")
    left = 0 if position is None else position.tokens
    # Each step is rounded down to a base unit; the last takes what that left over.
    assert 0 <= left - original * left_percent // 100 <= 11


def test_the_steps_keep_their_distance_and_their_size() -> None:
    course = holding(mandate(PROGRESSIVE))
    original = course.account.positions["M"].original_tokens
    course.event(migrated(T))
    course.until(T + 600 * SECOND)
    sales = course.fills()[1:]
    assert [sale.at_ns - T - LANDING_NS_DEFAULT for sale in sales] == [20 * n * SECOND for n in range(11)]
    assert [sale.tokens for sale in sales[:-1]] == [original // 2] + [original * 5 // 100] * 9
    assert {sale.reason for sale in sales} == {Reason.MIGRATED}
    assert course.account.positions == {}


def test_a_coin_that_rugs_before_the_purchase_lands_is_sold_right_after() -> None:
    course = Course(mandate(FIXED))
    course.event(created(NOW))
    course.signal(signal(1, FRESH, NOW), NOW)
    course.alarm(Alarm("M", NOW + 100 * MS))
    course.until(OPENED + SECOND)
    bought, sold = course.fills()
    assert (bought.at_ns, sold.reason, sold.at_ns) == (OPENED, Reason.RUG_ALARM, OPENED + LANDING_NS_DEFAULT)


def test_a_stop_that_closes_also_sells_what_lands_after_it() -> None:
    course = Course(mandate(FIXED))
    course.event(created(NOW))
    course.signal(signal(1, FRESH, NOW), NOW)
    course.configure(Mandate(terms=TERMS, running=False, closing_at_ns=NOW + 100 * MS), NOW + 100 * MS)
    course.until(OPENED + SECOND)
    assert [fill.reason for fill in course.fills()] == [Reason.SIGNAL, Reason.BOT_STOPPED]
    assert course.account.positions == {}


def test_a_stop_that_keeps_lets_positions_end_by_their_rules() -> None:
    course = holding(mandate(FIXED))
    course.configure(Mandate(terms=mandate(FIXED).terms, running=False), T)
    course.until(T + SECOND)
    assert len(course.fills()) == 1
    course.event(traded(grown(10 * SOL), T + 2 * SECOND))
    course.until(T + 3 * SECOND)
    assert course.fills()[1].reason is Reason.TAKE_PROFIT


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
    """Three coins that trade on real curves, complete, and migrate."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.states: dict[str, Curve | amm.Pool] = dict.fromkeys("ABC", FRESH)
        self.moved_at_ns = dict.fromkeys("ABC", NOW)

    def trade(self, mint: str, at_ns: int) -> TokenEvent:
        state = self.states[mint]
        self.moved_at_ns[mint] = at_ns
        if isinstance(state, Curve) and state.complete:
            self.states[mint] = amm.AT_MIGRATION
            return migrated(at_ns, mint)
        if isinstance(state, Curve):
            if self.rng.random() < 0.6:
                state = curve.quote_buy_sol(state, self.rng.randrange(30 * SOL)).after
            else:
                sold = curve.INITIAL_VIRTUAL_TOKENS - state.virtual_tokens
                state = curve.quote_sell(state, self.rng.randint(0, sold)).after
        else:
            state = amm.quote_buy_sol(state, self.rng.randrange(2, SOL)).after
        self.states[mint] = state
        return traded(state, at_ns, mint)

    def asked(self, number: int, mint: str, at_ns: int) -> Signal:
        state = self.states[mint]
        side = Side.SELL if self.rng.random() < 0.15 else Side.BUY
        asked = signal(number, state if isinstance(state, Curve) else None, at_ns, mint=mint, side=side)
        if asked.market is None:
            return asked
        # A signal's market is that of an event, which everybody hears.
        heard = msgspec.structs.replace(asked.market, seen_at_ns=self.moved_at_ns[mint])
        return msgspec.structs.replace(asked, market=heard)


def script(seed: int, steps: int) -> list[Any]:
    """What happens, in the order of time: events, alarms, signals with the time of their arrival, changed wishes."""
    rng = random.Random(seed)
    world, now = World(rng), NOW
    happens: list[Any] = [created(NOW, mint) for mint in "ABC"]
    for step in range(steps):
        now += rng.choice([rng.randrange(1, 400 * MS), rng.randrange(20 * SECOND)])
        mint, roll = rng.choice("ABC"), rng.random()
        if roll < 0.4:
            asked = world.asked(step, mint, now)
            now += rng.randrange(1, SECOND)
            happens.append((asked, now))
        elif roll < 0.45:
            happens.append(Alarm(mint, now))
        elif roll < 0.48:
            happens.append(FeedGap(id=f"g{step}", feed="f", reason="r", from_at_ns=now - SECOND, seen_at_ns=now))
        elif roll < 0.52:
            happens.append(rng.choice([True, False]))  # whether entries are wanted from now on
        else:
            happens.append(world.trade(mint, now))
    return happens


def play(orders: Mandate, happens: list[Any], restarts: frozenset[int]) -> Course:
    """restarts: before which of the happenings everything but the ledger is forgotten."""
    course = Course(orders)
    for index, one in enumerate(happens):
        if index in restarts:
            course.restart()
        if isinstance(one, bool):
            closing = None if one else course.now
            course.configure(Mandate(terms=orders.terms, running=one, closing_at_ns=closing), course.now)
        elif isinstance(one, tuple):
            course.signal(*one)
        elif isinstance(one, Alarm):
            course.alarm(one)
        else:
            course.event(one)
        assert len(course.account.positions) + len(list(pending_buys(course.account))) <= 2
        under_way = [intent.mint for intent in course.account.pending.values()]
        assert len(under_way) == len(set(under_way))
    for _ in range(5):  # what is under way lands; what that leads to lands, too
        if course.account.pending:
            course.until(course.now + SECOND)
    return course


ORDERS = {"max_open_positions": 2, "max_entries_per_hour": 6, "slippage_bps": 5_000, "silent_exit_ns": 40 * SECOND}


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), RULES, st.sets(st.integers(0, 90)))
def test_restarts_anywhere_change_no_line_of_the_ledger(seed: int, rule: ExitRule, restarts: set[int]) -> None:
    happens = script(seed, 90)
    orders = mandate(rule, **ORDERS)
    one, other = play(orders, happens, frozenset()), play(orders, happens, frozenset(restarts))
    assert msgspec.json.encode(one.ledger) == msgspec.json.encode(other.ledger)
    assert facts(one.account) == facts(other.account)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32), RULES, st.integers(0, 2_000_000))
def test_whatever_happens_each_signal_has_one_outcome_and_the_money_adds_up(
    seed: int, rule: ExitRule, priority_fee: int
) -> None:
    happens = script(seed, 90)
    course = play(mandate(rule, **ORDERS, priority_fee_lamports=priority_fee), happens, frozenset())
    account, entries = course.account, [entry for line in course.ledger for entry in line.entries]
    ids = [entry.id for entry in entries]
    assert len(ids) == len(set(ids))

    signals = sorted(one[0].id for one in happens if isinstance(one, tuple))
    assert sorted(entry.signal_id for entry in entries if settles_signal(entry)) == signals
    assert account.signals == len(signals)
    assert account.pending == {}

    fee = network_fee_lamports(course.mandate.terms)
    for fill in course.fills():
        fees = fill.protocol_fee_lamports + fill.creator_fee_lamports + fill.network_fee_lamports
        sign = 1 if fill.side is Side.BUY else -1
        assert fill.lamports == fill.curve_lamports + sign * fees
        assert fill.network_fee_lamports == fee
        assert fill.price_at_ns <= fill.at_ns
    open_cost = sum(position.open_cost_lamports for position in account.positions.values())
    assert account.realised_lamports == account.received_lamports - account.paid_lamports + open_cost
    assert account.network_fees_lamports == fee * account.fills
    assert cash_lamports(account, course.mandate.terms) >= -fee * account.fills
    buys = [fill.at_ns for fill in course.fills() if fill.side is Side.BUY]
    hour = 3_600 * SECOND
    assert all(sum(at_ns - hour < other <= at_ns for other in buys) <= 6 for at_ns in buys)

    # What the market refused is tried again within bounds, never with each price.
    refused = [entry for entry in entries if isinstance(entry, Refusal) and ":exit" in (entry.order_id or "")]
    assert len(refused) <= account.entries * 12

    for cut in range(0, len(entries), 7):
        folded = Account()
        take(folded, entries[:cut])
        take(folded, entries[cut:])
        assert facts(folded) == facts(account)


def facts(account: Account) -> dict[str, Any]:
    """What the ledger determines: all but the highest values observed, and where the ledger stands."""
    plain: dict[str, Any] = msgspec.to_builtins(account)
    del plain["last_sequence"]
    for position in plain["positions"].values():
        del position["peak_lamports"]
    return plain
