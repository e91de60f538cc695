"""bots/book.py: what a book decides, of signals and of prices and times."""

from __future__ import annotations

import msgspec
import pytest

from bots.book import Book
from bots.testing import NOW, SECOND_NS, SOL, answers, arrive, asked, book_of, decide, holding, store, trade, wanted
from schemas import curve
from schemas.config import TakeProfit
from schemas.events import Fill, Intent, Market, Reason, Refusal, Side

# A signal and its outcome


def test_a_group_has_one_append_a_user_with_everything_that_was_decided() -> None:
    book = book_of("u", "v")
    signals = arrive(asked("u", "A"), asked("v", "A"), asked("u", "B"), asked("u", "A", n=1))
    group = decide(book, [], signals, NOW)
    first, second = group.drafts
    assert (first.append.user, second.append.user) == ("u", "v")
    assert [type(entry) for entry in first.append.entries] == [Intent, Intent, Refusal, Fill, Fill]
    refusal = first.append.entries[2]
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.ALREADY_HELD  # it met the first one's order, which had not landed
    assert (first.append.signal_sequence, second.append.signal_sequence) == (4, 2)
    assert (first.append.id, first.expected) == ("u:0", 0)
    assert (group.decided, group.repeated) == (4, 0)


def test_a_signal_delivered_twice_makes_one_order() -> None:
    book = book_of("u")
    twice = arrive(asked("u"))
    group = decide(book, [], [*twice, *twice], NOW)
    assert (len(group.drafts[0].append.entries), group.repeated) == (2, 1)
    store(book, group)
    again = decide(book, [], twice, NOW)
    assert (again.drafts, again.repeated, again.decided) == ([], 1, 0)


def test_a_signal_that_the_ledger_settled_is_skipped_after_a_restart() -> None:
    book = book_of("u")
    group = decide(book, [], arrive(asked("u"), first=7), NOW)
    fresh = book_of("u")
    fresh.fold(group.drafts[0].append, 3)
    again = decide(fresh, [], [*arrive(asked("u"), first=7), *arrive(asked("u", "B"), first=8)], NOW)
    assert (again.repeated, again.decided, again.drafts[0].expected) == (1, 1, 3)


@pytest.mark.parametrize(
    ("created_at_ns", "decided"),
    [
        (NOW - 1, 0),
        (NOW, 0),
        (NOW + 1, 1),  # the stream was made anew: its sequences start again, and the line speaks of the old ones
    ],
)
def test_a_line_older_than_the_signals_stream_settles_nothing_in_it(created_at_ns: int, decided: int) -> None:
    line = decide(book_of("u"), [], arrive(asked("u"), first=7), NOW).drafts[0].append
    book = book_of("u")
    book.signals_began_at_ns = created_at_ns
    book.fold(line, 1)
    assert decide(book, [], arrive(asked("u", "B"), first=2), NOW).decided == decided


def test_the_same_holds_for_a_line_of_ones_own() -> None:
    book = book_of("u")
    book.signals_began_at_ns = NOW + 1
    store(book, decide(book, [], arrive(asked("u"), first=7), NOW))
    assert decide(book, [], arrive(asked("u", "B"), first=2), NOW).decided == 1


def test_a_new_configuration_counts_from_the_next_decision() -> None:
    book = book_of("u", buy_sol=1, budget_sol=10)
    store(book, decide(book, [], arrive(asked("u", "A")), NOW))
    book.configure("u", wanted("u", buy_sol=2, budget_sol=10, at_ns=NOW), 2, NOW)
    store(book, decide(book, [], arrive(asked("u", "B"), first=2), NOW))
    account = book.account("u")
    assert account is not None
    bought = [account.positions[mint].cost_lamports for mint in ("A", "B")]
    assert SOL * 9 // 10 < bought[0] <= SOL
    assert SOL * 18 // 10 < bought[1] <= 2 * SOL


