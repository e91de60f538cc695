"""bots/risk.py: each limit at its edge."""

from typing import Any

import msgspec
import pytest

from bots import risk
from bots.mandate import Mandate, mandate_of, stopped
from bots.positions import DAY_NS, HOUR_NS, Account, Position
from schemas.config import BotConfig, BotWanted, Wanted, terms
from schemas.events import Intent, Market, Origin, Reason, RiskLevel, Side, Signal, Strategy

NOW = 20_000 * DAY_NS + 12 * HOUR_NS

TERMS = msgspec.structs.replace(
    terms(BotConfig(strategy=Strategy.SNIPER)), budget_lamports=1_000, buy_lamports=100, max_open_positions=2,
    max_entries_per_hour=3, daily_loss_limit_lamports=500, blocked_creators=frozenset({"rugger"}),
)  # fmt: skip
RUNNING = Mandate(terms=TERMS, running=True)


def position(mint: str) -> Position:
    return Position(
        mint=mint, order_id="o", signal_id="s", tokens=1, original_tokens=1, cost_lamports=100,
        open_cost_lamports=100, opened_at_ns=NOW, ordered_at_ns=NOW,
    )  # fmt: skip


def order(mint: str, side: Side = Side.BUY) -> Intent:
    return Intent(
        id=f"{mint}:{side}", signal_id=mint, mint=mint, side=side, lamports=100, tokens=1, venue="paper",
        reason=Reason.SIGNAL, at_ns=NOW,
    )  # fmt: skip


def pending(*orders: Intent, **changes: Any) -> Account:
    return Account(pending={order.id: order for order in orders}, **changes)


def account(*mints: str, **changes: Any) -> Account:
    return Account(positions={mint: position(mint) for mint in mints}, **changes)


def signal(expires_at_ns: int = NOW, **changes: Any) -> Signal:
    fields: dict[str, Any] = {
        "id": "s", "user": "u", "decision_id": "d", "strategy": Origin.SNIPER, "side": Side.BUY, "mint": "M",
        "creator": "somebody", "score": 90, "risk": RiskLevel.LOW, "reasons": (), "arithmetic_known": True,
        "market": Market(virtual_lamports=1, virtual_tokens=1, seen_at_ns=1), "config_revision": 1,
        "decided_at_ns": 1, "expires_at_ns": expires_at_ns,
    }  # fmt: skip
    return Signal(**{**fields, **changes})


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (account(), None),
        (account("A"), None),
        (account("M"), Reason.ALREADY_HELD),
        (account("A", "B"), Reason.MAX_OPEN_POSITIONS),
        (account("A", "M"), Reason.ALREADY_HELD),  # the more telling of two
        (account(entry_times_ns=[NOW - 3, NOW - 2, NOW - 1]), Reason.MAX_ENTRIES_PER_HOUR),
        (account(entry_times_ns=[NOW - HOUR_NS + 1, NOW - 2, NOW - 1]), Reason.MAX_ENTRIES_PER_HOUR),
        (account(entry_times_ns=[NOW - HOUR_NS, NOW - 2, NOW - 1]), None),  # the first is an hour old
        (account(entry_times_ns=[NOW - 2, NOW - 1]), None),
        (account(day=20_000, day_realised_lamports=-499), None),
        (account(day=20_000, day_realised_lamports=-500), Reason.DAILY_LOSS_LIMIT),
        (account(day=19_999, day_realised_lamports=-500), None),  # yesterday's
        (account(paid_lamports=900), None),  # exactly one purchase left
        (account(paid_lamports=901), Reason.BUDGET),
        (account(paid_lamports=2_000, received_lamports=1_500), None),
        (account(paid_lamports=500, received_lamports=3_000), None),  # gains may be spent again
        (account(paid_lamports=5_000), Reason.BUDGET),  # the budget was lowered
        # what is under way counts
        (pending(order("A")), None),
        (pending(order("M")), Reason.ALREADY_HELD),
        (pending(order("A"), order("B")), Reason.MAX_OPEN_POSITIONS),
        (pending(order("B"), positions={"A": position("A")}), Reason.MAX_OPEN_POSITIONS),
        (pending(order("A", Side.SELL), positions={"A": position("A")}), None),  # a sale opens nothing
        (pending(order("A"), entry_times_ns=[NOW - 2, NOW - 1]), Reason.MAX_ENTRIES_PER_HOUR),
        (pending(order("A"), entry_times_ns=[NOW - HOUR_NS, NOW - 1]), None),
        (pending(order("A"), paid_lamports=800), None),
        (pending(order("A"), paid_lamports=801), Reason.BUDGET),
    ],
)
def test_the_first_limit_that_does_not_hold_is_the_reason(state: Account, reason: Reason | None) -> None:
    denial = risk.check_entry(state, RUNNING, signal(), NOW)
    assert (denial and denial.reason) == reason
    assert denial is None or denial.detail


