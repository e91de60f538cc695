"""bots/risk.py: each limit at its edge."""

from typing import Any

import pytest

from bots import risk
from bots.positions import DAY_NS, HOUR_NS, Account, Position
from schemas.config import Fixed, Terms
from schemas.events import Market, Reason, RiskLevel, Side, Signal, Strategy

NOW = 20_000 * DAY_NS + 12 * HOUR_NS

TERMS = Terms(
    strategy=Strategy.SNIPER, threshold=50, take_profit=Fixed(gain_bps=5_000), budget_lamports=1_000, buy_lamports=100,
    max_open_positions=2, max_entries_per_hour=3, stop_loss_bps=4_000, max_hold_ns=HOUR_NS,
    daily_loss_limit_lamports=500, slippage_bps=1_000,
)  # fmt: skip


def position(mint: str) -> Position:
    return Position(
        mint=mint, order_id="o", signal_id="s", tokens=1, original_tokens=1, cost_lamports=100,
        open_cost_lamports=100, opened_at_ns=NOW,
    )  # fmt: skip


def account(*mints: str, **changes: Any) -> Account:
    return Account(positions={mint: position(mint) for mint in mints}, **changes)


def signal(expires_at_ns: int) -> Signal:
    return Signal(
        id="s", user="u", decision_id="d", strategy=Strategy.SNIPER, side=Side.BUY, mint="M", score=90,
        risk=RiskLevel.LOW, reasons=(), market=Market(virtual_lamports=1, virtual_tokens=1, seen_at_ns=1),
        config_revision=1, decided_at_ns=1, expires_at_ns=expires_at_ns,
    )  # fmt: skip


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
    ],
)
def test_the_first_limit_that_does_not_hold_is_the_reason(state: Account, reason: Reason | None) -> None:
    denial = risk.check_entry(state, TERMS, "M", NOW)
    assert (denial and denial.reason) == reason
    assert denial is None or denial.detail


def test_a_signal_may_be_taken_at_its_expiry_and_no_later() -> None:
    assert risk.late(signal(NOW), NOW) is None
    denial = risk.late(signal(NOW), NOW + 5_000_000)
    assert denial == risk.Denial(Reason.EXPIRED, "5 ms past its expiry")