@pytest.mark.parametrize("how", ["stopped", "deleted", "unusable"])
def test_a_stopped_bot_refuses_entries_and_keeps_its_exits(how: str) -> None:
    book = holding("u", stop_loss_percent=30)
    change = {"stopped": wanted("u", running=False, stop_loss_percent=30, at_ns=NOW), "deleted": None}
    unusable = wanted("u", buy_sol=9, budget_sol=1, at_ns=NOW)
    problem = book.configure("u", change.get(how, unusable), 2, NOW)
    assert (problem is None) == (how != "unusable")
    group = decide(book, [], arrive(asked("u", "B"), first=2), NOW)
    assert answers(group) == [Reason.NOT_RUNNING]
    store(book, group)
    bottom = msgspec.structs.replace(trade("M", 0, NOW + 1), market=Market(
        virtual_lamports=15 * SOL, virtual_tokens=curve.FRESH.virtual_tokens, seen_at_ns=NOW + 1))  # fmt: skip
    assert answers(decide(book, [bottom], [], NOW + 1)) == [Reason.STOP_LOSS]


def test_a_user_without_a_configuration_still_leaves_by_the_defaults() -> None:
    line = decide(book_of("u"), [], arrive(asked("u")), NOW).drafts[0].append
    book = Book(landing_ns=0)
    book.fold(line, 1)
    book.remember(trade("M", 0, NOW))
    assert answers(decide(book, [], [], NOW + 3599 * SECOND_NS)) == []
    assert answers(decide(book, [], [], NOW + 3600 * SECOND_NS)) == [Reason.MAX_HOLD]


def test_a_signals_revision_is_the_buckets_and_never_falls() -> None:
    book = book_of("u", "v")
    assert book.revision == 2
    book.configure("u", None, 9, NOW)
    book.configure("u", wanted("u", at_ns=NOW), 4, NOW)
    assert book.revision == 9


# Exits


def test_a_price_ends_the_positions_of_all_its_holders_and_of_no_others() -> None:
    book = holding("u", "v", "w", tp_config={"percent": 50})
    store(book, decide(book, [], arrive(asked("u", "B"), first=9), NOW))
    group = decide(book, [trade("M", 20 * SOL, NOW + 1)], [], NOW + 1)
    assert answers(group) == [Reason.TAKE_PROFIT] * 3
    assert sorted(draft.append.user for draft in group.drafts) == ["u", "v", "w"]
    assert all(draft.append.signal_sequence == 0 for draft in group.drafts)  # it settles no signal
    store(book, group)
    assert set(book.holders.held) == {"B"}


