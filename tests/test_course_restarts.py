"""A user's bot over made-up histories: restarts anywhere change nothing, and the money adds up."""

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.mandate import Mandate
from bots.paper import network_fee_lamports
from bots.positions import Account, pending_buys, settles_signal, take
from bots.risk import cash_lamports
from bots.testing_course import (
    MS,
    NOW,
    SECOND,
    SOL,
    Alarm,
    Course,
    created,
    mandate,
    migrated,
    signal,
    traded,
)
from schemas import amm, curve
from schemas.config import ExitRule, Fixed, Ladder, Level, Progressive, TimeExit, TrailingStop
from schemas.curve import FRESH, Curve
from schemas.events import (
    FeedGap,
    Refusal,
    Side,
    Signal,
    TokenEvent,
)

EXAMPLES = 200


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
