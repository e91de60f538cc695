"""bots/book.py: decide, settle, undo; and that undoing leaves no trace."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots import positions
from bots.book import Book
from bots.group import Arrived, Group
from bots.positions import Account, LedgerError
from bots.snapshots import VERSION, Snapshot
from schemas import curve
from schemas.codec import Decoder, encode
from schemas.config import BotConfig, BotWanted, TakeProfit, Wanted
from schemas.events import (
    Append,
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
    TokenMigrated,
    TokenTraded,
)

_snapshot: Decoder[Snapshot] = Decoder(Snapshot)

SECOND = 1_000_000_000
NOW = 1_750_000_000 * SECOND
SOL = 1_000_000_000


def wanted(user: str, *, running: bool = True, **config: Any) -> BotWanted:
    numbers = {name: Decimal(v) if name.endswith(("_sol", "_percent")) else v for name, v in config.items()}
    return BotWanted(
        user=user, wanted=Wanted.RUNNING if running else Wanted.STOPPED, changed_at_ns=NOW,
        config=BotConfig(**{"strategy": Strategy.SNIPER, "tp_strategy": TakeProfit.FIXED, **numbers}),
    )  # fmt: skip


def market(lamports: int = 0, at_ns: int = NOW) -> Market:
    """After others put this much into a fresh curve."""
    state = curve.quote_buy_sol(curve.FRESH, lamports).after if lamports else curve.FRESH
    return Market(virtual_lamports=state.virtual_lamports, virtual_tokens=state.virtual_tokens, seen_at_ns=at_ns)


def signal(user: str, mint: str = "M", at_ns: int = NOW, side: Side = Side.BUY, n: int = 0) -> Signal:
    return Signal(
        id=f"d{n}:{mint}:{user}:{side}", user=user, decision_id=f"d{n}:{mint}", strategy=Origin.SNIPER, side=side,
        mint=mint, creator="c", score=90, risk=RiskLevel.LOW, reasons=(), arithmetic_known=True,
        market=market(at_ns=at_ns), config_revision=1,
        decided_at_ns=at_ns, expires_at_ns=at_ns + 30 * SECOND,
    )  # fmt: skip


def trade(mint: str = "M", lamports: int = 0, at_ns: int = NOW + 1) -> TokenTraded:
    return TokenTraded(
        id=f"t{mint}{lamports}{at_ns}", mint=mint, signature="s", side=Side.BUY, trader="x", pool="pump", lamports=1,
        tokens=1, trader_tokens_after=None, market=market(lamports, at_ns), pool_lamports=None, pool_tokens=None,
        seen_at_ns=at_ns,
    )  # fmt: skip


def arrive(*signals: Signal, first: int = 1) -> list[Arrived]:
    return [Arrived(each, sequence) for sequence, each in enumerate(signals, first)]


def book_of(*users: str, **config: Any) -> Book:
    book = Book(landing_ns=0)
    for revision, user in enumerate(users, 1):
        assert book.configure(user, wanted(user, **config), revision, NOW) is None
    return book


def decide(book: Book, events: list[Any], signals: list[Arrived], now_ns: int) -> Group:
    """Everything up to now at once, orders landing as they are decided."""
    for event in events:
        book.hear(event)
    return book.act(signals, now_ns, now_ns)


def last(book: Book) -> int:
    """Sequence of the newest line."""
    return max((account.last_sequence for account in book._accounts.values()), default=0)


def store(book: Book, group: Group) -> None:
    """As when the broker has taken the whole group."""
    book.settle(group, group.drafts, 1 + last(book))
    book.undo(group)  # what the fleet does after each group: nothing is left to undo


def outcomes(group: Group) -> list[Reason]:
    return [e.reason for user in group.entries.values() for e in user if not isinstance(e, Intent)]


def holding(*users: str, **config: Any) -> Book:
    book = book_of(*users, **config)
    group = decide(book, [], arrive(*(signal(user) for user in users)), NOW)
    assert outcomes(group) == [Reason.SIGNAL] * len(users)
    store(book, group)
    return book


def state(book: Book) -> Any:
    """All that decisions and answers depend on, without the bookkeeping of undoing. Empty accounts count as none."""
    accounts = {user: msgspec.to_builtins(a) for user, a in book._accounts.items() if a != Account()}
    held = {mint: sorted(users) for mint, users in book.holders._users.items()}
    holders = book.holders
    assert (holders.positions, holders.orders) == (sum(map(len, held.values())), sum(holders._orders.values()))
    prices = {mint: book.prices.get(mint) for mint in ("A", "B", "C", "M")}
    return accounts, held, prices, set(book.prices._held), set(book.agenda._due_at)


# A signal and its outcome


def test_a_group_has_one_append_a_user_with_everything_that_was_decided() -> None:
    book = book_of("u", "v")
    signals = arrive(signal("u", "A"), signal("v", "A"), signal("u", "B"), signal("u", "A", n=1))
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
    twice = arrive(signal("u"))
    group = decide(book, [], [*twice, *twice], NOW)
    assert (len(group.drafts[0].append.entries), group.repeated) == (2, 1)
    store(book, group)
    again = decide(book, [], twice, NOW)
    assert (again.drafts, again.repeated, again.decided) == ([], 1, 0)


def test_a_signal_that_the_ledger_settled_is_skipped_after_a_restart() -> None:
    book = book_of("u")
    group = decide(book, [], arrive(signal("u"), first=7), NOW)
    fresh = book_of("u")
    fresh.fold(group.drafts[0].append, 3)
    again = decide(fresh, [], [*arrive(signal("u"), first=7), *arrive(signal("u", "B"), first=8)], NOW)
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
    line = decide(book_of("u"), [], arrive(signal("u"), first=7), NOW).drafts[0].append
    book = book_of("u")
    book.signals_created_at_ns = created_at_ns
    book.fold(line, 1)
    assert decide(book, [], arrive(signal("u", "B"), first=2), NOW).decided == decided


def test_the_same_holds_for_a_line_of_ones_own() -> None:
    book = book_of("u")
    book.signals_created_at_ns = NOW + 1
    store(book, decide(book, [], arrive(signal("u"), first=7), NOW))
    assert decide(book, [], arrive(signal("u", "B"), first=2), NOW).decided == 1


def test_a_new_configuration_counts_from_the_next_decision() -> None:
    book = book_of("u", buy_sol=1, budget_sol=10)
    store(book, decide(book, [], arrive(signal("u", "A")), NOW))
    book.configure("u", wanted("u", buy_sol=2, budget_sol=10), 2, NOW)
    store(book, decide(book, [], arrive(signal("u", "B"), first=2), NOW))
    account = book.account("u")
    assert account is not None
    bought = [account.positions[mint].cost_lamports for mint in ("A", "B")]
    assert SOL * 9 // 10 < bought[0] <= SOL
    assert SOL * 18 // 10 < bought[1] <= 2 * SOL


@pytest.mark.parametrize("how", ["stopped", "deleted", "unusable"])
def test_a_stopped_bot_refuses_entries_and_keeps_its_exits(how: str) -> None:
    book = holding("u", stop_loss_percent=30)
    change = {"stopped": wanted("u", running=False, stop_loss_percent=30), "deleted": None}
    unusable = wanted("u", buy_sol=9, budget_sol=1)
    problem = book.configure("u", change.get(how, unusable), 2, NOW)
    assert (problem is None) == (how != "unusable")
    group = decide(book, [], arrive(signal("u", "B"), first=2), NOW)
    assert outcomes(group) == [Reason.NOT_RUNNING]
    store(book, group)
    bottom = msgspec.structs.replace(trade(), market=Market(
        virtual_lamports=15 * SOL, virtual_tokens=curve.FRESH.virtual_tokens, seen_at_ns=NOW + 1))  # fmt: skip
    assert outcomes(decide(book, [bottom], [], NOW + 1)) == [Reason.STOP_LOSS]


def test_a_user_without_a_configuration_still_leaves_by_the_defaults() -> None:
    line = decide(book_of("u"), [], arrive(signal("u")), NOW).drafts[0].append
    book = Book(landing_ns=0)
    book.fold(line, 1)
    book.remember(trade(at_ns=NOW))
    assert outcomes(decide(book, [], [], NOW + 3599 * SECOND)) == []
    assert outcomes(decide(book, [], [], NOW + 3600 * SECOND)) == [Reason.MAX_HOLD]


def test_a_signals_revision_is_the_buckets_and_never_falls() -> None:
    book = book_of("u", "v")
    assert book.revision == 2
    book.configure("u", None, 9, NOW)
    book.configure("u", wanted("u"), 4, NOW)
    assert book.revision == 9


# Exits


def test_a_price_ends_the_positions_of_all_its_holders_and_of_no_others() -> None:
    book = holding("u", "v", "w", tp_config={"percent": 50})
    store(book, decide(book, [], arrive(signal("u", "B"), first=9), NOW))
    group = decide(book, [trade(lamports=20 * SOL)], [], NOW + 1)
    assert outcomes(group) == [Reason.TAKE_PROFIT] * 3
    assert sorted(draft.append.user for draft in group.drafts) == ["u", "v", "w"]
    assert all(draft.append.signal_sequence == 0 for draft in group.drafts)  # it settles no signal
    store(book, group)
    assert set(book.holders.held) == {"B"}


def test_a_mint_held_by_many_is_followed_once_until_the_last_has_left() -> None:
    users = [f"u{i}" for i in range(50)]
    book = holding(*users, tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    assert (list(book.holders.held), book.holders.positions, book.users) == (["M"], 50, 50)
    sells = arrive(*(signal(user, side=Side.SELL) for user in users[1:]), first=100)
    store(book, decide(book, [], sells, NOW + 1))
    assert (list(book.holders.held), book.holders.positions) == (["M"], 1)
    decide(book, [trade(lamports=SOL, at_ns=NOW + 2)], [], NOW + 2)
    store(book, decide(book, [], [], NOW + 10 * SECOND))
    assert (list(book.holders.held), book.holders.positions, book.prices._held) == ([], 0, {})


def test_a_position_ends_by_time_at_the_last_price_without_any_event() -> None:
    book = holding("u", tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    store(book, decide(book, [trade(lamports=SOL)], [], NOW + 1))
    assert book.next_at_ns() == NOW + 10 * SECOND
    assert outcomes(decide(book, [], [], NOW + 10 * SECOND - 1)) == []
    group = decide(book, [], [], NOW + 10 * SECOND)
    assert outcomes(group) == [Reason.TIME_EXIT]
    (draft,) = group.drafts
    fill = draft.append.entries[-1]
    assert isinstance(fill, Fill)
    assert fill.price_at_ns == NOW + 1


def test_a_deadline_without_a_price_is_tried_again_and_not_at_once() -> None:
    line = decide(book_of("u"), [], arrive(signal("u")), NOW).drafts[0].append
    book = book_of("u", tp_strategy=TakeProfit.TIME_EXIT, tp_config={"seconds": 10})
    book.fold(line, 1)
    late = NOW + 20 * SECOND
    assert outcomes(decide(book, [], [], late)) == []
    assert book.next_at_ns() == late + SECOND
    assert outcomes(decide(book, [trade(at_ns=late + 1)], [], late + 1)) == [Reason.TIME_EXIT]


def test_a_shorter_limit_set_later_counts_for_what_is_held() -> None:
    book = holding("u", max_hold_seconds=3600)
    decide(book, [trade()], [], NOW + 1)
    book.configure("u", wanted("u", max_hold_seconds=60), 2, NOW)
    assert outcomes(decide(book, [], [], NOW + 60 * SECOND - 1)) == []
    assert outcomes(decide(book, [], [], NOW + 60 * SECOND)) == [Reason.MAX_HOLD]


def test_a_longer_limit_set_later_counts_too() -> None:
    book = holding("u", max_hold_seconds=60)
    decide(book, [trade()], [], NOW + 1)
    book.configure("u", wanted("u", max_hold_seconds=120), 2, NOW)
    assert outcomes(decide(book, [], [], NOW + 60 * SECOND)) == []
    assert outcomes(decide(book, [], [], NOW + 120 * SECOND)) == [Reason.MAX_HOLD]


def test_the_heap_of_deadlines_does_not_grow_with_trades() -> None:
    book = holding("u", "v")
    for i in range(3000):
        decide(book, [trade(lamports=SOL + i, at_ns=NOW + i)], [], NOW + i)
        book.configure("u", wanted("u"), i, NOW)
    assert (len(book.agenda._due) <= 6 + 1000, len(book.agenda._due_at)) == (True, 2)
    for i in range(3000):
        book.remember(trade(lamports=2 * SOL + i, at_ns=NOW + 500 + i))
    assert (len(book.agenda._due) <= 6 + 1000, len(book.agenda._due_at)) == (True, 2)


def test_the_heap_does_not_grow_with_groups_that_are_undone() -> None:
    book = holding("u", tp_config={"percent": 50})
    group = decide(book, [trade(lamports=20 * SOL)], [], NOW + 1)
    for i in range(5000):
        book.undo(group)
        group = decide(book, [], [], NOW + 1 + i)
        assert outcomes(group) == [Reason.TAKE_PROFIT]
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
    book.remember(trade(lamports=20 * SOL, at_ns=at_ns))
    assert book.holders.positions == 1
    price = book.prices.get("M")
    assert price is not None
    assert price.seen_at_ns == at_ns
    assert outcomes(decide(book, [], [], NOW + 2)) == reasons


def test_a_peak_from_before_the_entry_is_not_read_back() -> None:
    """One user's older position makes the line read further back than another's: its peak was not the other's."""
    book = holding("u", tp_strategy=TakeProfit.TRAILING_STOP, tp_config={"arm_percent": 30, "trail_percent": 20})
    account = book.account("u")
    assert account is not None
    before = account.positions["M"].peak_lamports
    book.remember(trade(lamports=40 * SOL, at_ns=NOW - 1))
    assert account.positions["M"].peak_lamports == before
    assert outcomes(decide(book, [trade(lamports=0, at_ns=NOW + 2)], [], NOW + 2)) == []
    book.remember(trade(lamports=20 * SOL, at_ns=NOW + 3))
    assert outcomes(decide(book, [trade(lamports=0, at_ns=NOW + 4)], [], NOW + 4)) == [Reason.TAKE_PROFIT]