def test_a_mint_held_by_many_is_followed_once_until_the_last_has_left() -> None:
    users = [f"u{i}" for i in range(50)]
    book = holding(*users, tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    assert (list(book.holders.held), book.holders.positions, book.users) == (["M"], 50, 50)
    sells = arrive(*(asked(user, side=Side.SELL) for user in users[1:]), first=100)
    store(book, decide(book, [], sells, NOW + 1))
    assert (list(book.holders.held), book.holders.positions) == (["M"], 1)
    decide(book, [trade("M", SOL, NOW + 2)], [], NOW + 2)
    store(book, decide(book, [], [], NOW + 10 * SECOND_NS))
    assert (list(book.holders.held), book.holders.positions, book.prices._held) == ([], 0, {})


def test_a_position_ends_by_time_at_the_last_price_without_any_event() -> None:
    book = holding("u", tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    store(book, decide(book, [trade("M", SOL, NOW + 1)], [], NOW + 1))
    assert book.next_at_ns() == NOW + 10 * SECOND_NS
    assert answers(decide(book, [], [], NOW + 10 * SECOND_NS - 1)) == []
    group = decide(book, [], [], NOW + 10 * SECOND_NS)
    assert answers(group) == [Reason.TIME_EXIT]
    (draft,) = group.drafts
    fill = draft.append.entries[-1]
    assert isinstance(fill, Fill)
    assert fill.price_at_ns == NOW + 1


def test_a_deadline_without_a_price_is_tried_again_and_not_at_once() -> None:
    line = decide(book_of("u"), [], arrive(asked("u")), NOW).drafts[0].append
    book = book_of("u", tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    book.fold(line, 1)
    late = NOW + 20 * SECOND_NS
    assert answers(decide(book, [], [], late)) == []
    assert book.next_at_ns() == late + SECOND_NS
    assert answers(decide(book, [trade("M", 0, late + 1)], [], late + 1)) == [Reason.TIME_EXIT]


def test_a_shorter_limit_set_later_counts_for_what_is_held() -> None:
    book = holding("u", max_hold_seconds=3600)
    decide(book, [trade("M", 0, NOW + 1)], [], NOW + 1)
    book.configure("u", wanted("u", max_hold_seconds=60, at_ns=NOW), 2, NOW)
    assert answers(decide(book, [], [], NOW + 60 * SECOND_NS - 1)) == []
    assert answers(decide(book, [], [], NOW + 60 * SECOND_NS)) == [Reason.MAX_HOLD]


def test_a_longer_limit_set_later_counts_too() -> None:
    book = holding("u", max_hold_seconds=60)
    decide(book, [trade("M", 0, NOW + 1)], [], NOW + 1)
    book.configure("u", wanted("u", max_hold_seconds=120, at_ns=NOW), 2, NOW)
    assert answers(decide(book, [], [], NOW + 60 * SECOND_NS)) == []
    assert answers(decide(book, [], [], NOW + 120 * SECOND_NS)) == [Reason.MAX_HOLD]


def test_the_heap_of_deadlines_does_not_grow_with_trades() -> None:
    book = holding("u", "v")
    for i in range(3000):
        decide(book, [trade("M", SOL + i, NOW + i)], [], NOW + i)
        book.configure("u", wanted("u", at_ns=NOW), i, NOW)
    assert (len(book.agenda._due) <= 6 + 1000, len(book.agenda._due_at)) == (True, 2)
    for i in range(3000):
        book.remember(trade("M", 2 * SOL + i, NOW + 500 + i))
    assert (len(book.agenda._due) <= 6 + 1000, len(book.agenda._due_at)) == (True, 2)


def test_the_heap_does_not_grow_with_groups_that_are_undone() -> None:
    book = holding("u", tp_config={"percent": 50})
    group = decide(book, [trade("M", 20 * SOL, NOW + 1)], [], NOW + 1)
    for i in range(5000):
        book.undo(group)
        group = decide(book, [], [], NOW + 1 + i)
        assert answers(group) == [Reason.TAKE_PROFIT]
    assert len(book.agenda._due) <= 2 + 1000


@pytest.mark.parametrize(
    ("at_ns", "reasons"),
    [
        (NOW + 1, [Reason.TAKE_PROFIT]),
        (NOW - 1, []),  # the market before the entry: a later one was bought at
    ],
)
def test_a_price_read_back_decides_nothing_by_itself_but_is_looked_at_next(at_ns: int, reasons: list[Reason]) -> None:
    """Else a stop that was crossed while nobody looked would wait for another trade, which may never come."""
    book = holding("u", tp_config={"percent": 50})
    book.remember(trade("M", 20 * SOL, at_ns))
    assert book.holders.positions == 1
    price = book.prices.get("M")
    assert price is not None
    assert price.seen_at_ns == at_ns
    assert answers(decide(book, [], [], NOW + 2)) == reasons


def test_a_peak_from_before_the_entry_is_not_read_back() -> None:
    """One user's older position makes the line read further back than another's: its peak was not the other's."""
    book = holding("u", tp_strategy=TakeProfit.TRAILING_STOP, tp_config={"arm_percent": 30, "trail_percent": 20})
    account = book.account("u")
    assert account is not None
    before = account.positions["M"].peak_lamports
    book.remember(trade("M", 40 * SOL, NOW - 1))
    assert account.positions["M"].peak_lamports == before
    assert answers(decide(book, [trade("M", 0, NOW + 2)], [], NOW + 2)) == []
    book.remember(trade("M", 20 * SOL, NOW + 3))
    assert answers(decide(book, [trade("M", 0, NOW + 4)], [], NOW + 4)) == [Reason.TAKE_PROFIT]
