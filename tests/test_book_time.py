"""bots/book.py: what happens when. Orders land later, at the market that all events up to then left."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bots.book import PROMPT_NS, Book
from bots.group import Arrived, Group
from bots.testing import SOL, asked, store, trade, wanted
from schemas.config import TakeProfit
from schemas.events import (
    Decision,
    Entry,
    Fill,
    Intent,
    Origin,
    Reason,
    Refusal,
    Side,
)

MS = 1_000_000
SECOND = 1000 * MS
T = 1_790_000_000 * SECOND
LANDING = 600 * MS


def signal(at_ns: int = T, sequence: int = 1, side: Side = Side.BUY) -> Arrived:
    found, decision = asked("u", at_ns=at_ns, side=side), f"d{sequence}:SNIPER"
    return Arrived(msgspec.structs.replace(found, id=f"{decision}:u", decision_id=decision), sequence)


def alarm(at_ns: int) -> Decision:
    return Decision(
        id=f"a{at_ns}", strategy=Origin.RUG_ALARM, side=Side.SELL, mint="M", creator="c", score=0, previous_score=-1,
        risk=None, reasons=("dev_sold",), features={}, arithmetic_known=True, market=None, decided_at_ns=at_ns,
    )  # fmt: skip


def book(**config: Any) -> Book:
    made = Book(LANDING)
    bot = wanted("u", at_ns=T, **{"tp_strategy": TakeProfit.TIME_EXIT, **config})
    assert made.configure("u", bot, 1, T) is None
    return made


def entries(group: Group) -> list[Entry]:
    return group.entries.get("u", [])


def act(
    made: Book, until_ns: int, *signals: Arrived, alarms: tuple[Decision, ...] = (), now_ns: int = 0
) -> list[Entry]:
    for each in alarms:
        made.hear_alarm(each)
    group = made.act(signals, until_ns, now_ns or until_ns)
    store(made, group)
    return entries(group)


def test_an_order_lands_at_the_market_that_all_events_up_to_then_left() -> None:
    made = book(slippage_percent=100)
    made.hear(trade("M", 5 * SOL, T + 100 * MS))
    made.hear(trade("M", 10 * SOL, T + LANDING))  # at the very instant of landing: it comes first
    made.hear(trade("M", 50 * SOL, T + LANDING + 1))
    intent = act(made, T, signal())[0]
    assert isinstance(intent, Intent)
    assert intent.at_ns == T
    assert made.holders.orders == 1
    fill = act(made, T + 2 * LANDING)[0]
    assert isinstance(fill, Fill)
    assert (fill.at_ns, fill.price_at_ns) == (T + LANDING, T + LANDING)
    assert made.holders.orders == 0


def test_a_price_that_ran_away_until_the_landing_is_refused() -> None:
    made = book(slippage_percent=5)
    made.hear(trade("M", 20 * SOL, T + 100 * MS))
    act(made, T, signal())
    refusal = act(made, T + LANDING)[0]
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.order_id) == (Reason.SLIPPAGE, "d1:SNIPER:u:buy")


def test_a_signal_acts_before_later_events_however_late_it_comes() -> None:
    made = book()
    made.hear(trade("M", 1 * SOL, T + 10 * MS))
    first = act(made, T - 1)
    found = act(made, T + 5 * MS, signal(), now_ns=T + 60 * MS)
    assert first == []
    assert [entry.at_ns for entry in found] == [T]
    price = made.prices.get("M")
    assert price is not None
    assert price.seen_at_ns == T  # the event of ten milliseconds later still waits


def test_the_answers_do_not_depend_on_how_time_is_cut() -> None:
    def run(steps: list[int]) -> list[Entry]:
        made, found = book(tp_config={"seconds": 2}, slippage_percent=50), []
        for n in range(40):
            made.hear(trade("M", n % 7 * SOL, T + n * 100 * MS))
        given = [signal()]
        for step in steps:
            found += act(made, step, *given, now_ns=T)
            given = []
        return found

    whole = run([T + 10 * SECOND])
    assert [type(entry) for entry in whole] == [Intent, Fill, Intent, Fill]
    assert run([T + n * 37 * MS for n in range(300)]) == whole
    assert run([T, T + 3 * SECOND, T + 10 * SECOND]) == whole


def test_a_deadline_orders_at_its_own_time_and_lands_later() -> None:
    made = book(tp_config={"seconds": 2})
    made.hear(trade("M", 1 * SOL, T + SECOND))
    act(made, T, signal())
    found = act(made, T + 5 * SECOND)
    opened = T + LANDING
    assert [(type(e), e.at_ns) for e in found] == [
        (Fill, opened),
        (Intent, opened + 2 * SECOND),
        (Fill, opened + 2 * SECOND + LANDING),
    ]


def test_an_alarm_sells_what_is_held() -> None:
    made = book()
    act(made, T, signal())
    act(made, T + SECOND)
    found = act(made, T + 3 * SECOND, alarms=(alarm(T + 2 * SECOND),))
    assert [(type(e), e.at_ns) for e in found] == [(Intent, T + 2 * SECOND), (Fill, T + 2 * SECOND + LANDING)]
    assert found[-1].reason is Reason.RUG_ALARM


def test_an_alarm_older_than_the_purchase_concerns_nobody() -> None:
    made = book()
    act(made, T, signal(), alarms=(alarm(T - 1),))
    assert [type(e) for e in act(made, T + 5 * SECOND)] == [Fill]


def test_a_pending_order_lands_after_a_restart() -> None:
    made = book()
    group = made.act([signal()], T, T)
    fresh = book()
    fresh.fold(group.drafts[0].append, 1)
    assert fresh.holders.orders == 1
    fresh.remember(trade("M", 0, T + 100 * MS))
    fill = act(fresh, T + SECOND)[0]
    assert isinstance(fill, Fill)
    assert (fill.at_ns, fill.order_id) == (T + LANDING, "d1:SNIPER:u:buy")


@pytest.mark.parametrize(
    ("late_ns", "at_ns"),
    [
        (PROMPT_NS, T),  # as if it were on time
        (PROMPT_NS + 1, T + PROMPT_NS + 1),  # nobody could have ordered in the past
    ],
)
def test_a_late_signal_is_acted_on_at_its_time_or_now(late_ns: int, at_ns: int) -> None:
    assert [e.at_ns for e in act(book(), T, signal(), now_ns=T + late_ns)] == [at_ns]


def test_an_expired_signal_is_refused_however_it_is_told() -> None:
    found = act(book(), T, signal(), now_ns=T + 31 * SECOND)
    assert [(type(e), e.reason) for e in found] == [(Refusal, Reason.EXPIRED)]


def test_an_old_event_informs_and_is_acted_on_now() -> None:
    made = book(stop_loss_percent=10, slippage_percent=100)
    made.hear(trade("M", 30 * SOL, T + 100 * MS))
    act(made, T, signal())
    act(made, T + SECOND)
    made.hear(trade("M", 0, T + 2 * SECOND))
    now_ns = T + 60 * SECOND
    found = act(made, now_ns, now_ns=now_ns)
    assert (type(found[0]), found[0].at_ns, found[0].reason) == (Intent, now_ns, Reason.STOP_LOSS)


def test_undoing_an_order_lets_it_be_decided_again_and_land_once() -> None:
    made = book()
    group = made.act([signal()], T, T)
    made.undo(group)
    assert made.holders.orders == 0
    assert [type(e) for e in act(made, T, signal())] == [Intent]
    group = made.act([], T + SECOND, T + SECOND)
    assert [type(e) for e in entries(group)] == [Fill]
    made.undo(group)
    assert made.holders.orders == 1
    assert [type(e) for e in act(made, T + SECOND)] == [Fill]
    assert act(made, T + 2 * SECOND) == []


def test_a_kill_switch_refuses_everybodys_entries() -> None:
    made = book()
    made.halt("venue under maintenance", 2)
    (refusal,) = act(made, T, signal())
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.KILL_SWITCH
    assert "venue under maintenance" in refusal.detail