# Folding


def append_of(user: str, *entries: Any, signals: int = 0) -> Append:
    return Append(id=f"{user}:x", user=user, signal_sequence=signals, entries=entries, at_ns=NOW)


def test_the_next_line_is_expected_behind_the_one_just_stored() -> None:
    book = book_of("u", "v")
    group = decide(book, [], arrive(signal("u"), signal("v")), NOW)
    book.settle(group, group.drafts, 41)
    assert [d.expected for d in decide(book, [], arrive(signal("v", "B"), signal("u", "B"), first=3), NOW).drafts] == [
        42,
        41,
    ]


def test_a_line_of_ones_own_that_is_read_back_counts_once() -> None:
    book = holding("u", "v")
    before = state(book)
    lines = decide(book_of("u", "v"), [], arrive(signal("u"), signal("v")), NOW).drafts
    for sequence, draft in enumerate(lines, 1):
        book.fold(draft.append, sequence)
    assert state(book) == before


def test_a_foreign_line_is_folded_between_ones_own() -> None:
    book = holding("u")
    foreign = book_of("u")
    foreign.fold(decide(book_of("u"), [], arrive(signal("u")), NOW).drafts[0].append, 1)
    line = decide(foreign, [], arrive(signal("u", "B"), first=2), NOW).drafts[0].append
    book.fold(line, 9)
    account = book.account("u")
    assert account is not None
    assert (set(account.positions), account.last_sequence, account.signal_sequence) == ({"M", "B"}, 9, 2)
    assert set(book.holders.held) == {"M", "B"}


