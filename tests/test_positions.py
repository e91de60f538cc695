"""bots/positions.py: the account is the fold of the ledger, exact to the lamport, whatever is delivered twice."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.positions import (
    DAY_NS,
    ENTRY_TIMES_MAX,
    HOUR_NS,
    Account,
    LedgerError,
    apply,
    copy_of,
    mark,
    pending_buys,
    settle,
    settles_signal,
    take,
)
from schemas.events import Append, Entry, Fill, Intent, Reason, Refusal, Side

DAY_ONE = 20_000 * DAY_NS


def fill(side: Side, tokens: int, lamports: int, at_ns: int = DAY_ONE, mint: str = "M", **changes: Any) -> Fill:
    fields: dict[str, Any] = {
        "id": "o:fill", "order_id": "s:buy", "signal_id": "s", "mint": mint, "side": side, "tokens": tokens,
        "lamports": lamports, "curve_lamports": lamports, "protocol_fee_lamports": 0, "creator_fee_lamports": 0,
        "network_fee_lamports": 0, "reason": Reason.SIGNAL if side is Side.BUY else Reason.TAKE_PROFIT,
        "price_at_ns": at_ns, "at_ns": at_ns,
    }  # fmt: skip
    return Fill(**{**fields, **changes})


def buy(tokens: int, lamports: int, at_ns: int = DAY_ONE, mint: str = "M", **changes: Any) -> Fill:
    return fill(Side.BUY, tokens, lamports, at_ns, mint, **changes)


def sell(tokens: int, lamports: int, at_ns: int = DAY_ONE, mint: str = "M", **changes: Any) -> Fill:
    return fill(Side.SELL, tokens, lamports, at_ns, mint, **changes)


def order(side: Side, id: str, mint: str = "M", at_ns: int = DAY_ONE, **changes: Any) -> Intent:
    fields: dict[str, Any] = {
        "id": id, "signal_id": "s", "mint": mint, "side": side, "lamports": 0, "tokens": 1, "venue": "paper",
        "reason": Reason.SIGNAL if side is Side.BUY else Reason.STOP_LOSS, "at_ns": at_ns,
    }  # fmt: skip
    return Intent(**{**fields, **changes})


def sell_intent(number: int = 1, **changes: Any) -> Intent:
    return order(Side.SELL, f"s:buy:exit{number}", **changes)


def refusal(reason: Reason = Reason.EXPIRED, order_id: str | None = None, at_ns: int = DAY_ONE) -> Refusal:
    side = Side.SELL if order_id and "exit" in order_id else Side.BUY
    return Refusal(id="r", signal_id="s", order_id=order_id, mint="M", side=side, reason=reason, detail="", at_ns=at_ns)


def append(*entries: Entry, signal_sequence: int = 0, at_ns: int = DAY_ONE) -> Append:
    return Append(id="u:1", user="u", signal_sequence=signal_sequence, entries=entries, at_ns=at_ns)


def folded(*entries: Entry) -> Account:
    account = Account()
    take(account, entries)
    return account


def test_a_purchase_opens_a_position() -> None:
    account = folded(buy(1_000, 50, at_ns=DAY_ONE + 7))
    position = account.positions["M"]
    assert (position.order_id, position.signal_id, position.opened_at_ns) == ("s:buy", "s", DAY_ONE + 7)
    assert (position.tokens, position.original_tokens, position.cost_lamports) == (1_000, 1_000, 50)
    assert (account.paid_lamports, account.realised_lamports, account.signals, account.fills) == (50, 0, 1, 1)


def test_sales_take_their_share_of_the_cost_and_the_last_takes_the_rest() -> None:
    account = folded(buy(3, 100), sell(1, 50))
    # A third of 100 is 33 and a remainder that stays with the tokens still held.
    assert account.realised_lamports == 50 - 33
    assert account.positions["M"].open_cost_lamports == 67
    take(account, [sell(1, 50), sell(1, 50)])
    assert account.positions == {}
    assert account.realised_lamports == 150 - 100 == account.received_lamports - account.paid_lamports


def test_a_line_delivered_again_changes_nothing() -> None:
    account = Account()
    assert apply(account, append(buy(10, 100)), 5)
    before = msgspec.json.encode(account)
    assert not apply(account, append(buy(10, 100)), 5)
    assert not apply(account, append(sell(10, 1)), 4)
    assert msgspec.json.encode(account) == before


def test_taking_and_settling_is_applying() -> None:
    line = append(buy(10, 100), refusal(), signal_sequence=9)
    applied, in_two_steps = Account(), Account()
    apply(applied, line, 3)
    take(in_two_steps, line.entries)
    settle(in_two_steps, line, 3)
    assert msgspec.json.encode(applied) == msgspec.json.encode(in_two_steps)
    assert (applied.last_sequence, applied.signal_sequence, applied.signals) == (3, 9, 2)


def test_the_signal_watermark_only_rises() -> None:
    account = Account()
    apply(account, append(signal_sequence=9), 1)
    apply(account, append(sell_intent(), signal_sequence=0), 2)  # an exit settles no signal
    assert account.signal_sequence == 9


def test_a_line_from_before_the_signals_stream_says_nothing_of_its_sequences() -> None:
    account = Account()
    apply(account, append(buy(10, 100), signal_sequence=900, at_ns=99), 1, signals_began_at_ns=100)
    assert (account.signal_sequence, account.last_sequence) == (0, 1)
    assert "M" in account.positions
    apply(account, append(signal_sequence=2, at_ns=100), 2, signals_began_at_ns=100)
    assert account.signal_sequence == 2


def test_an_order_is_pending_until_it_is_filled_or_refused() -> None:
    first, second = order(Side.BUY, "s:buy"), order(Side.BUY, "t:buy", "N", signal_id="t")
    account = folded(first, second)
    assert list(account.pending) == ["s:buy", "t:buy"]
    assert list(pending_buys(account)) == [first, second]
    assert account.positions == {}
    take(account, [buy(10, 100)])
    assert list(account.pending) == ["t:buy"]
    take(account, [refusal(Reason.SLIPPAGE, "t:buy")])
    assert account.pending == {}
    assert account.signals == 2


def test_a_position_knows_when_it_was_decided_and_when_it_landed() -> None:
    account = folded(order(Side.BUY, "s:buy", at_ns=DAY_ONE), buy(10, 100, at_ns=DAY_ONE + 600))
    position = account.positions["M"]
    assert (position.ordered_at_ns, position.opened_at_ns) == (DAY_ONE, DAY_ONE + 600)


def test_an_exit_is_under_way_until_it_lands_and_its_id_is_spent_when_it_is_refused() -> None:
    account = folded(buy(10, 100), sell_intent())
    position = account.positions["M"]
    assert (position.selling, position.exits) == ("s:buy:exit1", 1)
    take(account, [refusal(Reason.NO_PRICE, "s:buy:exit1", DAY_ONE + 7)])
    position = account.positions["M"]
    assert (position.selling, position.refused, position.refused_at_ns) == (None, 1, DAY_ONE + 7)
    take(account, [sell_intent(2), sell(4, 10, order_id="s:buy:exit2")])
    position = account.positions["M"]
    assert (position.selling, position.refused, position.exits, account.refusals) == (None, 0, 2, 1)
    assert account.pending == {}


@pytest.mark.parametrize(
    ("entry", "settles"),
    [
        (buy(1, 1), True),
        (sell(1, 1), False),  # an exit
        (sell(1, 1, reason=Reason.SELL_SIGNAL), True),
        (refusal(), True),  # no order was made
        (refusal(Reason.SLIPPAGE, "s:buy"), True),
        (refusal(Reason.NO_PRICE, "s:buy:exit3"), False),  # an exit of the position that signal s opened
        (refusal(Reason.NO_PRICE, "t:buy:exit3"), True),  # the sale that the SELL signal s asked for
        (order(Side.BUY, "s:buy"), False),  # under way
    ],
)
def test_an_outcome_is_told_from_what_happens_to_a_position_later(entry: Entry, settles: bool) -> None:
    assert settles_signal(entry) is settles
    account = folded(buy(1, 1, mint="X"), buy(1, 1))
    before = account.signals
    take(account, [entry])
    assert account.signals - before == settles


def test_fees_and_closed_positions_are_counted() -> None:
    paid: dict[str, Any] = {"protocol_fee_lamports": 3, "creator_fee_lamports": 2, "network_fee_lamports": 5}
    account = folded(
        fill(Side.BUY, 10, 100, **paid),
        sell(5, 80, DAY_ONE + 10, **paid),
        sell(5, 21, DAY_ONE + 30, **paid),  # a gain of one in all
        buy(10, 100, mint="N"),
        sell(10, 100, DAY_ONE + 40, mint="N"),  # even is no gain
        buy(10, 100, mint="O"),
        sell(9, -5, DAY_ONE + 50, mint="O"),  # returned less than its network fee
    )
    fees = (account.protocol_fees_lamports, account.creator_fees_lamports, account.network_fees_lamports)
    assert fees == (9, 6, 15)
    assert (account.entries, account.closed, account.won, account.held_ns) == (3, 2, 1, 70)
    assert (account.received_lamports, account.realised_lamports) == (196, 1 + 0 - 95)


def test_a_copy_is_not_changed_with_its_original() -> None:
    account = folded(buy(10, 100), order(Side.BUY, "t:buy", "N"))
    before = msgspec.json.encode(account)
    copy = copy_of(account)
    assert msgspec.json.encode(copy) == before
    take(account, [sell_intent(), sell(4, 1), buy(1, 1, mint="N", signal_id="t")])
    assert msgspec.json.encode(copy) == before


@pytest.mark.parametrize(
    "entries",
    [
        [sell(1, 1)],  # never bought
        [buy(10, 100), sell(11, 1)],  # more than held
        [buy(10, 100), sell(10, 1), sell(1, 1)],  # sold out
        [buy(10, 100), sell(0, 1)],  # a sale of nothing that brings money
    ],
)
def test_a_ledger_that_sells_what_is_not_held_is_an_error(entries: list[Entry]) -> None:
    with pytest.raises(LedgerError):
        folded(*entries)


def test_the_day_s_result_starts_anew_at_midnight_utc() -> None:
    account = folded(buy(10, 100), sell(5, 20, at_ns=DAY_ONE + DAY_NS - 1))
    assert (account.day, account.day_realised_lamports) == (20_000, -30)
    take(account, [sell(5, 60, at_ns=DAY_ONE + DAY_NS)])
    assert (account.day, account.day_realised_lamports) == (20_001, 10)
    assert account.realised_lamports == -20


def test_a_sale_after_migration_is_remembered_by_the_time_of_its_decision() -> None:
    order_id = "s:buy:exit1"
    account = folded(buy(10, 100), sell_intent(at_ns=DAY_ONE + 5, reason=Reason.MIGRATED))
    assert account.positions["M"].migration_exit_at_ns is None
    take(account, [sell(5, 20, at_ns=DAY_ONE + 605, reason=Reason.MIGRATED, order_id=order_id)])
    assert account.positions["M"].migration_exit_at_ns == DAY_ONE + 5


def test_the_peak_belongs_to_what_is_still_held() -> None:
    account = folded(buy(10, 100))
    position = account.positions["M"]
    for value in (90, 150, 120):
        mark(position, value)
    assert position.peak_lamports == 150
    take(account, [sell(4, 50)])
    assert account.positions["M"].peak_lamports == 90


def test_entries_older_than_an_hour_are_forgotten() -> None:
    account = folded(*(buy(1, 1, at_ns=DAY_ONE + n * HOUR_NS // 4, mint=f"M{n}") for n in range(9)))
    assert account.entry_times_ns == [DAY_ONE + n * HOUR_NS // 4 for n in range(5, 9)]


def test_entry_times_are_bounded_and_ascend_when_a_clock_goes_back() -> None:
    account = folded(buy(1, 1, at_ns=DAY_ONE + 50), buy(1, 1, at_ns=DAY_ONE, mint="N"))
    assert account.entry_times_ns == [DAY_ONE + 50, DAY_ONE + 50]
    take(account, [buy(1, 1, at_ns=DAY_ONE + 60, mint=f"M{n}") for n in range(ENTRY_TIMES_MAX + 5)])
    assert len(account.entry_times_ns) == ENTRY_TIMES_MAX


@given(st.integers(0, 2**32))
def test_an_account_equals_the_sum_of_its_fills(seed: int) -> None:
    rng = random.Random(seed)
    account, held, entries = Account(), dict[str, int](), list[Entry]()
    for step in range(rng.randrange(1, 60)):
        mint = rng.choice("ABC")
        at_ns = DAY_ONE + step * HOUR_NS // 3
        if held.get(mint) and rng.random() < 0.7:
            tokens = rng.choice([held[mint], rng.randint(1, held[mint])])
            entries.append(sell(tokens, rng.randrange(10**9), at_ns, mint))
            held[mint] -= tokens
        elif not held.get(mint):
            held[mint] = rng.randint(1, 10**13)
            entries.append(buy(held[mint], rng.randint(1, 10**9), at_ns, mint))
    for sequence, entry in enumerate(entries, start=1):
        assert apply(account, append(entry), sequence)
        if rng.random() < 0.3:
            assert not apply(account, append(entry), rng.randint(1, sequence))
    fills = [entry for entry in entries if isinstance(entry, Fill)]
    paid = sum(f.lamports for f in fills if f.side is Side.BUY)
    received = sum(f.lamports for f in fills if f.side is Side.SELL)
    open_cost = sum(position.open_cost_lamports for position in account.positions.values())
    assert (account.paid_lamports, account.received_lamports) == (paid, received)
    assert account.realised_lamports == received - paid + open_cost
    assert {mint: position.tokens for mint, position in account.positions.items()} == {
        m: t for m, t in held.items() if t
    }
    assert all(position.open_cost_lamports >= 0 for position in account.positions.values())
