"""bots/book.py and the ledger: lines are folded in, groups undone without a trace, snapshots read back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots import positions
from bots.book import Book
from bots.group import Arrived, Group
from bots.positions import Account, LedgerError
from bots.snapshots import VERSION, Snapshot
from bots.testing import (
    NOW,
    SECOND_NS,
    SOL,
    answers,
    arrive,
    asked,
    book_of,
    decide,
    holding,
    market,
    state,
    trade,
    wanted,
)
from schemas.codec import Decoder, encode
from schemas.config import TakeProfit
from schemas.events import Append, Quote, Reason, Side, TokenCreated, TokenMigrated

_snapshot: Decoder[Snapshot] = Decoder(Snapshot)


# Folding


def append_of(user: str, *entries: Any, signals: int = 0) -> Append:
    return Append(id=f"{user}:x", user=user, signal_sequence=signals, entries=entries, at_ns=NOW)


def test_the_next_line_is_expected_behind_the_one_just_stored() -> None:
    book = book_of("u", "v")
    group = decide(book, [], arrive(asked("u"), asked("v")), NOW)
    book.settle(group, group.drafts, 41)
    assert [d.expected for d in decide(book, [], arrive(asked("v", "B"), asked("u", "B"), first=3), NOW).drafts] == [
        42,
        41,
    ]


def test_a_line_of_ones_own_that_is_read_back_counts_once() -> None:
    book = holding("u", "v")
    before = state(book)
    lines = decide(book_of("u", "v"), [], arrive(asked("u"), asked("v")), NOW).drafts
    for sequence, draft in enumerate(lines, 1):
        book.fold(draft.append, sequence)
    assert state(book) == before


def test_a_foreign_line_is_folded_between_ones_own() -> None:
    book = holding("u")
    foreign = book_of("u")
    foreign.fold(decide(book_of("u"), [], arrive(asked("u")), NOW).drafts[0].append, 1)
    line = decide(foreign, [], arrive(asked("u", "B"), first=2), NOW).drafts[0].append
    book.fold(line, 9)
    account = book.account("u")
    assert account is not None
    assert (set(account.positions), account.last_sequence, account.signal_sequence) == ({"M", "B"}, 9, 2)
    assert set(book.holders.held) == {"M", "B"}


def test_a_line_that_makes_no_sense_is_told_and_the_user_goes_on_behind_it() -> None:
    """Else each later line of this user is refused, and with it the group that it is part of."""
    book = holding("u")
    sale = decide(book, [], arrive(asked("u", side=Side.SELL), first=2), NOW)
    entries = sale.drafts[0].append.entries
    book.undo(sale)
    with pytest.raises(LedgerError):
        book.fold(append_of("u", *entries, *entries, signals=5), 7)  # sells the same tokens twice
    account = book.account("u")
    assert account is not None
    assert (account.last_sequence, account.signal_sequence) == (7, 5)
    assert (account.positions, list(book.holders.held)) == ({}, [])
    group = decide(book, [], arrive(asked("u", "C"), first=6), NOW)
    assert (answers(group), group.drafts[0].expected) == ([Reason.SIGNAL], 7)


def test_a_line_that_cannot_be_read_is_passed_over() -> None:
    book = holding("u")
    book.pass_over("u", 5)
    book.pass_over("new", 6)
    group = decide(book, [], arrive(asked("u", "B"), asked("new", "B"), first=2), NOW)
    assert [(d.append.user, d.expected) for d in group.drafts] == [("u", 5), ("new", 6)]


def test_users_that_are_somebody_elses_are_forgotten_with_all_that_they_had() -> None:
    book, alone = holding("u", "v"), holding("v")
    book.keep(lambda user: user == "v")
    account = alone.account("v")
    assert account is not None
    account.last_sequence = account.signal_sequence = 2  # it was the second one there
    assert state(book) == state(alone)
    assert book.account("u") is None
    assert book.carried(lambda user: True)[0] == {"M"}
    book.keep(lambda user: False)
    assert (book.users, list(book.holders.followed), book.agenda._due_at) == (0, [], {})


# Undoing


def test_an_exit_that_was_undone_is_decided_again_without_another_price() -> None:
    book = holding("u", tp_config={"percent": 50})
    group = decide(book, [trade("M", 20 * SOL, NOW + 1)], [], NOW + 1)
    wanted_drafts = group.drafts
    book.undo(group)
    assert book.next_at_ns() == NOW + 1
    again = decide(book, [], [], NOW + 1)
    assert again.drafts == wanted_drafts


def test_what_was_settled_is_not_undone() -> None:
    book = book_of("u", "v")
    group = decide(book, [], arrive(asked("u"), asked("v")), NOW)
    book.settle(group, group.drafts[:1], 1)
    book.undo(group)
    assert book.holders.positions == 1
    again = decide(book, [], arrive(asked("u"), asked("v")), NOW)
    assert [draft.append.user for draft in again.drafts] == ["v"]


def created(mint: str, at_ns: int) -> TokenCreated:
    return TokenCreated(
        id=f"c{mint}{at_ns}", mint=mint, signature="s", creator="x", pool="pump", name=None, symbol=None, uri=None,
        dev_buy_tokens=None, dev_buy_lamports=None, market=market(0, at_ns), quote=Quote.SOL, mayhem=False,
        seen_at_ns=at_ns,
    )  # fmt: skip


CONFIGS: list[dict[str, Any]] = [
    {"tp_config": {"percent": 20}},
    {"tp_strategy": TakeProfit.LADDER},
    {"tp_strategy": TakeProfit.TRAILING_STOP, "tp_config": {"arm_percent": 5, "trail_percent": 5}},
    {"tp_strategy": TakeProfit.TIME_EXIT, "tp_config": {"seconds": 5}},
    {"tp_strategy": TakeProfit.PROGRESSIVE_AFTER_MIGRATION},
]


def events_of(rng: random.Random, at_ns: int) -> list[Any]:
    """At most one of each mint: of two prices in a group, only the second is there to be looked at again."""
    found: list[Any] = []
    for mint in rng.sample("ABC", rng.randrange(4)):
        kind = rng.random()
        if kind < 0.1:
            found.append(TokenMigrated(id="m", mint=mint, signature="s", pool="pump-amm", seen_at_ns=at_ns))
        elif kind < 0.2:
            found.append(created(mint, at_ns))
        else:
            found.append(trade(mint, rng.randrange(1, 60) * SOL, at_ns))
    return found


def signals_of(rng: random.Random, at_ns: int, first: int) -> list[Arrived]:
    sides = [Side.BUY, Side.BUY, Side.SELL]
    return arrive(
        *(
            asked(rng.choice("uvwxy"), rng.choice("ABC"), at_ns, rng.choice(sides), first + i)
            for i in range(rng.randrange(5))
        ),
        first=first,
    )


def decided(group: Group) -> Any:
    """What a group decides for each user, whatever the order of its exits."""
    return {
        draft.append.user: (draft.expected, draft.append.signal_sequence, sorted(e.id for e in draft.append.entries))
        for draft in group.drafts
    }


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), refused=st.sampled_from([0.0, 0.3, 0.7]))
def test_a_group_undone_leaves_no_trace_and_is_decided_again_alike(seed: int, refused: float) -> None:
    """Beside a book that is never refused, another loses some of its groups' answers; both decide the same."""
    rng = random.Random(seed)
    calm, shaken = Book(landing_ns=0), Book(landing_ns=0)
    for revision, user in enumerate("uvwxy", 1):
        for book in (calm, shaken):
            book.configure(user, wanted(user, **CONFIGS[revision - 1], at_ns=NOW), revision, NOW)
    now_ns, sequence, ledger = NOW, 1, 1
    for round_ in range(50):
        # Deadlines in one group, prices and signals in another: a price is not undone, so what fell due before it
        # would be sold at it.
        now_ns += rng.randrange(2, 3 * SECOND_NS) if round_ % 2 == 0 else 1
        signals = signals_of(rng, now_ns, sequence) if round_ % 2 else []
        events = events_of(rng, now_ns) if round_ % 2 else []
        sequence += len(signals)
        expected = decide(calm, events, signals, now_ns)
        got = decide(shaken, events, signals, now_ns)
        while rng.random() < refused:
            shaken.undo(got)
            once = state(shaken)
            got = decide(shaken, [], signals, now_ns)
            shaken.undo(got)
            assert state(shaken) == once
            got = decide(shaken, [], signals, now_ns)
        assert decided(got) == decided(expected)
        stored = {draft.append.user: ledger + i for i, draft in enumerate(expected.drafts)}
        for draft in expected.drafts:
            calm.settle(expected, [draft], stored[draft.append.user])
        for draft in got.drafts:
            shaken.settle(got, [draft], stored[draft.append.user])
        ledger += len(stored)
        calm.undo(expected)
        shaken.undo(got)
        assert state(calm)[:3] == state(shaken)[:3]