def test_a_line_that_makes_no_sense_is_told_and_the_user_goes_on_behind_it() -> None:
    """Else each later line of this user is refused, and with it the group that it is part of."""
    book = holding("u")
    sale = decide(book, [], arrive(signal("u", side=Side.SELL), first=2), NOW)
    entries = sale.drafts[0].append.entries
    book.undo(sale)
    with pytest.raises(LedgerError):
        book.fold(append_of("u", *entries, *entries, signals=5), 7)  # sells the same tokens twice
    account = book.account("u")
    assert account is not None
    assert (account.last_sequence, account.signal_sequence) == (7, 5)
    assert (account.positions, list(book.holders.held)) == ({}, [])
    group = decide(book, [], arrive(signal("u", "C"), first=6), NOW)
    assert (outcomes(group), group.drafts[0].expected) == ([Reason.SIGNAL], 7)


def test_a_line_that_cannot_be_read_is_passed_over() -> None:
    book = holding("u")
    book.pass_over("u", 5)
    book.pass_over("new", 6)
    group = decide(book, [], arrive(signal("u", "B"), signal("new", "B"), first=2), NOW)
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
    group = decide(book, [trade(lamports=20 * SOL)], [], NOW + 1)
    wanted_drafts = group.drafts
    book.undo(group)
    assert book.next_at_ns() == NOW + 1
    again = decide(book, [], [], NOW + 1)
    assert again.drafts == wanted_drafts


