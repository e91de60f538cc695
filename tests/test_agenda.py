"""bots/agenda.py: what waits, what need not wait, and that waiting or not changes no ledger."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import NamedTuple

from hypothesis import given, strategies

from bots.book import Book
from bots.group import Arrived
from schemas import curve
from schemas.codec import encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import (
    Decision,
    Intent,
    Market,
    Origin,
    Refusal,
    RiskLevel,
    Side,
    Signal,
    Strategy,
    TokenEvent,
    TokenTraded,
)

MS = 1_000_000
SECOND = 1000 * MS
T = 1_790_000_000 * SECOND
SETTLE = 200 * MS
LANDING = 120 * MS
USERS = tuple(f"u{number}" for number in range(6))
MINTS = ("A", "B", "C")


def market(at_ns: int, sol: int) -> Market:
    state = curve.quote_buy_sol(curve.FRESH, sol * SECOND).after if sol else curve.FRESH
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def trade(at_ns: int, mint: str = "A", sol: int = 1) -> TokenTraded:
    return TokenTraded(
        id=f"t{at_ns}", mint=mint, signature="s", side=Side.BUY, trader="x", pool="pump", lamports=1, tokens=1,
        trader_tokens_after=None, market=market(at_ns, sol), pool_lamports=None, pool_tokens=None, seen_at_ns=at_ns,
    )  # fmt: skip


def signal(at_ns: int, sequence: int, user: str = "u0", mint: str = "A", told: Market | None = None) -> Arrived:
    found = Signal(
        id=f"d{at_ns}:SNIPER:{user}", user=user, decision_id=f"d{at_ns}:SNIPER", strategy=Origin.SNIPER, side=Side.BUY,
        mint=mint, creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True,
        market=told or market(at_ns, 1), config_revision=1, decided_at_ns=at_ns, expires_at_ns=at_ns + 30 * SECOND,
    )  # fmt: skip
    return Arrived(found, sequence)


def alarm(at_ns: int, mint: str) -> Decision:
    return Decision(
        id=f"a{at_ns}", strategy=Origin.RUG_ALARM, side=Side.SELL, mint=mint, creator="c", score=0, previous_score=-1,
        risk=None, reasons=("dev_sold",), features={}, arithmetic_known=True, market=None, decided_at_ns=at_ns,
    )  # fmt: skip


def book() -> Book:
    made = Book(LANDING)
    for number, user in enumerate(USERS):
        wanted = BotConfig(
            strategy=Strategy.SNIPER,
            tp_strategy=(TakeProfit.TIME_EXIT, TakeProfit.FIXED, TakeProfit.TRAILING_STOP)[number % 3],
            tp_config=({"seconds": 1}, {"percent": 5}, {"arm_percent": 1, "trail_percent": 5})[number % 3],
            max_open_positions=1 + number % 3,
            max_entries_per_hour=1_000,
            budget_sol=Decimal(1),
            buy_sol=Decimal("0.3"),
        )
        state = BotWanted(user=user, wanted=Wanted.RUNNING, config=wanted, changed_at_ns=T)
        assert made.configure(user, state, number + 1, T) is None
    return made


class Happening(NamedTuple):
    """An event, what was decided on it, and when each came to the bots (signals: a user's in order)."""

    event: TokenEvent
    alarm: Decision | None
    signals: tuple[Arrived, ...]
    event_heard_ns: int
    alarm_heard_ns: int
    signals_heard_ns: tuple[int, ...]


def happenings(seed: int) -> list[Happening]:
    """A few seconds of three coins. Each way keeps its order, none takes longer than the settling time."""
    rng = random.Random(seed)
    found, at_ns, sequence = [], T, 0
    last: dict[str, int] = {}

    def on_its_way(way: str) -> int:
        last[way] = max(last.get(way, 0), at_ns + rng.randrange(rng.choice((MS, SETTLE))))
        return last[way]

    for _ in range(60):
        at_ns += rng.randrange(1, rng.choice((5 * MS, 150 * MS)))
        event = trade(at_ns, rng.choice(MINTS), rng.randrange(12))
        kind = rng.random()
        signals: list[Arrived] = []
        if kind < 0.8:
            for user in rng.sample(USERS, rng.randrange(1, len(USERS))):
                sequence += 1
                signals.append(signal(at_ns, sequence, user, event.mint, event.market))
        found.append(
            Happening(
                event,
                alarm(at_ns, event.mint) if kind > 0.7 else None,
                tuple(signals),
                on_its_way("events"),
                on_its_way("alarms"),
                tuple(on_its_way(each.signal.user) for each in signals),
            )
        )
    return found


def last(made: Book) -> int:
    """Sequence of the newest line."""
    return max((account.last_sequence for account in made._accounts.values()), default=0)


def act(made: Book, ledger: dict[str, list[bytes]], signals: list[Arrived], until_ns: int, now_ns: int) -> None:
    group = made.act(signals, until_ns, now_ns)
    made.settle(group, group.drafts, 1 + last(made))
    made.undo(group)
    for draft in group.drafts:
        ledger.setdefault(draft.append.user, []).extend(encode(entry) for entry in draft.append.entries)


def in_one_instant_each(history: list[Happening]) -> dict[str, list[bytes]]:
    """As a replay does it: nothing takes any time."""
    made = book()
    ledger: dict[str, list[bytes]] = {}
    for each in history:
        while (due_ns := made.next_at_ns()) is not None and due_ns < each.event.seen_at_ns:
            act(made, ledger, [], due_ns, due_ns)
        made.hear(each.event)
        if each.alarm is not None:
            made.hear_alarm(each.alarm)
        act(made, ledger, list(each.signals), each.event.seen_at_ns, each.event.seen_at_ns)
    return finished(made, ledger, history)


def as_it_comes(history: list[Happening], steps: Iterator[int]) -> dict[str, list[bytes]]:
    made = book()
    ledger: dict[str, list[bytes]] = {}
    events = [(each.event_heard_ns, each.event) for each in history]
    alarms = [(each.alarm_heard_ns, each.alarm) for each in history if each.alarm is not None]
    signals = sorted(
        (pair for each in history for pair in zip(each.signals_heard_ns, each.signals, strict=True)),
        key=lambda pair: (pair[0], pair[1].sequence),
    )
    now_ns = T
    while now_ns < history[-1].event.seen_at_ns + 2 * SETTLE:
        now_ns += next(steps)
        while events and events[0][0] <= now_ns:
            made.hear(events.pop(0)[1])
        while alarms and alarms[0][0] <= now_ns:
            made.hear_alarm(alarms.pop(0)[1])
        come = [arrived for at_ns, arrived in signals if at_ns <= now_ns]
        signals = signals[len(come) :]
        act(made, ledger, come, now_ns - SETTLE, now_ns)
    return finished(made, ledger, history)


def finished(made: Book, ledger: dict[str, list[bytes]], history: list[Happening]) -> dict[str, list[bytes]]:
    """After what falls due within a second of the last event."""
    while (due_ns := made.next_at_ns()) is not None and due_ns < history[-1].event.seen_at_ns + SECOND:
        act(made, ledger, [], due_ns, due_ns)
    return ledger


@given(strategies.integers(0, 2**32))
def test_ledgers_do_not_depend_on_when_and_in_which_order_things_come(seed: int) -> None:
    history = happenings(seed)
    rng = random.Random(seed + 1)
    steps = (rng.randrange(MS, rng.choice((3 * MS, 60 * MS))) for _ in count())
    assert as_it_comes(history, steps) == in_one_instant_each(history)


def early(made: Book, *signals: Arrived, until_ns: int = T - SECOND) -> list[type]:
    group = made.act(signals, until_ns, T)
    made.settle(group, group.drafts, 1 + last(made))
    made.undo(group)
    return [type(entry) for entries in group.entries.values() for entry in entries]


def test_a_signal_acts_at_once_when_its_time_has_been_heard_of() -> None:
    made = book()
    made.hear(trade(T, "other"))
    assert early(made, signal(T, 1)) == [Intent]
    assert made.acted("u0", 1)


def test_a_signal_waits_until_its_time_has_been_heard_of_and_no_longer() -> None:
    made = book()
    assert early(made, signal(T, 1)) == []
    before = made.agenda.may_act_early
    made.hear(trade(T, "other"))
    assert (before, made.agenda.may_act_early) == (False, True)
    assert early(made) == [Intent]


def test_a_signal_that_came_before_anything_was_heard_waits_for_the_settling_time() -> None:
    made = book()
    assert early(made, signal(T, 1)) == []
    assert made.next_at_ns() == T
    assert early(made, until_ns=T) == [Intent]


def test_a_signal_waits_for_its_users_landing_and_for_nobody_elses() -> None:
    made = book()
    assert early(made, signal(T - LANDING - 1, 1), until_ns=T - LANDING - 1) == [Intent]  # lands just before T
    made.hear(trade(T, "other"))
    assert early(made, signal(T, 2, mint="B"), signal(T, 3, "u1", "B")) == [Intent]
    assert (made.acted("u0", 2), made.acted("u1", 3)) == (False, True)


def test_a_signal_waits_while_a_coin_that_its_user_holds_moves() -> None:
    made = book()
    early(made, signal(T - SECOND, 1), until_ns=T - SECOND)
    early(made, until_ns=T - 500 * MS)
    assert made.holders.positions == 1
    made.hear(trade(T, "other"))
    made.hear(trade(T, "A"))
    assert early(made, signal(T, 2, "u0", "B"), until_ns=T - 500 * MS) == []


def test_signals_of_one_user_keep_their_order() -> None:
    made = book()
    made.hear(trade(T, "other"))
    assert early(made, signal(T, 1, "u2"), signal(T + 1, 2, "u2", "B")) == []
    assert early(made, until_ns=T + 1) == [Intent, Intent]


def test_signals_that_come_again_after_an_interruption_are_waited_for_once() -> None:
    made = book()
    assert early(made, signal(T, 1)) == []
    made.drop_signals()
    assert made.next_at_ns() is None
    assert early(made, signal(T, 1), signal(T, 1), until_ns=T) == [Intent]


@given(
    strategies.lists(
        strategies.tuples(strategies.sampled_from(USERS[:3]), strategies.integers(-500, 500), strategies.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_signals_of_one_user_keep_their_order_whatever_their_times(come: list[tuple[str, int, bool]]) -> None:
    """Where several partitions of the mints decide, the one that is behind stores an earlier decision later."""
    made = book()
    made.hear(trade(T + SECOND, "other"))
    waiting: list[Arrived] = []
    outcomes: dict[str, list[str]] = {}  # mints, by user

    def act_until(until_ns: int) -> None:
        group = made.act(waiting, until_ns, T + SECOND)
        made.settle(group, group.drafts, 1 + last(made))
        made.undo(group)
        for user, entries in group.entries.items():
            outcomes.setdefault(user, []).extend(e.mint for e in entries if isinstance(e, Intent | Refusal))
        waiting.clear()

    sent: dict[str, list[str]] = {}
    for sequence, (user, ms, now) in enumerate(come, 1):
        waiting.append(signal(T + ms * MS, sequence, user, f"M{sequence}"))
        sent.setdefault(user, []).append(f"M{sequence}")
        if now:
            act_until(T + ms * MS)
    act_until(T + SECOND)
    assert {user: list(dict.fromkeys(mints)) for user, mints in outcomes.items()} == sent