def test_a_signal_may_be_taken_at_its_expiry_and_no_later() -> None:
    assert risk.late(signal(NOW), NOW) is None
    denial = risk.late(signal(NOW), NOW + 5_000_000)
    assert denial == risk.Denial(Reason.EXPIRED, "5 ms past its expiry")


@pytest.mark.parametrize(
    ("mandate", "given", "halted", "reason"),
    [
        (RUNNING, signal(), "", None),
        (RUNNING, signal(), "maintenance", Reason.KILL_SWITCH),  # everybody
        (Mandate(terms=TERMS, running=True, killed="lost its key"), signal(), "", Reason.KILL_SWITCH),  # this user
        (Mandate(terms=TERMS, running=False, killed="lost its key"), signal(), "", Reason.KILL_SWITCH),
        (stopped(RUNNING), signal(), "", Reason.NOT_RUNNING),
        (Mandate(terms=TERMS, running=False, closing_at_ns=NOW), signal(), "", Reason.NOT_RUNNING),
        (RUNNING, signal(creator="rugger"), "", Reason.BLOCKED_CREATOR),
        (RUNNING, signal(arithmetic_known=False), "", Reason.UNKNOWN_ARITHMETIC),
        (
            Mandate(terms=msgspec.structs.replace(TERMS, trade_unknown_arithmetic=True), running=True),
            signal(arithmetic_known=False),
            "",
            None,
        ),
    ],
)
def test_what_user_and_operators_want_comes_before_the_figures(
    mandate: Mandate, given: Signal, halted: str, reason: Reason | None
) -> None:
    denial = risk.check_entry(Account(), mandate, given, NOW, halted)
    assert (denial and denial.reason) == reason
    if denial is not None and reason is Reason.KILL_SWITCH:
        assert (halted or mandate.killed) in denial.detail


def test_the_daily_limit_tells_until_when_it_holds() -> None:
    state = account(day=20_000, day_realised_lamports=-500)
    denial = risk.check_entry(state, RUNNING, signal(), NOW)
    assert denial is not None
    assert denial.detail == "lost 0.000000500 SOL today, limit 0.000000500; no entries until 2024-10-05T00:00:00Z"
    midnight = 20_001 * DAY_NS
    assert risk.check_entry(state, RUNNING, signal(), midnight - 1) == denial
    assert risk.check_entry(state, RUNNING, signal(), midnight) is None


def test_money_under_way_is_reserved_and_stays_cash_until_it_is_spent() -> None:
    state = pending(order("A"), order("B"), order("C", Side.SELL), paid_lamports=300, received_lamports=50)
    assert (risk.cash_lamports(state, TERMS), risk.reserved_lamports(state)) == (750, 200)


@pytest.mark.parametrize(
    ("wanted", "close", "running", "closing_at"),
    [
        (Wanted.RUNNING, False, True, None),
        (Wanted.RUNNING, True, True, None),  # an old wish to close is over once the bot runs again
        (Wanted.STOPPED, False, False, None),
        (Wanted.STOPPED, True, False, 7),
    ],
)
def test_a_wish_becomes_a_mandate(wanted: Wanted, close: bool, running: bool, closing_at: int | None) -> None:
    wish = BotWanted(
        user="u", wanted=wanted, config=BotConfig(strategy=Strategy.SNIPER), changed_at_ns=7, close_positions=close,
        killed="why",
    )  # fmt: skip
    mandate = mandate_of(wish)
    assert (mandate.running, mandate.closing_at_ns, mandate.killed) == (running, closing_at, "why")
    assert stopped(mandate).closing_at_ns is None
    assert not stopped(mandate).running


def test_users_who_want_the_same_share_one_mandate() -> None:
    config = BotConfig(strategy=Strategy.SNIPER)
    wishes = [BotWanted(user=u, wanted=Wanted.RUNNING, config=config, changed_at_ns=ord(u)) for u in "uv"]
    assert mandate_of(wishes[0]) is mandate_of(wishes[1])