def test_what_was_settled_is_not_undone() -> None:
    book = book_of("u", "v")
    group = decide(book, [], arrive(signal("u"), signal("v")), NOW)
    book.settle(group, group.drafts[:1], 1)
    book.undo(group)
    assert book.holders.positions == 1
    again = decide(book, [], arrive(signal("u"), signal("v")), NOW)
    assert [draft.append.user for draft in again.drafts] == ["v"]


def created(mint: str, at_ns: int) -> TokenCreated:
    return TokenCreated(
        id=f"c{mint}{at_ns}", mint=mint, signature="s", creator="x", pool="pump", name=None, symbol=None, uri=None,
        dev_buy_tokens=None, dev_buy_lamports=None, market=market(at_ns=at_ns), quote=Quote.SOL, mayhem=False,
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
            signal(rng.choice("uvwxy"), rng.choice("ABC"), at_ns, rng.choice(sides), first + i)
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
            book.configure(user, wanted(user, **CONFIGS[revision - 1]), revision, NOW)
    now_ns, sequence, ledger = NOW, 1, 1
    for round_ in range(50):
        # Deadlines in one group, prices and signals in another: a price is not undone, so what fell due before it
        # would be sold at it.
        now_ns += rng.randrange(2, 3 * SECOND) if round_ % 2 == 0 else 1
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
    book, lines, now_ns, sequence = Book(landing_ns=SECOND), [], NOW, 1
    for revision, user in enumerate("uvwxy", 1):
        book.configure(user, wanted(user, **CONFIGS[revision - 1]), revision, NOW)
    for _ in range(40):
        now_ns += rng.randrange(2, 3 * SECOND)
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