# Snapshots


def ledger_of(seed: int) -> list[Append]:
    """What a book decides in 40 rounds, orders landing a second later."""
    rng = random.Random(seed)
    book, lines, now_ns, sequence = Book(landing_ns=SECOND_NS), [], NOW, 1
    for revision, user in enumerate("uvwxy", 1):
        book.configure(user, wanted(user, **CONFIGS[revision - 1], at_ns=NOW), revision, NOW)
    for _ in range(40):
        now_ns += rng.randrange(2, 3 * SECOND_NS)
        signals = signals_of(rng, now_ns, sequence)
        sequence += len(signals)
        group = decide(book, events_of(rng, now_ns), signals, now_ns)
        book.settle(group, group.drafts, len(lines) + 1)
        lines += [draft.append for draft in group.drafts]
    return lines


def folded(lines: list[Append], book: Book, after: int = 0) -> Book:
    for sequence, line in enumerate(lines[after:], after + 1):
        book.fold(line, sequence)
    return book


def through_the_wire(account: Account) -> Account:
    return _snapshot(encode(Snapshot(version=VERSION, life="", account=account))).account


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_a_snapshot_at_any_line_and_the_rest_fold_to_what_the_whole_ledger_folds_to(seed: int, data: Any) -> None:
    """Each account may be as of another line, none older than the mark: what is folded twice counts once."""
    lines = ledger_of(seed)
    mark = data.draw(st.integers(0, len(lines)))
    book = Book()
    for user in sorted({line.user for line in lines[:mark]}):
        found = folded(lines[: data.draw(st.integers(mark, len(lines)))], Book()).account(user)
        assert found is not None
        for position in found.positions.values():
            positions.mark(position, 10**12)  # its writer saw prices; whoever reads it reads them in the trades
        book.adopt(user, through_the_wire(found))
    whole = folded(lines, Book())
    folded(lines, book, mark)
    for each in (whole, book):
        each.look_at(lambda user: True, NOW)  # as the fleet does with all that it takes over
    assert state(book) == state(whole)
    assert {user: list(a.pending) for user, a in book._accounts.items()} == {
        user: list(a.pending) for user, a in whole._accounts.items()
    }
    assert book.holders.orders == whole.holders.orders
