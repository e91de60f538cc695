"""observer.tally and observer.creations: folds of FILLS, of the bots bucket and of creations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observer.creations import Creations
from observer.tally import HELD_MAX, STRATEGIES, Tally
from schemas.config import BotConfig, BotWanted, Wanted
from schemas.events import Append, Entry, Fill, Intent, Reason, Refusal, Side, Strategy

S = 1_000_000_000


def intent(reason: Reason = Reason.SIGNAL, side: Side = Side.BUY) -> Intent:
    return Intent(
        id="o", signal_id="s", mint="M", side=side, lamports=1, tokens=1, venue="paper", reason=reason, at_ns=1
    )


def fill(side: Side, tokens: int, lamports: int, mint: str = "M", signal_id: str = "s") -> Fill:
    return Fill(
        id="f",
        order_id="o",
        signal_id=signal_id,
        mint=mint,
        side=side,
        tokens=tokens,
        lamports=lamports,
        curve_lamports=lamports,
        protocol_fee_lamports=0,
        creator_fee_lamports=0,
        network_fee_lamports=0,
        reason=Reason.SIGNAL,
        price_at_ns=1,
        at_ns=1,
    )


def refusal(reason: Reason, order_id: str | None = None) -> Refusal:
    return Refusal(id="r", signal_id="s", order_id=order_id, mint="M", side=Side.BUY, reason=reason, detail="", at_ns=1)


def line(*entries: Entry, user: str = "5") -> Append:
    return Append(id="a", user=user, signal_sequence=1, entries=entries, at_ns=1)


def bot(wanted: Wanted, at_ns: int) -> BotWanted:
    return BotWanted(user="5", wanted=wanted, config=BotConfig(strategy=Strategy.SNIPER), changed_at_ns=at_ns)


@pytest.mark.parametrize(
    ("entries", "settled", "fills", "refused"),
    [
        ((intent(), fill(Side.BUY, 10, 100)), 1, 1, 0),  # taken and filled
        ((refusal(Reason.EXPIRED),), 1, 0, 1),  # refused before any order
        ((intent(), refusal(Reason.SLIPPAGE, "o")), 1, 0, 1),  # taken, then refused by the venue: one outcome
        ((intent(Reason.STOP_LOSS, Side.SELL), fill(Side.SELL, 10, 90)), 0, 1, 0),  # an exit settles no signal
        ((intent(Reason.STOP_LOSS, Side.SELL), refusal(Reason.NO_PRICE, "o")), 0, 0, 1),  # nor does its refusal
        ((intent(Reason.SELL_SIGNAL, Side.SELL), fill(Side.SELL, 10, 90)), 1, 1, 0),  # an exit on a signal does
        ((), 0, 0, 0),
    ],
)
def test_a_signal_is_settled_by_exactly_one_entry(
    entries: tuple[Entry, ...], settled: int, fills: int, refused: int
) -> None:
    tally = Tally()
    tally.append(line(*entries), 1)
    for counts in (tally.totals, tally.users["5"]):
        assert (counts.signals_settled, counts.fills, counts.refused) == (settled, fills, refused)


def test_a_line_met_twice_counts_once() -> None:
    tally = Tally()
    tally.append(line(intent(), fill(Side.BUY, 10, 100)), 7)
    tally.append(line(intent(), fill(Side.BUY, 10, 100)), 7)
    assert tally.totals.fills == 1


def test_refusals_are_counted_by_reason_for_the_user_and_for_all() -> None:
    tally = Tally()
    tally.append(line(refusal(Reason.EXPIRED), refusal(Reason.BUDGET)), 1)
    tally.append(line(refusal(Reason.EXPIRED), user="6"), 2)
    assert tally.users["5"].refusals == {Reason.EXPIRED: 1, Reason.BUDGET: 1}
    assert tally.users["6"].refusals == {Reason.EXPIRED: 1}
    assert tally.totals.refusals == {Reason.EXPIRED: 2, Reason.BUDGET: 1}


def test_profit_is_realised_by_the_share_that_was_sold() -> None:
    tally = Tally()
    tally.append(line(fill(Side.BUY, 100, 1000)), 1)
    assert tally.totals.realised_lamports == 0
    tally.append(line(fill(Side.SELL, 25, 400)), 2)
    assert tally.totals.realised_lamports == 150  # a quarter cost 250
    tally.append(line(fill(Side.SELL, 75, 600)), 3)
    assert tally.users["5"].realised_lamports == 0  # 1000 paid, 1000 received
    assert tally.users["5"].held == {}


def test_profit_is_told_by_the_strategy_that_bought_and_losses_are_negative() -> None:
    tally = Tally()
    assert tally.totals.realised_by == dict.fromkeys(STRATEGIES, 0)
    sales = (("e:SNIPER:5", 150), ("e:SNIPER:5", 20), ("e:MOMENTUM:5", 90), ("by hand", 101), ("e:RUG_ALARM:5", 99))
    for number, (signal_id, received) in enumerate(sales):
        bought = fill(Side.BUY, 1, 100, f"M{number}", signal_id)
        tally.append(line(bought, fill(Side.SELL, 1, received, f"M{number}", signal_id)), number + 1)
    by = {"SNIPER": -30, "MOMENTUM": -10, "other": 0}  # an alarm buys nothing: its name is none of a strategy
    assert tally.totals.realised_by == {**dict.fromkeys(STRATEGIES, 0), **by}
    assert sum(tally.totals.realised_by.values()) == tally.totals.realised_lamports


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.lists(st.integers(0, 10**12), min_size=20))
def test_a_closed_position_realises_what_came_in_less_what_went_out(parts: list[int], received: list[int]) -> None:
    tally, paid = Tally(), 123_456_789
    tally.append(line(fill(Side.BUY, sum(parts), paid)), 1)
    for number, (tokens, lamports) in enumerate(zip(parts, received, strict=False), 2):
        tally.append(line(fill(Side.SELL, tokens, lamports)), number)
    assert tally.totals.realised_lamports == sum(received[: len(parts)]) - paid


def test_the_positions_of_one_user_are_bounded() -> None:
    tally = Tally()
    for number in range(HELD_MAX + 5):
        tally.append(line(fill(Side.BUY, 1, 1, mint=f"M{number}")), number + 1)
    assert len(tally.users["5"].held) == HELD_MAX


def test_a_new_configuration_of_a_running_bot_does_not_restart_its_clock() -> None:
    tally = Tally()
    tally.wanted("5", bot(Wanted.RUNNING, 10 * S), 1)
    tally.wanted("5", bot(Wanted.RUNNING, 20 * S), 2)
    assert tally.running == {"5": 10 * S}


@pytest.mark.parametrize("last", [bot(Wanted.STOPPED, 20 * S), None])  # stopped, and deleted altogether
def test_a_stopped_bot_runs_no_more_and_keeps_its_history(last: BotWanted | None) -> None:
    tally = Tally()
    tally.wanted("5", bot(Wanted.RUNNING, 10 * S), 1)
    tally.append(line(intent()), 1)
    tally.wanted("5", last, 2)
    assert tally.running == {}
    assert tally.users["5"].signals_settled == 1
    tally.wanted("5", bot(Wanted.RUNNING, 30 * S), 3)
    assert tally.running == {"5": 30 * S}
    assert tally.users["5"].signals_settled == 1


def test_a_running_bot_without_a_history_has_no_tally() -> None:
    tally = Tally()
    tally.wanted("5", bot(Wanted.RUNNING, 10 * S), 1)
    assert tally.users == {}


def test_an_older_revision_changes_nothing() -> None:
    tally = Tally()
    tally.wanted("5", bot(Wanted.STOPPED, 20 * S), 2)
    tally.wanted("5", bot(Wanted.RUNNING, 10 * S), 1)
    assert tally.running == {}


def test_tokens_per_minute_counts_the_last_sixty_seconds() -> None:
    creations = Creations()
    for sequence, second in enumerate((1000, 1000, 1030, 1059), 1):
        creations.add(sequence, second * S)
    assert creations.per_minute(1059 * S) == 4
    assert creations.per_minute(1060 * S) == 2  # the two of second 1000 are a minute old
    assert creations.per_minute(1200 * S) == 0
    assert creations.total == 4


def test_tokens_are_analyzed_once_analyze_has_acknowledged_them() -> None:
    creations = Creations()
    for sequence in (1, 4, 9):  # trades lie between the creations
        creations.add(sequence, sequence * S)
    creations.acknowledge(3)
    assert creations.analyzed == 1
    creations.acknowledge(9)
    creations.acknowledge(9)
    assert creations.analyzed == 3
    creations.add(9, 9 * S)  # delivered again after a lost connection
    assert (creations.total, creations.analyzed) == (3, 3)
